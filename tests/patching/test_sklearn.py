"""Patched and original scikit-learn agree: to rounding, or in distribution if random."""

import warnings

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn")
from scipy import sparse  # noqa: E402
from sklearn.datasets import load_digits, make_low_rank_matrix  # noqa: E402
from sklearn.decomposition import (  # noqa: E402
    PCA,
    FactorAnalysis,
    MiniBatchDictionaryLearning,
    SparseCoder,
    sparse_encode,
)
from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.linear_model import LogisticRegression, lars_path  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.neural_network import BernoulliRBM  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import MinMaxScaler  # noqa: E402

import aefast  # noqa: E402
from aefast import backend  # noqa: E402

needs_cpp = pytest.mark.skipif(
    backend.unavailable("cpp", "cpu") is not None, reason="the C++ kernels do not run here"
)


@pytest.fixture(autouse=True)
def one_thread(threads):
    threads(1)


@pytest.fixture(scope="module")
def digits():
    return load_digits().data


@pytest.fixture(scope="module")
def spread():
    """Rows with well separated variances, and with enough features for the replacement to run."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(130, 130)))[0]
    return rng.normal(size=(1300, 130)) * np.logspace(1, -1, 130) @ axes + 3


def check_calls(name):
    state = aefast.patched()[f"sklearn.{name}"]
    assert state.calls > 0
    assert state.original_calls == {}


def reason(name):
    """The reason why the original ran in the only call so far."""
    state = aefast.patched()[f"sklearn.{name}"]
    assert state.calls == 0
    (why,) = state.original_calls
    return why


def assert_same(patched, original, tolerance):
    """Compare every attribute that fit sets, relative to its largest number."""
    for name, value in vars(original).items():
        if name.endswith("_") and not name.startswith("_"):
            actual = getattr(patched, name)
            scale = np.abs(value).max(initial=1e-300) if np.ndim(value) else max(abs(value), 1e-300)
            np.testing.assert_allclose(actual, value, rtol=0, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "options",
    [
        {"n_components": 5},
        {"n_components": 16, "svd_solver": "covariance_eigh", "whiten": True},
        {"svd_solver": "full"},
        {"n_components": 7, "svd_solver": "full"},
        {"n_components": 0.9, "svd_solver": "full"},
        {"n_components": 7, "svd_solver": "full", "copy": False},
    ],
)
def test_pca(spread, options, dtype):
    data = spread.astype(dtype)
    original = PCA(**options)
    expected = original.fit_transform(data.copy())
    with aefast.patch("sklearn"):
        patched = PCA(**options)
        codes = patched.fit_transform(data.copy())
        check_calls("decomposition.PCA")
    # Of float32, squares are summed over 1797 rows in another order.
    tolerance = 1e-9 if dtype == np.float64 else 2e-4
    assert_same(patched, original, tolerance)
    assert codes.dtype == expected.dtype
    np.testing.assert_allclose(codes, expected, atol=tolerance * np.abs(expected).max())
    assert patched.score(data) == pytest.approx(
        original.score(data), rel=1e-9 if dtype is np.float64 else 1
    )


@pytest.mark.parametrize(
    ("options", "change", "why"),
    [
        ({"svd_solver": "arpack", "n_components": 3}, np.asarray, "svd_solver='arpack'"),
        ({"svd_solver": "randomized", "n_components": 3}, np.asarray, "svd_solver='randomized'"),
        ({"svd_solver": "full", "whiten": True}, np.asarray, "whiten with svd_solver='full'"),
        ({"svd_solver": "full", "n_components": "mle"}, np.asarray, "n_components='mle'"),
        ({"svd_solver": "covariance_eigh"}, sparse.csr_matrix, "an array that is not numpy's"),
        ({"svd_solver": "full"}, lambda X: X[:140], "svd_solver='full' of few rows a feature"),
        ({}, np.asarray, "svd_solver='covariance_eigh' for many components"),
        ({}, lambda X: X[:, :9], "few features, which leave nothing to gain"),
    ],
)
def test_pca_steps_aside(spread, options, change, why):
    data = change(spread)
    expected = PCA(**options, random_state=0).fit(data)
    with aefast.patch("sklearn"):
        actual = PCA(**options, random_state=0).fit(data)
        assert reason("decomposition.PCA") == why
    assert np.array_equal(actual.components_, expected.components_)


@pytest.mark.parametrize(
    "options",
    [
        {"n_components": 4},
        {"n_components": 4, "svd_method": "lapack"},
        {"n_components": 12, "iterated_power": 0},
        {"n_components": 3, "rotation": "varimax", "random_state": 5},
        {"n_components": 3, "noise_variance_init": np.full(20, 0.5)},
    ],
)
@pytest.mark.parametrize("kind", ["ordinary", "one noise near 0", "units far apart"])
def test_factor_analysis(options, kind):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(90, 4)) @ rng.normal(size=(4, 20)) + rng.normal(size=(90, 20))
    if kind == "one noise near 0":
        data[:, 0] = data[:, 1] + 1e-5 * data[:, 2]
    elif kind == "units far apart":
        data *= np.logspace(-3, 3, 20)
    options = {"max_iter": 30, "tol": 1e-1, **options}
    expected = fitted(FactorAnalysis(**options), data)
    with aefast.patch("sklearn"):
        actual = fitted(FactorAnalysis(**options), data)
        check_calls("decomposition.FactorAnalysis")
    # As a noise goes to 0 the original's own results change by so much with its input's last bit,
    # and the signs that LAPACK finds.
    tolerance = 1e-5 if kind == "one noise near 0" else 1e-7
    signs = np.sign((actual.components_ * expected.components_).sum(1, keepdims=True))
    if kind != "one noise near 0":
        assert (signs[np.abs(expected.components_).max(1) > 0] == 1).all()
    expected.components_ *= np.where(signs == 0, 1, signs)
    assert_same(actual, expected, tolerance)
    np.testing.assert_allclose(
        actual.transform(data), expected.transform(data), atol=1e3 * tolerance
    )


def fitted(model, data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(data)


@pytest.mark.parametrize(
    ("options", "rows", "why"),
    [
        ({"n_components": 0}, 90, "no component, or as many as features"),
        ({}, 90, "no component, or as many as features"),
        ({"n_components": 2}, 30, "few rows a feature"),
    ],
)
def test_factor_analysis_steps_aside(options, rows, why):
    data = np.random.default_rng(0).normal(size=(rows, 20))
    expected = fitted(FactorAnalysis(**options, max_iter=5), data)
    with aefast.patch("sklearn"):
        actual = fitted(FactorAnalysis(**options, max_iter=5), data)
        assert reason("decomposition.FactorAnalysis") == why
    assert np.array_equal(actual.components_, expected.components_)


def test_factor_analysis_draws_what_the_original_draws(digits):
    states = []
    for patched in (False, True):
        rng = np.random.RandomState(3)
        with aefast.patch("sklearn"):
            if not patched:
                aefast.unpatch()
            model = FactorAnalysis(5, random_state=rng).fit(digits[:300, 10:40])
        states.append((rng.randint(2**31), model.n_iter_))
    assert states[0] == states[1]


def test_factor_analysis_warns_and_leaves_its_input_alone(digits):
    data = digits[:300]
    before = data.copy()
    with aefast.patch("sklearn"):
        with pytest.warns(ConvergenceWarning, match="did not converge") as record:
            FactorAnalysis(3, max_iter=2).fit(data)
        assert record[0].filename == __file__
        assert np.array_equal(data, before)
        with pytest.raises(ValueError, match="noise_variance_init dimension"):
            FactorAnalysis(3, noise_variance_init=[1.0]).fit(data)


@pytest.mark.parametrize("algorithm", ["lasso_lars", "lasso_cd"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("scale", [1, 1e25])
def test_sparse_codes(algorithm, dtype, scale):
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(40, 16))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    rows = rng.normal(size=(60, 16)) * scale
    rows[5] = 0
    if dtype == np.float32 and scale > 1:
        pytest.skip("squares that float32 has no room for, in the original too")
    rows, atoms, alpha = rows.astype(dtype), atoms.astype(dtype), 0.3 * scale
    expected = sparse_encode(rows, atoms, alpha=alpha, algorithm=algorithm)
    with aefast.patch("sklearn"):
        actual = sparse_encode(rows, atoms, alpha=alpha, algorithm=algorithm)
        check_calls("decomposition.sparse_encode")
    assert actual.dtype == expected.dtype
    # Coordinate descent ends at a duality gap of 1e-8 of the rows' squares, which in float32 it
    # never reaches.
    tolerances = {("lasso_lars", np.float64): 1e-9, ("lasso_lars", np.float32): 1e-4}
    tolerance = tolerances.get((algorithm, dtype), 1e-3 if dtype == np.float64 else 3e-2)
    np.testing.assert_allclose(actual, expected, atol=tolerance * scale)
    assert objective(actual, rows, atoms, alpha) <= objective(expected, rows, atoms, alpha) * (
        1 + 1e-6
    )


def objective(codes, rows, atoms, alpha):
    codes, rows, atoms = (part.astype(float) for part in (codes, rows, atoms))
    return ((rows - codes @ atoms) ** 2).sum() / 2 + alpha * np.abs(codes).sum()


def test_atoms_that_depend_on_each_other_are_the_originals():
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(10, 8))
    atoms[7] = atoms[3]
    rows = rng.normal(size=(20, 8))
    expected = sparse_encode(rows, atoms, alpha=0.1)
    with aefast.patch("sklearn"):
        actual = sparse_encode(rows, atoms, alpha=0.1)
    np.testing.assert_allclose(actual, expected, atol=1e-9)


def test_lars_ends_early_where_an_atom_comes_or_goes_near_the_penalty():
    """With 64 features that is within 8e-6 of the penalty."""
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(8, 64)) + 2 * rng.normal(size=64)
    row = 3 * rng.normal(size=64) + rng.normal(size=8) @ atoms
    knots, *_ = lars_path(atoms.T, row, method="lasso")
    assert len(knots) > len(atoms) + 1  # an atom leaves, too
    for penalty in 64 * knots[1:-1] + [[-3e-6], [3e-6]]:
        for one in penalty:
            expected = sparse_encode(row[None], atoms, alpha=one)
            with aefast.patch("sklearn"):
                actual = sparse_encode(row[None], atoms, alpha=one)
            np.testing.assert_allclose(actual, expected, atol=1e-11)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"algorithm": "omp"}, "algorithm='omp'"),
        ({"alpha": 0.2, "positive": True}, "positive codes"),
        ({"alpha": 1e-10}, "a penalty near 0"),
        ({"alpha": 0.2, "max_iter": 999}, "max_iter below 1000"),
    ],
)
def test_sparse_codes_step_aside(options, why):
    rng = np.random.default_rng(0)
    rows, atoms = rng.normal(size=(9, 8)), rng.normal(size=(6, 8))
    expected = sparse_encode(rows, atoms, **options)
    with aefast.patch("sklearn"):
        assert np.array_equal(sparse_encode(rows, atoms, **options), expected)
        assert reason("decomposition.sparse_encode") == why


@pytest.mark.parametrize("fit_algorithm", ["lars", "cd"])
def test_a_dictionary_is_learned_along_the_same_path(fit_algorithm):
    data = make_low_rank_matrix(120, 16, effective_rank=8, random_state=0) * 30
    options = {
        "n_components": 12,
        "alpha": 0.2,
        "batch_size": 40,
        "max_iter": 4,
        "fit_algorithm": fit_algorithm,
        "transform_algorithm": "lasso_lars",
        "random_state": 0,
    }
    expected = MiniBatchDictionaryLearning(**options).fit(data)
    with aefast.patch("sklearn"):
        actual = MiniBatchDictionaryLearning(**options).fit(data)
        assert_same(actual, expected, 1e-8 if fit_algorithm == "lars" else 1e-3)
        expected.components_ = actual.components_
        codes = actual.transform(data)
        coder = SparseCoder(
            actual.components_, transform_algorithm="lasso_lars", transform_alpha=0.2
        )
        assert np.array_equal(coder.transform(data), codes)
        check_calls("decomposition.sparse_encode")
        check_calls("decomposition.MiniBatchDictionaryLearning")
    np.testing.assert_allclose(codes, expected.transform(data), atol=1e-8)


@needs_cpp
# 12 rows are three batches and two rows more.
@pytest.mark.parametrize("batch_size", [4, pytest.param(5, marks=pytest.mark.slow)])
def test_a_machine_is_learned_in_distribution(batch_size):
    """Each parameter's mean over seeds agrees within 4.5 standard errors."""
    data = np.random.default_rng(0).integers(0, 2, (12, 4)).astype(float)
    data[:, 0] = 1

    def parameters():
        fits = [
            BernoulliRBM(2, learning_rate=0.1, batch_size=batch_size, n_iter=8, random_state=seed)
            for seed in range(300)
        ]
        return np.array(
            [
                np.concatenate([m.intercept_visible_, m.intercept_hidden_, m.components_.ravel()])
                for m in (fit.fit(data) for fit in fits)
            ]
        )

    expected = parameters()
    with aefast.patch("sklearn"):
        actual = parameters()
        check_calls("neural_network.BernoulliRBM")
    error = np.sqrt((actual.var(0) + expected.var(0)) / 300)
    assert (np.abs(actual.mean(0) - expected.mean(0)) < 4.5 * error).all()
    assert (np.abs(np.log(actual.std(0) / expected.std(0))) < 0.2).all()


@needs_cpp
def test_a_machine_learns_digits_and_goes_on_unpatched(digits):
    data = digits / 16
    options = {"n_components": 32, "n_iter": 5, "random_state": 0, "learning_rate": 0.05}
    expected = BernoulliRBM(**options).fit(data)
    with aefast.patch("sklearn"):
        actual, again = (BernoulliRBM(**options).fit(data) for _ in range(2))
    assert np.array_equal(actual.components_, again.components_)
    assert set(np.unique(actual.h_samples_)) <= {0, 1}
    assert abs(actual.score_samples(data).mean() - expected.score_samples(data).mean()) < 1.5
    before = actual.score_samples(data).mean()
    for rows in np.array_split(data, 180):
        actual.partial_fit(rows)
    assert actual.score_samples(data).mean() > before - 0.5


@needs_cpp
def test_a_machine_prints_what_the_originals_prints(digits, capsys):
    with aefast.patch("sklearn"):
        BernoulliRBM(4, n_iter=2, verbose=1, random_state=0).fit(digits[:50] / 16)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("[BernoulliRBM] Iteration 2, pseudo-likelihood = -")


@pytest.mark.parametrize(
    ("options", "change", "why"),
    [
        ({}, sparse.csr_matrix, "sparse rows"),
        ({"batch_size": 51}, np.asarray, "fewer rows than a batch"),
        ({"n_iter": 0}, np.asarray, "no iteration"),
        ({}, lambda X: X * 2, "numbers outside [0, 1]"),
        ({"learning_rate": 3e38, "n_iter": 5}, np.asarray, "a step that is not finite"),
        ({"learning_rate": 1e39}, np.asarray, "a learning rate beyond float32"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_machine_steps_aside_and_draws_what_the_original_draws(digits, options, change, why):
    if why == "a step that is not finite" and backend.unavailable("cpp", "cpu"):
        pytest.skip("the C++ kernels do not run here")
    data = change(digits[:50] / 16)
    options = {"n_components": 3, "n_iter": 1, **options}
    expected = BernoulliRBM(**options, random_state=np.random.RandomState(0)).fit(data)
    with aefast.patch("sklearn"):
        actual = BernoulliRBM(**options, random_state=np.random.RandomState(0)).fit(data)
        assert reason("neural_network.BernoulliRBM") == why
    assert np.array_equal(actual.components_, expected.components_, equal_nan=True)
    assert np.array_equal(actual.h_samples_, expected.h_samples_, equal_nan=True)


def test_without_the_cpp_kernels_a_machine_is_the_originals(digits):
    data = digits[:50] / 16
    expected = BernoulliRBM(3, n_iter=1, random_state=0).fit(data)
    with aefast.patch("sklearn"), aefast.use_backend("eager"):
        actual = BernoulliRBM(3, n_iter=1, random_state=0).fit(data)
        assert reason("neural_network.BernoulliRBM") == "the C++ kernels do not run here"
    assert np.array_equal(actual.components_, expected.components_)


def test_wrong_parameters_and_data_are_refused_as_the_original_does(digits):
    def messages():
        for model, data in [
            (BernoulliRBM(n_components=0), digits),
            (BernoulliRBM(), digits * np.nan),
            (PCA(n_components=65), digits),
            (FactorAnalysis(tol=-1), digits),
            (FactorAnalysis(), digits[:0]),
        ]:
            with pytest.raises(ValueError) as error:  # noqa: PT011 (its words are scikit-learn's)
                model.fit(data)
            yield str(error.value)

    expected = list(messages())
    with aefast.patch("sklearn"):
        assert list(messages()) == expected


@needs_cpp
def test_a_program_with_a_pipeline_and_a_grid_search(digits):
    data, target = digits[:300], load_digits().target[:300]
    pipeline = make_pipeline(
        MinMaxScaler(), BernoulliRBM(24, n_iter=10, random_state=0), LogisticRegression()
    )
    grid = {"bernoullirbm__learning_rate": [0.03, 0.06]}
    expected = GridSearchCV(pipeline, grid, cv=2).fit(data, target)
    with aefast.patch("sklearn"):
        actual = GridSearchCV(pipeline, grid, cv=2).fit(data, target)
        check_calls("neural_network.BernoulliRBM")
    assert abs(actual.best_score_ - expected.best_score_) < 0.12
    assert actual.best_estimator_.predict(data).shape == target.shape

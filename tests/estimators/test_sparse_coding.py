"""estimators.SparseCoding: scikit-learn's interface, and scikit-learn's own class beside it."""

import warnings

import numpy as np
import pytest
import torch

sklearn = pytest.importorskip("sklearn")
from sklearn.base import clone  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from sklearn.decomposition import MiniBatchDictionaryLearning, sparse_encode  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

from aefast import backend  # noqa: E402
from aefast.estimators import SparseCoding  # noqa: E402
from tests.backends import on_backends  # noqa: E402


@pytest.fixture(scope="module")
def digits():
    data, target = load_digits(return_X_y=True)
    return (data / 16 - (data / 16).mean(0)).astype(np.float32), target


@parametrize_with_checks([SparseCoding(n_components=8)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def test_it_finds_the_dictionary_that_made_the_data():
    """Each row is a sum of 2 of 10 atoms in 20 dimensions; with 5 to spare it gets caught in no
    local minimum, over six seeds. 0.97 is 14 degrees."""
    rng = np.random.RandomState(0)
    atoms = rng.normal(size=(10, 20))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    codes = np.zeros((2000, 10))
    for row in codes:
        row[rng.choice(10, 2, replace=False)] = rng.choice([-1, 1], 2) * rng.uniform(1, 2, 2)
    model = SparseCoding(15, 0.3, n_iter=20, batch_size=100, random_state=0).fit(codes @ atoms)
    assert (np.abs(model.components_ @ atoms.T).max(0) > 0.97).all()


def test_it_learns_digits_as_well_as_scikit_learns(digits):
    """By the mean objective, of which scikit-learn's own codes are the judge."""
    data = digits[0].astype(np.float64)
    actual = SparseCoding(32, 0.3, batch_size=64, n_iter=5, random_state=0).fit(data)
    expected = MiniBatchDictionaryLearning(
        32, alpha=0.3, batch_size=64, max_iter=5, fit_algorithm="cd", random_state=0
    ).fit(data)

    def objective(components):
        codes = sparse_encode(data, components, algorithm="lasso_cd", alpha=0.3)
        residuals = data - codes @ components
        return (residuals**2).sum(1).mean() / 2 + 0.3 * np.abs(codes).sum(1).mean()

    score = objective(actual.components_.astype(np.float64))
    assert score < 1.01 * objective(expected.components_)
    assert actual.score(data) == pytest.approx(-score, rel=1e-5)


def test_the_atoms_have_norm_one_and_the_codes_are_sparse(digits):
    data = digits[0][:300]
    model = SparseCoding(40, 0.3, n_iter=2, random_state=0).fit(data)
    assert model.components_.dtype == np.float32
    assert model.n_steps_ == 4
    np.testing.assert_allclose(np.linalg.norm(model.components_, axis=1), 1, rtol=1e-5)
    codes = model.transform(data)
    assert 0 < (codes != 0).mean() < 0.5
    restored = model.inverse_transform(codes)
    assert ((data - restored) ** 2).sum() < 0.5 * (data**2).sum()
    scores = -((data - restored) ** 2).sum(1) / 2 - 0.3 * np.abs(codes).sum(1)
    np.testing.assert_allclose(model.score_samples(data), scores, rtol=1e-4)


def test_partial_fit_goes_on(digits):
    data = digits[0]
    model = SparseCoding(24, 0.3, random_state=0)
    scores = []
    for rows in np.array_split(data, 20):
        assert model.partial_fit(rows) is model
        scores.append(model.score(data))
    assert model.n_steps_ == 20
    assert scores[-1] > scores[0] + 0.05


def test_the_same_state_gives_the_same_fit(digits):
    data = digits[0][:200]
    first, second = (SparseCoding(8, 0.3, random_state=3).fit(data) for _ in range(2))
    assert np.array_equal(first.components_, second.components_)
    other = SparseCoding(8, 0.3, random_state=4).fit(data)
    assert not np.array_equal(first.components_, other.components_)


def test_fewer_rows_than_atoms_and_rows_of_zeros():
    data = np.zeros((3, 5), np.float32)
    data[0, 0] = 2
    model = SparseCoding(7, 0.1, n_iter=3, random_state=0).fit(data)
    assert np.isfinite(model.components_).all()
    np.testing.assert_allclose(np.linalg.norm(model.components_, axis=1), 1, rtol=1e-5)
    assert model.score(data) > -2 / 3


def test_an_atom_that_no_row_uses_is_drawn_anew():
    """All data on one axis, and the second atom at a right angle to it."""
    data = np.zeros((50, 4), np.float32)
    data[:, 0] = np.linspace(1, 2, 50)
    model = SparseCoding(2, 0.1, random_state=0).partial_fit(data)
    model.components_ = np.eye(4, dtype=np.float32)[:2]
    model._code_products[:], model._data_products[:] = 0, 0
    model.partial_fit(data)
    assert np.abs(model.components_[:, 0]).min() > 0.9


@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_the_mode_of_the_caller_changes_nothing(digits, mode):
    data = digits[0][:50]
    expected = SparseCoding(8, 0.3, random_state=3).fit(data)
    with mode():
        model = SparseCoding(8, 0.3, random_state=3).fit(data)
        assert np.array_equal(model.transform(data), expected.transform(data))
        assert np.array_equal(model.score_samples(data), expected.score_samples(data))
    assert np.array_equal(
        model.partial_fit(data).components_, expected.partial_fit(data).components_
    )


def test_a_model_that_must_not_be_written_to(digits, tmp_path):
    data = digits[0][:50]
    joblib = pytest.importorskip("joblib")
    joblib.dump(SparseCoding(8, 0.3, random_state=3).fit(data), tmp_path / "model")
    model = joblib.load(tmp_path / "model", mmap_mode="r")
    before = np.array(model.components_)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.transform(data).shape == (50, 8)
        model.partial_fit(data[:20])
    assert not np.array_equal(model.components_, before)


@on_backends
def test_on_every_backend(digits, name):
    if backend.unavailable(name, "cpu"):
        pytest.skip(f"{name} cannot run here")
    data = digits[0][:50]
    expected = SparseCoding(8, 0.5, random_state=3).fit(data).score_samples(data)
    with backend.use_backend(name):
        model = SparseCoding(8, 0.5, random_state=3).fit(data)
        np.testing.assert_allclose(model.score_samples(data), expected, rtol=1e-3)


def test_in_a_pipeline_and_a_grid_search(digits):
    data, target = digits[0][:300], digits[1][:300]
    pipeline = make_pipeline(
        SparseCoding(32, n_iter=5, random_state=0), LogisticRegression(max_iter=500)
    )
    search = GridSearchCV(pipeline, {"sparsecoding__penalty": [0.1, 0.3]}, cv=2)
    search.fit(data, target)
    assert search.best_score_ > 0.7
    names = search.best_estimator_[0].get_feature_names_out()
    assert names[0] == "sparsecoding0"


def test_an_outliers_score_is_a_very_low_number_and_its_code_finite(digits):
    data = digits[0][:50]
    model = SparseCoding(8, 0.3, random_state=3).fit(data)
    far = data.copy()
    far[0] *= 1e25
    assert np.isfinite(model.transform(far)).all()
    scores = model.score_samples(far)
    assert scores[0] < -1e40
    np.testing.assert_allclose(scores[1:], model.score_samples(data)[1:], rtol=1e-4)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_numbers_whose_squares_overflow_are_not_learned_from(digits, method):
    with pytest.raises(ValueError, match=r"^X holds numbers up to .*e\+30; it takes some up to 1"):
        getattr(SparseCoding(8), method)(digits[0][:50] / digits[0][:50].max() * 1e30)


@pytest.mark.parametrize("scale", [0, 1e-30, 1e12])
def test_extreme_data_give_finite_numbers(digits, scale):
    data = digits[0][:50] * np.float32(scale)
    model = SparseCoding(8, 0.3, n_iter=2, random_state=0).fit(data)
    for actual in (model.components_, model.transform(data), model.score_samples(data)):
        assert np.isfinite(actual).all()
    assert np.isfinite(SparseCoding(3, n_iter=2).fit(data[:1]).components_).all()


def test_codes_of_another_width_are_refused(digits):
    model = SparseCoding(8, 0.3, random_state=3).fit(digits[0][:50])
    with pytest.raises(ValueError, match="X has 5 columns; it takes codes of 8 components"):
        model.inverse_transform(np.zeros((2, 5)))


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"n_components": 0}, ValueError, "n_components is 0"),
        ({"n_components": 1.5}, TypeError, "n_components is a float"),
        ({"penalty": 0}, ValueError, "penalty is 0"),
        ({"penalty": "l1"}, TypeError, "penalty is a str"),
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
        ({"n_iter": -1}, ValueError, "n_iter is -1"),
        ({"tolerance": -1}, ValueError, "tolerance is -1"),
    ],
)
def test_wrong_parameters(digits, parameters, error, message):
    with pytest.raises(error, match=f"^{message}"):
        clone(SparseCoding(**parameters)).fit(digits[0][:20])


def test_max_iter_is_n_iter_as_scikit_learn_names_it(digits):
    data = digits[0][:50]
    models = [
        SparseCoding(4, max_iter=2, random_state=0),
        SparseCoding(4, n_iter=2, random_state=0),
    ]
    first, second = (model.fit(data) for model in models)
    assert first.n_iter_ == second.n_iter_ == 2
    assert np.array_equal(first.components_, second.components_)
    with pytest.raises(ValueError, match=r"^max_iter is -1; it takes"):
        SparseCoding(4, max_iter=-1).fit(data)

"""estimators.BernoulliRBM: scikit-learn's interface, and scikit-learn's own class beside it."""

import warnings

import numpy as np
import pytest
import torch

sklearn = pytest.importorskip("sklearn")
from scipy import sparse  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.neural_network import BernoulliRBM as Theirs  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

from aefast import backend  # noqa: E402
from aefast.estimators import BernoulliRBM  # noqa: E402
from tests.backends import on_backends  # noqa: E402


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return (data.data / 16 > 0.5).astype(np.float32), data.target


@parametrize_with_checks([BernoulliRBM(n_components=8), BernoulliRBM(8, persistent=False)])
def test_scikit_learns_checks(estimator, check):
    with warnings.catch_warnings():
        # They fit numbers of any size.
        warnings.filterwarnings("ignore", message="X holds")
        check(estimator)


def test_every_parameter_of_scikit_learns_class_is_there_with_its_default():
    actual, expected = BernoulliRBM().get_params(), Theirs().get_params()
    assert {name: actual[name] for name in expected} == expected
    assert set(actual) - set(expected) == {"k", "persistent"}


@pytest.mark.parametrize("persistent", [True, False])
def test_it_learns_digits_as_well_as_scikit_learns(digits, persistent):
    """By scikit-learn's own score of the pseudo-likelihood, of the same parameters."""
    data, _ = digits
    options = {"n_components": 32, "learning_rate": 0.05, "n_iter": 5, "random_state": 0}
    actual = BernoulliRBM(**options, persistent=persistent).fit(data)
    expected = Theirs(**options).fit(data)
    score = expected.score_samples(data).mean()
    for name in ("components_", "intercept_hidden_", "intercept_visible_"):
        setattr(expected, name, getattr(actual, name))
    assert expected.score_samples(data).mean() > score - 1.5
    torch.testing.assert_close(
        actual.transform(data), expected.transform(data), rtol=1e-4, atol=1e-5
    )


def test_the_score_is_scikit_learns_on_average(digits):
    data = digits[0][:100]
    actual = BernoulliRBM(16, n_iter=2, random_state=0).fit(data)
    expected = Theirs(16, n_iter=0, random_state=0).fit(data)
    for name in ("components_", "intercept_hidden_", "intercept_visible_"):
        setattr(expected, name, getattr(actual, name))
    drawn = expected.score_samples(np.repeat(data, 300, axis=0))
    error = drawn.std() / len(drawn) ** 0.5
    assert abs(actual.score_samples(data).mean() - drawn.mean()) < 4 * error


def test_partial_fit_goes_on(digits):
    data, _ = digits
    model = BernoulliRBM(16, random_state=0, batch_size=20)
    for rows in np.array_split(data, 80):
        assert model.partial_fit(rows) is model
    assert model.score_samples(data).mean() > BernoulliRBM(16, n_iter=0).fit(
        data
    ).score_samples(data).mean() + 2  # fmt: skip


def test_the_same_state_gives_the_same_fit(digits):
    data = digits[0][:200]
    first, second = (BernoulliRBM(8, n_iter=2, random_state=3).fit(data) for _ in range(2))
    assert np.array_equal(first.components_, second.components_)
    other = BernoulliRBM(8, n_iter=2, random_state=4).fit(data)
    assert not np.array_equal(first.components_, other.components_)


def test_sparse_rows_are_the_dense_ones(digits):
    data = digits[0][:200]
    dense = BernoulliRBM(8, n_iter=2, random_state=3).fit(data)
    thin = BernoulliRBM(8, n_iter=2, random_state=3).fit(sparse.csr_matrix(data))
    assert np.array_equal(dense.components_, thin.components_)
    assert np.array_equal(dense.transform(data), thin.transform(sparse.csr_matrix(data)))
    assert np.array_equal(dense.score_samples(data), thin.score_samples(sparse.csr_matrix(data)))


def test_a_gibbs_step_gives_states(digits):
    data = digits[0][:50]
    model = BernoulliRBM(8, n_iter=1, random_state=3).fit(data)
    states = model.gibbs(data)
    assert states.shape == data.shape
    assert states.dtype == bool

    assert np.array_equal(
        clone(model).fit(data).gibbs(sparse.csr_matrix(data)), clone(model).fit(data).gibbs(data)
    )


def test_a_model_that_must_not_be_written_to(digits, tmp_path):
    """As joblib maps it from a file; torch would write to it, and the process end."""
    data = digits[0][:50]
    joblib = pytest.importorskip("joblib")
    joblib.dump(BernoulliRBM(8, n_iter=1, random_state=3).fit(data), tmp_path / "model")
    model = joblib.load(tmp_path / "model", mmap_mode="r")
    before = np.array(model.components_)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.transform(data).shape == (50, 8)
        model.partial_fit(data)
    assert not np.array_equal(model.components_, before)


@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_the_mode_of_the_caller_changes_nothing(digits, mode):
    data = digits[0][:50]
    expected = BernoulliRBM(8, n_iter=1, random_state=3).fit(data)
    with mode():
        model = BernoulliRBM(8, n_iter=1, random_state=3).fit(data)
        assert np.array_equal(model.transform(data), expected.transform(data))
        assert np.array_equal(model.score_samples(data), expected.score_samples(data))


def test_parameters_of_another_dtype_are_taken(digits):
    data = digits[0][:50]
    model = BernoulliRBM(8, n_iter=1, random_state=3).fit(data)
    expected = model.transform(data)
    model.components_ = model.components_.astype(np.float64)
    assert np.array_equal(model.transform(data), expected)


def test_chains_may_begin_to_persist_later(digits):
    data = digits[0][:50]
    model = BernoulliRBM(8, n_iter=1, persistent=False).fit(data)
    model.set_params(persistent=True).partial_fit(data)
    assert model.v_samples_.shape == (10, 64)
    assert not hasattr(model.set_params(persistent=False).fit(data), "v_samples_")


@on_backends
def test_on_every_backend(digits, name, capsys):
    if backend.unavailable(name, "cpu"):
        pytest.skip(f"{name} cannot run here")
    data = digits[0][:50]
    with backend.use_backend(name):
        model = BernoulliRBM(8, n_iter=1, random_state=3, verbose=1).fit(data)
        assert np.isfinite(model.score_samples(data)).all()
        assert model.transform(data).shape == (50, 8)


def test_a_gibbs_step_takes_tensors_and_refuses_nan(digits):
    data = digits[0][:50]
    model = BernoulliRBM(8, n_iter=1, random_state=3).fit(data)
    assert model.gibbs(torch.from_numpy(data).double()).shape == data.shape
    with pytest.raises(ValueError, match="NaN"):
        model.gibbs(data * np.nan)


def test_being_verbose_leaves_the_random_numbers_alone(digits, capsys):
    printed = []
    for _ in range(2):
        torch.manual_seed(len(printed))
        BernoulliRBM(8, n_iter=1, verbose=1, random_state=0).fit(digits[0][:100])
        printed.append(capsys.readouterr().out.split(", time")[0])
        assert torch.equal(torch.rand(1), torch.rand(1, generator=seeded(len(printed) - 1)))
    assert printed[0] == printed[1]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_in_a_pipeline_and_a_grid_search(digits):
    data, target = digits[0][:300], digits[1][:300]
    features = BernoulliRBM(32, n_iter=30, random_state=0)
    pipeline = make_pipeline(features, LogisticRegression(max_iter=500))
    search = GridSearchCV(pipeline, {"bernoullirbm__k": [1, 2]}, cv=2).fit(data, target)
    assert search.best_score_ > 0.6
    names = search.best_estimator_[0].get_feature_names_out()
    assert names[0] == "bernoullirbm0"


def test_verbose_prints_as_scikit_learns_does(digits, capsys):
    BernoulliRBM(8, n_iter=2, verbose=1, random_state=0).fit(digits[0][:100])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("[BernoulliRBM] Iteration 2, pseudo-likelihood = -")


def test_numbers_outside_the_range_are_warned_of(digits):
    message = r"X holds 16; Bernoulli units take numbers in \[0, 1\]"
    with pytest.warns(UserWarning, match=message) as record:
        BernoulliRBM(8, n_iter=1).fit(digits[0][:50] * 16)
    assert record[0].filename == __file__


@pytest.mark.parametrize("method", ["partial_fit", "transform", "score_samples", "gibbs"])
@pytest.mark.parametrize("value", [16, -0.5])
def test_what_learned_from_numbers_in_the_range_takes_no_others(digits, method, value):
    data = digits[0][:50]
    model, again = (BernoulliRBM(8, n_iter=1, random_state=0).fit(data) for _ in range(2))
    wrong = data.copy()
    wrong[3, 5] = value
    for rows in (wrong, sparse.csr_matrix(wrong)):
        message = rf"^[Xv] holds {value}; Bernoulli units take numbers in \[0, 1\]$"
        with pytest.raises(ValueError, match=message):
            getattr(model, method)(rows)
    assert (model.partial_fit(data).components_ == again.partial_fit(data).components_).all()


@pytest.mark.parametrize("method", ["partial_fit", "transform", "score_samples", "gibbs"])
def test_what_learned_from_numbers_outside_the_range_warns_of_others(digits, method):
    data = digits[0][:50] * 16
    with pytest.warns(UserWarning, match="X holds 16"):
        model = BernoulliRBM(8, n_iter=1).partial_fit(data)
    with pytest.warns(UserWarning, match="holds 16; Bernoulli units take"):
        getattr(model, method)(data)


@pytest.mark.filterwarnings("ignore:X holds", "ignore:overflow encountered in cast")
def test_a_step_that_is_not_finite_says_so_and_leaves_finite_parameters(digits):
    model = BernoulliRBM(8, n_iter=5, random_state=0)
    with pytest.raises(FloatingPointError, match=r"^a step's gradient is not finite, with numbers"):
        model.fit(np.float64(digits[0][:50]) * 1e200)
    assert np.isfinite(model.components_).all()


@pytest.mark.filterwarnings("ignore:X holds")
@pytest.mark.parametrize("scale", [0, 1e-30, 1e12, 1e30])
def test_extreme_data_give_finite_numbers(digits, scale):
    data = digits[0][:50] * np.float32(scale)
    model = BernoulliRBM(8, n_iter=2, random_state=0).fit(data)
    for actual in (model.components_, model.transform(data), model.score_samples(data)):
        assert np.isfinite(actual).all()


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"n_components": 0}, ValueError, "n_components is 0"),
        ({"n_components": 1.5}, TypeError, "n_components is a float"),
        ({"learning_rate": 0}, ValueError, "learning_rate is 0"),
        ({"learning_rate": -1}, ValueError, "learning_rate is -1"),
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
        ({"n_iter": -1}, ValueError, "n_iter is -1"),
        ({"k": 0}, ValueError, "k is 0"),
        ({"persistent": "no"}, TypeError, "persistent is 'no'; it takes True or False"),
        ({"verbose": "no"}, TypeError, "verbose is a str"),
    ],
)
def test_wrong_parameters(digits, parameters, error, message):
    with pytest.raises(error, match=f"^{message}"):
        clone(BernoulliRBM(**parameters)).fit(digits[0][:20])

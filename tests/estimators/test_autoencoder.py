"""The autoencoders' estimators: scikit-learn's interface, and the modules trained by hand."""

import importlib
import inspect
import pickle
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("sklearn")
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from aefast import backend, estimators, nn
from aefast.estimators.autoencoder import BaseAutoencoder
from aefast.random import child_seed
from aefast.training.engines import choose_engine
from tests.backends import on_backends

DETERMINISTIC = [
    "Autoencoder",
    "DenoisingAutoencoder",
    "ContractiveAutoencoder",
    "SparseAutoencoder",
]
KINDS = [*DETERMINISTIC, "StochasticAutoencoder", "VariationalAutoencoder"]

# A sum of n products, in float64, is off by n eps of its magnitude, here at most a few hundred.
ROUNDING = 1e-12


def estimator(kind, *sizes, **options):
    options = {"n_iter": 3, "batch_size": 16, "random_state": 0} | options
    return getattr(estimators, kind)(sizes or (6, 3), **options)


def module(kind, features, *sizes, **options):
    if kind == "VariationalAutoencoder":
        *layers, latent = sizes
        return nn.VariationalAutoencoder(features, latent, layers=layers, **options)
    return getattr(nn, kind)(layers=[features, *sizes], **options)


def equal(first, second):
    first, second = first.state_dict(), second.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return (data.data / 16).astype(np.float32), data.target


@pytest.fixture
def data(digits):
    return digits[0][:50]


@parametrize_with_checks([getattr(estimators, kind)(n_iter=2) for kind in KINDS])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@every_kind
def test_an_option_has_its_modules_name_and_default(kind):
    shared = set(BaseAutoencoder(0).get_params())
    actual = getattr(estimators, kind)().get_params()
    options = {name: value for name, value in actual.items() if name not in shared}
    expected = {}
    for parent in reversed(getattr(nn, kind).__mro__):
        if issubclass(parent, torch.nn.Module) and parent is not torch.nn.Module:
            expected |= inspect.signature(parent).parameters
    if kind == "DenoisingAutoencoder":
        assert options.pop("output_activation") == "sigmoid"
    assert len(options) >= 3
    if "decoder_kind" in options:
        assert options.pop("decoder_kind") == "auto"
    assert {name: expected[name].default for name in options} == options


@every_kind
@pytest.mark.parametrize("sizes", [(5,), (6, 3)])
def test_fit_is_the_modules_training_by_hand(kind, sizes, data):
    """50 rows in batches of at most 16: of 13, 13, 12 and 12."""
    model = estimator(kind, *sizes, random_state=5, learning_rate=0.01).fit(data)
    random = np.random.RandomState(5)
    torch.manual_seed(random.randint(2**31 - 1))
    by_hand = module(kind, 64, *sizes)
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=0.01, fused=True)
    for _ in range(3):
        order = random.permutation(50)
        seed = int(random.randint(2**31 - 1))
        for step, (start, end) in enumerate([(0, 13), (13, 26), (26, 38), (38, 50)]):
            optimizer.zero_grad()
            rows = torch.from_numpy(data[order[start:end]])
            by_hand.loss(rows, seed=child_seed(seed, step)).backward()
            optimizer.step()
    for actual, expected in zip(model.module_.parameters(), by_hand.parameters(), strict=True):
        assert (actual - expected).abs().max() < 0.01 * 1e-2  # a hundredth of Adam's step


@every_kind
def test_partial_fit_is_one_step_and_goes_on_from_fit(kind, data):
    whole = estimator(kind, n_iter=2, batch_size=50).fit(data)
    parts = estimator(kind, n_iter=1, batch_size=50).fit(data)
    order = parts._random_state.permutation(50)
    assert parts.partial_fit(data[order]) is parts
    assert equal(whole.module_, parts.module_)


def test_the_first_partial_fit_starts_as_fit_does(data):
    start = estimator("Autoencoder", n_iter=0).fit(data).module_
    model = estimator("Autoencoder", learning_rate=1e-9).partial_fit(data)
    torch.testing.assert_close(model.module_.state_dict(), start.state_dict(), rtol=0, atol=1e-8)


def test_a_new_learning_rate_holds_from_the_next_step_on(data):
    model = estimator("Autoencoder").fit(data)
    before = model.components_.copy()
    model.set_params(learning_rate=1e-9).partial_fit(data)
    np.testing.assert_allclose(model.components_, before, rtol=0, atol=1e-7)
    model.set_params(learning_rate=0.1).partial_fit(data)
    assert np.abs(model.components_ - before).max() > 0.01


@every_kind
def test_a_pickled_model_goes_on_to_the_same_bits(kind, data):
    model = estimator(kind).fit(data)
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.score_samples(data), model.score_samples(data))
    assert equal(again.partial_fit(data).module_, model.partial_fit(data).module_)


@every_kind
def test_the_same_state_gives_the_same_bits_and_torchs_own_is_left_alone(kind, data):
    first = estimator(kind, random_state=3).fit(data)
    torch.manual_seed(7)
    second = clone(first).fit(data)
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(7)))
    assert equal(first.module_, second.module_)
    assert not equal(first.module_, estimator(kind, random_state=4).fit(data).module_)


@every_kind
def test_codes_and_reconstructions_are_the_modules_in_the_rows_precision(kind, data):
    model = estimator(kind).fit(data)
    assert not model.module_.training
    with torch.no_grad():
        codes = model.module_.encode(torch.from_numpy(data)).numpy()
        rows = model.module_.decode(torch.from_numpy(codes)).numpy()
    assert np.array_equal(model.transform(data), codes)
    assert np.array_equal(model.inverse_transform(codes), rows)
    exact = model.transform(data.astype(np.float64))
    assert exact.dtype == model.inverse_transform(exact).dtype == np.float64
    # n terms sum up to within n eps of their magnitudes' sum: 64 below 0.2; six weights below 0.5
    # triple that at the most.
    bound = 3 * 64 * np.finfo(np.float32).eps * 64 * 0.2
    np.testing.assert_allclose(codes, exact, rtol=0, atol=bound)


@every_kind
def test_the_components_are_the_first_layers_weight(kind, data):
    model = estimator(kind, 5, 2).fit(data)
    assert model.components_.shape == (5, 64)
    weights = [value for name, value in model.module_.state_dict().items() if "weight" in name]
    assert np.array_equal(model.components_, weights[0].numpy())


@pytest.mark.parametrize("kind", DETERMINISTIC)
def test_the_score_is_minus_the_reconstructions_squared_error(kind, data):
    model = estimator(kind).fit(data)
    X = data.astype(np.float64)
    error = np.square(X - model.inverse_transform(model.transform(X))).mean(1)
    np.testing.assert_allclose(model.score_samples(data), -error, rtol=ROUNDING)
    assert model.score(data) == pytest.approx(-error.mean(), rel=ROUNDING)


def test_the_score_of_a_bce_model_is_minus_the_cross_entropy(data):
    model = estimator("Autoencoder", output_activation="sigmoid", reconstruction="bce").fit(data)
    X = data.astype(np.float64)
    mean = torch.from_numpy(model.inverse_transform(model.transform(X)))
    error = F.binary_cross_entropy(mean, torch.from_numpy(X), reduction="none").mean(1)
    np.testing.assert_allclose(model.score_samples(data), -error, rtol=ROUNDING)


def test_a_wide_layers_rows_are_scored_a_few_at_a_time(monkeypatch):
    """Between two of torch's products Ctrl-C is heard."""
    module = importlib.import_module("aefast.estimators.autoencoder")
    model = estimators.Autoencoder(32, n_iter=0, random_state=0).fit(np.ones((20, 6)))
    expected, rows = model.score_samples(np.eye(20, 6)), []
    score = estimators.Autoencoder._score_rows

    def look_on(self, module, pieces):
        rows.append(len(pieces))
        return score(self, module, pieces)

    monkeypatch.setattr(estimators.Autoencoder, "_score_rows", look_on)
    monkeypatch.setattr(module, "PRODUCTS_AT_ONCE", 8 * 32 * 6)
    actual = model.score_samples(np.eye(20, 6))
    np.testing.assert_allclose(actual, expected, rtol=1e-12)
    assert rows == [8, 8, 4]


@every_kind
def test_a_rows_score_does_not_depend_on_the_rows_beside_it(kind, digits):
    """Of more rows than are scored at once."""
    X = digits[0][:70]
    model = estimator(kind).fit(X)
    alone = np.concatenate([model.score_samples(row[None]) for row in X[::-1]])[::-1]
    np.testing.assert_allclose(model.score_samples(X), alone, rtol=ROUNDING)


@every_kind
def test_training_raises_the_score(kind, digits):
    X = digits[0][:400]
    options = {"learning_rate": 0.01, "batch_size": 100}
    before = estimator(kind, 16, **options, n_iter=0).fit(X).score(X)
    after = estimator(kind, 16, **options, n_iter=20).fit(X).score(X)
    assert after > before * 0.8  # both are negative: a fifth less error


@every_kind
def test_sparse_rows_are_the_dense_ones(kind, data):
    thin = sparse.csr_matrix(data)
    model, other = estimator(kind).fit(data), estimator(kind).fit(thin)
    assert equal(model.module_, other.module_)
    assert equal(model.partial_fit(data).module_, other.partial_fit(thin).module_)
    assert np.array_equal(model.transform(data), other.transform(thin))
    assert np.array_equal(model.score_samples(data), other.score_samples(thin))


@pytest.mark.skipif(backend.cpu_isa() == "none", reason="the C++ kernels are not installed")
@pytest.mark.parametrize("kind_of_rows", [np.asarray, sparse.csr_matrix])
def test_the_rows_of_a_step_choose_the_engine(kind_of_rows, data, vendor_product, monkeypatch):
    """34 rows in batches of up to 30 are two steps of 17."""
    names = []

    def choose(*arguments):
        engine = choose_engine(*arguments)
        names.append(engine.name)
        return engine

    monkeypatch.setattr("aefast.estimators.autoencoder.choose_engine", choose)
    for most_rows, name in [(17, "step"), (16, "loop")]:
        monkeypatch.setattr("aefast.step.loss.MOST_PRODUCTS", data.shape[1] * 5 * most_rows)
        estimator("Autoencoder", 5, batch_size=30, n_iter=1).fit(kind_of_rows(data[:34]))
        assert names.pop() == name


@every_kind
@on_backends
def test_on_every_backend(kind, name, data):
    if backend.unavailable(name, "cpu"):
        pytest.skip(f"{name} cannot run here")
    with backend.use_backend(name):
        model = estimator(kind, n_iter=1).fit(data)
        assert np.isfinite(model.score_samples(data)).all()
        for X in (data, data.astype(np.float64)):
            assert np.isfinite(model.inverse_transform(model.transform(X))).all()


@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_the_mode_of_the_caller_changes_nothing(data, mode):
    expected = estimator("ContractiveAutoencoder").fit(data)
    with mode():
        model = estimator("ContractiveAutoencoder").fit(data)
        assert np.array_equal(model.transform(data), expected.transform(data))
        assert np.array_equal(model.score_samples(data), expected.score_samples(data))
    model.partial_fit(data)


@every_kind
@pytest.mark.parametrize("default", ["dtype", "device"])
def test_torchs_defaults_change_nothing(kind, default, data, defaults):
    expected = estimator(kind, n_iter=0).fit(data)
    defaults(default)
    model = estimator(kind, n_iter=0).fit(data)
    shapes = {name: value.shape for name, value in expected.module_.state_dict().items()}
    for name, value in model.module_.state_dict().items():
        assert value.shape == shapes[name]
        assert (value.dtype, value.device.type) == (torch.float32, "cpu")
    model.partial_fit(data)
    expected.module_.load_state_dict(model.module_.state_dict())
    for X in (data, data.astype(np.float64)):
        assert np.array_equal(model.transform(X), expected.transform(X))
    assert np.isfinite(model.score(data))
    if hasattr(model, "sample"):
        assert model.sample(2).dtype == np.float32


# Of outputs without a bound: a saturated one's loss is finite at any weights.
UNBOUNDED = {
    "DenoisingAutoencoder": {"output_activation": "identity"},
    "StochasticAutoencoder": {"decoder_kind": "gaussian"},
}


@every_kind
def test_a_fit_that_diverges_says_so_and_leaves_finite_parameters(kind, data):
    model = estimator(kind, learning_rate=1e30, n_iter=9, **UNBOUNDED.get(kind, {}))
    with pytest.raises(FloatingPointError, match=r"^the loss is .* learning_rate = 1e\+30 "):
        model.fit(data)
    assert not model.module_.training
    assert all(value.isfinite().all() for value in model.module_.state_dict().values())


def test_rows_too_large_for_a_step_are_not_learned_from(data):
    model = estimator("Autoencoder").fit(data)
    again = pickle.loads(pickle.dumps(model))
    with pytest.raises(FloatingPointError, match=r"numbers up to 1e\+30 in X"):
        model.partial_fit(data / data.max() * 1e30)
    assert equal(model.partial_fit(data).module_, again.partial_fit(data).module_)


def test_the_loss_curve_is_what_verbose_prints(data, capsys):
    model = estimator("Autoencoder", verbose=1, n_iter=4).fit(data)
    printed = [line.split("loss = ")[1][:6] for line in capsys.readouterr().out.splitlines()]
    assert [f"{loss:.4f}" for loss in model.loss_curve_] == printed
    assert model.n_iter_ == len(model.loss_curve_) == 4
    assert model.loss_curve_[3] < model.loss_curve_[0]
    model.partial_fit(data)
    assert model.set_params(n_iter=2).fit(data).n_iter_ == len(model.loss_curve_) == 2


def test_in_a_pipeline_and_a_grid_search(digits):
    X, y = digits[0][:300], digits[1][:300]
    features = estimators.DenoisingAutoencoder(random_state=0, learning_rate=0.01, n_iter=30)
    pipeline = make_pipeline(features, LogisticRegression(max_iter=500))
    grid = {"denoisingautoencoder__hidden_layer_sizes": [2, 32]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(X, y)
    assert search.best_params_ == {"denoisingautoencoder__hidden_layer_sizes": 32}
    assert search.best_score_ > 0.8
    assert search.best_estimator_[0].get_feature_names_out()[0] == "denoisingautoencoder0"


def test_a_grid_search_finds_the_better_size_by_the_score(digits):
    model = estimators.Autoencoder(random_state=0, learning_rate=0.01, n_iter=20)
    search = GridSearchCV(model, {"hidden_layer_sizes": [1, 16]}, cv=2).fit(digits[0][:300])
    assert search.best_params_ == {"hidden_layer_sizes": 16}


def test_set_output_names_the_codes_columns(data):
    pytest.importorskip("pandas")
    frame = estimator("Autoencoder").set_output(transform="pandas").fit_transform(data)
    assert list(frame.columns) == ["autoencoder0", "autoencoder1", "autoencoder2"]


def test_verbose_prints_a_line_an_epoch(data, capsys):
    first = estimator("Autoencoder", verbose=1, n_iter=2).fit(data)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("[Autoencoder] Iteration 2, loss = 0.")
    assert equal(first.module_, estimator("Autoencoder", n_iter=2).fit(data).module_)


UNIT_INTERVAL = {
    "Autoencoder": (
        {"output_activation": "sigmoid", "reconstruction": "bce"},
        "the cross-entropy takes",
    ),
    "StochasticAutoencoder": ({"decoder_kind": "bernoulli"}, "Bernoulli units take"),
    "VariationalAutoencoder": ({"decoder_kind": "bernoulli"}, "Bernoulli units take"),
}


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("kind", UNIT_INTERVAL)
def test_numbers_outside_the_range_of_the_loss_are_refused(data, kind, method):
    options, reason = UNIT_INTERVAL[kind]
    model = estimator(kind, **options)
    for wrong, X in (("-2", data * -2), ("1.5", data * 1.5)):
        with pytest.raises(ValueError, match=rf"^X holds {wrong}; {reason} numbers in \[0, 1\]$"):
            getattr(model, method)(X)
        with pytest.raises(NotFittedError):
            model.transform(data)
    model.fit(data.astype(np.float64) * (1 + 2e-16))  # as a scaler rounds
    with pytest.raises(ValueError, match=rf"^X holds -2; {reason} numbers in"):
        model.score(data * -2)
    with pytest.raises(ValueError, match=rf"^X holds -2; {reason} numbers in"):
        model.partial_fit(data * -2)


@pytest.mark.parametrize("kind", ["StochasticAutoencoder", "VariationalAutoencoder"])
def test_the_data_choose_the_decoder(data, kind):
    assert estimator(kind).fit(data).module_.decoder_kind == "bernoulli"
    assert estimator(kind).fit(data * -2).module_.decoder_kind == "gaussian"
    assert estimator(kind, decoder_kind="gaussian").fit(data).module_.decoder_kind == "gaussian"


@pytest.mark.parametrize("method", ["transform", "score_samples"])
def test_numbers_on_another_scale_than_those_learned_from_are_warned_of(data, method):
    model = estimator("Autoencoder").fit(data)
    message = "^X holds numbers up to 255; the model has learned from numbers up to 1: they may"
    with pytest.warns(UserWarning, match=message):
        getattr(model, method)(data * 255)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        getattr(model, method)(data * 2)
        getattr(model.partial_fit(data * 255), method)(data * 255)


EXTREMES = {
    "tiny": lambda X: X * np.float32(1e-30),
    "large": lambda X: X * np.float32(1e12),
    "zeros": np.zeros_like,
    "constant": lambda X: np.full_like(X, 0.3),
    "one": lambda X: X[:1],
}


@every_kind
@pytest.mark.parametrize("extreme", EXTREMES.values(), ids=EXTREMES)
def test_extreme_data_give_finite_numbers(kind, extreme, data):
    X = extreme(data)
    model = estimator(kind, n_iter=2).fit(X)
    codes = model.transform(X)
    actual = [codes, model.inverse_transform(codes), model.score_samples(X), model.components_]
    assert all(np.isfinite(array).all() for array in actual)


@every_kind
@pytest.mark.parametrize("size", [1e6, 1e30, 1e200])
def test_an_outliers_score_is_a_very_low_number(kind, size, data):
    X = data.astype(np.float64) * 2 - 1
    model = estimator(kind).fit(X)
    Y = X.copy()
    Y[0] *= size
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="X holds numbers up to")
        scores = model.score_samples(Y)
        assert np.isfinite(model.score(Y))
    assert scores[0] < scores[1:].min() - 1e3
    np.testing.assert_allclose(scores[1:], model.score_samples(X)[1:], rtol=ROUNDING)


@every_kind
def test_early_stopping_ends_and_keeps_the_best_parameters(kind, digits):
    X = digits[0][:60]
    options = {"early_stopping": True, "n_iter_no_change": 2, "learning_rate": 0.03}
    model = estimator(kind, n_iter=200, tol=1e-3, **options).fit(X)
    losses = model.validation_loss_curve_
    assert 3 <= model.n_iter_ == len(losses) == len(model.loss_curve_) < 200
    best = int(np.argmin(losses)) + 1
    assert equal(model.module_, estimator(kind, n_iter=best, **options).fit(X).module_)
    lowest = np.minimum.accumulate(losses)
    assert min(losses[-2:]) > lowest[-3] - 1e-3
    assert losses[0] - min(losses) > 1e-3


def test_what_is_held_out_is_not_learned_from(data):
    """Of 50 rows a fifth: the steps are those of fit on the other 40."""
    model = estimator("Autoencoder", early_stopping=True, validation_fraction=0.2, n_iter=1)
    model.fit(data)
    random = np.random.RandomState(0)
    random.randint(2**31 - 1)
    rows = random.permutation(50)[10:]
    other = estimator("Autoencoder", n_iter=0).fit(data)
    other._random_state = random
    other._epochs(torch.from_numpy(data[rows]), 1)
    assert equal(model.module_, other.module_)


def test_of_one_row_none_can_be_held_out(data):
    message = r"^validation_fraction is 0\.1; of 1 samples it leaves none to learn from"
    with pytest.raises(ValueError, match=message):
        estimator("Autoencoder", early_stopping=True).fit(data[:1])


def test_a_held_out_loss_is_printed(data, capsys):
    estimator("Autoencoder", early_stopping=True, verbose=1, n_iter=1).fit(data)
    assert ", validation loss = 0." in capsys.readouterr().out


@every_kind
def test_a_warm_start_goes_on(kind, data):
    whole = estimator(kind, n_iter=2).fit(data)
    parts = estimator(kind, n_iter=1, warm_start=True).fit(data)
    assert not equal(whole.module_, parts.module_)
    assert equal(whole.module_, parts.fit(data).module_)
    assert parts.n_iter_ == 1


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_to_go_on_takes_the_same_model(data, method):
    model = estimator("Autoencoder", warm_start=True).fit(data)
    model.set_params(hidden_layer_sizes=(6, 4))
    with pytest.raises(ValueError, match=r"^hidden_layer_sizes is \[6, 4\]; to go on, it takes"):
        getattr(model, method)(data)
    assert model.set_params(warm_start=False).fit(data).components_.shape == (6, 64)


def test_a_device_that_is_not_there_is_refused(data, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"^device is 'cuda'; PyTorch finds no GPU here"):
        estimator("Autoencoder", device="cuda").fit(data)
    for wrong in ("tpu", "meta", None, 3.5):
        with pytest.raises(ValueError, match=r"^device is .*; it takes 'cpu', 'cuda' or 'cuda:N'"):
            estimator("Autoencoder", device=wrong).fit(data)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@every_kind
def test_on_a_gpu_it_learns_and_encodes_as_on_the_cpu(kind, data):
    model, other = estimator(kind, device="cuda").fit(data), estimator(kind).fit(data)
    np.testing.assert_allclose(model.transform(data), other.transform(data), atol=1e-3)
    np.testing.assert_allclose(model.score_samples(data), other.score_samples(data), rtol=1e-3)
    again = pickle.loads(pickle.dumps(model)).set_params(device="cpu").partial_fit(data)
    assert again.components_.dtype == np.float32
    if hasattr(model, "sample"):
        assert model.sample(2, random_state=0).shape == (2, 64)


def test_codes_of_another_width_are_refused(data):
    model = estimator("Autoencoder").fit(data)
    with pytest.raises(ValueError, match=r"^X has 4 columns; it takes one for each of the 3 units"):
        model.inverse_transform(data[:, :4])


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"hidden_layer_sizes": 0}, ValueError, "hidden_layer_sizes is 0"),
        ({"hidden_layer_sizes": ()}, ValueError, r"hidden_layer_sizes is \(\)"),
        ({"hidden_layer_sizes": (4, 0)}, ValueError, r"hidden_layer_sizes\[1\] is 0"),
        ({"hidden_layer_sizes": (4, 0.5)}, TypeError, r"hidden_layer_sizes\[1\] is a float"),
        ({"hidden_layer_sizes": "big"}, TypeError, "hidden_layer_sizes is a str"),
        ({"hidden_layer_sizes": 2.0}, TypeError, "hidden_layer_sizes is a float"),
        ({"learning_rate": 0}, ValueError, "learning_rate is 0"),
        ({"learning_rate": -1}, ValueError, "learning_rate is -1"),
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
        ({"n_iter": -1}, ValueError, "n_iter is -1"),
        ({"corruption": "rain"}, ValueError, "corruption is 'rain'"),
        ({"reconstruction": "hinge"}, ValueError, "reconstruction is 'hinge'"),
        ({"validation_fraction": 0}, ValueError, "validation_fraction is 0"),
        (
            {"validation_fraction": 1.0},
            ValueError,
            r"validation_fraction is 1.0; it .* in \(0, 1\)",
        ),
        ({"validation_fraction": 1.5}, ValueError, "validation_fraction is 1.5"),
        ({"early_stopping": "yes"}, TypeError, "early_stopping is 'yes'; it takes True or False"),
        ({"warm_start": 1}, TypeError, "warm_start is 1; it takes True or False"),
        ({"tied": "no"}, TypeError, "tied is 'no'; it takes True or False"),
        ({"verbose": "yes"}, TypeError, "verbose is a str"),
        ({"verbose": -1}, ValueError, "verbose is -1"),
        ({"n_iter_no_change": 0}, ValueError, "n_iter_no_change is 0"),
        ({"tol": -1}, ValueError, "tol is -1"),
    ],
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_wrong_parameters(data, parameters, error, message, method):
    with pytest.raises(error, match=f"^{message}"):
        getattr(clone(estimators.DenoisingAutoencoder(**parameters)), method)(data)


def test_sizes_may_be_an_array_or_a_list(data):
    for sizes in (np.array([6, 3]), [6, 3]):
        assert estimators.Autoencoder(sizes, n_iter=0).fit(data).components_.shape == (6, 64)


def test_max_iter_is_n_iter_as_scikit_learns_networks_name_it(data):
    models = [estimator("Autoencoder", n_iter=9, max_iter=2), estimator("Autoencoder", n_iter=2)]
    first, second = (model.fit(data) for model in models)
    assert first.n_iter_ == 2
    assert equal(first.module_, second.module_)
    with pytest.raises(ValueError, match=r"^max_iter is -1; it takes"):
        estimator("Autoencoder", max_iter=-1).fit(data)

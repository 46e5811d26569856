"""Patched and original pyod agree: training in distribution, scores to rounding."""

import pickle

import numpy as np
import pytest
import torch

pytest.importorskip("pyod", reason="pyod is not installed: pip install aefast[peers]")
from pyod.models.auto_encoder import AutoEncoder
from pyod.models.vae import VAE, vae_loss
from sklearn.base import clone

import aefast
from aefast.ops.variational.eager import reparameterize
from aefast.patching import pyod as peer
from aefast.patching.pyod.variational import Variational
from aefast.step import eager
from aefast.training.engines import TrainingLoop
from tests import fresh

pytestmark = pytest.mark.slow

SMALL = {"epoch_num": 2, "verbose": 0}
AUTOENCODER = {**SMALL, "hidden_neuron_list": [8, 4]}
VARIATIONAL = {**SMALL, "encoder_neuron_list": [8], "decoder_neuron_list": [8]}
DETECTORS = {
    "AutoEncoder": (AutoEncoder, AUTOENCODER),
    "AutoEncoder of linear layers": (
        AutoEncoder,
        {**AUTOENCODER, "batch_norm": False, "dropout_rate": 0},
    ),
    "VAE": (VAE, VARIATIONAL),
    "VAE with a capacity": (VAE, {**VARIATIONAL, "beta": 0.5, "capacity": 3.0, "dropout_rate": 0}),
}


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 3)) @ rng.normal(size=(3, 10)) + 0.1 * rng.normal(size=(150, 10))
    X[:8] = rng.normal(size=(8, 10)) * 4
    X[:, 9] = 1  # without variance
    return X


def calls(kind):
    return aefast.patched()[f"{kind.__module__}.{kind.__name__}"]


@pytest.mark.parametrize("name", DETECTORS)
def test_scores_of_the_same_parameters(name, X):
    kind, options = DETECTORS[name]
    model = kind(**options).fit(X)
    expected = model.decision_function(X)
    repeats = np.array([model.decision_function(X) for _ in range(40)])
    with aefast.patch("pyod"):
        actual = model.decision_function(X, batch_size=7)
        again = np.array([model.decision_function(X) for _ in range(40)])
        assert calls(kind).calls == 41
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    if kind is AutoEncoder:
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    else:  # a code is drawn for each row
        error = np.sqrt((repeats.var(0) + again.var(0)) / 40)
        assert (np.abs(repeats.mean(0) - again.mean(0)) < 5 * error + 1e-5).all()


@pytest.mark.parametrize("name", DETECTORS)
def test_training_begins_with_the_same_parameters(name, X):
    kind, options = DETECTORS[name]
    theirs = kind(**{**options, "epoch_num": 0}).fit(X)
    with aefast.patch("pyod"):
        ours = kind(**{**options, "epoch_num": 0}).fit(X)
    for (key, expected), actual in zip(
        theirs.model.state_dict().items(), ours.model.state_dict().values(), strict=True
    ):
        assert torch.equal(expected, actual), key


@pytest.mark.parametrize("name", DETECTORS)
def test_training_in_distribution(name, X):
    """Over seeds, the mean scores of five rows and the mean norm of all parameters agree within 4.5
    standard errors."""
    kind, options = DETECTORS[name]

    def fitted(seed):
        model = kind(**{**options, "epoch_num": 8, "lr": 0.01, "random_state": seed}).fit(X)
        norm = sum(p.square().sum() for p in model.model.parameters()).sqrt().item()
        return [*model.decision_scores_[::30], model.threshold_, norm]

    expected = np.array([fitted(seed) for seed in range(12)])
    with aefast.patch("pyod"):
        actual = np.array([fitted(seed) for seed in range(100, 112)])
        assert calls(kind).original_calls == {}
        assert np.array_equal(fitted(100), actual[0])  # by random_state, as the original
    error = np.sqrt((actual.var(0) + expected.var(0)) / 12)
    assert (np.abs(actual.mean(0) - expected.mean(0)) < 4.5 * error).all()


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_has_the_attributes_that_it_has_unpatched_and_no_more(name, X):
    kind, options = DETECTORS[name]
    expected = kind(**options, contamination=0.2).fit(X)
    with aefast.patch("pyod"):
        actual = clone(kind(**options, contamination=0.2)).fit(X)
    assert actual.get_params() == expected.get_params()
    assert vars(actual).keys() == vars(expected).keys()
    for key, value in vars(expected).items():
        assert type(vars(actual)[key]) is type(value), key
    assert (
        actual.optimizer.state_dict()["param_groups"]
        == expected.optimizer.state_dict()["param_groups"]
    )
    assert actual.labels_.sum() == expected.labels_.sum()
    assert actual.model.training == expected.model.training
    loaded = pickle.loads(pickle.dumps(actual))
    assert np.array_equal(loaded.predict(X[:3]).shape, (3,))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"capacity": 1e3, "beta": 0.5},
        {"capacity": 1e3, "logvar_clip": (-0.1, 0.1), "batch_norm": True},
        {"capacity": 1e3, "logvar_clip": None, "output_activation_name": "sigmoid"},
    ],
)
def test_the_step_of_a_vae_has_its_loss_and_gradients(options, X):
    detector = VAE(**{**VARIATIONAL, "epoch_num": 0, "dropout_rate": 0, **options}).fit(X)
    network = detector.model.double().train()
    plan, parameters, _ = Variational(detector).planned_step()
    x = torch.from_numpy(X)
    mean, log_var = network.encode(x)
    bounds = detector.logvar_clip_ or (-np.inf, np.inf)
    code = reparameterize(mean, log_var.clamp(*bounds), 5, 0)
    expected = vae_loss(
        x, network.decode(code), mean, log_var, detector.beta, detector.capacity,
        detector.logvar_clip_,
    )  # fmt: skip
    actual = eager.loss(plan, parameters, x, 5, 0)
    torch.testing.assert_close(actual, expected)
    trained = [*network.parameters()]
    gradients = [
        torch.autograd.grad(loss, trained, allow_unused=True) for loss in (actual, expected)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("kind", [AutoEncoder, VAE])
@pytest.mark.parametrize("options", [{}, {"batch_norm": True, "dropout_rate": 0.4}])
def test_whole_steps_are_taken(kind, options, X, monkeypatch):
    def refused(self, x, seed):
        raise AssertionError("the loop took a step")

    monkeypatch.setattr(TrainingLoop, "step", refused)
    with aefast.patch("pyod"):
        kind(**SMALL, **options).fit(X)
        assert calls(kind).original_calls == {}


def test_it_prints_what_the_original_prints(X, capsys):
    with aefast.patch("pyod"):
        AutoEncoder(**{**AUTOENCODER, "verbose": 2}).fit(X)
        lines = capsys.readouterr().out.splitlines()
        AutoEncoder(**{**AUTOENCODER, "verbose": 1}).fit(X)
        assert "Training:" in capsys.readouterr().err
    assert [line.split(",")[0] for line in lines] == ["Epoch 1/2", "Epoch 2/2"]
    assert all("loss=" in line and "time=" in line for line in lines)


class Watched(AutoEncoder):
    """A subclass that overrides the training step."""

    def training_forward(self, batch_data):
        self.is_hooked = True
        return super().training_forward(batch_data)


@pytest.mark.parametrize(
    ("kind", "options", "change", "why"),
    [
        (AutoEncoder, {"batch_size": 151}, None, "fewer rows than a batch"),
        (AutoEncoder, {}, ("criterion", torch.nn.L1Loss()), "a criterion of one's own"),
        (AutoEncoder, {"lr": 1e30}, None, "a loss that is not finite"),
        (Watched, {}, None, "a subclass with a training_forward of its own"),
    ],
)
def test_it_steps_aside_and_draws_what_the_original_draws(kind, options, change, why, X):
    def result():
        model = kind(**{**AUTOENCODER, "batch_norm": False, **options})
        if change is not None:
            setattr(model, *change)
        try:
            return model.fit(X).decision_scores_
        except (ValueError, UnboundLocalError) as error:
            return str(error)

    expected = result()
    with aefast.patch("pyod"):
        actual = result()
        assert calls(AutoEncoder).original_calls[why] == 1
    if isinstance(expected, str):
        assert actual == expected
    else:
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_wrong_data_are_refused_as_the_original_does(X):
    model = AutoEncoder(**AUTOENCODER).fit(X)

    def messages():
        for call in (
            lambda: AutoEncoder(**AUTOENCODER).fit(X * np.nan),
            lambda: AutoEncoder(**AUTOENCODER).fit(X[0]),
            lambda: AutoEncoder(**AUTOENCODER).decision_function(X),
            lambda: model.decision_function(X[:, :4]),
            lambda: model.decision_function(X[:0]),
        ):
            with pytest.raises(Exception) as error:  # noqa: PT011 (its words are pyod's)
                call()
            yield str(error.value)

    expected = list(messages())
    with aefast.patch("pyod"):
        assert list(messages()) == expected


def test_unpatch_leaves_no_trace():
    before = [list(vars(kind).items()) for kind in (AutoEncoder, VAE)]
    with aefast.patch("pyod"):
        assert "fit" in vars(AutoEncoder)
    assert [list(vars(kind).items()) for kind in (AutoEncoder, VAE)] == before


def test_a_program_that_one_may_not_edit(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import numpy as np\n"
        "from pyod.models.auto_encoder import AutoEncoder\n"
        "X = np.random.default_rng(0).normal(size=(40, 5))\n"
        "AutoEncoder(epoch_num=1, hidden_neuron_list=[4, 2], verbose=0).fit(X)\n"
    )
    done = fresh.run_aefast(["patch", "pyod", "--", program], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "pyod.models.auto_encoder.AutoEncoder: 2 calls served" in done.stderr


def test_a_trial_of_this_version_finds_the_same_results(monkeypatch):
    monkeypatch.setattr(peer, "VERSIONS", ("0.1",))
    with pytest.warns(UserWarning, match="a trial of it gave the same results"):
        aefast.patch("pyod")
    assert calls(AutoEncoder).calls == 0

"""Old names do what the new ones do, and warn at the line that uses them."""

import importlib
import pickle
import warnings

import pytest
import torch

import aefast
from aefast import functional, nn
from aefast.acceleration.table import ReportRow

AUTOENCODERS = (
    nn.Autoencoder,
    nn.ContractiveAutoencoder,
    nn.DenoisingAutoencoder,
    nn.SparseAutoencoder,
)


@pytest.mark.parametrize("kind", AUTOENCODERS)
def test_a_models_loss_argument_is_its_reconstruction(kind):
    with pytest.warns(
        DeprecationWarning, match="loss= is an old name.*use reconstruction="
    ) as warned:
        old = kind(8, 3, output_activation="sigmoid", loss="bce")
    assert [warning.filename for warning in warned] == [__file__]
    assert old.reconstruction == "bce"
    with pytest.warns(DeprecationWarning, match="use reconstruction"):
        assert old.loss_kind == "bce"
    with warnings.catch_warnings(action="error"):
        new = kind(8, 3, output_activation="sigmoid", reconstruction="bce")
        new.load_state_dict(old.state_dict())
        x = torch.rand(5, 8)
        assert torch.equal(new.loss(x, seed=0), old.loss(x, seed=0))
        assert repr(new) == repr(old)


@pytest.mark.parametrize("kind", AUTOENCODERS)
def test_both_names_at_once_are_refused(kind):
    options = {"output_activation": "sigmoid", "loss": "mse", "reconstruction": "bce"}
    with pytest.raises(TypeError, match="loss and reconstruction are both given"):
        kind(8, 3, **options)


@pytest.mark.parametrize("kind", [kind.__name__ for kind in AUTOENCODERS])
def test_an_estimators_loss_parameter_is_its_reconstruction(kind):
    estimators = pytest.importorskip("aefast.estimators")
    base = pytest.importorskip("sklearn.base")
    x = torch.rand(12, 6).numpy()
    options = {"output_activation": "sigmoid", "n_iter": 1, "random_state": 0}
    with warnings.catch_warnings(action="error"):
        new = getattr(estimators, kind)(3, reconstruction="bce", **options).fit(x)
        old = base.clone(getattr(estimators, kind)(3, loss="bce", **options))
    assert old.get_params()["loss"] == "bce"
    with pytest.warns(DeprecationWarning, match="use reconstruction=") as warned:
        old.fit(x)
    assert [warning.filename for warning in warned] == [__file__]
    assert old.module_.reconstruction == "bce"
    assert old.score(x) == new.score(x)
    with pytest.raises(TypeError, match="both given"):
        old.set_params(reconstruction="bce").fit(x)


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("aefast", "Look", "TrainingProgress"),
        ("aefast", "Patched", "PatchStatus"),
        ("aefast.patching", "Patched", "PatchStatus"),
        ("aefast.random", "Step", "DrawStep"),
    ],
)
def test_a_class_is_found_by_its_old_name(module, old, new):
    module = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=rf"{old} is an old name.*use .*{new}") as warned:
        assert getattr(module, old) is getattr(module, new)
    assert [warning.filename for warning in warned] == [__file__]
    with pytest.raises(AttributeError, match="has no attribute 'Loook'"):
        module.Loook  # noqa: B018


@pytest.mark.parametrize(
    ("result", "old", "new"),
    [
        (ReportRow("0", "8-3 relu", True, fallbacks=2), "what", "operation"),
        (ReportRow("0", "8-3 relu", True, fallbacks=2), "fallen", "fallbacks"),
        (ReportRow("0", "8-3 relu", True, fallback_ms=2.5), "fallen_ms", "fallback_ms"),
        (aefast.PatchStatus(False, "sklearn is not installed"), "why", "detail"),
    ],
)
def test_a_results_attribute_is_read_by_its_old_name(result, old, new):
    with pytest.warns(DeprecationWarning, match=f"{old} is an old name.*use {new}") as warned:
        assert getattr(result, old) == getattr(result, new)
    assert [warning.filename for warning in warned] == [__file__]
    assert pickle.loads(pickle.dumps(result)) == result


def test_the_loss_of_the_op_is_its_reconstruction():
    x, weight = torch.rand(5, 8), torch.rand(3, 8)
    options = {"output_activation": "sigmoid"}
    with pytest.warns(DeprecationWarning, match="use reconstruction=") as warned:
        old = functional.reconstruction_loss(x, weight, None, loss="bce", **options)
    assert [warning.filename for warning in warned] == [__file__]
    with warnings.catch_warnings(action="error"):
        new = functional.reconstruction_loss(x, weight, None, reconstruction="bce", **options)
    assert torch.equal(old, new)
    with pytest.raises(TypeError, match="loss and reconstruction are both given"):
        functional.reconstruction_loss(x, weight, None, loss="mse", reconstruction="bce")

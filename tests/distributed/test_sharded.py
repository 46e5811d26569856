"""FSDP2 over two ranks: gradients are one process's."""

import pytest
import torch

from tests.distributed import sharding, training, worlds

NAMES = [name for name in training.MODELS if name not in sharding.LEFT_OUT]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["root", "layers"])
def test_gradients_are_one_process_s(way):
    whole = sharding.gradients(NAMES, way)
    for rank in worlds.run(2, sharding.gradients, NAMES, way):
        for name in NAMES:
            # As one vector: a machine's are differences, and a small one has few of its digits.
            expected, actual = (_joined(gradients[name]) for gradients in (whole, rank))
            # By a shared variance it is a sum over all elements, of which one process rounds more.
            most = 1e-5 if name == "vae gaussian" else 1e-6
            assert (actual - expected).norm() <= most * expected.norm(), name


def _joined(gradients):
    return torch.cat([gradients[name].flatten() for name in sorted(gradients)])


IN_BFLOAT16 = (
    "ae",
    "masking",
    "vae",
    "deep, tied, dropout",
    "contractive",
    "deep contractive",
    "sparse kl",
    "rbm chains",
)


@pytest.mark.slow
@pytest.mark.parametrize("sharded", ["root", "layers"])
def test_mixed_precision_rounds_as_one_process_in_bfloat16_does(sharded):
    names, way = list(IN_BFLOAT16), f"{sharded} in bfloat16"
    whole = sharding.gradients(names, way)
    exact = sharding.gradients(names, "root")
    for rank in worlds.run(2, sharding.gradients, names, way):
        for name in names:
            expected, rounded, actual = (_joined(of[name]) for of in (exact, whole, rank))
            error, rounding = (actual - expected).norm(), (rounded - expected).norm()
            assert error <= 2 * rounding, (name, error, rounding)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3])
def test_a_sharded_checkpoint_goes_on_on_other_numbers_of_ranks(size, tmp_path):
    """And torch makes a single file of it."""
    folder = str(tmp_path / "checkpoint")
    expected, _ = worlds.run(2, sharding.saved, folder)
    for parameters in worlds.run(size, sharding.resumed, folder):
        for name, value in expected.items():
            torch.testing.assert_close(parameters[name], value, rtol=1e-6, atol=1e-7)
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    dcp_to_torch_save(folder, tmp_path / "single.pt")
    model = training.new("masking")
    model.load_state_dict(torch.load(tmp_path / "single.pt", weights_only=False)["model"])

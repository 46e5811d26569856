"""FSDP2 over two ranks: gradients are one process's."""

import pytest
import torch

from tests.distributed import sharding, training, worlds


def names_of(way):
    names = [name for name in training.MODELS if name not in sharding.LEFT_OUT]
    if way == "layers":
        names = [name for name in names if name not in sharding.TIED_OR_CONTRACTIVE]
    return names


@pytest.mark.slow
@pytest.mark.parametrize("way", ["root", "layers"])
def test_gradients_are_one_process_s(way):
    names = names_of(way)
    whole = sharding.gradients(names, way)
    for rank in worlds.run(2, sharding.gradients, names, way):
        for name in names:
            # As one vector: a machine's are differences, and a small one has few of its digits.
            expected, actual = (_joined(gradients[name]) for gradients in (whole, rank))
            assert (actual - expected).norm() <= 1e-6 * expected.norm(), name


def _joined(gradients):
    return torch.cat([gradients[name].flatten() for name in sorted(gradients)])


@pytest.mark.slow
def test_mixed_precision_rounds_as_one_process_in_bfloat16_does():
    names = ["ae", "masking", "vae"]
    whole = sharding.gradients(names, "mixed")
    exact = sharding.gradients(names, "root")
    for rank in worlds.run(2, sharding.gradients, names, "mixed"):
        for name in names:
            for key, expected in exact[name].items():
                error = (rank[name][key] - expected).norm()
                rounding = (whole[name][key] - expected).norm()
                assert error <= 2 * rounding + 1e-6, (name, key, error, rounding)


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

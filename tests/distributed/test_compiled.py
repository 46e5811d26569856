"""torch.compile over DistributedDataParallel and FSDP2: gradients are one process's."""

import pytest
import torch

from tests.distributed import compiling, worlds


@pytest.mark.slow
@pytest.mark.parametrize(
    "way", ["DistributedDataParallel", "inside DistributedDataParallel", "FSDP2"]
)
def test_gradients_and_dead_latents_are_one_process_s(way):
    whole = compiling.gradients(way)
    assert 0 < (whole["topk's idle"] > 60).sum() < 40
    for rank in worlds.run(2, compiling.gradients, way):
        for name, expected in whole.items():
            if name.endswith("idle"):
                assert torch.equal(rank[name], expected), name
            else:
                assert (rank[name] - expected).norm() <= 1e-6 * expected.norm(), name

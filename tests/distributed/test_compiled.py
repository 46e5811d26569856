"""torch.compile over DistributedDataParallel and FSDP2: gradients are one process's."""

import pytest

from tests.distributed import compiling, worlds


@pytest.mark.slow
@pytest.mark.parametrize(
    "way", ["DistributedDataParallel", "inside DistributedDataParallel", "FSDP2"]
)
def test_gradients_are_one_process_s(way):
    whole = compiling.gradients(way)
    for rank in worlds.run(2, compiling.gradients, way):
        for name, expected in whole.items():
            assert (rank[name] - expected).norm() <= 1e-6 * expected.norm(), name

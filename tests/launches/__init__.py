"""Every kernel's launch, on tensors that no kernel ever reads: a file an op, found by looking.

For programs that watch the launches: they patch ``Variant.launch_in_order`` and
``triton_gemm.chip``, and choose the batch sizes.
"""

import pkgutil
from collections.abc import Iterable
from importlib import import_module

OPS = sorted(module.name for module in pkgutil.iter_modules(__path__))


def launch_every_op(batches: Iterable[int]) -> None:
    """``launch(batch)`` of every file."""
    for batch in batches:
        for op in OPS:
            import_module(f"{__name__}.{op}").launch(batch)

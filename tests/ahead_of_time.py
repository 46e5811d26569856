"""Compiles Triton kernels ahead of time for a GPU architecture, for the tests.

    python -m tests.ahead_of_time 90 some 1 FOLDER

``some`` compiles the variants that a small batch launches, and one of every other kernel; ``every``
compiles all that a wheel has. 1 is the number of processes. FOLDER gets ``report.json`` and, under
``cubins``, the compiled kernels. TRITON_INTERPRET must not be set.
"""

import json
import sys
from pathlib import Path

from aefast import aot
from aefast.ops.shared import triton_gemm
from aefast.ops.shared.triton import Variant
from tests.launches import launch_every_op

SMALL_BATCH = 50


def launched(arch: int) -> set[str]:
    """The names of the variants that the ops launch for a small batch."""
    names = set()
    Variant.launch_in_order = lambda variant, *arguments: names.add(variant.name)
    triton_gemm.chip = lambda device: (triton_gemm.generation_of(arch // 10), 132)
    launch_every_op([SMALL_BATCH])
    return names


def some(arch: int) -> set[str]:
    """The launched variants, and one of every kernel that is not among them."""
    names = launched(arch)
    variants = [variant for op in aot.OPS for variant in aot.variants(op, arch)]
    kernels = {variant.kernel for variant in variants if variant.name in names}
    for variant in variants:
        if variant.kernel not in kernels:
            kernels.add(variant.kernel)
            names.add(variant.name)
    return names


def main(arch: int, which: str, jobs: int, folder: Path) -> None:
    tasks = [
        (op, arch, index, variant.name)
        for op in aot.OPS
        for index, variant in enumerate(aot.variants(op, arch))
    ]
    if which == "some":
        names = some(arch)
        tasks = [task for task in tasks if task[3] in names]
    with aot.workers(jobs) as pool:
        compiled = pool.map(aot.compile_variant, *zip(*(task[:3] for task in tasks), strict=True))
        cubins = aot.print_table(compiled)
    report = json.dumps([aot.report(cubin) for cubin in cubins])
    folder.joinpath("report.json").write_text(report)
    aot.write_cubins(cubins, folder / "cubins")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))

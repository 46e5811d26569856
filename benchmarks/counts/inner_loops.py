"""Instructions of the AVX-512 kernels' inner loops, as objdump reads them from the extension.

callgrind executes no AVX-512, and neither does a processor without it. What a loop costs each time
around stands in its code: beside its multiply-adds the loads, the addresses, and what the compiler
spilled. The extension has no names in it: loops are told apart by how many multiply-adds they make.
"""

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from counts.budgets import Unavailable

LEAST_MULTIPLY_ADDS = 8  # of a product's tile; sums of a few vectors have fewer
MULTIPLY_ADD = re.compile(r"vfn?m(add|sub)\d+ps\b.*%zmm")
INSTRUCTION = re.compile(r"^\s+([0-9a-f]+):\t(.+)$", re.M)
JUMP = re.compile(r"j\w+\s+([0-9a-f]+)\b")


def instructions(extension: Path) -> dict[str, int]:
    """The instructions of the loops, added up over those with as many multiply-adds.

    Raises:
        Unavailable: objdump is missing, or the extension has no such loop.
    """
    if shutil.which("objdump") is None:
        raise Unavailable("objdump is not installed")
    command = ["objdump", "--disassemble", "--no-show-raw-insn", "--section=.text", str(extension)]
    completed = subprocess.run(command, capture_output=True, text=True, check=True)
    counts = totals(completed.stdout)
    if not counts:
        raise Unavailable("the extension has no kernels for AVX-512")
    return counts


def totals(disassembly: str) -> dict[str, int]:
    """The instructions of loops, by "N loops of M multiply-adds"."""
    loops: Counter[int] = Counter()
    counts: Counter[int] = Counter()
    for body in inner_loops(disassembly):
        multiply_adds = sum(MULTIPLY_ADD.match(text) is not None for text in body)
        if multiply_adds >= LEAST_MULTIPLY_ADDS:
            loops[multiply_adds] += 1
            counts[multiply_adds] += len(body)
    return {f"{loops[n]} loops of {n} multiply-adds": counts[n] for n in sorted(counts)}


def inner_loops(disassembly: str) -> Iterator[list[str]]:
    """The instructions of each loop without another in it: from a jump's target to the jump."""
    indices: dict[int, int] = {}  # an address's index in the list
    texts: list[str] = []
    last_loop = -1  # where the last one ended: what begins before it is around it
    for address, text in INSTRUCTION.findall(disassembly):
        indices[int(address, 16)] = len(texts)
        texts.append(text)
        jump = JUMP.match(text)
        start = indices.get(int(jump[1], 16)) if jump else None
        if start is not None:
            if start > last_loop:
                yield texts[start:]
            last_loop = len(texts) - 1

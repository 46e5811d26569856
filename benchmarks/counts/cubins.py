"""What the compiler made of the Triton kernels, against the budgets of ``cubins.json``.

``PYTHONPATH=.:benchmarks python -m counts.cubins FOLDER [--write]``, where FOLDER is what
``python -m aefast.aot --cubins FOLDER`` wrote. No GPU is asked. Of each cubin are counted its
registers, its shared memory and its instructions by kind; those on local memory are spills. It
ends with 1 where a count is more than 2 % over its budget.
"""

import argparse
import json
import re
import sys
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile

from aefast import aot, cubins
from counts import budgets
from counts.budgets import Counts

FILE = Path(__file__).with_name("cubins.json")

# By the first part of an instruction's name in the machine code of sm_80 to sm_120.
KINDS = {
    "tensor cores": r"[HIQDB]?G?MMA|[HIQ]MMA\w*|UTC\w*MMA",
    "multiply-adds": r"FFMA2?|HFMA2|FMUL2?|FADD2?",
    "special functions": r"MUFU",
    "loads": r"LDG|LDGSTS|UTMALDG|UBLKCP",
    "stores": r"STG|UTMASTG|RED|REDG|ATOMG?",
    "shared memory": r"LDS|LDSM|STS|STSM|ATOMS",
    "local memory": r"LDL|STL",
    "waits": r"BAR|SYNCS|DEPBAR|LDGDEPBAR|WARPGROUP|WARPSYNC",
}
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)", re.M)


def main() -> int:
    parser = argparse.ArgumentParser(prog="counts.cubins", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what `python -m aefast.aot --cubins` wrote")
    parser.add_argument("--write", action="store_true", help="make the counts the budgets")
    options = parser.parse_args()
    manifest = json.loads((options.folder / "manifest.json").read_text())
    status = 0
    for arch, kernels in manifest["kernels"].items():
        origin = f"triton {manifest['triton']}, sm_{arch}"
        with ThreadPoolExecutor() as pool:
            counts = pool.map(partial(count, options.folder), kernels.values())
            counted = dict(zip(kernels, counts, strict=True))
        if options.write:
            write(origin, counted)
        else:
            status |= budgets.compare(origin, by_measure(counted), read(origin))
    return status


def count(folder: Path, record: cubins.ManifestEntry) -> dict[str, int]:
    """The counts of one cubin of the manifest; shared memory is what a launch asks for."""
    with NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(zlib.decompress((folder / record["file"]).read_bytes()))
        cubin.flush()
        listing = aot.run_tool("cuobjdump", "--dump-resource-usage", "--dump-sass", cubin.name)
    return {"shared bytes": record["shared"], **parse(listing)}


def parse(listing: str) -> dict[str, int]:
    """Registers and instructions, as cuobjdump lists them."""
    registers = re.search(r"REG:(\d+)", listing)
    if registers is None:
        raise RuntimeError(f"cuobjdump printed no resource usage: {listing!r}")
    names = Counter(INSTRUCTION.findall(listing))
    counts = {"registers": int(registers[1]), "instructions": names.total()}
    for kind, pattern in KINDS.items():
        counts[kind] = sum(names[name] for name in names if re.fullmatch(pattern, name))
    return counts


def by_measure(counted: dict[str, dict[str, int]]) -> Counts:
    measures = dict.fromkeys(measure for counts in counted.values() for measure in counts)
    return {
        measure: {kernel: counts[measure] for kernel, counts in counted.items()}
        for measure in measures
    }


def read(origin: str) -> Counts | None:
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    return by_measure(known[origin]) if origin in known else None


def write(origin: str, counted: dict[str, dict[str, int]]) -> None:
    """Write the counts of this origin in the place of the old ones; a line a kernel."""
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    known[origin] = dict(sorted(counted.items()))
    text = ",\n".join(
        f"{json.dumps(name)}: {{\n"
        + ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in kernels.items())
        + "\n}"
        for name, kernels in sorted(known.items())
    )
    FILE.write_text(f"{{\n{text}\n}}\n")


if __name__ == "__main__":
    sys.exit(main())

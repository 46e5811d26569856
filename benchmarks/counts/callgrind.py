"""Instructions of the C++ kernels, counted by valgrind's callgrind: the same in every run.

Counted are the extension's own, not what the C library and Python execute meanwhile. A call looks
for signals now and then, by the clock, in a hundred instructions: the least of three calls counts.
callgrind knows no AVX-512, so the kernels are those of the instruction sets below it.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from counts.budgets import Unavailable

FOLDER = Path(__file__).parent
INSTRUCTION_SETS = ("baseline", "avx2")
PROGRAMS = ("valgrind", "cc")
HEADER = Path("valgrind", "callgrind.h")
COMPILERS = re.compile(rb"(GCC: \([^)]*\)|clang version) (\d+\.\d+\.\d+)")


def instructions(extension: Path, instruction_set: str) -> dict[str, int]:
    """The instructions of each case of ``kernels.py``, on one thread.

    Raises:
        Unavailable: a program is missing, or the processor has no such instruction set.
        subprocess.CalledProcessError: the kernels failed.
    """
    for program in PROGRAMS:
        if shutil.which(program) is None:
            raise Unavailable(f"{program} is not installed")
    with tempfile.TemporaryDirectory() as folder:
        requests = Path(folder, "requests.so")
        completed = _run("cc", "-shared", "-fPIC", "-O1", "-o", requests, FOLDER / "requests.c")
        if completed.returncode != 0:
            raise Unavailable(
                f"cc does not compile requests.c: is there {HEADER}?\n{completed.stderr}"
            )
        completed = _run(
            *("valgrind", "--tool=callgrind", "--instr-atstart=no"),
            f"--callgrind-out-file={folder}/counts",
            *(sys.executable, "-S", FOLDER / "kernels.py", extension, instruction_set, requests),
        )
        if completed.returncode != 0:
            print(completed.stderr, file=sys.stderr)
        completed.check_returncode()
        if instruction_set not in completed.stdout.split():
            raise Unavailable(f"valgrind has no {instruction_set} on this processor")
        counts: dict[str, int] = {}
        for dump in Path(folder).glob("counts.*"):
            name, count = parse(dump.read_text(), extension.name)
            counts[name] = min(count, counts.get(name, count))
        return counts


def parse(dump: str, library: str) -> tuple[str, int]:
    """A dump's name, and the instructions of its functions in ``library``."""
    match = re.search(r"^desc: Trigger: Client Request: (.*)$", dump, re.M)
    name = match[1] if match else ""
    names: dict[str, str] = {}
    is_counted = follows_call = False
    total = 0
    for line in dump.splitlines():
        key, _, value = line.partition("=")
        if key in ("ob", "cob"):  # an object is named where its number comes first
            number, _, path = value.partition(" ")
            names[number] = path or names[number]
            if key == "ob":
                is_counted = Path(names[number]).name == library
        elif key == "calls":  # the next line has what the callee executed
            follows_call = True
        elif re.match(r"[\d+*-]", line):
            total += int(line.split()[1]) if is_counted and not follows_call else 0
            follows_call = False
    return name, total


def compiler(extension: Path) -> str:
    """What the extension was compiled by; its instructions are counted for that compiler alone."""
    match = COMPILERS.search(extension.read_bytes())
    if match is None:
        return "unknown compiler"
    return f"{'gcc' if match[1].startswith(b'GCC') else 'clang'} {match[2].decode()}"


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    arguments = [str(part) for part in command]
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)

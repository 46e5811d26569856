"""Runs programs in fresh interpreters, forked from one that has imported torch alone.

Importing torch takes two seconds. Tests of threads or of the dynamic linker's settings must start a
process instead: a forked child computes on one thread, and has torch's libraries already.
"""

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Forks a child for each program. The child leaves the loop, so that it ends like any interpreter.
SERVER = """
import json, os, sys, torch

for line in iter(sys.stdin.readline, ""):
    request = json.loads(line)
    child = os.fork()
    if child == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    os._exit(0)
for number, path in enumerate((os.devnull, *request["files"])):
    os.dup2(os.open(path, os.O_RDWR), number)
os.environ.clear()
os.environ.update(request["environment"])
os.chdir(request["folder"])
sys.argv = ["-c"]
exec(request["program"], {"__name__": "__main__"})
"""


def run_aefast(
    arguments: list[object], folder: Path = ROOT, before: str = "", **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run ``python -m aefast`` with these arguments, after the statements ``before``."""
    program = f"import runpy, sys; sys.argv[1:] = {list(map(str, arguments))}; "
    program += "runpy.run_module('aefast', run_name='__main__')"
    return run(before + program, {**os.environ, **environment}, folder)


@cache
def _server() -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", SERVER],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def run(
    program: str, environment: dict[str, str], folder: Path = ROOT
) -> "subprocess.CompletedProcess[str]":
    """Run a program in a folder, with these environment variables and no others."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.NamedTemporaryFile("r") as output, tempfile.NamedTemporaryFile("r") as errors:
        files = [output.name, errors.name]
        request = {"program": program, "environment": environment, "files": files}
        request["folder"] = str(folder)
        print(json.dumps(request), file=server.stdin, flush=True)
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(program, code, output.read(), errors.read())

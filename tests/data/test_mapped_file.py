"""A signal of memory that is not ours goes to whoever had it before, and ends the process once."""

import signal
import subprocess
import sys

import pytest

from aefast import backend

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or backend.unavailable("cpp", "cpu") is not None,
    reason="the extension's guard is Linux's",
)

# The extension alone: the package would import torch.
BEFORE = """
import faulthandler, importlib.util, mmap, os, signal, sys, tempfile

spec = importlib.util.spec_from_file_location("aefast._C", sys.argv[1])
extension = importlib.util.module_from_spec(spec)
spec.loader.exec_module(extension)

def fault():
    with tempfile.TemporaryFile() as file:
        file.truncate(mmap.PAGESIZE)
        memory = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        file.truncate(0)
        return memory[0]

def guard():
    return extension.MappingGuard(mmap.PAGESIZE, mmap.PAGESIZE)
"""


def run(program: str) -> tuple[int, str]:
    command = [sys.executable, "-c", BEFORE + program, str(backend.extension().__file__)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return result.returncode, result.stderr


@pytest.mark.parametrize("send", ["fault()", "os.kill(os.getpid(), signal.SIGBUS)"])
@pytest.mark.parametrize(
    ("prepare", "reports"),
    [
        ("guard()", 0),
        ("faulthandler.enable(); guard()", 1),
        ("guard(); faulthandler.enable()", 1),
        # Each of the two has the other for its predecessor.
        ("guard(); faulthandler.enable(); guard()", 1),
        ("guard(); faulthandler.enable(); guard(); faulthandler.disable()", 0),
    ],
)
def test_a_foreign_fault_is_reported_once_and_ends_the_process(prepare, reports, send):
    code, errors = run(f"{prepare}; {send}")
    is_passed_over = "disable" in prepare and "kill" in send  # faulthandler's function returns
    assert code == (0 if is_passed_over else -signal.SIGBUS)
    assert errors.count("Fatal Python error: Bus error") == reports


def test_a_signal_that_a_program_handles_is_handled_each_time():
    program = """
heard = []
signal.signal(signal.SIGBUS, lambda *_: heard.append(1))
guard()
for _ in range(3):
    os.kill(os.getpid(), signal.SIGBUS)
sys.exit(10 + len(heard))
"""
    assert run(program)[0] == 13

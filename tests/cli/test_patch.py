"""aefast patch: a program as it is, under the patch."""

import pytest

from tests import fresh

pytest.importorskip("sklearn")

PROGRAM = """
import sys
from helper import data
from sklearn.decomposition import PCA
assert __name__ == "__main__"
print(sys.argv[1:], PCA(2).fit(data).n_samples_)
PCA(2, svd_solver="arpack").fit(data)
sys.exit(3)
"""


def run(folder, *arguments):
    return fresh.run_aefast(["patch", *arguments], folder)


def test_a_program_runs_as_python_runs_it(tmp_path):
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "helper.py").write_text(
        "import numpy as np\ndata = np.random.default_rng(0).normal(size=(1300, 130))\n"
    )
    program = tmp_path / "programs" / "program.py"
    program.write_text(PROGRAM)
    done = run(tmp_path, "sklearn", "--", program, "--fast", "--", "-x")
    assert done.stdout == "['--fast', '--', '-x'] 1300\n"
    assert done.returncode == 3
    assert done.stderr == (
        "aefast: note: sklearn.decomposition.PCA: 1 calls served; "
        "by its own code 1 svd_solver='arpack'\n"
    )


def test_an_error_of_the_program_is_its_own(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("def f():\n    1 / 0\nf()\n")
    done = run(tmp_path, "sklearn", "--", program)
    assert done.returncode == 1
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert "aefast" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sklearn"], "there is no program; aefast patch takes PACKAGE... -- script.py"),
        (["skl", "--", "-m", "this"], "package is 'skl'; it takes 'sklearn'"),
        (["sklearn", "--", "none.py"], "there is no file 'none.py'; it takes a Python program"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, arguments, message):
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"aefast: {message}")
    assert done.stderr.count("\n") == 1

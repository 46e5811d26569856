"""The page "Your program, and one line": with the line and without, the same losses."""

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "aefast" / "docs" / "how-to" / "your-program.md"
if not (ROOT / "benchmarks").exists() or not PAGE.exists():
    pytest.skip("needs the source tree", allow_module_level=True)
sys.path.insert(0, str(ROOT / "benchmarks"))

import programs  # noqa: E402

from tests.backends import serve_small_calls  # noqa: E402

# Programs that draw other numbers with the line: the relative difference of the losses allowed.
IN_DISTRIBUTION = {
    "A pyod pipeline": 0.25,
    "A scikit-learn grid search with an RBM": 0.35,
    "An rbms training": 0.25,
}
PROGRAMS = programs.programs()
# Programs that import a large library, or train for seconds, run in `make test-peers` alone.
QUICK = {"A denoising tutorial", "An anomaly detector on a table", "A recommender's autoencoder"}


@pytest.fixture(autouse=True)
def _restored_generator():
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


@pytest.fixture(autouse=True)
def small_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs are small, and torch is as fast at their calls: here the kernels serve them."""
    serve_small_calls(monkeypatch)


def test_there_are_ten_with_one_line_each():
    assert len(PROGRAMS) == 10
    for program in PROGRAMS:
        assert program.text.count("# the line") == 1
        assert program.before.count("aefast") == 1  # its import
    assert {p.name for p in PROGRAMS} >= IN_DISTRIBUTION.keys() | QUICK


def test_the_table_has_a_line_for_each_and_can_be_written_again():
    page = programs.PAGE.read_text(encoding="utf-8")
    table = page.split(programs.BEGIN)[1].split(programs.END)[0]
    lines = table.strip().splitlines()
    assert lines[0].startswith("Seconds and last losses on this processor: ")
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[4:]] == [
        program.name for program in PROGRAMS
    ]
    assert programs.write(page, table) == page


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(p, id=p.name, marks=() if p.name in QUICK else pytest.mark.slow)
        for p in PROGRAMS
    ],
)
def test_the_losses_are_the_same(program):
    if program.missing:
        pytest.skip(f"{', '.join(program.missing)} not installed: pip install aefast[programs]")
    before, after = programs.losses_of(program.before), programs.losses_of(program.text)
    assert len(before) == len(after) > 1
    share = IN_DISTRIBUTION.get(program.name)
    if share is None:
        torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-5)
    else:
        actual, expected = torch.tensor(after), torch.tensor(before)
        last = slice(-20, None) if len(before) > 20 else slice(None)
        assert before != after
        difference = (actual[last].mean() - expected[last].mean()).abs()
        assert difference < share * expected[last].mean()

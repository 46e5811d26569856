"""The command line: its output, and one line with exit code 2 for every wrong call."""

import copy
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("typer")

from typer.testing import CliRunner

from aefast import aot, backend, cli
from tests import fresh

REPOSITORY = Path(__file__).parent.parent


def invoke(*arguments: str):
    return CliRunner().invoke(cli.app, list(arguments))


def info(before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m aefast info`` in a fresh interpreter."""
    return fresh.run_aefast(["info"], before=before, **environment)


def assert_one_line(result: subprocess.CompletedProcess[str], message: str) -> None:
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("aefast: ")
    assert message in result.stderr


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Collects the commands that ``bench`` would run."""
    commands: list[list[str]] = []

    def wait_for(command: list[str]) -> int:
        # Into a folder that is gone by then.
        assert [command[-4], command[-2]] == ["--benchmark-storage", "--benchmark-json"]
        commands.append(command[:-4])
        return 7

    monkeypatch.setattr(cli.bench, "wait_for", wait_for)
    return commands


def test_info_names_every_backend_and_what_runs() -> None:
    result = invoke("info")
    assert result.exit_code == 0
    for name in backend.BACKENDS:
        assert f"backend {name}" in result.output
    assert f"torch {torch.__version__.split('+')[0]}" in result.output
    chosen = backend.select(torch.device("cpu"), torch.float32)
    assert f"CPU float32     runs {chosen}" in result.output


def test_info_says_why_a_backend_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        cli.info.backend, "unavailable", lambda name, device: f"no {name} on {device}"
    )
    output = invoke("info").output
    assert "not here: no cpp on cpu" in output
    assert "not here: no triton on cuda" in output


def test_info_still_prints_where_the_forced_backend_cannot_run() -> None:
    result = info(AEFAST_BACKEND="triton", TRITON_INTERPRET="0")
    assert result.returncode == 0
    assert "backend 'triton' cannot run" in result.stdout


@pytest.mark.parametrize("variable", ["AEFAST_BACKEND", "AEFAST_CPU_ISA"])
def test_a_wrong_setting_is_one_line(variable: str) -> None:
    if variable == "AEFAST_CPU_ISA" and backend.unavailable("cpp", "cpu"):
        pytest.skip("without the C++ extension AEFAST_CPU_ISA is not read")
    result = info(**{variable: "bogus"})
    assert_one_line(result, f"{variable} is 'bogus'")


def test_a_missing_typer_is_one_line() -> None:
    hidden = info("import sys; sys.modules['typer'] = None; ")
    assert_one_line(hidden, "typer, which is missing: pip install aefast[cli]")


def test_bench_runs_the_suite_in_a_process_of_its_own(
    commands: list[list[str]], tmp_path: Path
) -> None:
    file = tmp_path / "result.json"
    result = invoke("bench", "corrupt", "step", "--device", "cpu", "--json", str(file))
    assert result.exit_code == 7  # pytest's own exit code comes through
    suites = [str(cli.bench.find_suite() / f"bench_{name}.py") for name in ("corrupt", "step")]
    expected = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--disable-warnings"]
    expected += ["-rs", "-c", os.devnull, "--rootdir", str(cli.bench.find_suite())]
    expected += [*suites, "--device", "cpu", "--benchmark-max-time", cli.bench.SECONDS]
    assert commands == [expected]


def test_bench_without_an_op_runs_the_whole_suite(commands: list[list[str]]) -> None:
    invoke("bench")
    assert str(cli.bench.find_suite()) in commands[0]


def test_bench_quick_takes_few_cases(commands: list[list[str]]) -> None:
    invoke("bench", "rbm", "--quick")
    assert commands[0][-3:] == ["--benchmark-max-time", cli.bench.SECONDS, "--quick"]


RESULT = {
    "measured": "2026-01-02",
    "commit": "0123456789",
    "local_changes": False,
    "machine": {
        **{"cpu": "Some CPU", "cpu_isa": "avx2", "torch_cpu_capability": "AVX2"},
        **{"threads": 2, "gpus": [], "versions": {"aefast": "0.1.0"}},
    },
    "failed": [],
    "limits": {},
    "cases": [
        {
            **{"op": "gibbs", "case": "k=1 128x784-256", "shape": [128, 784, 256]},
            **{"device": "cpu", "backend": "cpp", "overhead": False, "seconds": [1.0, 2.0, 3.0]},
            "baselines": {"eager": {"seconds": 1.0, "ratio": [0.4, 0.5, 0.6]}},
        }
    ],
}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the suite: a run of it writes ``RESULT``."""

    def wait_for(command: list[str]) -> int:
        Path(command[-1]).write_text(json.dumps(RESULT))
        return 0

    monkeypatch.setattr(cli.bench, "wait_for", wait_for)


@pytest.mark.usefixtures("measured")
def test_bench_writes_its_results_and_compares_them(tmp_path: Path) -> None:
    """Compared with an older and faster result."""
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    faster = copy.deepcopy(RESULT)
    faster["cases"][0]["baselines"]["eager"]["ratio"] = [0.9, 1.0, 1.1]
    old.write_text(json.dumps(faster))
    result = invoke("bench", "--json", str(new), "--compare", str(old))
    assert result.exit_code == 0, result.output
    assert json.loads(new.read_text()) == RESULT
    assert result.output.startswith("1 of 1 ratios changed")
    assert "0.50 (0.36-0.67)" in result.output
    assert "slower" in result.output


def test_bench_report_writes_a_page_or_markdown(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_text(json.dumps(RESULT))
    for name, part in (
        ("page.html", "k=1 128x784-256</td>"),
        ("page.md", "| gibbs k=1 128x784-256"),
    ):
        result = invoke("bench", "report", str(file), str(file), "-o", str(tmp_path / name))
        assert result.exit_code == 0, result.output
        assert part in (tmp_path / name).read_text()


def test_bench_report_writes_over_none_of_its_files_and_through_no_link(tmp_path: Path) -> None:
    file, page = tmp_path / "result.json", tmp_path / "page.html"
    file.write_text(json.dumps(RESULT))
    page.symlink_to(file)
    for out in (file, page):
        result = invoke("bench", "report", str(file), "-o", str(out))
        assert result.exit_code == 2
        assert (
            result.output == f"aefast: --out is {str(out)!r}, one of FILES; it takes another file\n"
        )
    other = tmp_path / "other.json"
    other.write_text(json.dumps(RESULT))
    assert invoke("bench", "report", str(other), "-o", str(page)).exit_code == 0
    assert json.loads(file.read_text()) == RESULT


@pytest.mark.parametrize("name", ["page.html", "page.md"])
@pytest.mark.parametrize(
    "change",
    [
        {"machine": 3},
        {"machine": {}},
        {"cases": 3},
        {"cases": [{}]},
        {"cases": [{**RESULT["cases"][0], "seconds": ["\x1b[2J"] * 3}]},
        {"cases": [{**RESULT["cases"][0], "baselines": {"eager": {"ratio": [0, 0]}}}]},
    ],
)
def test_a_result_that_was_changed_is_one_line(change: dict, name: str, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_text(json.dumps({**RESULT, **change}))
    result = invoke("bench", "report", str(file), "-o", str(tmp_path / name))
    assert result.exit_code == 2, result.output
    assert result.output.startswith("aefast: FILES: no results as aefast bench --json writes them")
    assert result.output.count("\n") == 1


def test_a_run_that_is_interrupted_ends_with_what_it_measured(tmp_path: Path) -> None:
    """Ctrl-C reaches the suite's process as well, which takes a while to write."""
    heard = tmp_path / "heard"
    suite = (
        "import pathlib, signal, sys, time\n"
        f"def write(*_): time.sleep(0.6); pathlib.Path({str(heard)!r}).touch(); sys.exit(2)\n"
        "signal.signal(signal.SIGINT, write)\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    program = (
        "import sys; from aefast import cli\n"
        f"sys.exit(cli.bench.wait_for([sys.executable, '-c', {suite!r}]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=30) == 2
    assert heard.exists()


@pytest.mark.usefixtures("measured")
def test_names_from_a_result_reach_a_terminal_escaped(tmp_path: Path) -> None:
    old = copy.deepcopy(RESULT)
    old["cases"][0]["case"] = "\x1b[2J"
    (tmp_path / "old.json").write_text(json.dumps(old))
    result = invoke("bench", "--compare", str(tmp_path / "old.json"))
    assert r"Only in the old: gibbs \x1b[2J cpu" in result.output


def test_the_suite_has_a_file_for_every_op() -> None:
    files = {path.name for path in cli.bench.find_suite().glob("bench_*.py")}
    assert files >= {f"bench_{name}.py" for name in (*aot.OPS, "step", "training")}


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("rbm", "bench_rbm.py"),
        ("gibbs", "bench_rbm.py"),
        ("contrastive_divergence", "bench_rbm.py"),
        ("gaussian_kl", "bench_variational.py"),
        ("fit", "bench_step.py"),
        ("product", "bench_products.py"),
        ("jumprelu_encode", "bench_jumprelu.py"),
        ("gated_encode", "bench_jumprelu.py"),
        ("mlp", "bench_cases.py"),
    ],
)
def test_a_benchmark_is_found_by_the_names_that_users_see(name: str, file: str) -> None:
    assert cli.bench.benchmarks(cli.bench.find_suite())[name].name == file


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bench", "fft"), "OP is 'fft'; it takes one of accelerate, allocator, autoenco"),
        (("bench", "--device", "tpu"), "--device is 'tpu'; it takes one of cpu, cuda"),
        (("bench", "--json", "nowhere/result.json"), "--json is 'nowhere/result.json'"),
        (("bench", "rbm", "fft"), "OP is 'fft'; it takes one of "),
        (
            ("bench", "--compare", "nowhere.json"),
            "--compare is 'nowhere.json', but there is no such file",
        ),
        (("bench", "--compare", __file__), f"{__file__!r} is no result of aefast bench --json"),
        (("bench", "report", "nowhere.json"), "FILES is 'nowhere.json', but there is no such file"),
        (("bench", "report", __file__), f"{__file__!r} is no result of aefast bench --json"),
        (("bench", "report", "x.json", "-o", "nowhere/page.html"), "--out is 'nowhere/page.html'"),
        (("demo", "--out", "nowhere/demo.png"), "--out is 'nowhere/demo.png'"),
        (("demo", "--out", 300 * "x"), "--out: [Errno 36] File name too long"),
        (("figures", "--out", 300 * "x"), "--out: [Errno 36] File name too long"),
        (("figures", "--out", "nowhere/figures"), "--out is 'nowhere/figures', but there is no fo"),
        (("figures", "--out", __file__), f"--out is {__file__!r}, a file; it takes a folder"),
        (("bench", "--compare", 300 * "x"), "--compare: [Errno 36] File name too long"),
        (("bench", "report", 300 * "x"), "FILES: [Errno 36] File name too long"),
        (("patch", "sklearn", "--", 300 * "x"), "PROGRAM: [Errno 36] File name too long"),
    ],
)
def test_a_wrong_argument_is_one_line(
    arguments: tuple[str, ...], message: str, commands: list[list[str]]
) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.output.startswith(f"aefast: {message}")
    assert result.output.count("\n") == 1
    assert commands == []


@pytest.mark.parametrize("name", ["demo", "demo.exe"])
def test_the_demo_trains_for_no_picture_that_it_cannot_draw(name: str) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    result = invoke("demo", "--out", name)
    assert result.exit_code == 2
    assert result.output.startswith(f"aefast: --out is '{name}'; it takes a name that ends in one ")
    assert result.output.count("\n") == 1


def test_bench_on_cuda_without_a_gpu_is_one_line(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = invoke("bench", "--device", "cuda")
    assert result.exit_code == 2
    assert result.output == "aefast: --device is 'cuda', but torch sees no CUDA device\n"
    assert commands == []


@pytest.mark.parametrize(
    ("command", "package"),
    [("bench", "pytest"), ("bench", "pytest_benchmark"), ("demo", "sklearn")],
)
def test_a_missing_package_is_one_line(
    command: str, package: str, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else find_spec(name)
    )
    result = invoke(command)
    assert result.exit_code == 2
    assert result.output == f"aefast: {package} is missing: pip install 'aefast[{command}]'\n"
    assert commands == []

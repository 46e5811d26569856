"""``make gpu-check``: build in place, then every test and benchmark on a CUDA GPU, and one JSON.

It needs no network and installs nothing. Benchmarks run even where a test has failed; the exit
code says at the end whether all was well.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import results

ROOT = Path(__file__).parents[1]
SECONDS_A_CONTENDER = "0.3"


def main(result: Path) -> int:
    run("setup.py", "--quiet", "build_ext", "--inplace", check=True)
    with tempfile.TemporaryDirectory() as folder:
        tests, benchmarks = Path(folder, "tests.xml"), Path(folder, "benchmarks.json")
        launches = Path(folder, "launches.json")
        test_code = run("-m", "pytest", "tests", "--quiet", f"--junitxml={tests}")
        benchmark_code = run(
            *("-m", "pytest", "benchmarks", "--quiet", "--device", "cuda"),
            *("--benchmark-max-time", SECONDS_A_CONTENDER, "--benchmark-json", str(benchmarks)),
        )
        launch_code = run("benchmarks/launches.py", str(launches))
        measured = benchmarks.exists() and benchmarks.stat().st_size > 0
        record = results.read(benchmarks) if measured else {"cases": []}
        record["launches"] = json.loads(launches.read_text()) if launches.exists() else None
        record["tests"] = outcomes(tests)
    results.write(record, result)
    print(f"wrote {result}")
    return test_code or benchmark_code or launch_code


def run(*arguments: str, check: bool = False) -> int:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=check).returncode


def outcomes(junit: Path) -> dict[str, object]:
    """How many tests ran, and which of them failed."""
    suite = next(ElementTree.parse(junit).iter("testsuite"))
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "skipped")}
    return {**counts, "seconds": float(suite.get("time", 0)), "failed": failed}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

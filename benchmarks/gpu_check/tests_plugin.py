"""For pytest in a check: a line for each test, and an end at a CUDA fault."""

import os
from collections.abc import Iterator

import pytest

from gpu_check import process
from gpu_check.worker import is_faulted, record

FAULT = "CUDA fault"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.when == "call" or report.failed:
        failure = {"failed": reason(report)} if report.failed else {}
        outcome = report.outcome if report.when == "call" else "error"
        name = item.nodeid.split("::", 1)[1]
        record("correctness", os.environ["GPU_CHECK_JOB"], case=name, outcome=outcome, **failure)
        if report.failed and is_faulted():
            item.session.shouldstop = FAULT
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if session.shouldstop == FAULT:
        session.exitstatus = process.FAULT
    elif exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK


def reason(report: pytest.TestReport) -> str:
    """The last line that says what went wrong."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(crash.message if crash else report.longrepr)
    return (text.strip().splitlines() or ["failed"])[0][:300]

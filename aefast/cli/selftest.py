"""``aefast selftest``: compares every kernel with its definition."""

import time
from collections.abc import Iterable
from itertools import groupby

import typer

from aefast import selftest as suite
from aefast.cli.shared import app

WIDTH = 16


@app.command()
def selftest() -> None:
    """Compare every kernel that runs here with its definition, forward and backward."""
    targets = suite.targets()
    if not targets:
        typer.echo("no kernel runs here; aefast info says why", err=True)
        raise typer.Exit(1)
    start = time.perf_counter()
    typer.echo("".join(f"{name!s:{WIDTH}}" for name in ("op", *targets)))
    outcomes = []
    for op, outcomes_of_op in groupby(
        suite.run(targets, suite.cases()), lambda outcome: outcome.case.op
    ):
        row = list(outcomes_of_op)
        cells = [
            summary(outcome for outcome in row if outcome.target == target) for target in targets
        ]
        typer.echo("".join(f"{cell:{WIDTH}}" for cell in (op, *cells)))
        outcomes += row
    failed = [outcome for outcome in outcomes if not outcome.passed]
    typer.echo(
        f"{len(outcomes)} comparisons, {len(failed)} failed, {time.perf_counter() - start:.1f} s; "
        f"errors in units of eager PyTorch's, of which {suite.LIMIT:g} pass"
    )
    for outcome in failed:
        typer.echo(f"FAILED {outcome}", err=True)
    raise typer.Exit(1 if failed else 0)


def summary(outcomes: Iterable[suite.Outcome]) -> str:
    """The worst of an op's outcomes at one target."""
    outcomes = list(outcomes)
    if not all(outcome.passed for outcome in outcomes):
        return "FAILED"
    worst = max(outcome.error for outcome in outcomes)
    return f"{worst:.2f}" if worst else "same bits"

"""``aefast figures``: a trained and measured figure for each model, as PNGs and one page."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from aefast.backend import BackendUnavailableError
from aefast.cli.shared import app, check_output_folder, fail, require
from aefast.messages import printable


@app.command()
def figures(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...", help="Some of them; without it all, but token_features."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("figures"),
) -> None:
    """Train every system on data, and show what it does with the number that proves it."""
    from aefast.figures import NAMES, ON_REQUEST, run

    for name in names or ():
        if name not in NAMES + ON_REQUEST:
            fail(f"NAME is {name!r}; it takes some of {', '.join(NAMES + ON_REQUEST)}")
    check_output_folder(out, "--out")
    for package in ("sklearn", "matplotlib"):
        require(package, "demo")
    console = Console(highlight=False, soft_wrap=True, markup=False)
    try:
        page = run(
            names or NAMES, out, lambda shown: console.print(f"{shown.title}. {shown.sentence}")
        )
    except (BackendUnavailableError, ModuleNotFoundError, OSError) as error:
        fail(str(error))
    console.print(printable(f"Wrote {page}"))

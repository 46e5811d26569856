"""``aefast demo``: two autoencoders, beside PCA and eager PyTorch."""

from pathlib import Path
from typing import Annotated

import typer

from aefast import backend
from aefast.cli.shared import app, check_folder, fail, require


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("demo.png"),
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training set.")] = 2000,
) -> None:
    """Train two autoencoders on handwritten digits, beside PCA and eager PyTorch."""
    check_folder(out, "--out")
    for package in ("sklearn", "matplotlib"):
        require(package, "demo")
    from aefast.demo import run

    try:
        run(out, epochs)
    except backend.BackendUnavailableError as error:
        fail(str(error))

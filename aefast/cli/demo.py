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
    from matplotlib.backend_bases import FigureCanvasBase

    from aefast.demo import run

    endings = [f".{ending}" for ending in FigureCanvasBase.get_supported_filetypes()]
    if out.suffix.lower() not in endings:
        fail(f"--out is {str(out)!r}; it takes a name that ends in one of {', '.join(endings)}")
    try:
        run(out, epochs)
    except (backend.BackendUnavailableError, OSError) as error:
        fail(str(error))

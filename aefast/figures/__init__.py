"""``aefast figures``: what each model family does, shown on data.

A figure is a module with three functions: ``measure()`` trains and returns the numbers,
``sentence(measured)`` states what they show, and ``plot(measured, figure)`` draws them. The tests
hold the numbers to what the sentence claims.
"""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from aefast.figures.page import Shown, save_picture, write_page

# In the order of the lectures; each is a module of this package.
NAMES = (
    "undercomplete",
    "linear",
    "deep",
    "pretraining",
    "denoising",
    "contractive",
    "sparse",
    "dropout",
    "overcomplete",
    "stochastic",
    "variational",
    "rbm",
    "pca",
    "probabilistic",
    "sparse_coding",
    "generation",
    "features",
    "compression",
)

# Made only by name: its data come from a package that is not among the extras.
ON_REQUEST = ("token_features",)


def run(names: Sequence[str], out: Path, report: Callable[[Shown], None]) -> Path:
    """Make these figures, and the page that shows them; its path.

    Args:
        names: of the figures, among ``NAMES`` and ``ON_REQUEST``.
        out: the folder that the PNGs and ``index.html`` go to; it is made if need be.
        report: called after each figure.
    """
    out.mkdir(exist_ok=True)
    shown = []
    for name in names:
        shown.append(show(name, out))
        report(shown[-1])
    return write_page(shown, out)


def show(name: str, out: Path) -> Shown:
    """Measure and draw one figure into the folder."""
    from matplotlib.figure import Figure

    module = find(name)
    measured = module.measure()
    figure = Figure(figsize=module.SIZE, layout="constrained")
    module.plot(measured, figure)
    image = out / f"{name}.png"
    save_picture(figure, image)
    return Shown(module.TITLE, module.sentence(measured), image.name)


def find(name: str) -> ModuleType:
    """The module that makes a figure."""
    return importlib.import_module(f"aefast.figures.{name}")

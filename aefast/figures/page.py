"""One HTML page for some figures, which opens from disk."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aefast.training.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>aefast: the autoencoder family</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
       max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
section {{ margin: 3rem 0; }}
h2 {{ margin-bottom: 0.2rem; }}
img {{ max-width: 100%; height: auto; }}
</style>
</head>
<body>
<h1>The autoencoder family</h1>
<p>Each system was trained on this machine by <code>aefast figures</code>.</p>
{sections}
</body>
</html>
"""

SECTION = """<section id="{anchor}">
<h2>{title}</h2>
<p>{sentence}</p>
<img src="{image}" alt="{title}">
</section>"""


@dataclass(frozen=True)
class Shown:
    """One figure of the page: its title, what it shows with the number that proves it, its file."""

    title: str
    sentence: str
    image: str


def write_page(shown: Sequence[Shown], out: Path) -> Path:
    """Write ``index.html`` beside the images; its path."""
    sections = (
        SECTION.format(
            anchor=html.escape(Path(figure.image).stem),
            title=html.escape(figure.title),
            sentence=html.escape(figure.sentence),
            image=html.escape(figure.image),
        )
        for figure in shown
    )
    page = out / "index.html"
    with replacing(page) as file:
        file.write(PAGE.format(sections="\n".join(sections)).encode())
    return page


def save_picture(figure: "Figure", path: Path) -> None:
    """Draw a figure into a file, in the format that its ending names."""
    with replacing(path) as file:
        figure.savefig(file, dpi=150, format=path.suffix.removeprefix("."))

"""A directive for a picture of ``aefast figures``, with its sentence as the caption."""

import html
import os
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

SECTION = re.compile(r'<section id="(\w+)">\s*<h2>(.*?)</h2>\s*<p>(.*?)</p>', re.DOTALL)


class TrainedFigure(SphinxDirective):
    """``{trained-figure} NAME``: the figure of that name."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        folder = Path(self.config.trained_figures)
        page = folder / "index.html"
        if not page.is_file():
            raise self.error(f"there is no {page}; `make docs` makes it, by `aefast figures`")
        self.env.note_dependency(str(page))
        shown = {
            section: text for section, *text in SECTION.findall(page.read_text(encoding="utf-8"))
        }
        if name not in shown:
            raise self.error(f"the figure is {name!r}; {page} has {', '.join(shown)}")
        title, sentence = map(html.unescape, shown[name])
        image = os.path.relpath(
            folder / f"{name}.png", Path(self.env.doc2path(self.env.docname)).parent
        )
        return [
            nodes.figure(
                "",
                nodes.image(uri=image, alt=title),
                nodes.caption(sentence, sentence),
                classes=["trained"],
            )
        ]


def setup(app: Any) -> dict[str, bool]:
    app.add_config_value("trained_figures", "", "env")
    app.add_directive("trained-figure", TrainedFigure)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

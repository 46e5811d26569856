"""Directives for the pictures of ``aefast figures``: one with its sentence; all of them, small."""

import html
import os
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

REFERENCE = "trained-figure"
SECTION = re.compile(r'<section id="(\w+)">\s*<h2>(.*?)</h2>\s*<p>(.*?)</p>', re.DOTALL)


class FigureDirective(SphinxDirective):
    """Reads what ``aefast figures`` wrote."""

    def figures(self) -> dict[str, list[str]]:
        """Title and sentence of each figure, in the order of the page."""
        page = Path(self.config.trained_figures) / "index.html"
        if not page.is_file():
            raise self.error(f"there is no {page}; `make docs` makes it, by `aefast figures`")
        self.env.note_dependency(str(page))
        sections = SECTION.findall(page.read_text(encoding="utf-8"))
        return {name: [html.unescape(text) for text in texts] for name, *texts in sections}

    def image(self, name: str, title: str) -> nodes.image:
        """The picture, by its path from the page that shows it."""
        picture = Path(self.config.trained_figures) / f"{name}.png"
        page = Path(self.env.doc2path(self.env.docname))
        return nodes.image(uri=os.path.relpath(picture, page.parent), alt=title)


class TrainedFigure(FigureDirective):
    """``{trained-figure} NAME``: the figure of that name."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        figures = self.figures()
        if name not in figures:
            raise self.error(f"the figure is {name!r}; there are {', '.join(figures)}")
        title, sentence = figures[name]
        parts = [self.image(name, title), nodes.caption(sentence, sentence)]
        figure = nodes.figure("", *parts, classes=["trained"], ids=[f"figure-{name}"])
        label = f"figure-{name}"
        self.env.domains.standard_domain.anonlabels[label] = self.env.docname, label
        return [figure]


class TrainedGallery(FigureDirective):
    """``{trained-gallery}``: every figure, small, each a link to the guide that shows it."""

    def run(self) -> list[nodes.Node]:
        items = []
        for name, (title, _) in self.figures().items():
            shown = nodes.inline("", "", self.image(name, title), nodes.inline(title, title))
            link = addnodes.pending_xref(
                "", shown, reftype=REFERENCE, reftarget=name, refdoc=self.env.docname, refwarn=True
            )
            items.append(nodes.paragraph("", "", link))
        return [nodes.container("", *items, classes=["gallery"])]


def link_to_figure(app: Any, env: Any, node: Any, shown: nodes.Node) -> nodes.Node | None:
    """The gallery's link. A reference of Sphinx's own would keep the words of it alone."""
    label = f"figure-{node['reftarget']}"
    if node["reftype"] != REFERENCE or label not in env.domains.standard_domain.anonlabels:
        return None
    page, _ = env.domains.standard_domain.anonlabels[label]
    return make_refnode(app.builder, node["refdoc"], page, label, shown)


def setup(app: Any) -> dict[str, bool]:
    app.add_config_value("trained_figures", "", "env")
    app.add_directive("trained-figure", TrainedFigure)
    app.add_directive("trained-gallery", TrainedGallery)
    app.connect("missing-reference", link_to_figure)
    return {"parallel_read_safe": False, "parallel_write_safe": True}

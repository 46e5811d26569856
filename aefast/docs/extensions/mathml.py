"""Equations as MathML, which browsers draw by themselves: no script and no network."""

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert

# Beside a function's name TeX has thin spaces, but none before a parenthesis.
THIN = '<mspace width="0.167em" />'
BEFORE = re.compile(r"(?<=</mi>)(?=<mi>(?:exp|ln|log)</mi>)")
AFTER = re.compile(r"(<mi>(?:exp|ln|log)</mi>)(?!(?:<mrow>)?<mo[^>]*>&#x00028;)")


def mathml(latex: str, display: str) -> str:
    markup = convert(latex, display=display)
    return AFTER.sub(rf"\1{THIN}", BEFORE.sub(THIN, markup))


def visit_inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def visit_block(translator: Any, node: nodes.math_block) -> None:
    equation = mathml(node.astext(), "block")
    translator.body.append(f'<div class="equation">{equation}</div>')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""Sphinx's settings for the pages: ``make docs`` builds them into ``build/docs``."""

import inspect
import re
import sys
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike
from sphinx.util.typing import stringify_annotation

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE / "extensions")]

from aefast import functional  # noqa: E402
from aefast.version import __version__  # noqa: E402

project = "aefast"
author = "The aefast authors"
copyright = "2026, The aefast authors"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "command_help",
    "mathml",
    "trained_figure",
]
exclude_patterns = ["extensions"]

# Pages: Markdown with equations between dollar signs.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

# The API: docstrings in Google's style.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
napoleon_custom_sections = [("Reference", "References"), ("Attributes", "params_style")]
napoleon_use_rtype = False
add_module_names = False
# What a model's class offers to the training loop, and not to its user.
autodoc_default_options = {
    "exclude-members": "chain, check_finite, compare, decoder, depth, encoder, extra_repr, "
    "fused_loss, idle, is_one_op, is_plain, log_var, planned_step, step_fields, step_layers, "
    "training_steps",
}

# What `aefast figures` has trained and drawn.
trained_figures = str(ROOT / "build" / "figures")

html_theme = "furo"
html_title = f"aefast {version}"
html_static_path = ["static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_show_sphinx = False


BACK_LINK = re.compile(r'(<a class="viewcode-back"[^>]* href="[^"#]*#)([^"]*)')


def module_of_source(app: Any, module: str, name: str) -> str | None:
    """An op stands in its folder, not in aefast.functional, which collects them."""
    if module != "aefast.functional":
        return None
    documented = inspect.unwrap(getattr(functional, name.partition(".")[0]))
    source = inspect.getmodule(getattr(documented, "__code__", documented))
    return None if source is None else source.__name__


def mend_back_links(
    app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """In a module's source viewcode links every object under the module that its first one is
    documented in: ``aefast.select`` beside ``aefast.use_backend``, where it is aefast.backend's."""
    if not pagename.startswith("_modules/"):
        return
    module = pagename.removeprefix("_modules/").replace("/", ".")
    objects = app.env.domaindata["py"]["objects"]

    def mend(link: re.Match[str]) -> str:
        name = f"{module}.{link[2].rpartition('.')[2]}"
        return f"{link[1]}{name}" if link[2] not in objects and name in objects else link[0]

    context["body"] = BACK_LINK.sub(mend, context["body"])


# ArrayLike is a union of private types, which the signatures of the estimators would spell out.
ARRAY_LIKE = stringify_annotation(ArrayLike, "smart", short_literals=True)


def name_array_like(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: Any
) -> tuple[str | None, Any]:
    return signature and signature.replace(ARRAY_LIKE, "ArrayLike"), returns


def setup(app: Any) -> None:
    app.connect("autodoc-process-signature", name_array_like)
    app.connect("viewcode-follow-imported", module_of_source)
    app.connect("html-page-context", mend_back_links)

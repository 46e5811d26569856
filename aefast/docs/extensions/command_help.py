"""What a command says of itself: the output of ``aefast COMMAND --help``."""

import os
import subprocess
import sys
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective


class CommandHelp(SphinxDirective):
    """``{command-help} bench report``: a literal block of that command's help."""

    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        words = self.arguments[0].split() if self.arguments else []
        done = subprocess.run(
            [sys.executable, "-m", "aefast", *words, "--help"],
            env=os.environ | {"COLUMNS": "88", "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise self.error(done.stderr)
        return [nodes.literal_block(done.stdout, done.stdout.rstrip(), language="text")]


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

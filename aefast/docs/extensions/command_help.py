"""A directive for a command's options: the output of ``aefast COMMAND --help``."""

from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective
from typer.testing import CliRunner

from aefast.cli import app as command_line


class CommandHelp(SphinxDirective):
    """``{command-help} bench report``: a literal block of that command's help."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        words = [*self.arguments[0].split(), "--help"]
        done = CliRunner().invoke(command_line, words, prog_name="aefast", env={"COLUMNS": "88"})
        if done.exit_code != 0:
            raise self.error(done.output)
        return [nodes.literal_block(done.output, done.output.rstrip(), language="text")]


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

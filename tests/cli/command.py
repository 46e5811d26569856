"""The command line, called in this process."""

from typer.testing import CliRunner

from aefast.cli import app


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    """The one line that a wrong call ends with."""
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert result.output.startswith("aefast: "), result.output
    assert result.output.count("\n") == 1
    return result.output.removeprefix("aefast: ").rstrip()

"""The ``aefast`` command: one file a command."""

from aefast.cli import apply, bench, demo, figures, info, patch, selftest, train
from aefast.cli.shared import app

__all__ = ["app", "apply", "bench", "demo", "figures", "info", "patch", "selftest", "train"]

"""The ``aefast`` command: one file a command."""

from aefast.cli import bench, demo, info, train
from aefast.cli.shared import app

__all__ = ["app", "bench", "demo", "info", "train"]

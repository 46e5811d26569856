"""Small process groups over gloo, forked from a process that has torch."""

import inspect
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests import fresh

PROGRAM = """
import os, sys, traceback
from pathlib import Path
import torch, torch.distributed as dist
sys.path.insert(0, {root!r})
from {module} import {function} as part

torch.set_num_threads(1)
children = []
for rank in range({size}):
    child = os.fork()
    if child:
        children.append(child)
        continue
    folder = Path({folder!r})
    if {size} > 1:
        store = dist.FileStore(str(folder / "store"), {size})
        dist.init_process_group("gloo", store=store, rank=rank, world_size={size})
    try:
        torch.save(part(*torch.load(folder / "arguments", weights_only=False)), folder / str(rank))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
sys.exit(max(map(abs, codes)))
"""


def run(size: int, part: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What a function of a module gives in each of some processes, which are a group."""
    module = inspect.getmodule(part)
    assert module is not None
    with tempfile.TemporaryDirectory() as folder:
        torch.save(arguments, Path(folder) / "arguments")
        program = PROGRAM.format(
            root=str(fresh.ROOT),
            module=module.__name__,
            function=part.__name__,
            size=size,
            folder=folder,
        )
        done = fresh.run(program, dict(os.environ))
        assert done.returncode == 0, done.stdout + done.stderr
        return [torch.load(Path(folder) / str(n), weights_only=False) for n in range(size)]

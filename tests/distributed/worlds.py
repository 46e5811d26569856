"""Small process groups over gloo, forked from a process that has torch."""

import inspect
import json
import os
import socket
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tests import fresh

# What hangs is ended, and its test fails.
LONGEST = 120

PROGRAM = """
import os, signal, sys, traceback
from pathlib import Path
import torch, torch._dynamo, torch.distributed as dist  # optimizers import it: once for all ranks
sys.path.insert(0, {root!r})
from {module} import {function} as part

torch.set_num_threads(1)
children = []
for rank in range({size}):
    child = os.fork()
    if child:
        children.append(child)
        continue
    signal.alarm({seconds})
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
            seconds=LONGEST,
        )
        done = fresh.run(program, dict(os.environ))
        assert done.returncode == 0, done.stdout + done.stderr
        return [torch.load(Path(folder) / str(n), weights_only=False) for n in range(size)]


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun tells a rank."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    texts = {name: str(number) for name, number in ranks.items()}
    return {**texts, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


# As torchrun does: the store is neither rank's, and what ends one ends the others.
LAUNCHER = """
import os, runpy, signal, sys, time
import torch, torch.distributed as dist, aefast.cli, aefast.training.run

store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
ranks = {{}}
for rank in range({size}):
    child = os.fork()
    if child:
        ranks[child] = rank
        continue
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="{size}", MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(store.port), TORCHELASTIC_USE_AGENT_STORE="True",
        TORCHELASTIC_RESTART_COUNT="{restarts}",
    )
    torch.set_num_threads(1)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{folder}/{{rank}}.{{name}}", os.O_CREAT | os.O_WRONLY), number)
    sys.argv[1:] = {arguments}[rank]
    code = 0
{before}
    signal.alarm({seconds})
    try:
        runpy.run_module("aefast", run_name="__main__")
    except SystemExit as end:
        code = end.code
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code or 0)  # the store's threads are the parent's: nothing here may wait for them
if {kill}:
    victim, seconds = {kill}
    time.sleep(seconds)
    os.kill(next(child for child, rank in ranks.items() if rank == victim), signal.SIGKILL)
ends = {{}}
while len(ends) < {size}:
    child, status = os.wait()
    ends[ranks[child]] = (os.waitstatus_to_exitcode(status), time.monotonic())
    if ends[ranks[child]][0]:
        for other, rank in ranks.items():
            if rank not in ends:
                os.kill(other, signal.SIGTERM)
times = [time for _, time in ends.values()]
print([ends[rank][0] for rank in range({size})], max(times) - min(times))
"""


class Ended(NamedTuple):
    """A command that some ranks were given.

    Attributes:
        codes: of each rank, below 0 of one that a signal killed.
        seconds: between the first rank's end and the last one's.
        lines: what they all printed, errors among it.
    """

    codes: list[int]
    seconds: float
    lines: list[str]


def command(
    *arguments: list[object],
    before: str = "pass",
    restarts: int = 0,
    kill: tuple[int, float] | None = None,
) -> Ended:
    """``python -m aefast`` with these arguments, of each rank, after a statement ``before``.

    Args:
        restarts: how often torchrun has started them anew.
        kill: a rank, and after how many seconds it is killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        program = LAUNCHER.format(
            size=len(arguments),
            arguments=[list(map(str, own)) for own in arguments],
            folder=folder,
            before=textwrap.indent(textwrap.dedent(before), "    "),
            restarts=restarts,
            kill=kill,
            seconds=LONGEST,
        )
        done = fresh.run(program, {**os.environ, "PYTHONPATH": str(fresh.ROOT)})
        assert done.returncode == 0, done.stdout + done.stderr
        codes, _, seconds = done.stdout.rpartition(" ")
        texts = [path.read_text() for path in sorted(Path(folder).iterdir())]
    return Ended(json.loads(codes), float(seconds), "".join(texts).splitlines())

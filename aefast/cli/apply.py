"""``aefast encode``, ``decode`` and ``sample``: a trained model's arrays, as ``.npy`` files."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from aefast.backend import BackendUnavailableError
from aefast.cli.shared import app, check_folder, ended_by_signals, fail, note, require
from aefast.messages import printable
from aefast.random import SEED_LIMIT, child_seed

if TYPE_CHECKING:  # it imports packages that other commands do not need
    from aefast.data import Dataset

ROWS_AT_ONCE = 4096

CheckpointArgument = Annotated[
    Path, typer.Argument(metavar="CHECKPOINT", help="A run's folder, or a .safetensors file.")
]
Out = Annotated[Path, typer.Option(help="The .npy file to write.")]


@app.command()
def encode(
    checkpoint: CheckpointArgument,
    data: Annotated[str, typer.Option(help="What to encode; as aefast train takes it.")],
    out: Out,
) -> None:
    """Write the codes of data, float32 [N, H]."""
    with one_line_errors(checkpoint, out):
        from aefast.training import models
        from aefast.training.checkpoint import load_trained
        from aefast.training.run import check_range
        from aefast.training.scales import as_trained, check_scale

        checkpointed = load_trained(checkpoint)
        trained = checkpointed.config.data
        dataset = as_trained(load_rows(data, trained.visible, checkpoint, out), trained)
        check_range(checkpointed.config, dataset)
        note(check_scale(dataset, trained, str(checkpoint)))
        map_rows(
            dataset,
            lambda x: models.encode(checkpointed.model, x),
            checkpointed.config.sizes[-1],
            out,
        )


@app.command()
def decode(
    checkpoint: CheckpointArgument,
    data: Annotated[str, typer.Option(help="The codes, floats [N, H].")],
    out: Out,
) -> None:
    """Write the reconstructions of codes, float32 [N, D]; of a transcoder [N, O]."""
    with one_line_errors(checkpoint, out):
        from aefast.training import models
        from aefast.training.checkpoint import load_trained
        from aefast.training.scales import check_codes

        checkpointed = load_trained(checkpoint)
        codes = load_rows(data, checkpointed.config.sizes[-1], checkpoint, out)
        if codes.rows.dtype.kind != "f":
            fail(f"{data} holds {codes.rows.dtype}; codes are floats")
        check_codes(codes, checkpointed.config, str(checkpoint))
        map_rows(
            codes,
            lambda code: models.decode(checkpointed.model, code),
            checkpointed.config.outputs,
            out,
        )


@app.command()
def sample(
    checkpoint: CheckpointArgument,
    out: Out,
    samples: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 100,
    seed: Annotated[int, typer.Option(min=0, max=SEED_LIMIT - 1)] = 0,
) -> None:
    """Write what a generative model draws, float32 [n, D]."""
    with one_line_errors(checkpoint, out):
        from aefast.training.checkpoint import load_trained
        from aefast.training.models import MODELS

        checkpointed = load_trained(checkpoint)
        sample = MODELS[checkpointed.config.model].sample
        if sample is None:
            takes = ", ".join(name for name, kind in MODELS.items() if kind.sample)
            fail(
                f"{checkpoint} holds {checkpointed.config.model}, which is no distribution: "
                f"nothing says which codes are likely; sample takes {takes}"
            )
        counts = [min(ROWS_AT_ONCE, samples - row) for row in range(0, samples, ROWS_AT_ONCE)]
        blocks = (
            sample(checkpointed.model, count, child_seed(seed, number))
            for number, count in enumerate(counts)
        )
        write_rows(blocks, (samples, checkpointed.config.sizes[0]), out)


@contextlib.contextmanager
def one_line_errors(checkpoint: Path, out: Path) -> Iterator[None]:
    """End the command with one line if the checkpoint, the data or the file cannot be used."""
    check_folder(out, "--out")
    if out.suffix != ".npy":
        fail(f"--out is {str(out)!r}; it takes a .npy file")
    require("safetensors", "train")
    try:
        if out.exists() and checkpoint.exists() and out.samefile(checkpoint):
            fail(f"--out is {str(out)!r}, which is the checkpoint; it takes another file")
        with ended_by_signals(), torch.no_grad():
            yield
    except (ValueError, OSError, BackendUnavailableError) as error:
        fail(str(error))


def load_rows(source: str, width: int, checkpoint: Path, out: Path) -> "Dataset":
    """Load data with the model's number of columns; the file to write must be another one."""
    from aefast.data import load
    from aefast.data.images import reads
    from aefast.data.sources import split_member

    file, _ = split_member(source)
    if out.exists() and os.path.exists(file) and out.samefile(file):
        fail(f"--out is {str(out)!r}, which --data reads; it takes another file")
    if os.path.isdir(file) and reads(Path(file), out.parent):
        fail(f"--out is {str(out)!r}, in the folder that --data reads; it takes another one")
    dataset = load(source)
    columns = dataset.rows.shape[1]
    if columns != width:
        fail(f"{source} holds rows of {columns} numbers; the model in {checkpoint} takes {width}")
    return dataset


def map_rows(dataset: "Dataset", apply: Callable[[Tensor], Tensor], width: int, out: Path) -> None:
    """Write the results of ``apply``, ``[N, width]``, block by block of rows."""
    note(dataset.notes)
    blocks = torch.arange(len(dataset), dtype=torch.int64, device="cpu").split(ROWS_AT_ONCE)
    write_rows((apply(dataset.take(rows)) for rows in blocks), (len(dataset), width), out)


def write_rows(blocks: Iterator[Tensor], shape: tuple[int, int], out: Path) -> None:
    """Write a ``.npy`` file from blocks of rows, one of which is in memory at a time."""
    from aefast.training.files import replacing

    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with replacing(out) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(block.contiguous().numpy().astype("<f4", copy=False).data)
    typer.echo(printable(f"Wrote {out}: {shape[0]} rows of {shape[1]}"))

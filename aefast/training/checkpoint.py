"""Checkpoints: a run's model in one safetensors file, and its optimizer's state in another.

``checkpoint.safetensors`` holds the model's state dict, name by name, so that
``module.load_state_dict(safetensors.torch.load_file(path))`` takes it. Its metadata hold the run's
configuration and progress as JSON: one file, so that they always belong to the tensors.

``optimizer-<step>.safetensors`` holds the state of the current stage's optimizer, as
``<parameter's number>.<name>``. It is written before the checkpoint of the same step, and the
previous one is removed afterwards: whenever the process dies, a checkpoint has its optimizer's
state.

``best.safetensors``, of a run with patience, is what ``checkpoint.safetensors`` was after the best
epoch, and is written before it. The run's model is the best one; it goes on from the last one.

``config.json`` is for people to read. Nothing is ever unpickled.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import safetensors
import safetensors.torch
from torch import Tensor, nn

from aefast.messages import OneLineError, cut, printable
from aefast.training.config import Config, RunProgress
from aefast.training.files import replacing
from aefast.training.models import MODELS, outline
from aefast.version import __version__

CHECKPOINT_FILE = "checkpoint.safetensors"
BEST_FILE = "best.safetensors"
CONFIG_FILE = "config.json"
OPTIMIZER_FILE = re.compile(r"optimizer-\d+\.safetensors")
KEY = "aefast"
FORMAT = 2

OptimizerState = dict[int, dict[str, Tensor]]

# Options that older checkpoints lack. Their defaults do what was done without.
LATER_OPTIONS = "kl_weight", "normalize_activations", "rescale_acts_by_decoder_norm"


class CheckpointError(OneLineError):
    """A checkpoint cannot be read; the message, one line, names the file and the fault."""


class BestEpoch(NamedTuple):
    """A run after an epoch that was better on the held-out rows than all others of its stage.

    Attributes:
        progress: how far the run had come.
        state: the model's state dict, copied.
    """

    progress: RunProgress
    state: dict[str, Tensor]


@dataclass
class Checkpoint:
    """A run between two steps.

    Attributes:
        config: its settings.
        progress: how far it has come.
        model: with its parameters after the last step.
        optimizer: the state of the current stage's optimizer, by the parameters' numbers.
        best: the best epoch of a run with patience; None where none was better since it resumed.
    """

    config: Config
    progress: RunProgress
    model: nn.Module
    optimizer: OptimizerState
    best: BestEpoch | None = None


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write all files, each one atomically."""
    state = {
        f"{number}.{name}": tensor
        for number, named in checkpoint.optimizer.items()
        for name, tensor in named.items()
    }
    optimizer_file = _optimizer_file(folder, checkpoint.progress)
    if state:
        _write(optimizer_file, state, {})
    config = checkpoint.config.to_json()
    header = {"format": FORMAT, "version": __version__, "config": config}

    def metadata(progress: RunProgress, has_optimizer: bool) -> dict[str, str]:
        run = {**header, "progress": progress.to_json(), "optimizer": has_optimizer}
        return {KEY: json.dumps(run)}

    if checkpoint.best is not None:
        progress, tensors = checkpoint.best
        _write(folder / BEST_FILE, tensors, metadata(progress, False))
    tensors = checkpoint.model.state_dict()
    _write(folder / CHECKPOINT_FILE, tensors, metadata(checkpoint.progress, bool(state)))
    with replacing(folder / CONFIG_FILE) as file:
        file.write(json.dumps(header, indent=2).encode() + b"\n")
    for path in folder.iterdir():
        if OPTIMIZER_FILE.fullmatch(path.name) and not (state and path == optimizer_file):
            path.unlink()


def load_trained(path: Path) -> Checkpoint:
    """Read the model of a run's folder, of its best epoch where the run has patience; or that of a
    file in it."""
    if path.is_dir():
        best = path / BEST_FILE
        path = best if best.exists() else path / CHECKPOINT_FILE
    return load(path)


def load(path: Path) -> Checkpoint:
    """Read a run's folder onto the CPU; or a checkpoint file, which has no optimizer's state.

    Raises:
        CheckpointError: it does not exist, is cut short, was written by another program or version,
            or its tensors do not fit the model that it names.
    """
    file = path / CHECKPOINT_FILE if path.is_dir() else path
    metadata, tensors = read_tensors(file)
    if KEY not in metadata:
        raise CheckpointError(f"{file} is not a checkpoint of aefast's")
    try:
        header = json.loads(metadata[KEY])
        if header["format"] != FORMAT:
            raise CheckpointError(
                f"{file} has format {cut(header['format'])}; aefast {__version__} reads {FORMAT}"
            )
        config = Config.from_json(header["config"])
        of_model = MODELS[config.model].options if config.model in MODELS else {}
        for name in {*of_model} & {*LATER_OPTIONS}:
            config.options.setdefault(name, of_model[name])
        if "loss" in config.options:  # the option's old name
            config.options["reconstruction"] = config.options.pop("loss")
        progress = RunProgress.from_json(header["progress"])
        model = _filled(config, tensors)
        has_optimizer = bool(header["optimizer"])
    except CheckpointError:
        raise
    except (
        *(ArithmeticError, LookupError, RuntimeError, TypeError, ValueError),
        *(AttributeError, MemoryError),
    ) as error:
        raise CheckpointError(
            f"{file} does not hold what aefast writes: {_reason(error)}"
        ) from error
    optimizer = {}
    if has_optimizer and path.is_dir():
        optimizer = _load_optimizer(_optimizer_file(path, progress))
    return Checkpoint(config, progress, model, optimizer)


def _filled(config: Config, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The model of the configuration, with these tensors as its parameters and buffers.

    It is built on the meta device: the configuration may name sizes that no memory holds.

    Raises:
        ValueError, and what the model's constructor raises: the tensors do not fit the model.
    """
    if config.model not in MODELS:
        raise ValueError(f"it is of a model {cut(config.model)!r}, which is unknown here")
    if len(config.hidden) > len(tensors):
        raise ValueError(f"{len(config.hidden)} layers in {len(tensors)} tensors")
    model = outline(config)
    expected = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    model.load_state_dict(tensors, assign=True)
    for name, tensor in model.state_dict().items():
        if tensor.dtype != expected[name]:
            raise ValueError(f"{name} is {tensor.dtype}; it takes {expected[name]}")
        if not tensor.isfinite().all():
            raise ValueError(f"{name} is not finite")
    return model.eval()


def _load_optimizer(file: Path) -> OptimizerState:
    _, tensors = read_tensors(file)
    state: OptimizerState = {}
    for name, tensor in tensors.items():
        number, _, key = name.partition(".")
        if not re.fullmatch(r"\d{1,9}", number):
            raise CheckpointError(f"{file} holds {cut(name)!r}, which is of no parameter")
        state.setdefault(int(number), {})[key] = tensor
    return state


def _optimizer_file(folder: Path, progress: RunProgress) -> Path:
    return folder / f"optimizer-{progress.step}.safetensors"


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as file:
        file.write(safetensors.torch.save(contiguous, metadata))


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a safetensors file.

    Raises:
        CheckpointError: it cannot be read, or is no safetensors file.
    """
    if path.exists() and not path.is_file():  # a pipe, which would not end
        raise CheckpointError(f"{path} cannot be read: it is no regular file")
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            # Copies: the tensors are in a memory map of a file that may be replaced.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        reason = _reason(error)
        raise CheckpointError(f"{path} is no safetensors file, or cut short: {reason}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except (RuntimeError, MemoryError) as error:  # a sparse file may be larger than memory
        raise CheckpointError(f"{path} cannot be read: {_reason(error)}") from error
    return metadata, tensors


def _reason(error: BaseException) -> str:
    return cut(printable(" ".join(str(error).split())), 300) or type(error).__name__

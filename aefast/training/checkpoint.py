"""Checkpoints: one safetensors file with all that a run needs to go on.

Its tensors are the model's, as ``model.<name>``, and those of the optimizer of the stage under way,
as ``optimizer.<parameter's number>.<name>``. Its metadata hold the run's configuration and progress
as JSON, so that they can never be of another moment than the tensors. ``config.json`` beside it is
for people to read. Nothing is ever unpickled.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from aefast.training.config import Config, Progress
from aefast.training.files import replacing
from aefast.training.models import MODELS, build
from aefast.version import __version__

CHECKPOINT_FILE = "checkpoint.safetensors"
CONFIG_FILE = "config.json"
KEY = "aefast"
FORMAT = 1


class CheckpointError(ValueError):
    """One line that names the file and what is wrong with it."""


@dataclass
class Checkpoint:
    """A run at one moment.

    Attributes:
        config: what it is told.
        progress: where it stands.
        model: as the run left it.
        optimizer: the state of the optimizer of the stage under way: of each parameter, by number.
    """

    config: Config
    progress: Progress
    model: nn.Module
    optimizer: dict[int, dict[str, Tensor]]


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write both files, each of them whole or not at all."""
    tensors = {f"model.{name}": tensor for name, tensor in checkpoint.model.state_dict().items()}
    for number, state in checkpoint.optimizer.items():
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
    config = checkpoint.config.to_json()
    told = {"format": FORMAT, "version": __version__, "config": config}
    metadata = {KEY: json.dumps({**told, "progress": checkpoint.progress.to_json()})}
    contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(folder / CHECKPOINT_FILE) as file:
        file.write(safetensors.torch.save(contiguous, metadata))
    with replacing(folder / CONFIG_FILE) as file:
        file.write(json.dumps(told, indent=2).encode() + b"\n")


def load(path: Path) -> Checkpoint:
    """Read a checkpoint, or the one in a run's folder, onto the CPU.

    Raises:
        CheckpointError: it is not there, cut short, of another program or version, or its tensors
            are not those of the model that it names.
    """
    path = path / CHECKPOINT_FILE if path.is_dir() else path
    metadata, tensors = _read(path)
    try:
        told = json.loads(metadata[KEY])
        if told["format"] != FORMAT:
            raise CheckpointError(
                f"{path} has format {told['format']}; aefast {__version__} reads {FORMAT}"
            )
        config = Config.from_json(told["config"])
        progress = Progress.from_json(told["progress"])
        if config.model not in MODELS:
            raise CheckpointError(f"{path} is of a model {config.model!r}, which is unknown here")
        model = build(config).eval()
        model.load_state_dict(_part(tensors, "model."))
        for name, parameter in model.named_parameters():
            if not parameter.isfinite().all():
                raise CheckpointError(f"{path}: {name} is not finite")
        optimizer = _optimizer_state(_part(tensors, "optimizer."))
    except CheckpointError:
        raise
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not hold what aefast writes: {reason}") from error
    return Checkpoint(config, progress, model, optimizer)


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            # Copies: what is read lies in a memory map, and the file may be replaced.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is no safetensors file, or cut short: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    if KEY not in metadata:
        raise CheckpointError(f"{path} is not a checkpoint of aefast's")
    return metadata, tensors


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Any]:
    named = tensors.items()
    return {name.removeprefix(prefix): value for name, value in named if name.startswith(prefix)}


def _optimizer_state(named: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in named.items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = tensor
    return state

"""A run's folder: how one starts there, and how it is taken up again."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from aefast.data import Dataset
from aefast.data import load as load_data
from aefast.training.checkpoint import CHECKPOINT_FILE, CONFIG_FILE, Checkpoint, load, save
from aefast.training.config import Config, Progress
from aefast.training.loop import Trainer
from aefast.training.metrics import METRICS_FILE
from aefast.training.models import MODELS, build

DEFAULTS = {"epochs": 100, "batch_size": 128, "precision": "highest", "seed": 0, "device": "cpu"}
PRECISIONS = ("highest", "high", "medium")

# Gaussian units take one or two orders less than binary ones.
GAUSSIAN_MACHINE_RATE = 0.005


class RunError(ValueError):
    """One line that says which option is wrong, and what it takes."""


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """A run's folder, for this process alone; made where it is not there, and gone again where
    nothing was written.

    Raises:
        RunError: another process has it, or it cannot be made.
    """
    if not folder.parent.is_dir():
        raise RunError(f"--out is {str(folder)!r}, but there is no folder {str(folder.parent)!r}")
    is_new = not folder.exists()
    if is_new:
        folder.mkdir(exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise RunError(f"{folder} is in use by another run") from None
    finally:
        os.close(handle)
        if is_new:
            with contextlib.suppress(OSError):  # it holds something
                folder.rmdir()


def start(folder: Path, given: dict[str, Any]) -> Trainer:
    """A new run, saved before its first step.

    Args:
        folder: claimed; nothing in it is overwritten.
        given: the options, by the names of :class:`aefast.training.config.Config` and of the
            model's constructor.

    Raises:
        RunError, aefast.data.DataError: one of them is wrong.
    """
    if not folder.is_dir():
        raise RunError(f"--out is {str(folder)!r}, a file; it takes a folder")
    if (folder / CHECKPOINT_FILE).exists():
        raise RunError(f"{folder} holds a run already; --resume goes on with it")
    for name in (CONFIG_FILE, METRICS_FILE):
        if (folder / name).exists():
            raise RunError(f"{folder / name} is in the way; it takes a folder without one")
    if "model" not in given:
        raise RunError(f"MODEL is missing; it takes one of {', '.join(MODELS)}")
    check_options(given["model"], given)
    for name in ("data", "hidden"):
        if not given.get(name):
            raise RunError(f"{flag(name)} is missing")
    dataset = load_data(given["data"])
    config = configure(given, dataset)
    check_range(config, dataset)
    try:
        model = build(config)
    except (TypeError, ValueError, MemoryError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{reason}; the model is {config.model} {config.sizes}") from error
    trainer = Trainer(Checkpoint(config, Progress(), model, {}), dataset)
    save(folder, trainer.checkpoint())
    return trainer


def resume(folder: Path, given: dict[str, Any]) -> Trainer:
    """The run in a folder, as its checkpoint left it.

    Args:
        folder: the run's.
        given: options that it has anyway; but for ``epochs`` and ``device``, which may be new.

    Raises:
        RunError, aefast.data.DataError: there is no run, an option is not the run's, or the data
            have changed.
        aefast.training.checkpoint.CheckpointError: its file cannot be read.
    """
    if not (folder / CHECKPOINT_FILE).is_file():
        raise RunError(f"{folder} holds no run; without --resume one starts there")
    checkpoint = load(folder)
    config, progress = checkpoint.config, checkpoint.progress
    asked = {name: value for name, value in given.items() if name not in ("epochs", "device")}
    check_options(config.model, asked)
    told = {**vars(config), **config.options, "data": config.data["source"]}
    for name, value in asked.items():
        if value != told[name]:
            raise RunError(
                f"{flag(name)} is {value!r}, but that of the run in {folder} is {told[name]!r}"
            )
    config = replace(
        config, **{name: given[name] for name in ("epochs", "device") if name in given}
    )
    if progress.stage > 0 and config.epochs != checkpoint.config.epochs:
        raise RunError(
            f"--epochs is {config.epochs}, but the run in {folder} has trained its first machine "
            f"for {checkpoint.config.epochs}"
        )
    if (config.epochs, 0) < (progress.epoch, progress.batch):
        raise RunError(f"--epochs is {config.epochs}, but the run in {folder} is past that")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise RunError(
            f"the run in {folder} is on cuda, but torch sees no CUDA device; --device cpu moves it"
        )
    dataset = load_data(config.data["source"])
    if describe(dataset) != config.data:
        raise RunError(f"{dataset.name} is no longer what the run in {folder} was started with")
    try:
        return Trainer(replace(checkpoint, config=config), dataset)
    except (ValueError, RuntimeError) as error:
        raise RunError(f"{folder / CHECKPOINT_FILE} does not fit its run: {error}") from error


def configure(given: dict[str, Any], dataset: Dataset) -> Config:
    """All that a run is told: what was given, and the defaults of the rest."""
    kind = MODELS[given["model"]]
    options = {name: given.get(name, default) for name, default in kind.options.items()}
    if "output_activation" in options and options["output_activation"] is None:
        options["output_activation"] = "sigmoid" if is_unit_interval(dataset) else "identity"
    is_gaussian = options.get("visible_kind") == "gaussian"
    rate = GAUSSIAN_MACHINE_RATE if is_gaussian else kind.learning_rate
    return Config(
        model=given["model"],
        hidden=given["hidden"],
        options=options,
        data=describe(dataset),
        learning_rate=given.get("learning_rate", rate),
        **{name: given.get(name, default) for name, default in DEFAULTS.items()},
    )


def describe(dataset: Dataset) -> dict[str, Any]:
    """What a checkpoint keeps of its data."""
    return {
        "source": dataset.name,
        "rows": len(dataset),
        "visible": dataset.rows.shape[1],
        "sample_shape": list(dataset.sample_shape),
        "scale": dataset.scale,
        "low": dataset.low,
        "high": dataset.high,
        "checksum": dataset.checksum,
    }


def check_options(model: str, given: dict[str, Any]) -> None:
    """The model is one that there is, and takes every option that only some take.

    Raises:
        RunError: it is not, or does not.
    """
    if model not in MODELS:
        raise RunError(f"MODEL is {model!r}; it takes one of {', '.join(MODELS)}")
    for name in given:
        takers = [other for other, kind in MODELS.items() if name in kind.options]
        if takers and model not in takers:
            raise RunError(f"{model} takes no {flag(name)}; it is for {', '.join(takers)}")
    if not given.get("learning_rate", 1) > 0:
        raise RunError(f"--learning-rate is {given['learning_rate']}; it takes a number above 0")
    if given.get("precision", "highest") not in PRECISIONS:
        takes = ", ".join(PRECISIONS)
        raise RunError(f"--precision is {given['precision']!r}; it takes one of {takes}")


def check_range(config: Config, dataset: Dataset) -> None:
    """A model of probabilities is given numbers that can be some.

    Raises:
        RunError: the data leave [0, 1].
    """
    name, value = MODELS[config.model].unit_interval
    if config.options[name] == value and not is_unit_interval(dataset):
        raise RunError(
            f"{dataset.name} holds numbers from {dataset.low:g} to {dataset.high:g}; "
            f"{config.model} with {flag(name)} {value} takes [0, 1]"
        )


def is_unit_interval(dataset: Dataset) -> bool:
    return 0 <= dataset.low <= dataset.high <= 1


def flag(name: str) -> str:
    """How the command line spells an option."""
    return "MODEL" if name == "model" else "--" + name.replace("_", "-")

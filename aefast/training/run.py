"""Start and resume the runs of ``aefast train``: their folders, options and checks."""

import contextlib
import math
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from aefast.data import Dataset
from aefast.data import load as load_data
from aefast.data.images import reads
from aefast.data.pairs import PairedRows
from aefast.data.shards import ShardedDataset
from aefast.data.sources import split_member
from aefast.distributed.agreement import agree, check_batch_size
from aefast.distributed.group import Group, current
from aefast.distributed.losses import check_model
from aefast.messages import OneLineError, cut
from aefast.nn.dictionary import SparseDictionary
from aefast.training.checkpoint import (
    BEST_FILE,
    CHECKPOINT_FILE,
    CONFIG_FILE,
    Checkpoint,
    load,
    save,
)
from aefast.training.config import PRECISIONS, Config, DataSummary, RunProgress
from aefast.training.loop import Trainer
from aefast.training.metrics import METRICS_FILE
from aefast.training.models import DICTIONARIES, MODELS, build
from aefast.training.scales import summarize

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

# The options that may change when a run resumes.
CHANGEABLE = ("data", "targets", "epochs", "device")

DEFAULTS = {
    "epochs": 100,
    "batch_size": 128,
    "precision": "highest",
    "seed": 0,
    "device": "cpu",
    "validation": 0.0,
    "patience": 0,
    "learning_rate_decay": 1.0,
    "kl_warm_up": 0,
}

# A tenth to a hundredth of what Bernoulli units take.
GAUSSIAN_MACHINE_RATE = 0.005

# A sparse dictionary's decoder bias starts as the geometric median of so many rows.
MEDIAN_ROWS = 4096


# By the names of :class:`aefast.training.config.Config` and of the model's constructor.
Options = dict[str, Any]


class RunError(OneLineError):
    """One line that says which option is wrong, and what it takes."""


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[str | None]:
    """Lock a run's folder, so that no other run writes to it.

    The folder is created if it does not exist, and removed again if it is empty at the end.

    Yields:
        a warning where the file system has no locks, else None.

    Raises:
        RunError: another process has locked it, or it cannot be created.
    """
    if not folder.parent.is_dir():
        raise RunError(f"--out is {str(folder)!r}, but there is no folder {str(folder.parent)!r}")
    is_new = not folder.exists()
    if is_new:
        folder.mkdir(exist_ok=True)
    try:
        with _locked(folder) as warning:
            yield warning
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # it holds something
                folder.rmdir()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[str | None]:
    """Windows, and some network file systems, have no locks: then it yields a warning."""
    warning = f"{folder} cannot be locked here: see that no other run writes to it"
    if fcntl is None:
        yield warning
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder} is in use by another run") from None
        except OSError:
            yield warning
        else:
            yield None
    finally:
        os.close(handle)


def start(folder: Path, options: Options) -> Trainer:
    """A new run, saved before its first step; in a process group by rank 0.

    Args:
        folder: the run's, locked by :func:`claimed`; nothing in it is overwritten.
        options: those that were given.

    Raises:
        RunError, aefast.data.DataError: an option is wrong, or differs from another rank's.
    """
    group = current()
    trainer = _together(group, lambda: _new(folder if group.rank == 0 else None, options))
    if group.rank == 0:
        save(folder, trainer.checkpoint())
    return trainer


def is_run(folder: Path) -> bool:
    return (folder / CHECKPOINT_FILE).is_file()


def device_of(folder: Path) -> str:
    """The device of the run in a folder; a new run's default where no run can be read."""
    try:
        return load(folder / CHECKPOINT_FILE).config.device
    except ValueError:
        return "cpu"


def _new(folder: Path | None, options: Options) -> Trainer:
    """A new run that is saved in a folder; None for a rank that does not save it."""
    if folder is not None:
        _check_new(folder)
    if "model" not in options:
        raise RunError(f"MODEL is missing; it takes one of {', '.join(MODELS)}")
    check_options(options["model"], options)
    options = with_sizes(options)
    if not options.get("data"):
        raise RunError("--data is missing")
    dataset = _load_apart(options, "data", folder)
    targets = _load_apart(options, "targets", folder) if options.get("targets") else None
    rows = _rows(dataset, targets)
    config = configure(options, dataset, targets)
    check_range(config, dataset)
    check_schedule(config)
    try:
        model = build(config)
    except (TypeError, ValueError, MemoryError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{reason}; the model is {config.model} {config.sizes}") from error
    trainer = Trainer(Checkpoint(config, RunProgress(), model, {}), rows)
    if isinstance(model, SparseDictionary):
        chosen = trainer.trained[:: -(-len(trainer.trained) // MEDIAN_ROWS)]
        inputs = dataset.take(chosen).to(model.decoder_bias)
        if targets is None:
            model.start_from(inputs)
        else:
            model.start_from(targets.take(chosen).to(model.decoder_bias), inputs)
    return trainer


def _load_apart(options: Options, option: str, folder: Path | None) -> Dataset:
    """The data of an option.

    Raises:
        RunError: they are shards in the run's own folder.
    """
    dataset = load_data(options[option])
    if folder is not None and isinstance(dataset, ShardedDataset):
        _check_apart(folder, Path(options[option]), option)
    return dataset


def _rows(dataset: Dataset, targets: Dataset | None) -> Dataset | PairedRows:
    """The rows, or the pairs of rows and targets, that a run is trained on.

    Raises:
        RunError: the rows and the targets are not as many.
    """
    if targets is None:
        return dataset
    if len(dataset) != len(targets):
        raise RunError(
            f"--data has {len(dataset)} rows and --targets {len(targets)}; a transcoder takes a "
            "target for each row"
        )
    return PairedRows(dataset, targets, "--data")


def _check_new(folder: Path) -> None:
    """
    Raises:
        RunError: the folder cannot hold a new run.
    """
    if not folder.is_dir():
        raise RunError(f"--out is {str(folder)!r}, a file; it takes a folder")
    if (folder / CHECKPOINT_FILE).exists():
        raise RunError(f"{folder} holds a run already; --resume goes on with it")
    for name in (BEST_FILE, CONFIG_FILE, METRICS_FILE):
        if os.path.lexists(folder / name):  # also a broken link
            raise RunError(f"{folder / name} is in the way; it takes a folder without one")


def _check_apart(folder: Path, data: Path, option: str) -> None:
    """
    Raises:
        RunError: the run's checkpoints would be read as shards.
    """
    if data.is_dir() and reads(data, folder):
        raise RunError(
            f"--out is {str(folder)!r}, in the folder that --{option} reads; it takes another one"
        )


def resume(folder: Path, options: Options) -> Trainer:
    """The run in a folder, as its checkpoint left it.

    Args:
        folder: the run's.
        options: may repeat the run's own. ``epochs`` and ``device`` may change, and ``data`` and
            ``targets`` may have moved.

    Raises:
        RunError, aefast.data.DataError: there is no run, an option is not the run's, the data have
            changed, or another rank has others.
        aefast.training.checkpoint.CheckpointError: its file cannot be read.
    """
    return _together(current(), lambda: _resumed(folder, options))


def _resumed(folder: Path, options: Options) -> Trainer:
    file = folder / CHECKPOINT_FILE
    if not file.is_file():
        raise RunError(f"{folder} holds no run; without --resume one starts there")
    checkpoint = load(folder)
    config = _changed(checkpoint, folder, options)
    dataset = _load_again(config.data, folder, options.get("data"), "--data")
    config = replace(config, data=summarize(dataset, dataset.name))
    targets = None
    if config.targets is not None:
        targets = _load_again(config.targets, folder, options.get("targets"), "--targets")
        config = replace(config, targets=summarize(targets, targets.name))
    try:
        trainer = Trainer(replace(checkpoint, config=config), _rows(dataset, targets))
    except (ValueError, RuntimeError) as error:
        raise RunError(f"{file} does not fit its run: {error}") from error
    _check_steps(trainer, file)
    return trainer


def _together(group: Group, begin: Callable[[], Trainer]) -> Trainer:
    """Begin a run on all ranks of a group, with the same data and options.

    Raises:
        RunError: on every rank, if one has an error or the ranks differ.
    """
    if group.size == 1:
        return begin()
    trainer, message = None, None
    try:
        trainer = begin()
    except (ValueError, OSError, RuntimeError) as error:  # the others wait for this rank
        message = str(error)
    messages = group.gather(message)
    for rank, other in enumerate(messages):
        if other is not None:
            is_common = messages.count(other) == group.size
            raise RunError(other if is_common or rank == 0 else f"on rank {rank}: {other}")
    assert trainer is not None
    try:
        agree(group, _facts(trainer))
        check_batch_size(trainer.config.batch_size, group, "--batch-size")
        check_model(trainer.model)
    except ValueError as error:
        raise RunError(str(error)) from error
    return trainer


def _facts(trainer: Trainer) -> dict[str, object]:
    """What must be equal on all ranks. The data's path may differ."""
    settings = {**vars(trainer.config), **trainer.config.options}
    data, targets = settings.pop("data"), settings.pop("targets")
    del settings["options"]
    parameters = 0
    for tensor in trainer.model.state_dict().values():
        parameters = zlib.crc32(tensor.cpu().numpy().tobytes(), parameters)
    return {
        **{flag(name): value for name, value in settings.items()},
        "the shape of --data": (data.rows, data.visible),
        "the checksum of --data": data.checksum,
        "the shape of --targets": None if targets is None else (targets.rows, targets.visible),
        "the checksum of --targets": None if targets is None else targets.checksum,
        "the run's step": trainer.progress.step,
        "the checksum of its parameters": parameters,
    }


def _changed(checkpoint: Checkpoint, folder: Path, options: Options) -> Config:
    """The configuration with the options that may change.

    Raises:
        RunError: another option differs from the run's.
    """
    config, progress = checkpoint.config, checkpoint.progress
    fixed = {name: value for name, value in options.items() if name not in CHANGEABLE}
    check_options(config.model, fixed)
    fixed = with_sizes(fixed)
    settings = {**vars(config), **config.options}
    for name, value in fixed.items():
        if value != settings[name]:
            raise RunError(
                f"{flag(name)} is {value!r}, but that of the run in {folder} is {settings[name]!r}"
            )
    if options.get("targets") and config.targets is None:
        raise RunError(f"--targets is given, but the run in {folder} has none")
    config = replace(
        config, **{name: options[name] for name in ("epochs", "device") if name in options}
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
    return config


def _load_again(data: DataSummary, folder: Path, moved: str | None, option: str) -> Dataset:
    """The run's data, or its targets, from their old path or from ``moved``.

    Raises:
        RunError, aefast.data.DataError: they are not there, or hold other numbers.
    """
    source = absolute(moved) if moved else data.source
    if not moved and source != "digits" and not os.path.exists(split_member(source)[0]):
        raise RunError(
            f"{cut(source, 300)} is not there, with which the run in {folder} was started; "
            f"{option} says where it is now"
        )
    dataset = load_data(source)
    if summarize(dataset, source) == data:
        return dataset
    if moved and source != data.source:
        raise RunError(
            f"{option} is {moved!r}, but that of the run in {folder} is "
            f"{cut(data.source, 300)!r}, "
            "and holds other numbers"
        )
    raise RunError(f"{dataset.name} is no longer what the run in {folder} was started with")


def _check_steps(trainer: Trainer, file: Path) -> None:
    """Check that a checkpoint's steps and samples follow from its epochs and batches.

    With ``patience`` the stages before may have ended after any number of epochs.

    Raises:
        RunError: they do not: the checkpoint was edited.
    """
    progress, config = trainer.progress, trainer.config
    most = progress.stage * config.epochs
    before = progress.step // trainer.steps_per_epoch - progress.epoch
    is_ended_early = config.patience > 0 and progress.stage <= before <= most
    epochs = (before if is_ended_early else most) + progress.epoch
    steps = epochs * trainer.steps_per_epoch + progress.batch
    samples = epochs * len(trainer.trained) + progress.batch * config.batch_size
    if (progress.step, progress.samples) != (steps, samples):
        raise RunError(
            f"{file} does not fit its run: {progress.step} steps of {progress.samples} samples, "
            f"where stage {progress.stage}, epoch {progress.epoch}, batch {progress.batch} are "
            f"{steps} of {samples}"
        )


def with_sizes(options: Options) -> Options:
    """The options with ``latents`` as ``hidden``, the sizes that every model has."""
    if "latents" not in options:
        return options
    others = {name: value for name, value in options.items() if name != "latents"}
    return {**others, "hidden": [options["latents"]]}


def configure(options: Options, dataset: Dataset, targets: Dataset | None = None) -> Config:
    """A run's configuration: the options, and the defaults of those that are missing."""
    kind = MODELS[options["model"]]
    model_options = {name: options.get(name, default) for name, default in kind.options.items()}
    if model_options.get("output_activation", "") is None:
        model_options["output_activation"] = "sigmoid" if is_unit_interval(dataset) else "identity"
    is_gaussian = model_options.get("visible_kind") == "gaussian"
    rate = GAUSSIAN_MACHINE_RATE if is_gaussian else kind.learning_rate
    return Config(
        model=options["model"],
        hidden=options.get("hidden", list(kind.hidden)),
        options=model_options,
        data=summarize(dataset, absolute(dataset.name)),
        learning_rate=options.get("learning_rate", rate),
        targets=None if targets is None else summarize(targets, absolute(targets.name)),
        **{name: options.get(name, default) for name, default in DEFAULTS.items()},
    )


def absolute(source: str) -> str:
    """A source by its absolute path."""
    if source == "digits":
        return source
    file, member = split_member(source)
    return os.path.abspath(file) + ("" if member is None else f":{member}")


def check_options(model: str, options: Options) -> None:
    """Check the model's name, that it takes the options, and the options' ranges.

    Raises:
        RunError: an option is wrong.
    """
    if model not in MODELS:
        raise RunError(f"MODEL is {model!r}; it takes one of {', '.join(MODELS)}")
    for name in ("latents", "targets"):
        if name in options and model not in DICTIONARIES:
            raise RunError(f"{model} takes no --{name}; it is for {', '.join(DICTIONARIES)}")
    if "latents" in options and "hidden" in options:
        raise RunError("--latents and --hidden are both given; they are one option")
    for name in options:
        option = "kl_weight" if name == "kl_warm_up" else name
        takers = [other for other, kind in MODELS.items() if option in kind.options]
        if takers and model not in takers:
            raise RunError(f"{model} takes no {flag(name)}; it is for {', '.join(takers)}")
    if not 0 < options.get("learning_rate", 1) < math.inf:
        raise RunError(f"--learning-rate is {options['learning_rate']}; it takes a number above 0")
    if not 0 < options.get("learning_rate_decay", 1) <= 1:
        decay = options["learning_rate_decay"]
        raise RunError(f"--learning-rate-decay is {decay}; it takes a number in (0, 1]")
    if not 0 <= options.get("validation", 0) < 1:
        raise RunError(f"--validation is {options['validation']}; it takes a number in [0, 1)")
    if options.get("precision", "highest") not in PRECISIONS:
        takes = ", ".join(PRECISIONS)
        raise RunError(f"--precision is {options['precision']!r}; it takes one of {takes}")


def check_schedule(config: Config) -> None:
    """
    Raises:
        RunError: an option is set without the one that it depends on.
    """
    if config.patience and not config.validation:
        raise RunError(f"--patience is {config.patience}; it takes a --validation above 0")
    if config.kl_warm_up and config.options["bound"] != "elbo":
        raise RunError(f"--kl-warm-up is {config.kl_warm_up}; it takes --bound elbo")


def check_range(config: Config, dataset: Dataset) -> None:
    """
    Raises:
        RunError: the data leave [0, 1], and the model's loss is of probabilities.
    """
    unit_interval = MODELS[config.model].unit_interval
    if unit_interval is None:
        return
    name, value = unit_interval
    if config.options[name] == value and not is_unit_interval(dataset):
        raise RunError(
            f"{dataset.name} holds numbers from {dataset.low:g} to {dataset.high:g}; "
            f"{config.model} with {flag(name)} {value} takes [0, 1]"
        )


def is_unit_interval(dataset: Dataset) -> bool:
    return 0 <= dataset.low <= dataset.high <= 1


def flag(name: str) -> str:
    """An option's name on the command line."""
    return "MODEL" if name == "model" else "--" + name.replace("_", "-")

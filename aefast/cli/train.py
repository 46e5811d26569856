"""``aefast train``: trains a model on data into a folder, and resumes from it."""

import contextlib
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from aefast.backend import BackendUnavailableError
from aefast.cli import train_options as options
from aefast.cli.shared import app, check_device, ended_by_signals, fail, note, require, say
from aefast.messages import printable

if TYPE_CHECKING:  # it imports packages that other commands do not need
    from aefast.distributed.world import World
    from aefast.training.loop import Status, Trainer
    from aefast.training.run import Options

INTERRUPTED = 130


@app.command()
def train(
    context: typer.Context,
    model: options.Model = None,
    out: options.Out = Path("run"),
    resume: options.Resume = False,
    data: options.Data = None,
    targets: options.Targets = None,
    hidden: options.Hidden = None,
    latents: options.Latents = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    learning_rate: options.LearningRate = None,
    learning_rate_decay: options.LearningRateDecay = None,
    validation: options.Validation = None,
    patience: options.Patience = None,
    device: options.Device = None,
    backend: options.Backend = None,
    precision: options.Precision = None,
    seed: options.Seed = None,
    activation: options.Activation = None,
    code_activation: options.CodeActivation = None,
    output_activation: options.OutputActivation = None,
    tied: options.Tied = None,
    code_dropout: options.CodeDropout = None,
    reconstruction: options.Reconstruction = None,
    loss: options.Loss = None,
    corruption: options.Corruption = None,
    corruption_level: options.CorruptionLevel = None,
    contraction: options.Contraction = None,
    penalty: options.Penalty = None,
    sparsity_weight: options.SparsityWeight = None,
    sparsity_target: options.SparsityTarget = None,
    code_noise: options.CodeNoise = None,
    decoder_kind: options.DecoderKind = None,
    variance: options.Variance = None,
    bound: options.Bound = None,
    samples: options.Samples = None,
    kl_weight: options.KlWeight = None,
    kl_warm_up: options.KlWarmUp = None,
    visible_kind: options.VisibleKind = None,
    learn_variance: options.LearnVariance = None,
    k: options.K = None,
    chains: options.Chains = None,
    aux_k: options.AuxK = None,
    dead_after: options.DeadAfter = None,
    bandwidth: options.Bandwidth = None,
    prefixes: options.Prefixes = None,
    normalize_activations: options.NormalizeActivations = None,
    rescale_acts_by_decoder_norm: options.RescaleActsByDecoderNorm = None,
) -> None:
    """Train a model, and keep it, its metrics and all that it takes to go on, in a folder.

    On several processes: torchrun --nproc-per-node 2 -m aefast train ...
    """
    for package in ("safetensors", "tensorboard"):
        require(package, "train")
    settings = config_of(context.params)
    from aefast.distributed.world import is_restarted
    from aefast.training import run

    is_resumed = resume or (is_restarted() and run.is_run(out))
    train_with_ranks(out, settings, is_resumed, lambda: device or run.device_of(out), backend)


def config_of(named: "Options") -> "Options":
    """The options of the run that are on the command line, by name."""
    of_command = ("out", "resume", "backend")
    settings = {
        name: value for name, value in named.items() if value is not None and name not in of_command
    }
    if "loss" in settings:
        if "reconstruction" in settings:
            fail("--loss is the old name of --reconstruction; it takes one of them")
        settings["reconstruction"] = settings.pop("loss")
        note(["--loss is an old name and will be removed: use --reconstruction"])
    for name in ("hidden", "prefixes"):
        if name in settings:
            settings[name] = parse_sizes(settings[name], f"--{name}")
    if "device" in settings:
        check_device(settings["device"])
    return settings


def train_with_ranks(
    out: Path,
    settings: "Options",
    is_resumed: bool,
    device_of_run: Callable[[], str],
    backend: str | None,
) -> None:
    """Train, alone or as one of torchrun's ranks. An error is one line, printed by one rank."""
    from aefast.distributed.group import LateRankError, LostRankError
    from aefast.distributed.world import World, joined
    from aefast.training.loop import DivergenceError

    world = World.alone()
    saved = f"{out} holds the run as last saved"
    try:
        with joined(device_of_run, backend) as world, ended_by_signals():
            begin(world, out, settings, is_resumed)
        return
    except (DivergenceError, FloatingPointError) as error:
        line = world.final_line(f"{error}; {saved}; a lower --learning-rate may help")
    except LostRankError as error:
        is_late = isinstance(error, LateRankError)
        line = world.final_line(None, f"{saved}; --resume goes on with it", is_late=is_late)
    except (ValueError, OSError, BackendUnavailableError) as error:
        line = world.final_line(str(error))
    except SystemExit:
        line = world.final_line(None, f"{saved}; --resume goes on with it", is_signalled=True)
        if line is None:
            raise
    if line is not None and world.store is None:
        fail(line)
    if line is not None:
        say(line)
    raise typer.Exit(2)


def begin(world: "World", out: Path, settings: "Options", is_resumed: bool) -> None:
    """Train in a run's folder, which the first rank locks."""
    from aefast.training import run

    with run.claimed(out) if world.is_first else contextlib.nullcontext() as warning:
        trainer = (run.resume if is_resumed else run.start)(out, settings)
        if world.is_first:
            note([*trainer.dataset.notes, *filter(None, [warning])])
        if trainer.is_finished:
            more_epochs = "" if trainer.is_out_of_patience else "; --epochs takes more"
            if world.is_first:
                typer.echo(f"{summary(trainer)}: nothing is left{more_epochs}")
            return
        with matmul_precision(trainer.config.precision), naming_what_was_saved(out):
            proceed(trainer, out, world)


@contextlib.contextmanager
def naming_what_was_saved(out: Path) -> Iterator[None]:
    """A full disk or a lost folder ends a training: its message says how to go on.

    Raises:
        ValueError: in the place of an OSError.
    """
    from aefast.training import run

    try:
        yield
    except OSError as error:
        try:
            is_there = run.is_run(out)
        except OSError:  # such as a stale handle of a network's folder
            is_there = False
        way_on = (
            f"{out} holds the run as last saved; --resume goes on with it"
            if is_there
            else f"{out} holds no run now: once it does, --resume goes on with it"
        )
        raise ValueError(f"{error}; {way_on}") from error


def parse_sizes(text: str, option: str) -> list[int]:
    sizes = text.split(",")
    if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
        fail(f"{option} is {text!r}; it takes sizes such as 512 or 512,256,30")
    return [int(size) for size in sizes]


def proceed(trainer: "Trainer", out: Path, world: "World") -> None:
    """Train until the end or a signal, with a progress bar in a terminal. The first rank writes the
    files and shows the bar."""
    from aefast.training import checkpoint
    from aefast.training.loop import train
    from aefast.training.metrics import Metrics

    with (
        Metrics(out, trainer.progress.step)
        if world.is_first
        else contextlib.nullcontext() as metrics,
        stop_signals(once=world.group.size > 1) as is_stopped,
        progress_bar(trainer, is_shown=world.is_first) as show,
    ):
        train(
            trainer,
            save=lambda state: checkpoint.save(out, state) if world.is_first else None,
            write=metrics.write if metrics else lambda line: None,
            show=show,
            is_stopped=is_stopped,
        )
    if not trainer.is_finished:
        command = f"aefast train --resume --out {shlex.quote(str(out))}"
        message = f"{summary(trainer)}, and is saved; to go on: {command}"
        if world.is_first:
            typer.echo(printable(message), err=True)
        raise typer.Exit(INTERRUPTED)
    if world.is_first:
        file = checkpoint.BEST_FILE if trainer.config.patience else checkpoint.CHECKPOINT_FILE
        typer.echo(printable(f"{summary(trainer)}; wrote {out / file}"))


def summary(trainer: "Trainer") -> str:
    config, progress = trainer.config, trainer.progress
    return (
        f"{config.model} {'-'.join(map(str, config.sizes))} has {progress.step} steps, "
        f"{progress.epoch} of {config.epochs} epochs{of_stage(trainer)}, "
        f"{progress.seconds:.1f} s of training behind it{end_of_patience(trainer)}"
    )


def end_of_patience(trainer: "Trainer") -> str:
    if not trainer.is_out_of_patience:
        return ""
    return f", and was no better on held-out rows for {trainer.config.patience} epochs"


def of_stage(trainer: "Trainer") -> str:
    return f" of {trainer.stage.label}" if len(trainer.stages) > 1 else ""


@contextlib.contextmanager
def progress_bar(trainer: "Trainer", is_shown: bool) -> Iterator[Callable[["Status"], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[figures]}, {task.fields[rate]:,.0f} {task.fields[rows]}/s"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    # Without a thread to refresh it, which would interrupt the loop.
    with Progress(
        *columns,
        console=console,
        auto_refresh=False,
        disable=not (is_shown and console.is_terminal),
    ) as bar:
        task = bar.add_task(
            "", total=trainer.steps_left, figures="", rate=0.0, rows=trainer.kind.rows
        )
        total = trainer.steps_left

        def show(status: "Status") -> None:
            epoch = f"epoch {trainer.progress.epoch} of {trainer.config.epochs}{of_stage(trainer)}"
            steps_done = total - trainer.steps_left
            rate = status.samples_per_second
            named = {"loss": status.loss, **status.metrics}
            figures = ", ".join(f"{name.replace('_', ' ')} {n:.5f}" for name, n in named.items())
            bar.update(task, description=epoch, completed=steps_done, figures=figures, rate=rate)
            bar.refresh()

        yield show


@contextlib.contextmanager
def stop_signals(once: bool) -> Iterator[Callable[[], bool]]:
    """Catch Ctrl-C and SIGTERM, so that the training stops between two steps and saves.

    Args:
        once: keep catching them: torchrun sends its ranks each signal again. Otherwise a second
            signal ends the program at once.

    Yields:
        a function: whether a signal was received.
    """
    received: list[int] = []

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note_signal(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if not once:
            restore()

    before = {
        number: signal.signal(number, note_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: bool(received)
    finally:
        restore()


@contextlib.contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)

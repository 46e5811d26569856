"""``aefast train``: trains a model on data into a folder, and resumes from it."""

import contextlib
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from aefast.backend import BackendUnavailableError
from aefast.cli.shared import app, check_device, ended_by_signals, fail, note, require, say
from aefast.messages import printable
from aefast.random import SEED_LIMIT

if TYPE_CHECKING:  # it takes packages that other commands do without
    from aefast.distributed.world import World
    from aefast.training.loop import Look, Trainer

INTERRUPTED = 130
LARGEST = 2**31 - 1


@app.command()
def train(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            help="ae, dae, cae, sae, stochastic, vae, rbm, dbn, topk, batchtopk, "
            "jumprelu, gated or matryoshka."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The run's folder.")] = Path("run"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, with its options.")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(
            help="digits, or a .npy, .npz, .csv, .tsv or IDX file, or a folder of images or of "
            ".safetensors and .npy shards. How each is read is one table: python -m pydoc "
            "aefast.data."
        ),
    ] = None,
    hidden: Annotated[
        str | None,
        typer.Option(
            help="Units of the hidden layers, from the data up: 512,256,30. 128; of a vae 128,16; "
            "of a dbn 128,64."
        ),
    ] = None,
    latents: Annotated[
        int | None,
        typer.Option(
            min=1, max=LARGEST, help="topk and its kin, the last five: as --hidden; 16384."
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Passes over the data, of a dbn for each machine; 100."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, max=LARGEST, help="Rows a step; 128.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of Adam, 0.003; of an rbm or dbn, 0.1.")
    ] = None,
    learning_rate_decay: Annotated[
        float | None, typer.Option(help="What it is multiplied by after each epoch; 1.")
    ] = None,
    validation: Annotated[
        float | None, typer.Option(help="The share of the rows to hold out, such as 0.1; none.")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=LARGEST,
            help="End after so many epochs without a better held-out loss; of an rbm or dbn, "
            "pseudo-likelihood, or of gaussian units reconstruction error.",
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    backend: Annotated[
        str | None,
        typer.Option(help="Of several ranks: gloo or nccl; gloo on a cpu, nccl on cuda."),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Of float32 products: highest, high or medium.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=SEED_LIMIT - 1)] = None,
    activation: Annotated[str | None, typer.Option(help="Of the hidden layers.")] = None,
    code_activation: Annotated[str | None, typer.Option(help="Of the code.")] = None,
    output_activation: Annotated[
        str | None, typer.Option(help="Of the last layer; sigmoid for data in [0, 1].")
    ] = None,
    tied: Annotated[
        bool | None, typer.Option("--tied", help="The decoder takes the encoder's weights.")
    ] = None,
    code_dropout: Annotated[float | None, typer.Option(help="Of the code's elements.")] = None,
    reconstruction: Annotated[
        str | None, typer.Option(help="The reconstruction's error: mse or bce.")
    ] = None,
    loss: Annotated[
        str | None, typer.Option(hidden=True, help="The old name of --reconstruction.")
    ] = None,
    corruption: Annotated[
        str | None, typer.Option(help="dae: masking, salt_and_pepper or gaussian.")
    ] = None,
    corruption_level: Annotated[float | None, typer.Option(help="dae.")] = None,
    contraction: Annotated[float | None, typer.Option(help="cae: the penalty's factor.")] = None,
    penalty: Annotated[str | None, typer.Option(help="sae: kl or l1.")] = None,
    sparsity_weight: Annotated[
        float | None, typer.Option(help="sae, rbm, jumprelu, gated: the penalty's factor.")
    ] = None,
    sparsity_target: Annotated[
        float | None, typer.Option(help="sae, rbm: the units' mean activity.")
    ] = None,
    code_noise: Annotated[
        float | None, typer.Option(help="stochastic: the code's standard deviation.")
    ] = None,
    decoder_kind: Annotated[
        str | None, typer.Option(help="stochastic, vae: bernoulli or gaussian.")
    ] = None,
    variance: Annotated[
        str | None, typer.Option(help="vae, gaussian: shared or units, one each.")
    ] = None,
    bound: Annotated[str | None, typer.Option(help="vae: elbo or importance.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="vae: codes drawn a row.")] = None,
    kl_weight: Annotated[
        float | None, typer.Option(help="vae: the divergence's factor; 1.")
    ] = None,
    kl_warm_up: Annotated[
        int | None,
        typer.Option(min=0, max=LARGEST, help="vae: epochs in which it grows from 0."),
    ] = None,
    visible_kind: Annotated[
        str | None, typer.Option(help="rbm, dbn: bernoulli or gaussian.")
    ] = None,
    learn_variance: Annotated[
        bool | None, typer.Option("--learn-variance", help="rbm, dbn: of gaussian units.")
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(
            min=1, help="rbm, dbn: Gibbs steps a step; topk, batchtopk, matryoshka: active latents."
        ),
    ] = None,
    chains: Annotated[int | None, typer.Option(min=0, help="rbm, dbn: persistent ones.")] = None,
    aux_k: Annotated[
        int | None,
        typer.Option(
            min=0, max=LARGEST, help="topk and kin: dead latents that learn what is left."
        ),
    ] = None,
    dead_after: Annotated[
        int | None, typer.Option(min=0, help="topk and kin: tokens without a part; ten million.")
    ] = None,
    bandwidth: Annotated[
        float | None, typer.Option(help="jumprelu: of the estimated gradient; 0.05.")
    ] = None,
    prefixes: Annotated[
        str | None, typer.Option(help="matryoshka: latents that reconstruct alone: 1024,16384.")
    ] = None,
) -> None:
    """Train a model, and keep it, its metrics and all that it takes to go on, in a folder.

    On several processes: torchrun --nproc-per-node 2 -m aefast train ...
    """
    for package in ("safetensors", "tensorboard"):
        require(package, "train")
    named = context.params.items()
    given = {name: value for name, value in named if name not in ("out", "resume", "backend")}
    given = {name: value for name, value in given.items() if value is not None}
    if loss is not None:
        if reconstruction is not None:
            fail("--loss is the old name of --reconstruction; it takes one of them")
        given["reconstruction"] = given.pop("loss")
        note(["--loss is an old name and will be removed: use --reconstruction"])
    if hidden is not None:
        given["hidden"] = parse_sizes(hidden)
    if prefixes is not None:
        given["prefixes"] = parse_sizes(prefixes, "--prefixes")
    if device is not None:
        check_device(device)
    from aefast.distributed.group import LostRankError
    from aefast.distributed.world import World, is_restarted, joined
    from aefast.training import run
    from aefast.training.loop import DivergenceError

    is_resumed = resume or (is_restarted() and run.is_run(out))
    world = World.alone()
    saved = f"{out} holds the run as last saved"
    try:
        with joined(lambda: device or run.device_of(out), backend) as world, ended_by_signals():
            begin(world, out, given, is_resumed)
        return
    except (DivergenceError, FloatingPointError) as error:
        line = world.last_line(f"{error}; {saved}; a lower --learning-rate may help")
    except LostRankError:
        line = world.last_line(None, f"{saved}; --resume goes on with it")
    except (ValueError, OSError, BackendUnavailableError) as error:
        line = world.last_line(str(error))
    except SystemExit:
        line = world.last_line(None, f"{saved}; --resume goes on with it", is_asked=True)
        if line is None:
            raise
    if line is not None and world.store is None:
        fail(line)
    if line is not None:
        say(line)
    raise typer.Exit(2)


def begin(world: "World", out: Path, given: dict[str, Any], is_resumed: bool) -> None:
    """Train in a run's folder, which the first rank has for itself."""
    from aefast.training import run

    with run.claimed(out) if world.is_first else contextlib.nullcontext() as doubt:
        trainer = (run.resume if is_resumed else run.start)(out, given)
        if world.is_first:
            note([*trainer.dataset.notes, *filter(None, [doubt])])
        if trainer.is_finished:
            way_on = "" if trainer.is_out_of_patience else "; --epochs takes more"
            if world.is_first:
                typer.echo(f"{summary(trainer)}: nothing is left{way_on}")
            return
        with matmul_precision(trainer.config.precision):
            proceed(trainer, out, world)


def parse_sizes(text: str, option: str = "--hidden") -> list[int]:
    sizes = text.split(",")
    if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
        fail(f"{option} is {text!r}; it takes sizes such as 512 or 512,256,30")
    return [int(size) for size in sizes]


def proceed(trainer: "Trainer", out: Path, world: "World") -> None:
    """Train, with a bar where there is a terminal, until the end or a signal; the first rank writes
    and shows."""
    from aefast.training import checkpoint
    from aefast.training.loop import train
    from aefast.training.metrics import Metrics

    with (
        Metrics(out, trainer.progress.step)
        if world.is_first
        else contextlib.nullcontext() as metrics,
        asked_to_stop(once=world.group.size > 1) as is_stopped,
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
        typer.echo(printable(f"{summary(trainer)}; wrote {out / checkpoint.CHECKPOINT_FILE}"))


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
def progress_bar(trainer: "Trainer", is_shown: bool) -> Iterator[Callable[["Look"], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[figures]}, {task.fields[rate]:,.0f} {task.fields[rows]}/s"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    # No thread of its own: it would take the interpreter from the loop at any moment.
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

        def show(look: "Look") -> None:
            epoch = f"epoch {trainer.progress.epoch} of {trainer.config.epochs}{of_stage(trainer)}"
            done = total - trainer.steps_left
            rate = look.samples_per_second
            named = {"loss": look.loss, **look.figures}
            figures = ", ".join(f"{name.replace('_', ' ')} {n:.5f}" for name, n in named.items())
            bar.update(task, description=epoch, completed=done, figures=figures, rate=rate)
            bar.refresh()

        yield show


@contextlib.contextmanager
def asked_to_stop(once: bool) -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM came, which the loop asks between two steps; a second one ends
    the program at once, unless they count ``once``: torchrun sends its ranks another one."""
    asked: list[int] = []

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if not once:
            restore()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
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

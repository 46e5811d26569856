"""Whole steps and hot paths on one thread; their other cases take all threads."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import bench_contractive
import bench_corrupt
import bench_linear_act
import bench_rbm
import bench_reconstruction
import bench_step
import pytest
import torch
from harness import Case
from shapes import ONE_THREAD, Shape

BOTH = "fwd+bwd"


def op_cases(batch: int, visible: int, hidden: int) -> dict[str, Case]:
    """Each hot path at one shape."""
    common: tuple[Any, ...] = "cpu", torch.float32, batch
    layer = bench_linear_act.LayerInputs(*common, visible, hidden)
    encoder = bench_reconstruction.Autoencoder(*common, (visible, hidden))
    autoencoder = bench_reconstruction.Autoencoder(*common, (visible, hidden, visible))
    machine = bench_rbm.Machine("cpu", batch, visible, hidden)
    loss, penalty = bench_reconstruction, bench_contractive
    closed_form = "highest, eager is the closed form"
    return {
        "corrupt": bench_corrupt.case("masking", "cpu", batch, visible),
        "linear_act": bench_linear_act.training_case(layer, "highest"),
        "reconstruction": loss.case(autoencoder, BOTH, "highest", loss.ours, loss.eager),
        "contractive": penalty.case(encoder, BOTH, closed_form, penalty.ours, penalty.closed_form),
        "gibbs": bench_rbm.case(machine, "rand < p"),
    }


OPS = ("corrupt", "linear_act", "reconstruction", "contractive", "gibbs")


@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize("measured", bench_step.CASES)
@bench_step.each_model([], itertools.product(bench_step.KINDS_OF_GRID, ONE_THREAD))
def test_model(
    compare: Callable[[Case], None],
    kind: bench_step.Kind,
    shape: Shape,
    measured: str,
    device: str,
) -> None:
    compare(on_one_thread(bench_step.CASES[measured](kind, shape)))


@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("shape", ONE_THREAD, ids=str)
def test_op(compare: Callable[[Case], None], shape: Shape, op: str, device: str) -> None:
    compare(on_one_thread(op_cases(shape.batch, *shape.widths)[op]))


def on_one_thread(case: Case) -> Case:
    """The case on one thread, without torch.compile, which would take minutes."""
    return replace(case, name=f"{case.name}, 1 thread", threads=1, compiles=False)

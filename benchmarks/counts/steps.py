"""Python calls and tensors that a call of a hot path, or a step of training, makes.

A Python call is one of a function, of Python's or of C's, as ``sys.setprofile`` sees them; a tensor
is a block of memory that torch allocates. Both are the same in every run of the same versions.
"""

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import aefast
from aefast import backend, functional, nn
from aefast.ops.shared import product_routes

Call = Callable[[], object]

BATCH, VISIBLE, HIDDEN = 32, 64, 32
WARM_UP_CALLS = 3


@contextmanager
def one_route() -> Iterator[None]:
    """Our own products on one thread, whichever serve on this processor."""
    threads, outpaces = torch.get_num_threads(), product_routes._outpaces
    torch.set_num_threads(1)
    product_routes._outpaces = lambda *_: True
    try:
        yield
    finally:
        product_routes._outpaces = outpaces
        torch.set_num_threads(threads)


@contextmanager
def silent() -> Iterator[None]:
    """Silence the lines that the profiler prints at its start and its end."""
    with open(os.devnull, "w") as nowhere:
        stderr = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def gradients(loss: Callable[..., Tensor], *leaves: Tensor) -> Call:
    return lambda: torch.autograd.grad(loss(*leaves), leaves)


def calls_of_ops() -> dict[str, Call]:
    """Each op that has kernels, as a user calls it: seeded, forward and backward."""
    x, states = torch.rand(BATCH, VISIBLE), torch.rand(BATCH, VISIBLE).round()
    weight = torch.randn(HIDDEN, VISIBLE).mul(0.1).requires_grad_()
    bias, visible_bias = torch.zeros(HIDDEN).requires_grad_(), torch.zeros(VISIBLE).requires_grad_()
    decoder = torch.randn(VISIBLE, HIDDEN).mul(0.1).requires_grad_()
    mean, log_var = (torch.randn(BATCH, HIDDEN).requires_grad_() for _ in range(2))
    code = torch.rand(BATCH, HIDDEN).requires_grad_()
    machine = weight, visible_bias, bias
    atoms = torch.randn(HIDDEN, VISIBLE).requires_grad_()
    few, threshold = torch.rand(BATCH, 4).requires_grad_(), torch.full((HIDDEN,), 0.1)
    latents, threshold = torch.randint(HIDDEN, (BATCH, 4)), threshold.requires_grad_()
    return {
        "corrupt": lambda: functional.corrupt(x, "masking", 0.3, seed=7),
        "linear_act": gradients(
            lambda w, b: functional.linear_act(x, w, b, "sigmoid").sum(), weight, bias
        ),
        "reconstruction_loss": gradients(
            lambda *p: functional.reconstruction_loss(x, *p), weight, bias, decoder, visible_bias
        ),
        "contractive_penalty": gradients(
            lambda w, b: functional.contractive_penalty(x, w, b).mean(), weight, bias
        ),
        "gibbs": lambda: functional.gibbs(states, *(p.detach() for p in machine), k=1, seed=7),
        "contrastive_divergence": gradients(
            lambda *p: functional.contrastive_divergence(states, *p, seed=7)[0], *machine
        ),
        "reparameterize": gradients(
            lambda m, v: functional.reparameterize(m, v, seed=7).sum(), mean, log_var
        ),
        "gaussian_kl": gradients(lambda m, v: functional.gaussian_kl(m, v).sum(), mean, log_var),
        "kl_sparsity": gradients(lambda c: functional.kl_sparsity(c, 0.05), code),
        "topk_encode": gradients(
            lambda w, b: functional.topk_encode(x, w, b, 4).values.sum(), weight, bias
        ),
        "sparse_reconstruction_loss": gradients(
            lambda v, w: functional.sparse_reconstruction_loss(v, latents, w, None, x), few, atoms
        ),
        "jumprelu_encode": gradients(
            lambda w, b, t: functional.jumprelu_encode(x, w, b, t, 0.1).values.sum(),
            *(weight, bias, threshold),
        ),
        "mlp": gradients(
            lambda w, b, v, c: functional.mlp(x, [w, v], [b, c], ["sigmoid"] * 2).sum(),
            *(weight, bias, decoder, visible_bias),
        ),
    }


MODELS: dict[str, Callable[[], Any]] = {
    "plain": lambda: nn.Autoencoder(VISIBLE, HIDDEN),
    "denoising": lambda: nn.DenoisingAutoencoder(VISIBLE, HIDDEN),
    "contractive": lambda: nn.ContractiveAutoencoder(VISIBLE, HIDDEN),
    "sparse": lambda: nn.SparseAutoencoder(VISIBLE, HIDDEN),
    "variational": lambda: nn.VariationalAutoencoder(VISIBLE, 8, layers=[HIDDEN]),
    "rbm": lambda: nn.RBM(VISIBLE, HIDDEN),
    "top-k": lambda: nn.TopKSparseAutoencoder(VISIBLE, HIDDEN, 4),
    "gated": lambda: nn.GatedSparseAutoencoder(VISIBLE, HIDDEN),
}


def calls_of_models() -> dict[str, Call]:
    """A step of the loss, and a whole call of ``aefast.fit`` of two steps and of twenty."""
    calls: dict[str, Call] = {}
    for name, kind in MODELS.items():
        model, x = kind(), torch.rand(BATCH, VISIBLE).round()
        optimizer = torch.optim.Adam(model.parameters(), fused=True)
        calls[f"loss and backward, {name}"] = lambda m=model, x=x: m.loss(x).backward()
        for steps in (2, 20):
            data = x.repeat(steps, 1)
            calls[f"fit of {steps} steps, {name}"] = lambda m=model, o=optimizer, data=data: (
                aefast.fit(m, data, o, batch_size=BATCH, seed=7)
            )
    return calls


def count() -> dict[str, dict[str, int]]:
    """``{"Python calls": {case: count}, "tensors": {case: count}}``."""
    torch.manual_seed(0)
    with one_route():
        counted = counts_of(calls_of_models())
        with backend.use_backend("cpp"):  # for few rows some ops would take torch's operators
            of_ops = counts_of(calls_of_ops())
    return {measure: of_ops[measure] | cases for measure, cases in counted.items()}


def counts_of(calls: dict[str, Call]) -> dict[str, dict[str, int]]:
    counted: dict[str, dict[str, int]] = {"Python calls": {}, "tensors": {}}
    for name, call in calls.items():
        for _ in range(WARM_UP_CALLS):
            call()
        counted["Python calls"][name] = python_calls(call)
        counted["tensors"][name] = tensors(call)
    return counted


def python_calls(call: Call) -> int:
    events = 0

    def note(_: object, event: str, __: object) -> None:
        nonlocal events
        events += event in ("call", "c_call")

    gc.disable()  # what it finds to collect, and when, is not this call's
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
        gc.enable()
    return events - 1  # sys.setprofile itself


def tensors(call: Call) -> int:
    activities = [torch.profiler.ProfilerActivity.CPU]
    with silent(), torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        call()
    events = profile.profiler.kineto_results.events()
    return sum(event.name() == "[memory]" and event.nbytes() > 0 for event in events)


def versions() -> str:
    """The versions that the counts depend on."""
    python = ".".join(map(str, sys.version_info[:2]))
    return f"Python {python}, torch {'.'.join(torch.__version__.split('.')[:2])}"

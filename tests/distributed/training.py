"""What the ranks of a test's process group train; without pytest, which they do without."""

import os
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import aefast
from aefast import backend, torch_private
from aefast import nn as models
from aefast.distributed import gradients, shared_memory
from aefast.distributed.group import current
from aefast.ops.shared import product_routes
from aefast.step import loss

ROWS, VISIBLE = 101, 12


def rows() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(ROWS, VISIBLE, generator=generator) < 0.4).float()


class Regression(torch.nn.Linear):
    def loss(self, x: Tensor, *, target: Tensor, seed: int | None = None) -> Tensor:
        return torch.nn.functional.mse_loss(self(x), target)


MODELS: dict[str, Any] = {
    "ae": lambda: models.Autoencoder(VISIBLE, 8),
    "deep, tied, dropout": lambda: models.Autoencoder(
        layers=[VISIBLE, 10, 6], tied=True, code_dropout=0.2
    ),
    "masking": lambda: models.DenoisingAutoencoder(VISIBLE, 8, corruption_level=0.3),
    "gaussian": lambda: models.DenoisingAutoencoder(
        layers=[VISIBLE, 10, 6], corruption="gaussian", corruption_level=0.3
    ),
    "contractive": lambda: models.ContractiveAutoencoder(VISIBLE, 8, contraction=0.1),
    "deep contractive": lambda: models.ContractiveAutoencoder(
        layers=[VISIBLE, 10, 6], contraction=0.1
    ),
    "sparse kl": lambda: models.SparseAutoencoder(
        VISIBLE, 8, sparsity_weight=0.1, code_dropout=0.2
    ),
    "sparse l1": lambda: models.SparseAutoencoder(VISIBLE, 8, penalty="l1", sparsity_weight=0.1),
    "stochastic": lambda: models.StochasticAutoencoder(VISIBLE, 8, code_noise=0.3),
    "vae": lambda: models.VariationalAutoencoder(VISIBLE, layers=[8], latent=3),
    "vae gaussian": lambda: models.VariationalAutoencoder(
        VISIBLE, layers=[8], latent=3, decoder_kind="gaussian", samples=2
    ),
    "vae importance": lambda: models.VariationalAutoencoder(
        VISIBLE, layers=[8], latent=3, bound="importance", samples=3
    ),
    "topk": lambda: models.TopKSparseAutoencoder(VISIBLE, 40, 3, aux_k=4, dead_after=60),
    "batchtopk": lambda: models.BatchTopKSparseAutoencoder(
        VISIBLE, 40, 2.5, aux_k=4, dead_after=60
    ),
    "matryoshka": lambda: models.MatryoshkaSparseAutoencoder(
        VISIBLE, 40, 3, prefixes=[8, 40], aux_k=4, dead_after=60
    ),
    "jumprelu": lambda: models.JumpReLUSparseAutoencoder(VISIBLE, 40, aux_k=4, dead_after=60),
    "gated": lambda: models.GatedSparseAutoencoder(VISIBLE, 40, aux_k=4, dead_after=60),
    "transcoder": lambda: models.TopKSparseAutoencoder(
        VISIBLE, 40, 3, outputs=5, aux_k=4, dead_after=60
    ),
    "batch transcoder": lambda: models.BatchTopKSparseAutoencoder(
        VISIBLE, 40, 3, outputs=5, aux_k=4, dead_after=60
    ),
    "own loss with a target": lambda: Regression(VISIBLE, 5),
    "rbm": lambda: models.RBM(VISIBLE, 8),
    "rbm sparse": lambda: models.RBM(VISIBLE, 8, sparsity_target=0.1),
    "rbm chains": lambda: models.RBM(VISIBLE, 8, chains=7, k=2),
    "rbm gaussian": lambda: models.RBM(
        VISIBLE, 8, visible_kind="gaussian", learn_variance=True, chains=7
    ),
}


# Whose shares are computed in parts: by the kernels and by the loop.
IN_PARTS = (
    *("masking", "vae", "vae gaussian"),
    *("sparse kl", "topk", "jumprelu", "gated", "transcoder"),
    *("rbm sparse", "rbm chains", "rbm gaussian"),
)

# Which learn targets of their inputs.
OF_PAIRS = ("transcoder", "batch transcoder", "own loss with a target")


def data_of(name: str) -> Any:
    x = rows()
    return (x, x[:, :5] - x[:, 5:10]) if name in OF_PAIRS else x


def new(name: str) -> Any:
    torch.manual_seed(0)
    return MODELS[name]()


def trained(
    name: str, steps: int, batch_size: int = 20, rate: float = 0.05, **options: Any
) -> dict[str, Any]:
    """Its state and its losses after so many steps of gradient descent, or up to an epoch more."""
    model = new(name)
    optimizer = torch.optim.SGD(model.parameters(), rate)
    epochs = -(-steps // -(-ROWS // batch_size))
    options = {"epochs": epochs, "batch_size": batch_size, "seed": 5, **options}
    history = aefast.fit(model, data_of(name), optimizer, **options)
    return {
        "losses": history.losses,
        "engine": history.engine,
        "reason": history.reason,
        **model.state_dict(),
    }


def trained_of_all(steps: int, names: list[str]) -> dict[str, dict[str, Any]]:
    """Of those that can be, also in micro-batches."""
    states = {name: trained(name, steps) for name in names}
    for name in IN_PARTS:
        states[f"{name} in parts"] = trained(name, steps, micro_batch_size=3)
    return states


def stacked() -> dict[str, Any]:
    """A stack's state, of machines that began otherwise on each rank, and of seeds that each rank
    would draw otherwise."""
    torch.manual_seed(current().rank)
    stack = models.DeepBeliefStack([VISIBLE, 8, 4])
    stack.fit(rows(), epochs=2, batch_size=20)
    return stack.state_dict()


def trained_over_the_network(names: list[str]) -> dict[str, dict[str, Any]]:
    """With gradients summed by gloo, in buckets of a parameter or two."""
    with (
        mock.patch.object(shared_memory, "_new_memory", return_value="a test's"),
        mock.patch.object(gradients, "BUCKET_BYTES", 300),
    ):
        return {name: trained(name, 12) for name in names}


def trained_on_two_processors() -> dict[str, Any]:
    """Where the second rank's processor has a faster product than ours."""
    is_second = current().rank == 1
    with (
        mock.patch.object(loss, "MOST_PRODUCTS", 0),
        mock.patch.object(product_routes, "_outpaces", return_value=not is_second),
    ):
        return trained("ae", 12)


def reasons() -> dict[str, str]:
    """Why memory is shared or not: always, with too little of it, where ranks are on several
    machines, and where one of them lacks something."""
    is_second = current().rank == 1

    def reason(count: int = 5) -> str:
        try:
            return shared_memory.way_of(shared_memory.shared_blocks(current(), count, 1), current())
        except ValueError as error:
            return f"{type(error).__name__}: {error}"

    def own_token(path: str) -> bytes:
        return bytes([current().rank]) * shared_memory.TOKEN_BYTES

    outcomes = {"one machine": reason()}
    with mock.patch("os.posix_fallocate", side_effect=OSError(28, "No space left on device")):
        outcomes["no space"] = reason()
    with mock.patch.object(shared_memory, "_free_bytes", return_value=100.0):
        outcomes["little memory"] = reason()
    with mock.patch.object(shared_memory, "MEMORY_INFO", Path("/proc/none")):
        outcomes["no /proc"] = reason()
    with mock.patch.object(shared_memory, "_token", own_token):
        outcomes["several machines"] = reason()
    with mock.patch.object(shared_memory, "_address", return_value=("/proc/0/fd/0", b"")):
        outcomes["hidden processes"] = reason()
    with mock.patch.object(shared_memory, "_free_bytes", side_effect=KeyError("a number")):
        outcomes["odd numbers"] = reason()
    with mock.patch.object(os, "pidfd_open", os.pidfd_open):
        if is_second:
            del os.pidfd_open
        outcomes["an older Python"] = reason()
    unbuilt = "it was not built" if is_second else None
    with mock.patch.object(backend, "unavailable", return_value=unbuilt):
        outcomes["no extension"] = reason()
    with mock.patch.object(torch_private, "timeout", side_effect=AttributeError("no timeout")):
        outcomes["another torch"] = reason()
    outcomes["other sizes"] = reason(5 + is_second)
    return outcomes

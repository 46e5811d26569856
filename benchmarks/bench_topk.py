"""Sparse autoencoders over many latents: encoding alone, and the whole training step.

The step is the loss, its gradients and torch's fused Adam, on both sides. What a user would write
is dense (topk, scatter, a product) or, quicker, decodes by ``embedding_bag``.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from harness import Case, Limit, assert_mostly_close
from torch import Tensor, nn

from aefast.functional import batch_topk_encode, linear_act, sparse_decode, topk_encode
from aefast.nn import TopKSparseAutoencoder
from aefast.nn.dictionary import SparseDictionary

LEARNING_RATE = 1e-4

Reconstruct = Callable[[TopKSparseAutoencoder, Tensor, Tensor], Tensor]
Contender = tuple[Callable[[Tensor], Tensor], nn.Module]  # takes a step, and the model it trains


def dense_decoder(model: TopKSparseAutoencoder, values: Tensor, indices: Tensor) -> Tensor:
    code = values.new_zeros(len(values), model.latents).scatter(1, indices, values)
    return torch.addmm(model.decoder_bias, code, model.decoder_weight)


def embedding_bag(model: TopKSparseAutoencoder, values: Tensor, indices: Tensor) -> Tensor:
    rows = F.embedding_bag(indices, model.decoder_weight, per_sample_weights=values, mode="sum")
    return rows + model.decoder_bias


DECODERS: dict[str, Reconstruct] = {"dense": dense_decoder, "embedding_bag": embedding_bag}


def plain_loss(model: TopKSparseAutoencoder, x: Tensor, decode: Reconstruct) -> Tensor:
    """The loss in PyTorch's own operators, with the module's count of idle latents."""
    dense = F.linear(x - model.decoder_bias, model.encoder_weight, model.encoder_bias)
    values, indices = dense.topk(model.k, sorted=False)
    return F.mse_loss(decode(model, values.relu(), indices), x)


# From a layer of a language model to its latents, and two of embeddings.
WIDTHS = [(512, 8192), (768, 16384), (768, 2048)]


@dataclass(frozen=True)
class Size:
    """A batch and a model."""

    rows: int
    width: int
    latents: int
    k: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.width}-{self.latents} k{self.k}"

    def model(self, device: str) -> TopKSparseAutoencoder:
        return TopKSparseAutoencoder(self.width, self.latents, self.k, device=device)

    def rows_of_data(self, device: str) -> Tensor:
        return torch.randn(self.rows, self.width, device=device)


STEPS = [Size(1024, width, latents, 32) for width, latents in WIDTHS]
STEPS += [Size(1024, 512, 8192, 128)]
# A third number of latents, and a third k, for the curves of growth.
BETWEEN = [Size(1024, 768, 8192, 32), Size(1024, 512, 8192, 8)]
SMALL = Size(50, 20, 90, 5)


class Training:
    """One contender's model and optimizer; a call is a step."""

    def __init__(self, model: SparseDictionary, loss: Callable[..., Tensor]) -> None:
        self.model, self.loss = model, loss
        self.optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, fused=True)

    def __call__(self, x: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        loss = self.loss(self.model, x)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def our_loss(model: SparseDictionary, x: Tensor) -> Tensor:
    return model.loss(x)


def contenders(size: Size, device: str, decoder: str) -> tuple[Training, Training]:
    """Both contenders, with the same initial parameters."""
    model = size.model(device)
    decode = DECODERS[decoder]
    theirs = Training(copy.deepcopy(model), lambda model, x: plain_loss(model, x, decode))
    return Training(model, our_loss), theirs


def compare_steps(ours: Contender, theirs: Contender, x: Tensor) -> None:
    """Compare the losses of the timed contenders' first step, and the parameters after it."""
    (our_step, our_model), (their_step, their_model) = ours, theirs
    torch.testing.assert_close(our_step(x), their_step(x), rtol=1e-4, atol=0.0)
    # Adam's first step is the learning rate in the direction of the gradient's sign.
    assert_mostly_close(
        our_model.parameters(), their_model.parameters(), rtol=1e-3, atol=LEARNING_RATE / 10
    )


@pytest.mark.parametrize(
    ("decoder", "size"),
    [
        *((decoder, size) for decoder in DECODERS for size in STEPS),
        *(("embedding_bag", size) for size in BETWEEN),
    ],
    ids=str,
)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_step(compare: Callable[[Case], None], device: str, decoder: str, size: Size) -> None:
    ours, theirs = contenders(size, device, decoder)
    weight, bias = ours.model.encoder_weight, ours.model.encoder_bias
    limit = Limit(
        "the encoder's product",
        lambda x: linear_act(x, weight, bias),
        2.0 * size.rows * size.width * size.latents,
        "TFLOP/s",
    )
    compare(
        Case(
            op="topk",
            name=f"step against {decoder}, {size} float32",
            device=device,
            dtype=torch.float32,
            make_inputs=lambda: (size.rows_of_data(device),),
            ours=ours,
            eager=theirs,
            check=lambda: compare_steps(
                (ours, ours.model), (theirs, theirs.model), size.rows_of_data(device)
            ),
            limit=limit,
            compiles=False,
        )
    )


def plain_topk(x: Tensor, weight: Tensor, bias: Tensor, k: int) -> Tensor:
    return F.linear(x, weight, bias).topk(k).values


def plain_batch_topk(x: Tensor, weight: Tensor, bias: Tensor, k: int) -> Tensor:
    """The batch's largest, in no order: where they are one would look up next."""
    return F.linear(x, weight, bias).flatten().topk(k * len(x), sorted=False).values


def sorted_values(values: Tensor) -> Tensor:
    """Those that are not 0, which fills up what a row has less, from the lowest on."""
    return values[values != 0].sort().values


ENCODERS = {
    "topk_encode": (topk_encode, plain_topk),
    "batch_topk_encode": (batch_topk_encode, plain_batch_topk),
}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("topk_encode", STEPS[0]),
        ("topk_encode", Size(4096, 64, 65536, 32)),
        ("batch_topk_encode", STEPS[0]),
    ],
    ids=str,
)
def test_encode(compare: Callable[[Case], None], device: str, name: str, size: Size) -> None:
    model = size.model(device).requires_grad_(False)
    weight, bias = model.encoder_weight, model.encoder_bias
    encode, plain = ENCODERS[name]

    def ours(x: Tensor) -> Tensor:
        return encode(x, weight, bias, size.k).values

    def eager(x: Tensor) -> Tensor:
        return plain(x, weight, bias, size.k)

    def check() -> None:
        x = size.rows_of_data(device)
        torch.testing.assert_close(sorted_values(ours(x)), sorted_values(eager(x)))

    compare(
        Case(
            op="topk",
            name=f"{name} {size} float32",
            device=device,
            dtype=torch.float32,
            make_inputs=lambda: (size.rows_of_data(device),),
            ours=ours,
            eager=eager,
            check=check,
            compiles=False,
        )
    )


def plain_decode(values: Tensor, indices: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.embedding_bag(indices, weight, per_sample_weights=values, mode="sum") + bias


def decode_and_backward(decode: Callable[..., Tensor], *code: Tensor) -> tuple[Tensor, ...]:
    values, indices, weight, bias = code
    output = decode(values, indices, weight, bias)
    loss = output.square().mean()
    return output.detach(), *torch.autograd.grad(loss, (values, weight, bias))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("size", STEPS[:1], ids=str)
def test_decode(compare: Callable[[Case], None], device: str, size: Size) -> None:
    model = size.model(device)
    weight, bias = model.decoder_weight, model.decoder_bias

    def code() -> tuple[Tensor, ...]:
        values = torch.rand(size.rows, size.k, device=device, requires_grad=True)
        indices = torch.randint(size.latents, (size.rows, size.k), device=device)
        return values, indices, weight, bias

    def check() -> None:
        inputs = code()
        results = [decode_and_backward(each, *inputs) for each in (sparse_decode, plain_decode)]
        torch.testing.assert_close(*results)

    compare(
        Case(
            op="topk",
            name=f"sparse_decode {size} fwd+bwd float32",
            device=device,
            dtype=torch.float32,
            make_inputs=code,
            ours=sparse_decode,
            eager=plain_decode,
            check=check,
            run=decode_and_backward,
            compiles=False,
        )
    )


# A language model's layer and the published sizes of its dictionaries. Published on an H100: 54 ms
# forward and 80 backward at 344k latents, 110 and 154 at 688k, out of memory at 1.05M.
WIDE = [Size(4096, 2688, thousands * 1024, 32) for thousands in (84, 336, 672, 1024)]
# PyTorch's pre-activations of a part of the rows take so many bytes: those of all would not fit.
PART_BYTES = 4 << 30


def gradients(model: TopKSparseAutoencoder, loss: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, list(model.parameters()))


def in_parts(model: TopKSparseAutoencoder, x: Tensor, backward: bool) -> tuple[Tensor, ...]:
    """PyTorch's loss, and its gradients, of a part of the rows after the other."""
    part = max(1, PART_BYTES // (4 * model.latents))
    sums: tuple[Tensor, ...] = ()
    for rows in x.split(part):
        loss = plain_loss(model, rows, embedding_bag) * (len(rows) / len(x))
        terms = loss.detach(), *(gradients(model, loss) if backward else ())
        sums = tuple(a + b for a, b in zip(sums, terms, strict=True)) if sums else terms
    return sums


def whole(model: TopKSparseAutoencoder, x: Tensor, backward: bool) -> tuple[Tensor, ...]:
    loss = model.loss(x)
    return loss.detach(), *(gradients(model, loss) if backward else ())


@pytest.mark.parametrize("size", WIDE, ids=str)
@pytest.mark.parametrize("backward", [False, True], ids=["fwd", "fwd+bwd"])
@pytest.mark.parametrize("device", ["cuda"])
def test_wide(compare: Callable[[Case], None], device: str, backward: bool, size: Size) -> None:
    """As many latents as a GPU holds: both sides have the same parameters, and no optimizer."""
    model = size.model(device).requires_grad_(backward)

    def check() -> None:
        small, x = SMALL.model(device), SMALL.rows_of_data(device)
        torch.testing.assert_close(whole(small, x, True), in_parts(small, x, True))

    compare(
        Case(
            op="topk",
            name=f"{size} {'fwd+bwd' if backward else 'fwd'} float32, eager in parts of rows",
            device=device,
            dtype=torch.float32,
            make_inputs=lambda: (size.rows_of_data(device),),
            ours=lambda x: whole(model, x, backward)[0],
            eager=lambda x: in_parts(model, x, backward)[0],
            check=check,
            compiles=False,
        )
    )

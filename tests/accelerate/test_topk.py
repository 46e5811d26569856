"""Top-k codes in plain PyTorch models: recognized in each spelling, with the same numbers."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import aefast
from aefast import backend
from aefast.acceleration import topk

pytestmark = pytest.mark.skipif(
    backend.select(torch.device("cpu"), torch.float32) != "cpp",
    reason="the C++ kernels do not serve here",
)


@pytest.fixture(autouse=True)
def _few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "FEWEST_ROWS", 0)
    monkeypatch.setattr(topk, "LEAST_SPARSITY", 1)


def scattered(latents: Tensor, k: int) -> Tensor:
    values, indices = torch.topk(latents, k, dim=-1)
    return torch.zeros_like(latents).scatter_(-1, indices, values)


def with_relu_between(latents: Tensor, k: int) -> Tensor:
    top = latents.topk(k, dim=-1, sorted=False)
    return torch.zeros_like(latents).scatter(dim=-1, index=top.indices, src=F.relu(top.values))


def with_relu_before(latents: Tensor, k: int) -> Tensor:
    latents = torch.relu(latents)
    values, indices = latents.topk(k)
    return torch.scatter(torch.zeros_like(latents), -1, indices, values)


def with_relu_after(latents: Tensor, k: int) -> Tensor:
    values, indices = torch.topk(latents, k, 1)
    return F.relu(torch.zeros_like(latents).scatter_(1, indices, values))


def as_a_statement(latents: Tensor, k: int) -> Tensor:
    top = torch.topk(latents, k=k, dim=-1)
    values = F.relu(top.values)
    code = torch.zeros_like(latents)
    code.scatter_(-1, top.indices, values)
    return code


def of_mixed_dimensions(latents: Tensor, k: int) -> Tensor:
    values, indices = latents.topk(k)
    return torch.zeros_like(latents).scatter_(1, indices, values)


def into_new_zeros(latents: Tensor, k: int) -> Tensor:
    values, indices = latents.topk(k)
    return latents.new_zeros(latents.shape).scatter_(-1, indices, values.relu())


def into_zeros_of_its_size(latents: Tensor, k: int) -> Tensor:
    values, indices = latents.topk(k)
    zeros = torch.zeros(latents.size(), device=latents.device, dtype=latents.dtype)
    return zeros.scatter(-1, indices, values)


def by_a_mask(latents: Tensor, k: int) -> Tensor:
    _, indices = torch.topk(latents, k, dim=-1)
    mask = torch.zeros_like(latents)
    mask.scatter_(-1, indices, 1.0)
    return latents * mask


def by_a_mask_after_relu(latents: Tensor, k: int) -> Tensor:
    latents = F.relu(latents)
    indices = latents.topk(k, dim=1).indices
    return latents.new_zeros(latents.shape).scatter(1, indices, value=1).mul(latents)


WAYS = [
    *(scattered, with_relu_between, with_relu_before, with_relu_after),
    *(as_a_statement, of_mixed_dimensions, into_new_zeros, into_zeros_of_its_size),
    *(by_a_mask, by_a_mask_after_relu),
]


class TopKAutoencoder(nn.Module):
    def __init__(
        self, select: Callable[[Tensor, int], Tensor], is_tied: bool = False, reads: str = ""
    ) -> None:
        super().__init__()
        self.encoder = nn.Linear(20, 32)
        self.decoder = nn.Linear(32, 20)
        self.select, self.is_tied, self.reads, self.k = select, is_tied, reads, 4

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        latents = self.encoder(x - self.decoder.bias)
        code = self.select(latents, self.k)
        if self.is_tied:
            return F.linear(code, self.encoder.weight.t(), self.decoder.bias)
        if self.reads == "code":
            return self.decoder(code), code
        return (self.decoder(code), latents) if self.reads == "latents" else self.decoder(code)


def assert_same(model: nn.Module, twin: nn.Module, x: Tensor) -> None:
    inputs, outputs = [x.clone().requires_grad_() for _ in range(2)], []
    for net, rows in zip((model, twin), inputs, strict=True):
        output = net(rows)
        outputs.append(output if isinstance(output, tuple) else (output,))
        sum(one.square().sum() for one in outputs[-1]).backward()
    for actual, expected in zip(*outputs, strict=True):
        torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=2e-5, atol=2e-5)
    for actual, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("select", WAYS)
@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("reads", ["", "code"])
def test_a_code_is_served(
    select: Callable[[Tensor, int], Tensor], is_tied: bool, reads: str
) -> None:
    torch.manual_seed(0)
    model = TopKAutoencoder(select, is_tied, reads)
    twin = copy.deepcopy(model)
    report = aefast.accelerate(model)
    expected = "20-32 top 4" if reads and not is_tied else "20-32 top 4-20"
    assert [row.operation for row in report.replaced] == [expected]
    assert_same(model, twin, torch.randn(9, 20))
    row = aefast.report(model).replaced[0]
    assert (row.served, row.fallbacks) == (1, 0)


def test_leading_dimensions_and_calls_that_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = TopKAutoencoder(scattered)
    twin = copy.deepcopy(model)
    aefast.accelerate(model)
    x = torch.randn(3, 5, 20)
    assert_same(model, twin, x)
    monkeypatch.setattr(topk, "LEAST_SPARSITY", 16)
    assert_same(model, twin, x[:2])
    monkeypatch.setattr(topk, "FEWEST_ROWS", 512)
    assert_same(model, twin, x[:1])
    row = aefast.report(model).replaced[0]
    assert (row.served, row.fallbacks) == (1, 2)
    assert row.reason == "; ".join(sorted([topk.DENSE, topk.FEW_ROWS]))


def test_a_dimension_by_number_is_the_rows_one_only_of_matrices() -> None:
    model = TopKAutoencoder(with_relu_after)
    twin = copy.deepcopy(model)
    aefast.accelerate(model)
    x = torch.randn(2, 6, 20)  # dimension 1 is the rows'
    torch.testing.assert_close(model(x), twin(x))
    assert aefast.report(model).replaced[0].fallbacks == 1


def test_two_dimensions_that_are_one_only_of_matrices() -> None:
    model = TopKAutoencoder(of_mixed_dimensions)
    aefast.accelerate(model)
    with pytest.raises(RuntimeError, match="out of bounds"):  # torch's own
        model(torch.randn(2, 6, 20))


def smallest(latents: Tensor, k: int) -> Tensor:
    values, indices = torch.topk(latents, k, largest=False)
    return torch.zeros_like(latents).scatter_(-1, indices, values)


def into_ones(latents: Tensor, k: int) -> Tensor:
    values, indices = torch.topk(latents, k)
    return torch.ones_like(latents).scatter_(-1, indices, values)


def with_values_twice(latents: Tensor, k: int) -> Tensor:
    values, indices = torch.topk(latents, k)
    return torch.zeros_like(latents).scatter_(-1, indices, values) * values.sum()


def of_tanh(latents: Tensor, k: int) -> Tensor:
    return scattered(torch.tanh(latents), k)


def read_before_the_statement(latents: Tensor, k: int) -> Tensor:
    values, indices = torch.topk(latents, k)
    code = torch.zeros_like(latents)
    sign = code + 1
    code.scatter_(-1, indices, values)
    return code * sign


def scattered_twice(latents: Tensor, k: int) -> Tensor:
    values, indices = torch.topk(latents, k)
    code = torch.zeros_like(latents)
    code.scatter_(-1, indices, values)
    code.scatter_(-1, indices[:, :1], 7.0)
    return code


def viewed_before_the_statement(latents: Tensor, k: int) -> Tensor:
    values, indices = torch.topk(latents, k)
    code = torch.zeros_like(latents)
    view = code.view(-1, 32)
    code.scatter_(-1, indices, values)
    return view


def by_a_threshold(latents: Tensor, k: int) -> Tensor:
    """Keeps all of several equal latents."""
    return latents * (latents >= latents.topk(k).values[..., -1:])


def by_a_mask_that_is_read(latents: Tensor, k: int) -> Tensor:
    mask = torch.zeros_like(latents).scatter_(-1, latents.topk(k).indices, 1.0)
    return latents * mask + mask


def by_a_mask_of_twos(latents: Tensor, k: int) -> Tensor:
    return latents * torch.zeros_like(latents).scatter_(-1, latents.topk(k).indices, 2.0)


def by_a_mask_of_others(latents: Tensor, k: int) -> Tensor:
    mask = torch.zeros_like(latents).scatter_(-1, latents.topk(k).indices, 1.0)
    return torch.tanh(latents) * mask


def into_zeros_of_others(latents: Tensor, k: int) -> Tensor:
    values, indices = latents.topk(k)
    return latents.new_zeros((2 * latents).shape).scatter_(-1, indices, values)


def by_a_mask_of_the_default_dtype(latents: Tensor, k: int) -> Tensor:
    zeros = torch.zeros(latents.shape, device=latents.device)
    return latents * zeros.scatter_(-1, latents.topk(k).indices, 1.0)


def by_a_mask_of_mixed_dimensions(latents: Tensor, k: int) -> Tensor:
    return latents * torch.zeros_like(latents).scatter_(1, latents.topk(k).indices, 1.0)


@pytest.mark.parametrize(
    "select",
    [
        *(by_a_mask_of_the_default_dtype, by_a_mask_of_mixed_dimensions),
        *(smallest, into_ones, with_values_twice, of_tanh),
        *(read_before_the_statement, viewed_before_the_statement),
        *(by_a_threshold, by_a_mask_that_is_read, by_a_mask_of_twos, by_a_mask_of_others),
        into_zeros_of_others,
    ],
)
def test_other_selections_are_left_alone(select: Callable[[Tensor, int], Tensor]) -> None:
    torch.manual_seed(0)
    model = TopKAutoencoder(select)
    twin = copy.deepcopy(model)
    report = aefast.accelerate(model)
    assert not any("top" in row.operation for row in report.replaced)
    reasons = [row.reason for row in report.rows if row.operation == "1 x topk"]
    assert reasons == [topk.THRESHOLD if select is by_a_threshold else topk.OTHER]
    assert_same(model, twin, torch.randn(9, 20))


class Transposed(nn.Module):
    """The encoder's weight as SAELens has it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(20, 32))
        self.bias = nn.Parameter(torch.randn(32))

    def forward(self, x: Tensor) -> Tensor:
        return scattered(torch.relu(x @ self.weight + self.bias), 4)


def test_a_transposed_encoder_is_named() -> None:
    model = Transposed()
    twin = copy.deepcopy(model)
    report = aefast.accelerate(model)
    assert topk.TRANSPOSED in [row.reason for row in report.rows]
    assert_same(model, twin, torch.randn(9, 20))


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_a_hook_on_its_layers_is_counted(name: str) -> None:
    model, x = TopKAutoencoder(scattered), torch.randn(9, 20)
    aefast.accelerate(model)
    model(x)
    model.get_submodule(name).register_forward_hook(lambda *_: None)
    with pytest.warns(UserWarning, match=f"ran as plain PyTorch: a hook stands on {name}"):
        model(x)
    row = aefast.report(model).replaced[0]
    assert (row.served, row.fallbacks) == (1, 1)


def test_latents_that_are_read_are_left_alone() -> None:
    report = aefast.accelerate(TopKAutoencoder(scattered, reads="latents"))
    assert not report.replaced


@pytest.mark.parametrize("width", [30, 34])
def test_a_decoder_of_another_width_raises_torchs_error(width: int) -> None:
    model = TopKAutoencoder(scattered)
    model.decoder = nn.Linear(width, 20)
    report = aefast.accelerate(model)
    assert [row.operation for row in report.replaced] == ["20-32 top 4"]
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(torch.randn(9, 20))


def with_relu_by_keyword(latents: Tensor, k: int) -> Tensor:
    return scattered(F.relu(input=latents), k)


def stacked(latents: Tensor, k: int) -> Tensor:
    top = torch.topk(latents, k)
    return torch.zeros_like(latents).scatter_(-1, top[1], torch.stack(top)[0])


@pytest.mark.parametrize("select", [with_relu_by_keyword, stacked, scattered_twice])
def test_arguments_by_keyword_and_other_readers(select: Callable[[Tensor, int], Tensor]) -> None:
    torch.manual_seed(0)
    model = TopKAutoencoder(select)
    twin = copy.deepcopy(model)
    aefast.accelerate(model)
    assert_same(model, twin, torch.randn(9, 20))


def test_what_the_kernels_took_away_comes_back() -> None:
    model, x = TopKAutoencoder(with_relu_between), torch.randn(9, 20)
    before = model(x)
    aefast.accelerate(model)
    aefast.restore(model)
    assert "forward" not in vars(model)
    assert torch.equal(model(x), before)

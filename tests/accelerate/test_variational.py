"""Variational autoencoders in every usual spelling: the same numbers, and a correct report."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributions as D
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

import aefast


class Variational(nn.Module):
    """An encoder with its two heads, or one for both, a way to draw a code, and a decoder.

    Each way is a class with a ``forward`` of its own: what it calls is in its code.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU())
        self.mean = nn.Linear(12, 8)
        self.log_var = nn.Linear(12, 8)
        self.both = nn.Linear(12, 16)
        self.positive = nn.Softplus()
        self.decoder = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 20), nn.Sigmoid())
        self.latent = 8

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(x)
        return self.mean(h), self.log_var(h)

    def draw(self, mu: Tensor, log_var: Tensor) -> Tensor:
        return mu + torch.exp(0.5 * log_var) * torch.randn_like(log_var)

    def forward(self, x: Tensor) -> Any:
        mu, log_var = self.heads(x)
        return self.decoder(self.draw(mu, log_var)), mu, log_var


class RandnLike(Variational):
    pass


class RandnSize(Variational):
    def draw(self, mu: Tensor, log_var: Tensor) -> Tensor:
        return mu + torch.exp(0.5 * log_var) * torch.randn(mu.size())


class RandnShape(Variational):
    def draw(self, mu: Tensor, log_var: Tensor) -> Tensor:
        return mu + torch.exp(0.5 * log_var) * torch.randn(mu.shape)


class RandnSizes(Variational):
    def draw(self, mu: Tensor, log_var: Tensor) -> Tensor:
        noise = torch.randn(mu.size(0), self.latent, device=mu.device, dtype=mu.dtype)
        return mu + torch.exp(0.5 * log_var) * noise


class RandnTo(Variational):
    def draw(self, mu: Tensor, log_var: Tensor) -> Tensor:
        return mu + log_var.mul(0.5).exp() * torch.randn(mu.shape[0], 8).to(mu.device)


class NewNormal(Variational):
    def draw(self, mu: Tensor, log_var: Tensor) -> Tensor:
        std = log_var.mul(0.5).exp_()
        return std.data.new(std.size()).normal_().mul(std).add_(mu)


class EmptyNormal(Variational):
    def draw(self, mu: Tensor, log_var: Tensor) -> Tensor:
        return mu + torch.exp(0.5 * log_var) * torch.empty_like(mu).normal_()


class TorchNormal(Variational):
    def draw(self, mu: Tensor, log_var: Tensor) -> Tensor:
        return torch.normal(mu, torch.exp(0.5 * log_var))


class Rsample(Variational):
    def draw(self, mu: Tensor, log_var: Tensor) -> Tensor:
        return D.Normal(mu, torch.exp(0.5 * log_var)).rsample()


class ImportedNormal(Variational):
    def draw(self, mu: Tensor, log_var: Tensor) -> Tensor:
        return Normal(mu, torch.exp(log_var / 2)).rsample()


class Independent(Variational):
    def draw(self, mu: Tensor, log_var: Tensor) -> Tensor:
        return D.Independent(D.Normal(mu, torch.exp(0.5 * log_var)), 1).rsample()


class Multivariate(Variational):
    def draw(self, mu: Tensor, log_var: Tensor) -> Tensor:
        scale = torch.diag_embed(torch.exp(0.5 * log_var))
        return D.MultivariateNormal(mu, scale_tril=scale).rsample()


class Divergence(Variational):
    def forward(self, x: Tensor) -> Any:
        mu, log_var = self.heads(x)
        posterior = D.Normal(mu, torch.exp(0.5 * log_var))
        prior = D.Normal(torch.zeros_like(mu), torch.ones_like(mu))
        return self.decoder(posterior.rsample()), D.kl_divergence(posterior, prior)


class Chunk(Variational):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_var = self.both(self.encoder(x)).chunk(2, dim=-1)
        return mu, log_var


class Split(Variational):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_var = torch.split(self.both(self.encoder(x)), 8, dim=1)
        return mu, log_var


class Slices(Variational):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        both = self.both(self.encoder(x))
        return both[:, : self.latent], both[:, self.latent :]


class Unflattened(Variational):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_var = self.both(self.encoder(x)).view(-1, 2, 8).unbind(1)
        return mu, log_var


class SoftplusDeviation(Variational):
    def draw(self, mu: Tensor, log_var: Tensor) -> Tensor:
        return mu + (F.softplus(log_var) + 1e-6) * torch.randn_like(mu)


class SoftplusModule(Variational):
    """A head with an activation, which reads the output of another stack."""

    def forward(self, x: Tensor) -> Any:
        h = self.encoder(x)
        mu, std = self.mean(h), self.positive(self.log_var(h))
        return self.decoder(mu + std * torch.randn_like(std)), mu, std


class Addcmul(Variational):
    def draw(self, mu: Tensor, log_var: Tensor) -> Tensor:
        return torch.addcmul(mu, torch.exp(0.5 * log_var), torch.randn_like(mu))


class Clamped(Variational):
    def draw(self, mu: Tensor, log_var: Tensor) -> Tensor:
        std = math.e ** (0.5 * log_var.clamp(-10, 10))
        return mu + std * torch.randn_like(mu).detach()


class WhileTraining(Variational):
    def draw(self, mu: Tensor, log_var: Tensor) -> Tensor:
        if self.training:
            return mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)
        return mu


class Dictionary(Variational):
    def forward(self, x: Tensor) -> Any:
        mu, log_var = self.heads(x)
        code = self.draw(mu, log_var)
        return {"reconstruction": self.decoder(code), "mu": mu, "log_var": log_var}


class TwoDropouts(Variational):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(F.dropout(F.dropout(x, 0.2, self.training), 0.3, self.training))
        return self.mean(h), self.log_var(h)


class StarredShape(Variational):
    def draw(self, mu: Tensor, log_var: Tensor) -> Tensor:
        return mu + torch.exp(0.5 * log_var) * torch.randn(*mu.shape)


class WithoutGradient(Variational):
    def draw(self, mu: Tensor, log_var: Tensor) -> Tensor:
        with torch.no_grad():
            noise = torch.randn_like(mu)
        return mu + torch.exp(0.5 * log_var) * noise


class StoredDivergence(Variational):
    def draw(self, mu: Tensor, log_var: Tensor) -> Tensor:
        self.divergence = (mu.square() + log_var.exp() - log_var - 1).sum() / 2
        return mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)


class StoredPrior(Variational):
    def __init__(self) -> None:
        super().__init__()
        self.prior = Normal(0.0, 1.0)

    def draw(self, mu: Tensor, log_var: Tensor) -> Tensor:
        return mu + torch.exp(0.5 * log_var) * self.prior.sample(mu.shape)


# The spellings by what draws the code: our kernel; or torch, with the report's row for it.
REPLACED: dict[type[Variational], str] = {
    **dict.fromkeys((RandnLike, Chunk, Split, Slices, Unflattened), "torch.randn_like"),
    **dict.fromkeys((SoftplusDeviation, SoftplusModule, Addcmul, Clamped), "torch.randn_like"),
    **dict.fromkeys((WhileTraining, Dictionary, TwoDropouts), "torch.randn_like"),
    **dict.fromkeys((RandnSize, RandnShape), "torch.randn"),
}
BY_TORCH: dict[type[Variational], str] = {
    **dict.fromkeys((RandnSizes, RandnTo), "randn"),
    **dict.fromkeys((NewNormal, EmptyNormal), "normal_"),
    **dict.fromkeys((Rsample, ImportedNormal, Independent, Multivariate, Divergence), "rsample"),
    TorchNormal: "normal",
}
IN_PARTS: dict[type[Variational], str] = {
    StarredShape: "cannot trace its forward (Proxy object cannot be iterated",
    WithoutGradient: "reads no_grad",
    StoredDivergence: "draw stores divergence",
    StoredPrior: "reads prior, a Normal",
}


def run(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The outputs and gradients of a seeded call, and what torch's generator draws next."""
    torch.manual_seed(1)
    outputs = model(x)
    outputs = outputs.values() if isinstance(outputs, dict) else outputs
    sum(output.square().sum() for output in outputs).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [*outputs, *gradients, torch.rand(3)]


@pytest.fixture(autouse=True)
def _restored_generator() -> Any:
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


@pytest.mark.parametrize(
    "kind", [*REPLACED, *BY_TORCH, *IN_PARTS], ids=lambda kind: str(kind.__name__)
)
def test_every_way_to_draw_a_code(kind: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = kind()
    twin = copy.deepcopy(model)
    x = torch.rand(64, 20)
    aefast.accelerate(model)
    for actual, expected in zip(run(model, x), run(twin, x), strict=True):
        torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-6)
    rows = aefast.report(model).rows
    own = [row for row in rows if row.name == ""]
    called = own if kind not in IN_PARTS else [row for row in rows if row.name]
    stacks = [row for row in called if "-" in row.operation and row.is_replaced]
    assert [(row.served, row.fallbacks) for row in stacks] == [(1, 0)] * 2
    if kind in REPLACED:
        (draw,) = (row for row in own if row.operation == REPLACED[kind])
        assert (draw.served, draw.fallbacks) == (1, 0)
    elif kind in BY_TORCH:
        (draw,) = (row for row in own if row.operation == BY_TORCH[kind])
        assert not draw.is_replaced
        assert draw.reason == "torch draws these numbers itself"
    else:
        (whole,) = (row for row in own if not row.is_replaced)
        assert IN_PARTS[kind] in whole.reason


@pytest.mark.filterwarnings("ignore:aefast")
def test_what_is_drawn_of_a_shape_follows_torchs_defaults() -> None:
    model = RandnSize().double()
    aefast.accelerate(model)
    torch.set_default_dtype(torch.float64)
    try:
        reconstruction, *_ = model(torch.rand(64, 20))
    finally:
        torch.set_default_dtype(torch.float32)
    assert reconstruction.dtype == torch.float64

"""Plain PyTorch autoencoders, written as in common tutorials."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sequential(*sizes: int, last: nn.Module | None = None) -> nn.Sequential:
    layers: list[nn.Module] = []
    for below, above in pairwise(sizes):
        layers += [nn.Linear(below, above), nn.Sigmoid()]
    return nn.Sequential(*layers[:-1], *([] if last is None else [last]))


class EncoderDecoder(nn.Module):
    """The deep autoencoder of many tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(20, 16), nn.ReLU(True), nn.Linear(16, 8), nn.ReLU(True), nn.Linear(8, 3)
        )
        self.decoder = nn.Sequential(
            nn.Linear(3, 8), nn.ReLU(True), nn.Linear(8, 16), nn.ReLU(True), nn.Linear(16, 20),
            nn.Tanh(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(x)
        x = self.decoder(x)
        return x


class Denoising(nn.Module):
    """Dropout on the input, by the function or by the module."""

    def __init__(self, is_module: bool = False, p: float = 0.3) -> None:
        super().__init__()
        self.hidden = nn.Linear(20, 12)
        self.output = nn.Linear(12, 20)
        self.dropout = nn.Dropout(p)
        self.is_module = is_module
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(x) if self.is_module else F.dropout(x, self.p, training=self.training)
        return torch.sigmoid(self.output(F.relu(self.hidden(x))))


class Noisy(nn.Module):
    """Adds its own noise by torch.rand_like or torch.randn_like."""

    def __init__(self, is_gaussian: bool = False) -> None:
        super().__init__()
        self.net = sequential(20, 12, 20)
        self.level = 0.25
        self.is_gaussian = is_gaussian

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.is_gaussian:
            x = x + self.level * torch.randn_like(x)
        elif self.training:
            x = x * (torch.rand_like(x) > self.level)
        return self.net(x)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(20, 12)
        self.bias = nn.Parameter(torch.zeros(20))

    def forward(self, x: Tensor) -> Tensor:
        code = torch.tanh(self.encoder(x))
        return F.linear(code, self.encoder.weight.t(), self.bias)


class VAE(nn.Module):
    """The variational autoencoder of PyTorch's examples, smaller."""

    def __init__(self, way: str = "example") -> None:
        super().__init__()
        self.fc1 = nn.Linear(20, 16)
        self.fc21 = nn.Linear(16, 4)
        self.fc22 = nn.Linear(16, 4)
        self.fc3 = nn.Linear(4, 16)
        self.fc4 = nn.Linear(16, 20)
        self.way = way

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h1 = F.relu(self.fc1(x))
        return self.fc21(h1), self.fc22(h1)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        if self.way == "in place":
            std = logvar.mul(0.5).exp_()
            return torch.randn_like(std).mul(std).add_(mu)
        if self.way == "square root":
            return mu + torch.exp(logvar).sqrt() * torch.randn_like(mu)
        if self.way == "half":
            return torch.randn_like(logvar) * torch.exp(logvar / 2) + mu
        if self.way == "rsample":
            return torch.distributions.Normal(mu, torch.exp(0.5 * logvar)).rsample()
        std = torch.exp(0.5 * logvar)
        eps = torch.randn_like(std)
        return mu + eps * std

    def decode(self, z: Tensor) -> Tensor:
        h3 = F.relu(self.fc3(z))
        return torch.sigmoid(self.fc4(h3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.encode(x.view(-1, 20))
        z = self.reparameterize(mu, logvar)
        return self.decode(z), mu, logvar


def vae_loss(reconstruction: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """The loss of PyTorch's variational autoencoder example."""
    bce = F.binary_cross_entropy(reconstruction, x.view(-1, 20), reduction="sum")
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return bce + kld


class Products(nn.Module):
    """Layers that are written as matrix products."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.hidden = nn.Linear(20, 12)
        self.offset = nn.Parameter(torch.randn(20))
        self.second = nn.Parameter(torch.randn(20, 12))
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.hidden.weight, self.hidden.bias
        if self.way == "tied":
            code = torch.relu(x @ weight.t() + bias)
            return torch.sigmoid(code @ weight + self.offset)
        if self.way == "functions":
            code = torch.tanh(torch.add(bias, torch.matmul(x, weight.T)))
            return code.matmul(weight).add(self.offset)
        if self.way == "two layers":
            code = torch.relu(x @ weight.t() + bias)
            return code @ self.second.t() + self.offset
        if self.way == "a write between":
            product = x @ weight.t()
            x.mul_(2)
            return torch.relu(product + bias) @ weight + x
        if self.way == "read twice":
            product = x @ weight.t()
            return torch.relu(product + bias) @ weight + product.sum()
        if self.way == "scaled":
            return torch.relu(torch.add(x @ weight.t(), bias, alpha=3)) @ weight
        return torch.relu(x @ weight.t() + bias[:1]) @ weight + self.hidden(x).sum()

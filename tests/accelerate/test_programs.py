"""Complete training programs have the same learning curve with aefast.accelerate, to rounding."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, TensorDataset

import aefast
from tests.accelerate.models import VAE, EncoderDecoder, vae_loss

IMAGES = torch.rand(96, 1, 4, 5, generator=torch.Generator().manual_seed(7))


def prepared(model: nn.Module, is_accelerated: bool) -> nn.Module:
    """Add the one line, aefast.accelerate, if asked to."""
    if is_accelerated:
        assert aefast.accelerate(model).replaced
    return model


def pytorchs_vae(is_accelerated: bool) -> list[float]:
    """The program pytorch/examples/vae/main.py."""
    model = prepared(VAE(), is_accelerated)
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(TensorDataset(IMAGES), batch_size=32, shuffle=True)
    curve = []
    for _ in range(3):
        model.train()
        train_loss = 0.0
        for (data,) in loader:
            optimizer.zero_grad()
            recon_batch, mu, logvar = model(data)
            loss = vae_loss(recon_batch, data, mu, logvar)
            loss.backward()
            train_loss += loss.item()
            optimizer.step()
        curve.append(train_loss / len(IMAGES))
        model.eval()
        with torch.no_grad():
            recon_batch, mu, logvar = model(IMAGES)
            curve.append(vae_loss(recon_batch, IMAGES, mu, logvar).item() / len(IMAGES))
            sample = model.decode(torch.randn(4, 4))
            curve.append(sample.mean().item())
    return curve


def denoising_tutorial(is_accelerated: bool) -> list[float]:
    """Denoising with noise added in the loop, a scheduler, gradient clipping and weight decay."""
    model = prepared(EncoderDecoder(), is_accelerated)
    criterion = nn.MSELoss()
    optimizer = optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-5)
    scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.9)
    loader = DataLoader(TensorDataset(IMAGES), batch_size=32, shuffle=True)
    curve = []
    for _ in range(4):
        for (img,) in loader:
            img = img.view(img.size(0), -1)
            noisy = torch.clamp(img + 0.3 * torch.randn_like(img), 0.0, 1.0)
            output = model(noisy)
            loss = criterion(output, img)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            curve.append(loss.item())
        scheduler.step()
    return curve


class LightningLike(nn.Module):
    """A module with training_step and like methods, and attributes that no graph can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.hparams = {"lr": 1e-2}
        self.logged: list[float] = []
        self.encoder = nn.Sequential(nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 3))
        self.decoder = nn.Sequential(nn.Linear(3, 12), nn.ReLU(), nn.Linear(12, 20))

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        (x,) = batch
        x = x.view(x.size(0), -1)
        x_hat = self.decoder(self.encoder(x))
        loss = F.mse_loss(x_hat, x)
        self.logged.append(loss.item())
        return loss

    def configure_optimizers(self) -> optim.Optimizer:
        return optim.Adam(self.parameters(), lr=self.hparams["lr"])


def lightning_like(is_accelerated: bool) -> list[float]:
    module = prepared(LightningLike(), is_accelerated)
    optimizer = module.configure_optimizers()
    for _ in range(3):
        for number, batch in enumerate(DataLoader(TensorDataset(IMAGES), batch_size=32)):

            def closure(number: int = number, batch: list[Tensor] = batch) -> Tensor:
                optimizer.zero_grad()
                loss = module.training_step(batch, number)
                loss.backward()
                return loss

            optimizer.step(closure)
    return module.logged


class CustomModel(nn.Module):
    """A model for a Hugging Face Trainer: keyword arguments in, a dictionary out."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(20, 8), nn.GELU(), nn.Linear(8, 20))

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(inputs)
        if labels is None:
            return {"logits": logits}
        return {"loss": F.mse_loss(logits, labels), "logits": logits}


def trainer_like(is_accelerated: bool) -> list[float]:
    """A Trainer's loop: gradient accumulation, a dictionary of outputs, AdamW."""
    model = prepared(CustomModel(), is_accelerated)
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    curve = []
    for _ in range(3):
        for number, (batch,) in enumerate(DataLoader(TensorDataset(IMAGES), batch_size=16)):
            flat = batch.flatten(1)
            loss = model(inputs=flat, labels=flat)["loss"] / 2
            loss.backward()
            curve.append(loss.item())
            if number % 2:
                optimizer.step()
                optimizer.zero_grad()
    return curve


def skorch_net(is_accelerated: bool) -> list[float]:
    skorch = pytest.importorskip("skorch", reason="skorch is not installed")
    net = skorch.NeuralNetRegressor(
        EncoderDecoder,
        max_epochs=3,
        lr=0.1,
        train_split=None,
        verbose=0,
        iterator_train__shuffle=True,
    )
    net.initialize()
    prepared(net.module_, is_accelerated)
    flat = IMAGES.flatten(1).numpy()
    net.partial_fit(flat, flat)
    return [row["train_loss"] for row in net.history]


def recommender(is_accelerated: bool) -> list[float]:
    """AutoRec: missing ratings, SELU layers, which no kernel computes, and dropout on the code."""
    model = prepared(
        nn.Sequential(
            *(nn.Linear(20, 16), nn.Sigmoid(), nn.Linear(16, 8), nn.SELU(), nn.Dropout(0.5)),
            *(nn.Linear(8, 16), nn.Sigmoid(), nn.Linear(16, 20)),
        ),
        is_accelerated,
    )
    optimizer = optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    ratings = (IMAGES.flatten(1) * 5).round()
    curve = []
    for _ in range(10):
        mask = ratings != 0
        loss = ((model(ratings) - ratings) ** 2 * mask).sum() / mask.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    return curve


def anomalies(is_accelerated: bool) -> list[float]:
    """An outlier detector for a table: L1 errors, LBFGS, scores in evaluation mode."""
    model = prepared(
        nn.Sequential(nn.Linear(20, 6), nn.Tanh(), nn.Linear(6, 20)).train(), is_accelerated
    )
    table = IMAGES.flatten(1)
    optimizer = optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    curve = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.smooth_l1_loss(model(table), table)
        loss.backward()
        curve.append(loss.item())
        return loss

    for _ in range(3):
        optimizer.step(closure)
    with torch.inference_mode():
        curve += (model.eval()(table) - table).abs().mean(1).tolist()
    return curve


PROGRAMS: list[Callable[[bool], list[float]]] = [
    *(pytorchs_vae, denoising_tutorial, lightning_like, trainer_like, skorch_net),
    *(recommender, anomalies),
]


@pytest.fixture(autouse=True)
def _restored_generator() -> Iterator[None]:
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_curve_is_the_same(program: Callable[[bool], list[float]]) -> None:
    curves = []
    for is_accelerated in (True, False):
        torch.manual_seed(0)
        curves.append(program(is_accelerated))
    assert len(curves[0]) > 2
    torch.testing.assert_close(*curves, rtol=1e-3, atol=1e-5)

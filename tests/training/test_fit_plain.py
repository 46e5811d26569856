"""aefast.fit of plain PyTorch models: the same numbers as the loop, by kernels where they serve."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import aefast
from aefast import data, use_backend
from aefast.acceleration import tracing
from aefast.training import plain_model
from aefast.training.arguments import rows_of
from tests.accelerate.models import VAE, Denoising, EncoderDecoder, Tied, sequential, vae_loss

ROWS = torch.rand(70, 20, generator=torch.Generator().manual_seed(0))


def loop(model: nn.Module, loss: Callable[..., Tensor]) -> Tensor:
    """The training loop that a user writes."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for epoch in range(3):
        for x in data.batches(rows_of(ROWS, "data", model), 16, seed=1, epoch=epoch):
            optimizer.zero_grad()
            outputs = model(x)
            value = (
                loss(outputs[0], x, *outputs[1:])
                if isinstance(outputs, tuple)
                else (loss(outputs, x))
            )
            value.backward()
            optimizer.step()
            losses.append(value.item())
    return torch.tensor(losses, dtype=torch.float64)


def fit(model: nn.Module, **options: Any) -> aefast.training.fit.History:
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    return aefast.fit(model, ROWS, optimizer, epochs=3, batch_size=16, seed=1, **options)


def test_an_accelerated_model_is_traced_anew_only_where_it_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    traced = []

    def counted(module: nn.Module) -> Any:
        traced.append(module)
        return tracing.trace(module)

    monkeypatch.setattr(plain_model, "trace", counted)
    model = nn.Sequential(nn.Linear(20, 9), nn.Tanh(), nn.Linear(9, 20))
    aefast.accelerate(model)
    assert [fit(model).engine for _ in range(3)] == ["step"] * 3
    assert len(traced) == 1
    model[1] = nn.Sigmoid()
    expected = loop(copy.deepcopy(aefast.restore(copy.deepcopy(model))), F.mse_loss)
    torch.testing.assert_close(torch.as_tensor(fit(model).losses), expected, check_dtype=False)
    assert len(traced) == 2


def mean_square(output: Tensor, x: Tensor) -> Tensor:
    return ((output - x) ** 2).mean()


def normalized(follows: bool = False, is_shared: bool = False, **options: Any) -> nn.Sequential:
    """Without biases before the means that are taken off: Adam lets those wander by what torch
    rounds."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        norm = nn.BatchNorm1d(outputs, **options) if shared is None else shared
        after = [nn.Tanh(), norm] if follows else [norm, nn.Tanh()]
        return [nn.Linear(inputs, outputs, bias=False), *after, nn.Dropout(0.0)]

    shared = nn.BatchNorm1d(9) if is_shared else None
    return nn.Sequential(*block(20, 9), *block(9, 9), nn.Linear(9, 20))


class Halving(nn.Module):
    """Writes to its input in place, and ignores the result."""

    def __init__(self, write: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.net = sequential(20, 12, 20)
        self.write = write

    def forward(self, x: Tensor) -> Tensor:
        self.write(x)
        return self.net(x)


def halve(x: Tensor) -> None:
    x *= 0.5


def of_what_is_clamped(output: Tensor, x: Tensor) -> Tensor:
    output.clamp_(0, 0.5)
    return F.mse_loss(output, x)


class Frozen(nn.Sequential):
    """Keeps its batch normalization in evaluation mode."""

    def __init__(self) -> None:
        super().__init__(*normalized())

    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        self[1].eval()
        return self


CASES: dict[str, tuple[Callable[[], nn.Module], Any, Callable[..., Tensor], str]] = {
    "by default": (lambda: sequential(20, 12, 20), None, F.mse_loss, "step"),
    "mse": (lambda: sequential(20, 12, 20), "mse", F.mse_loss, "step"),
    "a module": (lambda: sequential(20, 8, 4, 8, 20), nn.MSELoss(), F.mse_loss, "step"),
    "a function": (EncoderDecoder, mean_square, mean_square, "step"),
    "a lambda": (EncoderDecoder, lambda o, x: F.mse_loss(o, x), F.mse_loss, "step"),
    "tied": (Tied, F.mse_loss, F.mse_loss, "step"),
    "bce": (
        *(lambda: sequential(20, 12, 20, last=nn.Sigmoid()), nn.BCELoss()),
        *(F.binary_cross_entropy, "step"),
    ),
    "logits": (
        *(lambda: nn.Sequential(nn.Flatten(), *sequential(20, 12, 20)), nn.BCEWithLogitsLoss()),
        *(F.binary_cross_entropy_with_logits, "step"),
    ),
    "a sum": (
        *(lambda: sequential(20, 12, 20), nn.MSELoss(reduction="sum")),
        *(nn.MSELoss(reduction="sum"), "loop"),
    ),
    "another": (lambda: sequential(20, 12, 20), nn.L1Loss(), nn.L1Loss(), "loop"),
    "dropout": (Denoising, "mse", F.mse_loss, "loop"),
    "batch norm": (lambda: normalized(), "mse", F.mse_loss, "step"),
    "batch norm after": (lambda: normalized(follows=True), "mse", F.mse_loss, "step"),
    "batch norm, no parameters": (
        *(lambda: normalized(affine=False, track_running_stats=False), "mse"),
        *(F.mse_loss, "step"),
    ),
    "batch norm, all batches alike": (
        *(lambda: normalized(momentum=None), "mse"),
        *(F.mse_loss, "step"),
    ),
    "batch norm at the end": (
        lambda: nn.Sequential(*normalized()[:-1], nn.Linear(9, 20, False), nn.BatchNorm1d(20)),
        *("mse", F.mse_loss, "loop"),
    ),
    "batch norm on the input": (
        *(lambda: nn.Sequential(nn.BatchNorm1d(20), *sequential(20, 9, 20)), "mse"),
        *(F.mse_loss, "loop"),
    ),
    "a batch norm twice": (lambda: normalized(is_shared=True), "mse", F.mse_loss, "loop"),
    "frozen batch norm": (lambda: Frozen().train(), "mse", F.mse_loss, "loop"),
    "dropout at the end": (
        *(lambda: nn.Sequential(*sequential(20, 9, 20), nn.Dropout()), "mse"),
        *(F.mse_loss, "loop"),
    ),
    "vae": (VAE, vae_loss, vae_loss, "loop"),
    "another activation": (
        *(lambda: nn.Sequential(nn.Linear(20, 9), nn.ELU(), nn.Linear(9, 20)), None),
        *(F.mse_loss, "loop"),
    ),
    "one layer": (lambda: nn.Sequential(nn.Linear(20, 20)), None, F.mse_loss, "loop"),
    "a write by an operator": (lambda: Halving(halve), "mse", F.mse_loss, "loop"),
    "a write by a method": (lambda: Halving(lambda x: x.mul_(0.5)), "mse", F.mse_loss, "loop"),
    "a module that nobody reads": (
        *(lambda: Halving(nn.BatchNorm1d(20, affine=False)), "mse"),
        *(F.mse_loss, "loop"),
    ),
    "a loss that writes": (
        *(lambda: sequential(20, 12, 20), of_what_is_clamped),
        *(of_what_is_clamped, "loop"),
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("is_accelerated", [True, False])
def test_it_is_the_loop_that_one_writes(name: str, is_accelerated: bool) -> None:
    make, loss, function, engine = CASES[name]
    torch.manual_seed(0)
    model = make()
    twin = copy.deepcopy(model)
    if is_accelerated:
        aefast.accelerate(model, loss=None if isinstance(loss, str) else loss)
    torch.manual_seed(2)
    options = {} if is_accelerated and not isinstance(loss, str) else {"loss": loss}
    history = fit(model, **options)
    torch.manual_seed(2)
    expected = loop(twin, function)
    assert history.engine == engine, history.reason
    torch.testing.assert_close(history.losses, expected, rtol=1e-4, atol=1e-6)
    for actual, expected_value in zip(
        model.state_dict().values(), twin.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(actual, expected_value, rtol=1e-3, atol=1e-4)


def test_validation_is_in_evaluation_mode() -> None:
    model = Denoising()
    history = fit(model, loss="mse", validation=ROWS[:8])
    model.eval()
    expected = F.mse_loss(model(ROWS[:8]), ROWS[:8]).item()
    assert history.validation[-1].item() == pytest.approx(expected)


def with_hook(model: nn.Module) -> None:
    model[0].register_forward_hook(lambda module, inputs, output: output * 2)


def with_hook_on_itself(model: nn.Module) -> None:
    model.register_forward_hook(lambda module, inputs, output: output * 2)


def with_forward(model: nn.Module) -> None:
    own = type(model).forward
    model.forward = lambda x: 2 * own(model, x)


def with_shared_layer(model: nn.Module) -> None:
    model.insert(2, nn.Linear(12, 12))
    model.insert(3, model[2])


@pytest.mark.parametrize("put", [with_hook, with_hook_on_itself, with_forward, with_shared_layer])
def test_what_a_plan_cannot_say_runs_the_loop(put: Callable[[nn.Module], None]) -> None:
    model = sequential(20, 12, 20)
    put(model)
    history = fit(model)
    assert history.engine == "loop"
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    states = copy.deepcopy(model.state_dict())
    first = fit(model).losses
    model.load_state_dict(states)
    torch.testing.assert_close(first, loop(model, F.mse_loss))


def test_no_step_of_a_tampered_loss() -> None:
    criterion = nn.MSELoss()
    criterion.register_forward_hook(lambda module, inputs, output: output * 2)
    assert fit(sequential(20, 12, 20), loss=criterion).engine == "loop"
    weighted = nn.BCEWithLogitsLoss(pos_weight=torch.full((20,), 2.0))
    assert fit(sequential(20, 12, 20), loss=weighted).engine == "loop"


def test_a_forced_backend_is_obeyed() -> None:
    with use_backend("eager"):
        assert fit(sequential(20, 12, 20)).engine == "loop"


class WithCriterion(nn.Module):
    """A plain model that keeps its criterion where others have a method ``loss(x, seed=...)``."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.layers = sequential(20, 9, 20)
        self.loss = loss

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.parametrize("criterion", [nn.MSELoss(), F.mse_loss, torch.mul])
def test_a_criterion_named_loss_is_no_loss_method(criterion: Any) -> None:
    torch.manual_seed(0)
    model = WithCriterion(criterion)
    layers = copy.deepcopy(model.layers)
    with pytest.raises(TypeError, match="WithCriterion without a loss method; it takes one whose"):
        fit(model)
    with pytest.raises(TypeError, match="WithCriterion; it takes a module with a method loss"):
        aefast.nn.LossModule(model)
    actual, expected = fit(model, loss="mse"), fit(layers, loss="mse")
    assert torch.equal(actual.losses, expected.losses)
    assert actual.engine == expected.engine


def test_pairs_are_no_plain_models_data() -> None:
    model = sequential(20, 20)
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(TypeError, match="the loss of a Sequential takes no target"):
        aefast.fit(model, (ROWS, ROWS), optimizer)


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (VAE(), {}, TypeError, "VAE without a loss method; it takes one whose"),
        (sequential(20, 20), {"loss": "l1"}, ValueError, "loss is 'l1'; it takes one of mse, bce"),
        (sequential(19, 9, 19), {}, ValueError, "data has rows of 20 numbers; the model takes 19$"),
        (
            sequential(20, 9, 1),
            {},
            ValueError,
            r"model gives \[16, 1\] for rows \[16, 20\]; a loss",
        ),
        (
            nn.Sequential(nn.BatchNorm1d(20), nn.Linear(20, 9)),
            {"loss": nn.BCEWithLogitsLoss()},
            ValueError,
            r"model gives \[16, 9\] for rows \[16, 20\]",
        ),
        (
            sequential(20, 20),
            {"loss": nn.MSELoss(reduction="none")},
            ValueError,
            r"^loss gave shape \[16, 20\]; it takes one that gives a scalar",
        ),
        (
            sequential(20, 20),
            {"loss": lambda output, x: 1.0},
            TypeError,
            "^loss gave a float; it takes one that gives a tensor",
        ),
        (
            nn.Sequential(nn.Sequential(nn.Conv2d(1, 1, 1)), nn.Flatten()),
            {},
            TypeError,
            r"^model begins with a Conv2d, and rows are flattened to \[B, D\]",
        ),
        (sequential(20, 20), {"loss": 3}, TypeError, "loss is a int; it takes a name, a function"),
        (
            aefast.nn.Autoencoder(20, 4),
            {"loss": "mse"},
            TypeError,
            "with a loss of its own; loss takes",
        ),
    ],
)
def test_errors(
    model: nn.Module, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fit(model, **options)

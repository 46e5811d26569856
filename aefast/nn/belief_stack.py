"""Layer-wise pre-training: restricted Boltzmann machines stacked on each other."""

import contextlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from aefast.distributed.group import current
from aefast.nn.linear import Device, FactoryOptions, LinearAct
from aefast.nn.plain import known_by_its_parameters
from aefast.nn.progress import track
from aefast.nn.rbm import RBM
from aefast.nn.reparametrized import renew_weights
from aefast.ops.shared import checks, dispatch
from aefast.random import draw_seed


@known_by_its_parameters()
class DeepBeliefStack(nn.Module):
    """RBMs, each of which learns the features of the one below; then a deep autoencoder.

    :meth:`fit` trains them one by one, from the data up. :meth:`unroll` turns the L of them into an
    autoencoder with 2L layers, their weights going up and, transposed, down again, for
    backpropagation to fine-tune.

    Args:
        sizes: D, H_1, ..., H_L: of the data and of each machine's hidden units.
        visible_kind: of the lowest machine's visible units, ``"bernoulli"`` or ``"gaussian"``; all
            above are Bernoulli.
        learn_variance: of the lowest machine's Gaussian units.
        k: how many Gibbs steps a training step takes.
        chains: of each machine, as :class:`aefast.nn.RBM` takes them.
        device: of the machines; None takes torch's default one.
        dtype: of the machines; None takes torch's default one.

    Attributes:
        machines: the :class:`aefast.nn.RBM` of each layer, from the data up.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: one is outside its range, or there are fewer than two sizes.

    References:
        Hinton, Salakhutdinov, "Reducing the dimensionality of data with neural networks", Science
        313, 2006. Hinton, Osindero, Teh, "A fast learning algorithm for deep belief nets", Neural
        Computation 18, 2006.

    >>> import torch
    >>> from aefast.nn import DeepBeliefStack
    >>> stack = DeepBeliefStack([64, 32, 16])
    >>> digits = (torch.rand(100, 64) < 0.3).float()
    >>> stack.fit(digits, epochs=2, batch_size=20)
    >>> stack(digits).shape
    torch.Size([100, 16])
    >>> autoencoder = stack.unroll()
    >>> [layer.out_features for layer in autoencoder]
    [32, 16, 32, 64]
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        visible_kind: str = "bernoulli",
        learn_variance: bool = False,
        k: int = 1,
        chains: int = 0,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        sizes = list(sizes)
        if len(sizes) < 2:
            raise ValueError(f"sizes is {sizes}; it takes the data's and at least one more")
        lowest: dict[str, Any] = {"visible_kind": visible_kind, "learn_variance": learn_variance}
        options: dict[str, Any] = {"k": k, "chains": chains, "device": device, "dtype": dtype}
        self.machines = nn.ModuleList(
            RBM(visible, hidden, **options, **(lowest if layer == 0 else {}))
            for layer, (visible, hidden) in enumerate(pairwise(sizes))
        )

    def __iter__(self) -> Iterator[RBM]:
        for machine in self.machines:
            assert isinstance(machine, RBM)
            yield machine

    def forward(self, visible: Tensor) -> Tensor:
        """The topmost features: ``[..., D]`` to ``[..., H_L]``."""
        for machine in self:
            visible = machine(visible)
        return visible

    def fit(
        self,
        data: Tensor,
        *,
        epochs: int = 10,
        batch_size: int = 100,
        learning_rate: float = 0.1,
        momentum: float = 0.5,
        weight_decay: float = 0.0,
        generator: torch.Generator | None = None,
        progress: bool = False,
    ) -> None:
        """Train each machine by stochastic gradient descent, on the probabilities of the hidden
        units of the one below; loops of your own may do it otherwise, machine by machine.

        Each machine is trained by :func:`aefast.fit`. So in a process group all ranks make the call
        with the same data, and rank 0 draws the seeds.

        Args:
            data: ``[N, D]``.
            epochs: passes over the data for each machine, at least 1.
            batch_size: rows a step, at least 1; they are shuffled, and the last may be fewer.
            learning_rate: above 0; Gaussian units take one or two orders less, 0.001 to 0.01.
            momentum: at least 0 and below 1.
            weight_decay: of the weights, at least 0; biases do not decay.
            generator: what the shuffles and the chains' seeds are drawn from; None takes torch's
                default one.
            progress: show a bar for each machine.

        Raises:
            TypeError: an argument is of a wrong type.
            ValueError: one is outside its range, or data is not [N, D].
            FloatingPointError: as :meth:`aefast.nn.RBM.check_finite`.
        """
        weight = next(iter(self)).weight
        width = weight.shape[1]
        checks.check_like(data, "data", weight, "weight")
        checks.check_seed_arguments(None, generator)
        if data.dim() != 2 or data.shape[1] != width or len(data) == 0:
            raise ValueError(f"data has shape {list(data.shape)}; it takes [N, {width}], N > 0")
        for argument, value in (("epochs", epochs), ("batch_size", batch_size)):
            checks.check_integer(value, argument, 2**31, low=1)
        checks.check_positive(learning_rate, "learning_rate")
        if not checks.check_number(momentum, "momentum", 0) < 1:
            raise ValueError(f"momentum is {momentum}; it takes a number in [0, 1)")
        checks.check_number(weight_decay, "weight_decay", 0)
        with torch.enable_grad(), dispatch.without_autocast(data.device):
            for number, machine in enumerate(self, start=1):
                optimizer = _optimizer(machine, learning_rate, momentum, weight_decay)
                seed = current().broadcast_object(int(draw_seed(generator, data.device)))
                label = f"machine {number} of {len(self.machines)}"
                with _in_training(machine):
                    for _ in track(range(epochs), label, progress=progress):
                        _epoch(machine, data, optimizer, batch_size, seed)
                    machine.check_finite()
                with torch.no_grad():
                    data = machine(data)

    @torch.no_grad()
    def unroll(self) -> nn.Sequential:
        """A deep autoencoder of 2L :class:`aefast.nn.LinearAct` with copies of the weights.

        All are sigmoid, but for the last one over Gaussian visible units. Learned variances go into
        the first weight.
        """
        encoder, decoder = [], []
        for machine in self:
            renew_weights(machine)
            hidden, visible = machine.weight.shape
            factory_options: FactoryOptions = {
                "device": machine.weight.device,
                "dtype": machine.weight.dtype,
            }
            up = skip_init(LinearAct, visible, hidden, activation="sigmoid", **factory_options)
            up.weight.copy_(machine.weight)
            if machine.log_var is not None:
                up.weight.mul_(torch.exp(-machine.log_var))
            up.bias.copy_(machine.hidden_bias)
            activation = "identity" if machine.visible_kind == "gaussian" else "sigmoid"
            down = skip_init(LinearAct, hidden, visible, activation=activation, **factory_options)
            down.weight.copy_(machine.weight.t())
            down.bias.copy_(machine.visible_bias)
            encoder.append(up)
            decoder.append(down)
        return nn.Sequential(*encoder, *reversed(decoder))


def _epoch(
    machine: RBM, data: Tensor, optimizer: torch.optim.Optimizer, batch_size: int, seed: int
) -> None:
    # Training lies above the modules; this one trains itself.
    from aefast.training.engines import DivergenceError
    from aefast.training.fit import fit

    try:
        fit(machine, data, optimizer, batch_size=batch_size, seed=seed)
    except DivergenceError as error:
        machine.check_finite()
        raise FloatingPointError(
            f"the loss is not finite after training step {int(machine.training_steps)}; "
            "a lower learning rate may help"
        ) from error


@contextlib.contextmanager
def _in_training(machine: RBM) -> Iterator[None]:
    """Put a machine into training mode, and back however training ends."""
    was_training = machine.training
    machine.train()
    try:
        yield
    finally:
        machine.train(was_training)


def _optimizer(
    machine: RBM, learning_rate: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    # By their names: a reparametrized weight is other parameters, and each of them decays.
    decaying: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in machine.named_parameters():
        is_other = "bias" in name or "log_var" in name
        (others if is_other else decaying).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decaying, "weight_decay": weight_decay},
        {"params": others},
    ]
    return torch.optim.SGD(groups, learning_rate, momentum)

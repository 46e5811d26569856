"""Gradient descent on a Boltzmann machine's contrastive divergence, many steps in one C++ call."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from aefast import random
from aefast.backend import extension
from aefast.ops.rbm.op import check_machine, divergence_of_chains
from aefast.step.machine_loss import refusal
from aefast.step.machine_plan import MachinePlan
from aefast.step.minibatch_schedule import CHUNK_SECONDS, MinibatchSchedule

if TYPE_CHECKING:
    from aefast import _C

# A call of the kernels takes several epochs, up to so many rows.
MOST_ROWS = 1 << 20


class PlainSteps:
    """Stochastic gradient descent on contrastive divergence of Bernoulli units.

    Args:
        plan: the machine's plan.
        parameters: the weight, the visible and the hidden biases, which are updated in place.
        chain: persistent chains ``[C, D]``, which are updated in place; None starts at the data.
        learning_rate: the learning rate.
    """

    def __init__(
        self,
        plan: MachinePlan,
        parameters: tuple[Tensor, Tensor, Tensor],
        chain: Tensor | None,
        learning_rate: float,
    ) -> None:
        self.plan = plan
        self.parameters = parameters
        self.chain = chain
        self.learning_rate = learning_rate
        example = parameters[0][:1]  # a row as wide as the data's
        self.is_served = refusal(plan, parameters, example) is None

    def run(self, rows: Tensor, batch_size: int, seeds: Sequence[int], first_step: int = 0) -> int:
        """Train on the rows ``[N, D]``, float32 and contiguous, in order: an epoch for each of
        ``seeds``, a step for each minibatch.

        Steps of an epoch are counted from ``first_step``. Step n draws with
        ``random.child_seed(seed, n)``, where ``seed`` is the epoch's.

        Returns:
            the number of steps of an epoch.

        Raises:
            FloatingPointError: a step's gradient is not finite; the step is not taken.
        """
        steps, steps_done = -(-len(rows) // batch_size), 0
        while steps_done < steps * len(seeds):
            epoch, step = divmod(steps_done, steps)
            arguments = rows, batch_size, seeds[epoch:], first_step, step
            # Where the kernel's loss is not finite, the gradient may be: the loop takes that step.
            steps_done += self._kernel(*arguments) or self._loop(*arguments)
        return steps

    def _kernel(
        self, rows: Tensor, batch_size: int, seeds: Sequence[int], first_step: int, step: int
    ) -> int:
        """Take steps by the kernels, up to one whose loss is not finite; return how many."""
        if not self.is_served:
            return 0
        from aefast.step import cpp, machine_cpp

        data = cpp.rows_of(rows.numpy(), 1.0)
        assert isinstance(data, cpp.Rows)
        order = torch.arange(len(rows), dtype=torch.int64, device="cpu").repeat(len(seeds))
        losses = cpp.fit(
            machine_cpp.kernel_plan(self.plan, self.chain, self.chain),
            self.parameters,
            _Updates(self.parameters, self.learning_rate),
            MinibatchSchedule(
                order[step * batch_size :], batch_size, len(rows), seeds, first_step + step
            ),
            CHUNK_SECONDS,
            data,
        )
        return sum(map(math.isfinite, losses))

    def _loop(
        self, rows: Tensor, batch_size: int, seeds: Sequence[int], first_step: int, step: int
    ) -> int:
        """Take one step with separate ops; return 1."""
        batch = rows[step * batch_size : (step + 1) * batch_size]
        weight, visible_bias, hidden_bias = parameters = [
            parameter.detach().requires_grad_() for parameter in self.parameters
        ]
        loss, chain = divergence_of_chains(
            batch,
            check_machine(batch, weight, visible_bias, hidden_bias),
            self.plan.k,
            chain=self.chain,
            seed=random.child_seed(seeds[0], first_step + step),
        )
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            updated = torch._foreach_add(parameters, gradients, alpha=-self.learning_rate)
        if not all(parameter.isfinite().all() for parameter in updated):
            raise FloatingPointError(
                f"a step's gradient is not finite, with numbers up to {batch.abs().max():g} in "
                "X; Bernoulli units take numbers in [0, 1]"
            )
        torch._foreach_copy_(list(self.parameters), updated)
        if self.chain is not None:
            self.chain.copy_(chain)
        return 1


class _Updates(NamedTuple):
    """Gradient descent: each parameter minus the learning rate times its gradient."""

    parameters: tuple[Tensor, Tensor, Tensor]
    learning_rate: float

    @property
    def numbers(self) -> list[int]:
        return [0, 1, 2]

    def updates(self) -> "list[_C.ParameterUpdate]":
        kernels = extension()
        return [
            kernels.ParameterUpdate(
                kind=kernels.OptimizerKind.sgd,
                parameter=parameter.data_ptr(),
                size=parameter.numel(),
                learning_rate=self.learning_rate,
            )
            for parameter in self.parameters
        ]

    def advance(self, steps: int) -> None:
        """Gradient descent has no state to update."""

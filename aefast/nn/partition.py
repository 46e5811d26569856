"""ln Z of a restricted Boltzmann machine: by enumeration, or by annealed importance sampling."""

import math
from statistics import NormalDist
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from aefast.functional import free_energy, gibbs, linear_act
from aefast.nn.progress import track
from aefast.nn.rbm import RBM
from aefast.nn.reparametrized import renew_weights
from aefast.ops.rbm.op import check_machine, check_states, sample_chain
from aefast.ops.shared import checks, dispatch
from aefast.random import most_precise

MOST_ENUMERATED = 25  # units: 2^25 states
STATES_AT_ONCE = 1 << 14

# Gaussian units are drawn as v / beta, which has to stay finite: see _transition().
LEAST_BETA = 1e-12


class LogPartition(NamedTuple):
    """An estimate of ln Z, in nats."""

    estimate: float
    low: float  # the confidence interval; -inf where the weights vary too much to tell
    high: float
    effective_chains: float  # as many equally weighted chains have the same variance


@torch.no_grad()
def exact_log_partition(machine: RBM, *, progress: bool = False) -> float:
    """ln Z by a sum over every state of the side with fewer units; the other side's sum is closed.

    Args:
        machine: with at most 25 units on one side; of Gaussian visible units, on the hidden one.
        progress: show a bar.

    Raises:
        ValueError: there are more; :func:`annealed_importance_sampling` estimates it.

    >>> import torch
    >>> from aefast.nn import RBM
    >>> machine = RBM(3, 2)
    >>> _ = torch.nn.init.zeros_(machine.weight)
    >>> exact_log_partition(machine)  # 5 ln 2
    3.4657...
    """
    hidden, visible = machine.weight.shape
    _check_precision(machine)
    over_visible = machine.visible_kind == "bernoulli" and visible < hidden
    units = visible if over_visible else hidden
    if units > MOST_ENUMERATED:
        raise ValueError(
            f"the machine has {visible} {machine.visible_kind} visible and {hidden} hidden units; "
            f"enumeration takes at most {MOST_ENUMERATED} Bernoulli units on one side: "
            "see annealed_importance_sampling"
        )
    device = machine.weight.device
    total = torch.full((), -math.inf, dtype=most_precise(device), device=device)
    bit = torch.arange(units, dtype=torch.int64, device=machine.weight.device)
    starts = range(0, 1 << units, STATES_AT_ONCE)
    for start in track(starts, "enumerating states", progress=progress):
        end = min(start + STATES_AT_ONCE, 1 << units)
        index = torch.arange(start, end, dtype=torch.int64, device=machine.weight.device)
        states = (index[:, None] >> bit & 1).to(machine.weight.dtype)
        with dispatch.without_autocast(states.device):
            if over_visible:
                energies = machine.free_energy(states)
            else:
                energies = _hidden_energy(machine, states)
        total = torch.logaddexp(total, _precise(-energies).logsumexp(0))
    return total.item()


def _hidden_energy(machine: RBM, hidden: Tensor) -> Tensor:
    """-ln of the sum, or integral, over v of exp(-E(v, h)); [B]."""
    weight, visible_bias, hidden_bias = machine.weight, machine.visible_bias, machine.hidden_bias
    if machine.visible_kind == "bernoulli":
        return free_energy(hidden, weight.t(), hidden_bias, visible_bias)
    log_var = _log_var(machine)
    shift = _precise(linear_act(hidden, weight.t()))  # whose square float32 may not hold
    exponent = shift * (2 * visible_bias + shift) * torch.exp(-log_var) / 2
    return -(hidden @ hidden_bias + exponent.sum(1) + _log_normalizer(log_var))


def _precise(x: Tensor) -> Tensor:
    return x.to(most_precise(x.device))


def _log_var(machine: RBM) -> Tensor:
    return torch.zeros_like(machine.visible_bias) if machine.log_var is None else machine.log_var


def _log_normalizer(log_var: Tensor) -> float:
    """ln of the integral of exp(-|v / s|^2 / 2)."""
    return ((math.log(2 * math.pi) + _precise(log_var)).sum() / 2).item()


@torch.no_grad()
def annealed_importance_sampling(
    machine: RBM,
    data: Tensor,
    chains: int = 100,
    betas: int | Tensor = 10_000,
    *,
    reverse_from: Tensor | None = None,
    confidence: float = 0.95,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> LogPartition:
    """ln Z estimated by chains that go from a base machine, whose Z is known, to this one.

    The base has no weights, and the visible bias b_A that gives the data's mean, the best that a
    machine without weights can do. Between the two stand machines of the energy

        E(v, h) = (1 - beta) E_A(v) + beta E_1(v, h).

    All chains take each step in one call of :func:`aefast.functional.gibbs`: a temperature costs a
    bias, and no copy of the weight. The mean weight of the chains is Z over the base's, without
    bias, so that the estimate of ln Z tends to be low. With ``reverse_from`` chains go the other
    way, and it tends to be high: the two enclose ln Z.

    The interval is of the chains' spread. It cannot know of a mode that none of them found, as
    happens with few temperatures or with data that the machine was not trained on.

    Args:
        machine: any RBM.
        data: ``[N, D]``, what it was trained on.
        chains: how many, at least 2.
        betas: how many temperatures, at least 2, evenly apart; or a tensor ``[T]`` of them that
            rises from 0 to 1.
        reverse_from: ``[chains, D]``, samples of the machine, as long chains leave them; then
            ``chains`` is not read.
        confidence: of the interval, in (0, 1): of a normal mean weight.
        seed: an int in [0, 2**63); None draws one from ``generator``.
        generator: a ``torch.Generator``; None takes torch's default one.
        progress: show a bar.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: a number outside its range, temperatures that do not rise from 0 to 1, or a
            shape that does not fit.
        FloatingPointError: a parameter of the machine is infinite or NaN, or a chain becomes so.

    References:
        Salakhutdinov, Murray, "On the quantitative analysis of deep belief networks", ICML 2008.
        Burda, Grosse, Salakhutdinov, "Accurate and conservative estimates of MRF log-likelihood
        using reverse annealing", AISTATS 2015.

    >>> import torch
    >>> from aefast.nn import RBM
    >>> machine = RBM(3, 2)
    >>> _ = torch.nn.init.zeros_(machine.weight)
    >>> data = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    >>> annealed_importance_sampling(machine, data, betas=10, seed=0)
    LogPartition(estimate=3.4657..., low=3.4657..., high=3.4657..., effective_chains=100...)
    """
    _check_precision(machine)
    temperatures = _check_betas(betas)
    _check_rows(machine, data, "data")
    if reverse_from is not None:
        _check_rows(machine, reverse_from, "reverse_from")
    if checks.check_number(confidence, "confidence", 0, 1) in (0, 1):
        raise ValueError(f"confidence is {confidence}; it takes a number in (0, 1)")
    checks.check_seed_arguments(seed, generator)
    chains = chains if reverse_from is None else len(reverse_from)
    chains = checks.check_integer(chains, "chains", 2**31, low=2)
    base_bias = _base_bias(machine, data)
    first_seed = dispatch.resolve_seed(seed, generator, torch.device("cpu"), False)
    draws = torch.Generator().manual_seed(int(first_seed))
    if reverse_from is None:
        visible = _base_sample(machine, base_bias, chains, draws)
    else:
        visible, temperatures = reverse_from, temperatures.flip(0)
    with dispatch.without_autocast(visible.device):
        log_weights = _anneal(machine, base_bias, visible, temperatures.tolist(), draws, progress)
    log_base = _log_base_partition(machine, base_bias)
    sign = 1 if reverse_from is None else -1
    return _summary(log_weights, log_base, sign, confidence)


def _anneal(
    machine: RBM,
    base_bias: Tensor,
    visible: Tensor,
    betas: list[float],
    draws: torch.Generator,
    progress: bool,
) -> Tensor:
    """The chains' log weights [chains], float64 where the device has it: the sum over the steps of
    how much likelier the next temperature's machine holds their state than the last one's."""
    dtype = most_precise(visible.device)
    log_weights = torch.zeros(len(visible), dtype=dtype, device=visible.device)
    steps = track(range(1, len(betas)), "annealing", progress=progress)
    for step in steps:
        last, beta = betas[step - 1], betas[step]
        log_weights += _log_ratio(machine, base_bias, visible, last, beta)
        if step < len(betas) - 1:
            visible = _transition(machine, base_bias, visible, beta, draws)
    return log_weights


def _log_ratio(
    machine: RBM, base_bias: Tensor, visible: Tensor, last: float, beta: float
) -> Tensor:
    """ln p_beta(v) - ln p_last(v) of the unnormalized probabilities [chains]."""
    bias, log_var = machine.visible_bias, machine.log_var
    scaled = visible if log_var is None else visible * torch.exp(-log_var)
    if machine.visible_kind == "bernoulli":
        visible_term = visible @ (bias - base_bias)
    else:
        # (|v - b_A|^2 - |v - b|^2) / 2 s^2, without the squares of v that cancel.
        precision = torch.exp(-_log_var(machine))
        squares = ((base_bias.square() - bias.square()) * precision).sum() / 2
        visible_term = scaled @ (bias - base_bias) + squares
    inputs = _precise(linear_act(scaled, machine.weight, machine.hidden_bias))
    hidden_term = (F.softplus(beta * inputs) - F.softplus(last * inputs)).sum(1)
    return (beta - last) * _precise(visible_term) + hidden_term


def _transition(
    machine: RBM, base_bias: Tensor, visible: Tensor, beta: float, draws: torch.Generator
) -> Tensor:
    """A Gibbs step that leaves the distribution at this temperature as it is.

    The visible units' input is (1 - beta) b_A + beta (b + Wt h) = beta (b + (1 / beta - 1) b_A +
    Wt h): gibbs's at a bias that differs. Gaussian units would grow wide with the temperature, but
    keep s here: so gibbs draws v / beta, of the variance s^2 / beta over beta.
    """
    gaussian = machine.visible_kind == "gaussian"
    visible = visible / beta if gaussian else visible
    parameters = check_machine(
        visible,
        machine.weight,
        machine.visible_bias + (1 / beta - 1) * base_bias,
        machine.hidden_bias,
        machine.visible_kind,
        _log_var(machine) - math.log(beta) if gaussian else None,
    )
    drawn = sample_chain(visible, parameters, beta=beta, generator=draws).visible
    return drawn * beta if gaussian else drawn


def _base_bias(machine: RBM, data: Tensor) -> Tensor:
    if machine.visible_kind == "gaussian":
        return data.mean(0)
    # One of each state beside the data, so that no unit is sure.
    return torch.logit((data.sum(0) + 1) / (len(data) + 2))


def _base_sample(machine: RBM, base_bias: Tensor, chains: int, draws: torch.Generator) -> Tensor:
    # Without weights a Gibbs step from anywhere draws from the base.
    return gibbs(
        torch.zeros(chains, len(base_bias), dtype=base_bias.dtype, device=base_bias.device),
        torch.zeros_like(machine.weight[:1]),
        base_bias,
        None,
        visible_kind=machine.visible_kind,
        log_var=machine.log_var,
        generator=draws,
    ).visible


def _log_base_partition(machine: RBM, base_bias: Tensor) -> float:
    hidden = len(machine.hidden_bias) * math.log(2)
    if machine.visible_kind == "gaussian":
        return hidden + _log_normalizer(_log_var(machine))
    return hidden + F.softplus(_precise(base_bias)).sum().item()


def _summary(log_weights: Tensor, log_base: float, sign: int, confidence: float) -> LogPartition:
    """The mean weight is Z over the base's, or, of reverse chains, its inverse."""
    if not log_weights.isfinite().all():
        raise FloatingPointError(
            "the chains' states or weights are past what the machine's dtype holds; "
            "machine.double() may hold them"
        )
    chains = len(log_weights)
    log_mean = (log_weights.logsumexp(0) - math.log(chains)).item()
    relative = (log_weights - log_mean).exp()
    deviations = NormalDist().inv_cdf((1 + confidence) / 2)
    margin = deviations * relative.std().item() / math.sqrt(chains)
    low = math.log1p(-margin) if margin < 1 else -math.inf
    bounds = (sign * low, sign * math.log1p(margin))
    estimate = log_base + sign * log_mean
    return LogPartition(
        estimate,
        estimate + min(bounds),
        estimate + max(bounds),
        chains / relative.square().mean().item(),
    )


def _check_betas(betas: int | Tensor) -> Tensor:
    if not isinstance(betas, Tensor):
        count = checks.check_integer(betas, "betas", 2**31, low=2)
        return torch.linspace(0, 1, count, dtype=torch.float64, device="cpu")
    if betas.dim() != 1 or len(betas) < 2:
        raise ValueError(f"betas has shape {list(betas.shape)}; it takes [T], at least 2 of them")
    betas = betas.cpu().double()
    if betas[0] != 0 or betas[-1] != 1 or not (betas.diff() > 0).all():
        raise ValueError("betas do not rise from 0 to 1; it takes numbers that do")
    if betas[1] < LEAST_BETA:
        raise ValueError(f"betas[1] is {betas[1]:g}; it takes at least {LEAST_BETA:g}")
    return betas


def _check_precision(machine: RBM) -> None:
    renew_weights(machine)
    if machine.weight.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"the machine has dtype {checks.dtype_name(machine.weight)}; "
            "sums over many states take float32 or float64"
        )
    machine.check_finite()


def _check_rows(machine: RBM, rows: Tensor, argument: str) -> None:
    checks.check_like(rows, argument, machine.weight, "the machine")
    width = machine.weight.shape[1]
    if rows.dim() != 2 or rows.shape[1] != width or len(rows) == 0:
        raise ValueError(f"{argument} has shape {list(rows.shape)}; it takes [N, {width}], N > 0")
    check_states(rows, argument, machine.visible_kind)
    if not rows.isfinite().all():
        raise ValueError(f"{argument} holds NaN or an infinity; it takes finite numbers")

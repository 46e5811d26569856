"""``accelerate``, ``restore`` and ``report``: the kernels in a plain PyTorch model, in place."""

from collections import Counter
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from aefast.acceleration.objective import check_loss
from aefast.acceleration.serving import AcceleratedState, bind, unbind
from aefast.acceleration.table import Report, ReportRow
from aefast.acceleration.tracing import KEY, has_other_code
from aefast.nn.linear import LinearAct


def accelerate(model: nn.Module, *, loss: Callable[..., Tensor] | None = None) -> Report:
    """Let this package's kernels compute a plain PyTorch model's layers, in place.

    The model keeps its parameters, hooks, names and state dict, and its numbers up to rounding. Its
    pickles load without this package. It draws the same numbers from torch's generator. Only this
    instance's ``forward`` is replaced, until :func:`restore`.

    The kernels compute linear layers with their activations, however ``forward`` writes them,
    top-k codes by ``torch.topk`` and ``scatter``, dropout, ``torch.rand_like`` and
    ``torch.randn_like``, of float32 tensors on a CPU. Where torch draws by MKL, as on Intel
    processors, all draws are torch's own. The model's own code runs in calls where PyTorch is
    faster, and in those that are compiled or traced. PyTorch's operations compute the same layers
    in calls that are cast or on another device, and each layer with a hook, a parametrization or an
    adapter. A ``forward`` that torch.fx cannot trace, or that has side effects, stays as it is, and
    the kernels compute each ``nn.Sequential`` in it.

    Args:
        model: any module. It may be wrapped, moved, cast or compiled before or after.
        loss: the function that trains it: ``loss(output, x)``, or for a tuple of outputs
            ``loss(outputs[0], x, *outputs[1:])``. :func:`aefast.fit` uses it.

    Returns:
        what was replaced, and what was not and why; printed, it is a table.

    Raises:
        TypeError: ``model`` is no module, or of torch.jit; ``loss`` is not callable, or a class.
        ValueError: it holds no ``nn.Linear``, or is accelerated already.

    >>> import torch, aefast
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(64, 32), nn.Sigmoid(), nn.Linear(32, 64))
    >>> aefast.accelerate(model)
    module       operation                   replaced  served  fell back  reason
    (the model)  64-32-64 sigmoid, identity  yes       -       -
    >>> model(torch.rand(5, 64)).sum().backward()  # so few rows torch computes faster
    >>> aefast.report(model).replaced[0].fallbacks
    1
    >>> _ = aefast.restore(model)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; it takes a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            f"model is a {type(model).__name__} of torch.jit; it takes the module that was compiled"
        )
    check_loss(loss, "a function or a module")
    if next(accelerated_in(model), None) is not None:
        raise ValueError("model is accelerated already; aefast.restore(model) undoes it")
    try:
        for module in _candidates(model):
            record = bind(module, loss if module is model else None)
            if not record.counters and module is not model:
                unbind(module)
    except BaseException:  # nothing stays bound
        for module in list(accelerated_in(model)):
            unbind(module)
        raise
    done = report(model)
    if not done.replaced and not _has_linear_layers(model):
        restore(model)
        is_ours = any(isinstance(child, LinearAct) for child in model.modules())
        hint = "; the layers of aefast.nn run on the kernels as they are" if is_ours else ""
        raise ValueError(
            f"model is a {type(model).__name__} without a linear layer; it takes one that holds an "
            f"nn.Linear{hint}"
        )
    return done


def _has_linear_layers(model: nn.Module) -> bool:
    """Whether an accelerated model holds a linear layer: a module, or a product that was found."""
    if any(isinstance(child, nn.Linear) for child in model.modules()):
        return True
    records = [child.__dict__[KEY] for child in accelerated_in(model)]
    return any(state.single_layers for record in records for state in record.states)


def restore(model: nn.Module) -> nn.Module:
    """Undo :func:`accelerate`: the model runs its own code again.

    Returns:
        the model.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: it is not accelerated.
    """
    _check_accelerated(model)
    for module in list(accelerated_in(model)):
        unbind(module)
    return model


def report(model: nn.Module) -> Report:
    """The parts of a model that were replaced, with the calls and milliseconds of each so far.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: it is not accelerated.
    """
    _check_accelerated(model)
    rows: list[ReportRow] = []
    for name, module in model.named_modules():
        if KEY in module.__dict__:
            rows += _rows(name, module.__dict__[KEY])
    return Report(tuple(rows))


def accelerated_in(model: nn.Module) -> Iterator[nn.Module]:
    """The modules of a model that are accelerated."""
    return (module for module in model.modules() if KEY in module.__dict__)


def _candidates(model: nn.Module) -> Iterator[nn.Module]:
    """The model, and each ``nn.Sequential`` in it, which may be called on its own."""
    for module in model.modules():
        if module is model or (type(module) is nn.Sequential and not has_other_code(module)):
            yield module


def _rows(name: str, record: AcceleratedState) -> Iterator[ReportRow]:
    for operation, counter in record.counters.items():
        yield ReportRow(
            name,
            operation,
            True,
            "; ".join(sorted(counter.reasons)),
            counter.served,
            counter.served_ms,
            counter.fallbacks,
            counter.fallback_ms,
        )
    if record.reason is not None:
        yield ReportRow(name, type(record.module).__name__, False, record.reason)
    for state in record.states[:1]:
        for target, reason in state.altered.items():
            yield ReportRow(f"{name}.{target}".lstrip("."), "Linear", False, reason)
        if state.single_layers:
            layers = f"{state.single_layers} x Linear alone"
            yield ReportRow(name, layers, False, "torch's own is as fast")
        for reason, count in Counter(state.other_topk).items():
            yield ReportRow(name, f"{count} x topk", False, reason)
        for draw in state.torch_draws:
            yield ReportRow(name, draw, False, "torch draws these numbers itself")


def _check_accelerated(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; it takes a torch.nn.Module")
    if next(accelerated_in(model), None) is None:
        raise ValueError("model is not accelerated; aefast.accelerate(model) does that")

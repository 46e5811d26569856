"""``accelerate``, ``restore`` and ``report``."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from aefast.acceleration.serving import Record, bind, unbind
from aefast.acceleration.table import Report, Row
from aefast.acceleration.tracing import KEY, is_leaf


def accelerate(model: nn.Module, *, loss: Any = None) -> Report:
    """Have this package's kernels serve a plain PyTorch model, in place.

    The model stays what it is: the same parameters, hooks, names and state dict, pickles that load
    without this package, and the same numbers up to rounding; what it draws, it draws from torch's
    generator as it does. Only this instance's ``forward`` is another one, until :func:`restore`.

    Served are linear layers with their activations, however ``forward`` writes them, dropout,
    ``torch.rand_like`` and ``torch.randn_like``, of float32 tensors on a CPU. A call that does not
    pay, or that is compiled, traced, cast or on another device, runs the model's own code; so does
    a layer with a hook, a parametrization or an adapter on it. A ``forward`` that torch.fx cannot
    trace, or that does more than compute, is left alone, and each ``nn.Sequential`` in it served.

    Args:
        model: any module. It may be wrapped, moved, cast or compiled before or after.
        loss: what it is trained by: ``loss(output, x)``, or, of a tuple of outputs,
            ``loss(outputs[0], x, *outputs[1:])``. :func:`aefast.fit` takes it.

    Returns:
        what was replaced, and what was not and why; printed, it is a table.

    Raises:
        TypeError: ``model`` is no module, or ``loss`` is not callable.
        ValueError: it holds no ``nn.Linear``, or is accelerated already.

    >>> import torch, aefast
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(64, 32), nn.Sigmoid(), nn.Linear(32, 64))
    >>> aefast.accelerate(model)
    module       part                        replaced  served  fell back  why
    (the model)  64-32-64 sigmoid, identity  yes       -       -
    >>> model(torch.rand(5, 64)).sum().backward()
    >>> aefast.report(model).replaced[0].served
    1
    >>> _ = aefast.restore(model)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; it takes a torch.nn.Module")
    if loss is not None and not callable(loss):
        raise TypeError(f"loss is a {type(loss).__name__}; it takes a function or a module")
    if next(accelerated_in(model), None) is not None:
        raise ValueError("model is accelerated already; aefast.restore(model) undoes it")
    for module in _candidates(model):
        record = bind(module, loss if module is model else None)
        if not record.tallies and module is not model:
            unbind(module)
    done = report(model)
    if not done.replaced and not any(isinstance(child, nn.Linear) for child in model.modules()):
        restore(model)
        raise ValueError(
            f"model is a {type(model).__name__} without a linear layer; it takes one that holds an "
            "nn.Linear"
        )
    return done


def restore(model: nn.Module) -> nn.Module:
    """Undo :func:`accelerate`: the model is what it was.

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
    """What of a model is replaced, with the calls and milliseconds of its forward so far.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: it is not accelerated.
    """
    _check_accelerated(model)
    rows: list[Row] = []
    for name, module in model.named_modules():
        if KEY in module.__dict__:
            rows += _rows(name, module.__dict__[KEY])
    return Report(tuple(rows))


def accelerated_in(model: nn.Module) -> Iterator[nn.Module]:
    """The modules of a model that the kernels stand in."""
    return (module for module in model.modules() if KEY in module.__dict__)


def _candidates(model: nn.Module) -> Iterator[nn.Module]:
    """The model, and each ``nn.Sequential`` in it, which may be called on its own."""
    for module in model.modules():
        if module is model or (type(module) is nn.Sequential and not is_leaf(module)):
            yield module


def _rows(name: str, record: Record) -> Iterator[Row]:
    for part, tally in record.tallies.items():
        yield Row(
            name,
            part,
            True,
            "; ".join(sorted(tally.reasons)),
            tally.served,
            tally.served_ms,
            tally.fallen,
            tally.fallen_ms,
        )
    if record.reason is not None:
        yield Row(name, type(record.module).__name__, False, record.reason)
    for state in record.states[:1]:
        if state.lone:
            yield Row(name, f"{state.lone} x Linear alone", False, "torch's own is as fast")
        for draw in state.own_draws:
            yield Row(name, draw, False, "torch draws these numbers itself")


def _check_accelerated(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; it takes a torch.nn.Module")
    if next(accelerated_in(model), None) is None:
        raise ValueError("model is not accelerated; aefast.accelerate(model) does that")

"""The checks of the arguments of ``aefast.fit``, and its data as datasets."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from aefast.acceleration.objective import NAMED, check_loss
from aefast.data import Dataset
from aefast.data.dataset import from_array, is_mapped
from aefast.data.elements import check_elements
from aefast.data.pairs import PairedRows
from aefast.data.tensor_rows import TensorRows
from aefast.nn.trainable import Trainable, has_loss
from aefast.ops.shared import checks, dispatch
from aefast.training.plain_model import PlainModel, plain_model

Rows = Tensor | np.ndarray | Dataset
Batches = Callable[[], Iterable[Tensor | tuple[Tensor, Tensor]]]


def rows_or_pairs(
    data: object, argument: str, model: nn.Module
) -> Dataset | TensorRows | PairedRows:
    """The rows to train on; or the inputs and targets of a transcoder, given as a pair.

    Raises:
        TypeError, ValueError: as :func:`rows_of`; or a pair is given, and the model's loss takes no
            target, or the pair's rows are not as many.
    """
    if not isinstance(data, tuple):
        return rows_of(data, argument, model)
    if len(data) != 2:
        raise ValueError(
            f"{argument} is a tuple of {len(data)}; it takes rows, or a pair of inputs and targets"
        )
    check_takes_target(model, argument)
    inputs, targets = (rows_of(rows, argument, model) for rows in data)
    return PairedRows(inputs, targets, argument)


def check_takes_target(model: object, argument: str) -> None:
    """
    Raises:
        TypeError: the model's loss takes no target, and data that the message calls ``argument``
            are pairs.
    """
    loss: Any = model.loss if isinstance(model, nn.Module) and has_loss(model) else None
    if loss is None or "target" not in inspect.signature(loss).parameters:
        module = model.module if isinstance(model, PlainModel) else model
        raise TypeError(
            f"{argument} is a pair of inputs and targets; the loss of a {type(module).__name__} "
            "takes no target"
        )


def rows_of(data: object, argument: str, model: nn.Module) -> Dataset | TensorRows:
    """Rows of a tensor, an array or a dataset.

    Raises:
        TypeError, ValueError: it is none, or has no row.
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, Tensor):
        if data.layout != torch.strided or data.is_quantized or data.is_meta:
            raise TypeError(f"{argument} is a {_kind(data)} tensor; it takes a dense one")
        data = data.detach()
        if data.numel():
            data = dispatch.materialize(data, argument)
        if data.is_floating_point() and data.dim() > 1 and data.numel() and not _is_plain(model):
            return TensorRows(data.reshape(len(data), -1))
        data = (data.float() if data.is_floating_point() else data).cpu().numpy()
    if not isinstance(data, np.ndarray):
        raise TypeError(
            f"{argument} is a {type(data).__name__}; it takes a torch.Tensor, a numpy.ndarray or "
            "an aefast.data.Dataset"
        )
    if data.ndim < 2 or 0 in data.shape:
        raise ValueError(f"{argument} has shape {list(data.shape)}; it takes [N, D]")
    if data.dtype.kind not in "buif":
        raise TypeError(f"{argument} has dtype {data.dtype}; it takes bool, integers or floats")
    check_elements(data, argument)
    if data.dtype == np.float32 and not isinstance(data, np.memmap):
        rows = data.reshape(len(data), -1)  # the losses check its bounds, which are left open here
        return Dataset(rows, data.shape[1:], 1.0, argument, -np.inf, np.inf, 0)
    return from_array(data, argument)


def as_kernels_read(
    data: Dataset | TensorRows | PairedRows, model: nn.Module
) -> Dataset | TensorRows | PairedRows:
    """The data, laid out as C++ reads them. Those of a model that is not float32 on a CPU are as
    they were given."""
    if not _is_plain(model):
        return data
    if isinstance(data, PairedRows):
        return PairedRows(_laid_out(data.inputs), _laid_out(data.targets), "data")
    return _laid_out(data)


def _laid_out(data: Dataset | TensorRows) -> Dataset | TensorRows:
    """Rows of float32, or uint8 for bits and bytes, each row's numbers side by side: what lies
    otherwise in memory is copied. What is mapped from files stays there."""
    if type(data) is not Dataset or is_mapped(data.rows):
        return data
    dtype = np.uint8 if data.rows.dtype in (np.bool_, np.uint8) else np.float32
    is_laid_out = data.rows.strides[1] == data.rows.itemsize and data.rows.flags.aligned
    if data.rows.dtype == dtype and is_laid_out:
        return data
    rows = np.ascontiguousarray(data.rows, dtype)
    low, high = (float(np.float32(bound)) for bound in (data.low, data.high))
    return replace(data, rows=rows, low=low, high=high)


def _is_plain(model: nn.Module) -> bool:
    """Whether the model's parameters are float32 on a CPU."""
    example = next(model.parameters())
    return example.device.type == "cpu" and example.dtype == torch.float32


def _kind(data: Tensor) -> str:
    if data.is_meta:
        return "meta"
    return "quantized" if data.is_quantized else str(data.layout).removeprefix("torch.")


def check_function(data: Callable[..., object]) -> None:
    """Check that a function that gives an epoch's batches takes no arguments.

    Raises:
        TypeError: data cannot be called without arguments.
    """
    try:
        inspect.signature(data).bind()
    except ValueError:  # a builtin, which says nothing of its arguments
        return
    except TypeError as error:
        raise TypeError(
            f"data is a function, {error}; it takes one that is called without arguments"
        ) from None


def _check_no_wrapper(model: nn.Module) -> None:
    """A DistributedDataParallel or a LossModule hides the model's loss method.

    Raises:
        TypeError: the model is in one.
    """
    for name in ("module", "model"):
        inner = getattr(model, name, None)
        if isinstance(inner, nn.Module) and has_loss(inner):
            raise TypeError(
                f"model is a {type(model).__name__} around a {type(inner).__name__}; it takes "
                f"model.{name} itself: in a process group the ranks' gradients are averaged "
                "without a wrapper"
            )


def with_loss(model: nn.Module, loss: str | Callable[..., Tensor] | None) -> Trainable:
    """The model, if it has a loss method; else a :class:`PlainModel` of it with ``loss``.

    Raises:
        TypeError, ValueError: there is no loss, or more than one.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; it takes a torch.nn.Module")
    has_own = has_loss(model)
    if loss is not None and has_own:
        raise TypeError(
            f"model is a {type(model).__name__} with a loss of its own; loss takes None"
        )
    if isinstance(loss, str):
        checks.check_choice(loss, "loss", tuple(NAMED))
    else:
        check_loss(loss, "a name, a function or a module")
    plain = None if has_own else plain_model(model, loss)
    if not has_own and plain is None:
        _check_no_wrapper(model)
        raise TypeError(
            f"model is a {type(model).__name__} without a loss method; it takes one whose "
            "loss(x, seed=...) is a scalar, as aefast.nn's autoencoders and RBM have it, or a "
            "plain module and its loss; a DeepBeliefStack has a fit of its own"
        )
    first = _first_layer(model)
    if isinstance(first, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        raise TypeError(
            f"model begins with a {type(first).__name__}, and rows are flattened to [B, D]; it "
            "takes an nn.Unflatten(1, ...) before it"
        )
    return plain or cast(Trainable, model)


def _first_layer(model: nn.Module) -> nn.Module:
    """The module that the input goes to first, as far as the containers say."""
    while isinstance(model, nn.Sequential) and len(model):
        model = model[0]
    return model


def check_optimizer(model: Trainable, optimizer: object) -> None:
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer is a {type(optimizer).__name__}; it takes a torch.optim one")
    parameter_ids = {id(parameter) for parameter in model.parameters()}
    optimized: Sequence[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(id(parameter) in parameter_ids for parameter in optimized):
        raise ValueError(
            "optimizer holds none of the model's parameters; it takes those of model.parameters()"
        )
    if not any(parameter.requires_grad for parameter in (*model.parameters(), *optimized)):
        raise ValueError(
            "model has no parameter that is trained: requires_grad is False of each; it takes one "
            "or more"
        )

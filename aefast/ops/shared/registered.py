"""Registration of an op with torch.library, so that traces can record it."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.library import CustomOpDef

from aefast.ops.shared import dispatch


def registered(name: str) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """``torch.library.custom_op`` of a function whose first argument is a tensor.

    Autocast is off inside. A graph holds the op with the dtypes that it was traced with, and may
    run under autocast, which would cast the operands of PyTorch's products between our kernels.
    """

    def decorate(function: Callable[..., Any]) -> CustomOpDef:
        @functools.wraps(function)
        def without_autocast(*arguments: Any) -> Any:
            with dispatch.without_autocast(arguments[0].device):
                return function(*arguments)

        return torch.library.custom_op(name, without_autocast, mutates_args=())

    return decorate

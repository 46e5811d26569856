"""The registration of an op with torch.library, for what must see an op instead of a pointer."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.library import CustomOpDef

from aefast.ops.shared import dispatch


def registered(name: str) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """As ``torch.library.custom_op``, of a function whose first argument is a tensor.

    It computes in its tensors' dtypes, as its graph was promised: an exported program may run under
    autocast, which would cast the operands of PyTorch's products between our kernels.
    """

    def decorate(function: Callable[..., Any]) -> CustomOpDef:
        @functools.wraps(function)
        def without_autocast(*arguments: Any) -> Any:
            with dispatch.without_autocast(arguments[0].device):
                return function(*arguments)

        return torch.library.custom_op(name, without_autocast, mutates_args=())

    return decorate

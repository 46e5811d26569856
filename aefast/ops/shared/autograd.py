"""The autograd Function that kernels derive from."""

from typing import Any

import torch
from torch.autograd import Function


class KernelFunction(Function):
    """A Function with ``setup_context``, called without ``Function.apply``'s introspection.

    That binds default arguments anew on each call, which takes 25 us; a kernel's have none.
    """

    @classmethod
    def apply(cls, *arguments: Any) -> Any:
        if torch._C._are_functorch_transforms_active():
            return super().apply(*arguments)
        return super(Function, cls).apply(*arguments)  # type: ignore[misc]

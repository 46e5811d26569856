"""Launches that were made before, on tensors that lay elsewhere.

To plan a launch in Python and to convert its arguments takes longer than the launch. A call that
differs from an earlier one only in where its tensors lie finds that one's launch by a key, packed,
and passes addresses alone. The key says all else that decides the launch: shapes, strides, whether
a tensor starts at a multiple of 16 bytes, and settings.
"""

from collections.abc import Hashable
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from aefast import cubins
from aefast.ops.shared import triton_compiled
from aefast.ops.shared.triton import PlannedLaunch, device_of
from aefast.torch_private import cuda_stream

if TYPE_CHECKING:
    from aefast._C import PackedLaunch

MOST = 1024  # batches may have any number of rows

Kept = TypeVar("Kept")


def gpu_of(tensor: Tensor) -> torch.device | None:
    """The GPU that a tensor is on; None where Triton interprets its kernels."""
    return tensor.device if tensor.is_cuda else None


def layout(tensor: Tensor) -> tuple[Hashable, ...]:
    """What decides a launch on a tensor, beside its dtype and device."""
    return tensor.shape, tensor.stride(), tensor.data_ptr() % 16


class Packed(NamedTuple):
    """A launch that is packed, and sizes of the memory that it writes to."""

    launch: "PackedLaunch"
    device: torch.device
    sizes: tuple[int, ...]

    def run(self, *tensors: Tensor) -> None:
        """Launch on the device's current stream, with the tensors of the kernel's signature, in its
        order.

        Raises:
            TypeError: a tensor's dtype is not the signature's.
            RuntimeError: CUDA's driver refused the launch.
        """
        with device_of(tensors[0]):
            self.launch.launch(cuda_stream(self.device.index), *tensors)


class ByKey(Generic[Kept]):
    """What calls of one function found out, by key."""

    def __init__(self) -> None:
        self._by_key: dict[Hashable, Kept] = {}

    def find(self, key: Hashable) -> Kept | None:
        return self._by_key.get(key)

    def keep(self, key: Hashable, found: Kept) -> None:
        if len(self._by_key) >= MOST:
            self._by_key.clear()
        self._by_key[key] = found


class PackedLaunches(ByKey[Packed]):
    """The launches of one function, by key."""

    def add(self, key: Hashable, device: torch.device, planned: PlannedLaunch, *sizes: int) -> None:
        """Keep a launch that was made, if the extension made it: Triton launches the others."""
        variant, programs, arguments = planned
        kernel = triton_compiled.loaded(variant, device)
        if kernel is None:
            return
        launch = cubins.extension().PackedLaunch(
            kernel, programs, device.index, variant.in_order(arguments)
        )
        self.keep(key, Packed(launch, device, sizes))

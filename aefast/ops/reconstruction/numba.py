"""The reconstruction loss in numba, around the vendor's matrix products."""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from aefast.ops.reconstruction import panels
from aefast.ops.reconstruction.settings import PerInput, Settings
from aefast.ops.shared import numba as shared


def reconstruction_loss(
    inputs: PerInput[Any], settings: Settings, scale: float, needed: PerInput[bool]
) -> tuple[float | Tensor, PerInput[Any]]:
    detached = PerInput(*(None if tensor is None else tensor.detach() for tensor in inputs))
    return panels.reconstruction_loss(_Kernels(), detached, settings, scale, needed)

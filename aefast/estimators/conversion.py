"""Between scikit-learn's arrays and torch's tensors: what the estimators share."""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.utils import gen_batches
from torch import Tensor

DTYPES = (np.float64, np.float32)
ROWS_AT_ONCE = 4096


def in_a_mode_of_its_own(method: Callable[..., Any]) -> Callable[..., Any]:
    """Whatever mode its caller is in: no_grad, inference_mode, autocast."""

    @wraps(method)
    def run(*arguments: Any, **options: Any) -> Any:
        plain = torch.autocast("cpu", enabled=False)
        with torch.inference_mode(False), torch.enable_grad(), plain:
            return method(*arguments, **options)

    return run


def as_tensor(X: Any) -> Tensor:
    """An array's, sparse matrix's or tensor's rows as float32."""
    if isinstance(X, Tensor):
        return X.float()
    X = X.toarray() if sparse.issparse(X) else X
    array = np.ascontiguousarray(X, dtype=np.float32)
    # A model from a memory map must not be written to, and torch knows no such tensor.
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def pieces(X: Any) -> Iterator[Tensor]:
    """The rows as tensors, some thousand at a time."""
    return (as_tensor(X[rows]) for rows in gen_batches(X.shape[0], ROWS_AT_ONCE))

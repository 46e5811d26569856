"""The squared error of what sparse codes reconstruct in C++, a row at a time."""

import torch
from torch import Tensor

from aefast.ops.shared.cpp import as_matrix
from aefast.ops.shared.extension import _C
from aefast.ops.topk.cpp import by_rows


def sparse_reconstruction_loss(
    values: Tensor, indices: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    code, indices = values.float().contiguous(), indices.contiguous()
    latents, target = by_rows(weight), by_rows(target)
    start = None if bias is None else bias.float().contiguous()
    squares = torch.DoubleTensor(code.shape[0])
    residual = torch.FloatTensor(*target.shape)
    slopes = torch.FloatTensor(*code.shape)
    _C.sparse_reconstruction_loss(
        as_matrix(code),
        indices.data_ptr(),
        as_matrix(latents),
        0 if start is None else start.data_ptr(),
        as_matrix(target),
        squares.data_ptr(),
        residual.data_ptr(),
        slopes.data_ptr(),
        torch.get_num_threads(),
    )
    return squares.sum(), residual, slopes

"""A Gaussian code's sample and divergence in C++: csrc/ops/variational/variational.cpp."""

import torch
from torch import Tensor

from aefast.ops.shared.cpp import ELEMENT_TYPES
from aefast.ops.shared.extension import _C
from aefast.random import Step


def reparameterize(mean: Tensor, log_var: Tensor, seed: int | Tensor, row_offset: int) -> Tensor:
    return _scaled_noise(_C.NoiseUse.add, mean, log_var, 1.0, seed, row_offset)


def scaled_noise(
    factor: Tensor, log_var: Tensor, scale: float, seed: int | Tensor, row_offset: int
) -> Tensor:
    return _scaled_noise(_C.NoiseUse.multiply, factor, log_var, scale, seed, row_offset)


def _scaled_noise(
    use: _C.NoiseUse,
    operand: Tensor,
    log_var: Tensor,
    scale: float,
    seed: int | Tensor,
    row_offset: int,
) -> Tensor:
    output = torch.empty(log_var.shape, dtype=log_var.dtype, device="cpu")
    operand, log_var = _samples(operand), _samples(log_var)
    _C.scaled_noise(
        use,
        _view(operand),
        _view(log_var),
        output.data_ptr(),
        *_layout(log_var),
        scale,
        (int(seed), row_offset, Step.REPARAMETERIZE.value),
        torch.get_num_threads(),
    )
    return output


def gaussian_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    divergence = torch.empty(mean.shape[:-1], dtype=mean.dtype, device="cpu")
    mean, log_var = _samples(mean), _samples(log_var)
    _C.gaussian_kl(
        _view(mean),
        _view(log_var),
        divergence.data_ptr(),
        *_layout(mean),
        torch.get_num_threads(),
    )
    return divergence


def gaussian_kl_backward(grad: Tensor, mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    grad_mean, grad_log_var = (
        torch.empty(mean.shape, dtype=mean.dtype, device="cpu") for _ in range(2)
    )
    grad, mean, log_var = grad.contiguous(), _samples(mean), _samples(log_var)
    _C.gaussian_kl_backward(
        grad.data_ptr(),
        _view(mean),
        _view(log_var),
        grad_mean.data_ptr(),
        grad_log_var.data_ptr(),
        *_layout(mean),
        torch.get_num_threads(),
    )
    return grad_mean, grad_log_var


def _samples(x: Tensor) -> Tensor:
    """As [samples, rows, columns], without a copy of what is expanded over the samples."""
    x = x.reshape(-1, *x.shape[-2:]) if x.dim() > 3 else x[(None,) * (3 - x.dim())]
    return x if x.stride(2) == 1 else x.contiguous()


def _view(samples: Tensor) -> tuple[int, int, int, int]:
    """Samples as a kernel takes them: address, rows of a sample, and the strides of both."""
    sample_stride, row_stride, _ = samples.stride()
    return samples.data_ptr(), samples.shape[1], sample_stride, row_stride


def _layout(samples: Tensor) -> tuple[_C.ElementType, int, int]:
    """The type of the elements, the rows of all samples, and the columns."""
    columns = samples.shape[2]
    return ELEMENT_TYPES[samples.dtype], samples.numel() // columns, columns

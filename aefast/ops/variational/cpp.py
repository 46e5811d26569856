"""A Gaussian code's sample and divergence in C++: csrc/ops/variational/variational.cpp."""

import torch
from torch import Tensor

from aefast.ops.shared.cpp import ELEMENT_TYPES
from aefast.ops.shared.extension import _C
from aefast.random import DrawStep

STEP = DrawStep.REPARAMETERIZE.value


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
    output = torch.empty_like(log_var, memory_format=torch.contiguous_format)
    operand, log_var = _samples(operand), _samples(log_var)
    _C.scaled_noise(
        use,
        _view(operand),
        _view(log_var),
        output.data_ptr(),
        *_layout(log_var),
        scale,
        (int(seed), row_offset, STEP),
        torch.get_num_threads(),
    )
    return output


def gaussian_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    divergence = mean.new_empty(tuple(mean.shape[:-1]))
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
    grad_mean = torch.empty_like(mean, memory_format=torch.contiguous_format)
    grad_log_var = torch.empty_like(grad_mean)
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
    """x as a vector, a matrix or [samples, rows, columns], without a copy of what is expanded over
    the samples. Torch takes as long for a view as a small kernel takes in all."""
    if x.dim() > 3:
        x = x.reshape(-1, *x.shape[-2:])
    elif x.dim() == 0:
        x = x[None]
    return x if x.stride(-1) == 1 else x.contiguous()


def _view(samples: Tensor) -> tuple[int, int, int, int]:
    """Samples as a kernel takes them: address, rows of a sample, and the strides of both."""
    shape, strides = samples.shape, samples.stride()
    if len(shape) == 3:
        return samples.data_ptr(), shape[1], strides[0], strides[1]
    rows, row_stride = (shape[0], strides[0]) if len(shape) == 2 else (1, shape[0])
    return samples.data_ptr(), rows, rows * row_stride, row_stride


def _layout(samples: Tensor) -> tuple[_C.ElementType, int, int]:
    """The type of the elements, the rows of all samples, and the columns."""
    columns = samples.shape[-1]
    return ELEMENT_TYPES[samples.dtype], samples.numel() // columns, columns

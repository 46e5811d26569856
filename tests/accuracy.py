"""How far from float64 a kernel may be: at most twice as far as torch is in the same dtype."""

from torch import Tensor, finfo
from torch.testing import assert_close

FEW = 100


def assert_as_accurate_as_torch(kernel: Tensor, same_dtype: Tensor, reference: Tensor) -> None:
    """``same_dtype`` is torch's own result in the kernel's dtype, ``reference`` the one in float64.

    Of a few elements torch may be exact by luck: there torch's own tolerance for the dtype will do.
    Everywhere half a unit in the last place, the result's own rounding, is let pass besides.
    """
    assert kernel.dtype == same_dtype.dtype
    assert kernel.shape == reference.shape
    reference = reference.to(kernel.device)
    if not reference.numel():
        return
    error = (kernel.double() - reference).abs().max().item()
    allowed = 2 * (same_dtype.double() - reference).abs().max().item()
    allowed += finfo(kernel.dtype).eps / 2 * reference.abs().max().item()
    if error > allowed and reference.numel() < FEW:
        assert_close(kernel, reference.to(kernel.dtype))
        return
    assert error <= allowed, f"error {error:.3e}, torch's own bound {allowed:.3e}"


def assert_as_accurate_as_torch_on_average(
    kernel: Tensor, same_dtype: Tensor, reference: Tensor
) -> None:
    """The same for the root mean square of the errors.

    For chains of products: there the largest error of a few hundred elements is luck, over seeds up
    to five times torch's or a fifth of it, where the mean keeps within half of torch's.
    """
    assert kernel.dtype == same_dtype.dtype
    assert kernel.shape == reference.shape
    reference = reference.to(kernel.device)
    error = (kernel.double() - reference).norm().item()
    allowed = 2 * (same_dtype.double() - reference).norm().item()
    allowed += finfo(kernel.dtype).eps / 2 * reference.norm().item()
    if error > allowed and reference.numel() < FEW:
        assert_close(kernel, reference.to(kernel.dtype))
        return
    assert error <= allowed, f"error {error:.3e}, torch's own bound {allowed:.3e}"

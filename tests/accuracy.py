"""The bound of a kernel's error against float64: twice torch's own error in the same dtype."""

from torch import Tensor, finfo
from torch.testing import assert_close

FEW = 100


def assert_as_accurate_as_torch(kernel: Tensor, same_dtype: Tensor, reference: Tensor) -> None:
    """``same_dtype`` is torch's own result in the kernel's dtype, ``reference`` the one in float64.

    Half a unit in the last place, the rounding of the result itself, is allowed in addition. With
    few elements torch may be exact by luck: there torch's default tolerance for the dtype applies.
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
    """As above for the root mean square of the errors, in results of chains of products.

    There the largest error depends on the seed: among a few hundred elements it is between a fifth
    of torch's and five times it. The mean stays within half of torch's.
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

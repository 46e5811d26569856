"""The compiled module ``aefast._C``, for those who call its kernels. Its stub has the types."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aefast import _C as _C
else:
    from aefast.backend import extension

    _C = extension()  # not imported: it may be capped to an instruction set

"""The compiled module ``aefast._C``. The stub ``_C.pyi`` has the types of its functions."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aefast import _C as _C
else:
    from aefast.backend import extension

    _C = extension()  # not imported: it may be capped to an instruction set

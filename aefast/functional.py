"""Every differentiable op as a function.

Shapes: B batch, D visible or input units, H hidden units, L latents of a sparse code, k of them a
row; weights are ``[out, in]``, as in ``torch.nn.Linear``. Each op runs on the backend that
:mod:`aefast.backend` names, obeys autograd (twice), ``torch.compile``, ``torch.export``, autocast
and ``torch.func``. In float64, under ``torch.vmap`` and in forward-mode differentiation the eager
definition runs.

A function stands in the folder of its op, ``aefast/ops/<op>/__init__.py``; here they are collected,
with the classes that they return.
"""

# ruff: noqa: F403
from typing import TYPE_CHECKING

import torch  # noqa: F401  (the examples in the docstrings call it)

from aefast import ops

if TYPE_CHECKING:
    # For type checkers and editors, which do not run the code below: a line a folder.
    from aefast.ops.contractive import *
    from aefast.ops.contractive.singular_vectors import Tangents as Tangents
    from aefast.ops.corrupt import *
    from aefast.ops.jumprelu import *
    from aefast.ops.jumprelu.gated import GatedCode as GatedCode
    from aefast.ops.jumprelu.op import JumpReLUCode as JumpReLUCode
    from aefast.ops.linear_act import *
    from aefast.ops.mlp import *
    from aefast.ops.rbm import *
    from aefast.ops.rbm.settings import Sample as Sample
    from aefast.ops.reconstruction import *
    from aefast.ops.sparse_coding import *
    from aefast.ops.sparse_reconstruction_loss import *
    from aefast.ops.sparsity import *
    from aefast.ops.topk import *
    from aefast.ops.topk.op import SparseCode as SparseCode
    from aefast.ops.variational import *
else:
    _functions = ops.public_functions()
    globals().update(_functions)
    globals().update(ops.result_types(_functions))
    __all__ = sorted(_functions)

"""Every precision setting of torch's for float32 products is read, and none raises an error."""

import os
import sys

import pytest
import torch

from tests import fresh

SWITCHES = {
    "pass": ("highest", "highest"),
    "torch.set_float32_matmul_precision('highest')": ("highest", "highest"),
    "torch.set_float32_matmul_precision('high')": ("high", "high"),
    "torch.set_float32_matmul_precision('medium')": ("medium", "medium"),
    "torch.backends.cuda.matmul.allow_tf32 = True": ("highest", "high"),
    "b.fp32_precision = 'ieee'": ("highest", "highest"),
    "b.fp32_precision = 'tf32'": ("high", "high"),
    "b.fp32_precision = 'bf16'": ("medium", "highest"),
    "b.cuda.matmul.fp32_precision = 'tf32'": ("highest", "high"),
    "b.cudnn.fp32_precision = 'tf32'": ("highest", "high"),
    "b.mkldnn.fp32_precision = 'bf16'": ("medium", "highest"),
    "b.mkldnn.matmul.fp32_precision = 'tf32'": ("high", "highest"),
    "b.mkldnn.matmul.fp32_precision = 'bf16'": ("medium", "highest"),
    "b.mkldnn.matmul.fp32_precision = 'bf16'; b.cuda.matmul.fp32_precision = 'tf32'": (
        "medium",
        "high",
    ),
    "torch.set_float32_matmul_precision('medium'); b.cuda.matmul.fp32_precision = 'ieee'": (
        "medium",
        "highest",
    ),
    "b.fp32_precision = 'tf32'; torch.set_float32_matmul_precision('highest')": (
        "highest",
        "highest",
    ),
}

# A fresh process for each setting: it cannot be undone completely.
PROGRAM = """
import os, warnings
import torch, torch.backends as b
from aefast.functional import contrastive_divergence, linear_act, reconstruction_loss, sparse_encode
from aefast.nn import RBM, Autoencoder, TopKSparseAutoencoder, VariationalAutoencoder
from aefast.ops.shared.precision import product_level
warnings.simplefilter("ignore")
x = torch.rand(6, 4)
for switch in {switches!r}:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        continue
    exec(switch)
    print(switch, "|", product_level("cpu"), product_level("cuda"), flush=True)
    linear_act(x, x)
    reconstruction_loss(x, x, None)
    contrastive_divergence(x, x, None, None)
    sparse_encode(x, x, 0.1)
    for model in RBM(4, 3), Autoencoder(4, 3), VariationalAutoencoder(4, 2):
        model.loss(x).backward()
    TopKSparseAutoencoder(4, 6, 2).loss(x).backward()
    print(switch, "|", "ran", flush=True)
    os._exit(0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="it forks")
def test_every_switch_is_read_and_none_raises():
    program = PROGRAM.format(switches=list(SWITCHES))
    ran = fresh.run(program, dict(os.environ))
    lines = ran.stdout.splitlines()
    expected = []
    for switch, levels in SWITCHES.items():
        expected += [f"{switch} | {' '.join(levels)}", f"{switch} | ran"]
    assert lines == expected, ran.stderr


@pytest.mark.parametrize(("level", "name"), [("highest", "float32"), ("medium", "tf32")])
def test_triton_obeys_the_level(level, name, matmul_precision):
    triton_gemm = pytest.importorskip("aefast.ops.shared.triton_gemm")
    matmul_precision(level)
    assert triton_gemm.kind_of(torch.ones(2, 2)) == name

"""The host code of the Triton kernels, which plans where there is no triton."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from aefast import ops
from aefast.ops.reconstruction import panels
from aefast.ops.reconstruction import triton as reconstruction
from aefast.ops.reconstruction.settings import PerInput
from aefast.ops.shared import triton as shared
from aefast.ops.shared import triton_gemm
from aefast.ops.shared.triton import ACTIVATIONS, Descriptor, descriptors_round, jit_arguments
from aefast.ops.sparsity import triton as sparsity
from tests import launches

BUDGETS = Path(__file__).parents[1] / "benchmarks" / "counts" / "cubins.json"

PLAN = """
import sys

sys.modules["triton"] = None  # an import of triton, or of a part of it, now raises

from aefast import aot

for op in aot.OPS:
    assert all(variant.name for variant in aot.variants(op, 90))
    print(op, len(aot.variants(op, 90)))
"""


def test_every_op_lists_its_cubins_where_triton_does_not_import():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", PLAN], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    counts = [int(line.split()[1]) for line in done.stdout.splitlines()]
    assert len(counts) == len(ops.names_with("triton"))  # the others take these ops' kernels
    assert all(counts)


@pytest.mark.parametrize(
    ("version", "rounds"),
    [("3.6.0", False), ("3.7.1", True), ("3.10.0+git1a2b3c4d", True), ("4.0", True)],
)
def test_descriptors_round_from_triton_3_7_on(monkeypatch, version, rounds):
    monkeypatch.setattr(importlib.metadata, "version", lambda package: version)
    assert descriptors_round.__wrapped__() is rounds


def test_an_older_tritons_kernels_round_where_its_descriptors_cannot(monkeypatch):
    """The variant is the same one: a ready-made cubin's descriptors round whatever Triton is."""
    monkeypatch.setattr(shared, "descriptors_round", lambda: False)
    assert shared.jit_constants({"TF32": True, "ROUND": False}) == {"TF32": True, "ROUND": True}
    assert shared.jit_constants({"UNITS": 512}) == {"UNITS": 512}
    pytest.importorskip("triton")
    (descriptor,) = jit_arguments([Descriptor(torch.zeros(6, 64), [2, 16], round_to_tf32=True)])
    assert not getattr(descriptor, "round_f32_to_tf32", False)


def test_the_installed_tritons_descriptors_round_where_we_say_so():
    tensor_descriptor = pytest.importorskip("triton.tools.tensor_descriptor")
    fields = tensor_descriptor.TensorDescriptor.__dataclass_fields__
    assert descriptors_round() == ("round_f32_to_tf32" in fields)


@pytest.mark.parametrize("round_to_tf32", [False, True])
def test_a_descriptor_becomes_tritons(round_to_tf32):
    pytest.importorskip("triton")
    if round_to_tf32 and not descriptors_round():
        pytest.skip("this triton's descriptors do not round")
    rows = torch.zeros(6, 64)[:, :48]
    number, descriptor = jit_arguments([7, Descriptor(rows, [2, 16], round_to_tf32)])
    assert number == 7
    assert descriptor.base is rows
    assert (descriptor.shape, descriptor.strides) == ([6, 48], [64, 1])
    assert descriptor.block_shape == [2, 16]
    assert getattr(descriptor, "round_f32_to_tf32", False) is round_to_tf32


def test_a_launch_refuses_a_tensor_of_another_dtype_before_it_writes():
    pytest.importorskip("triton")
    code, output = torch.ones(4), torch.full((4,), 7.0)
    arguments = {
        "code_pointer": code,
        "factor_pointer": torch.ones(()),
        "output_pointer": output,
        "count": 4,
    }

    def launch(**changed):
        sparsity._sign_variant(torch.float32).launch(1, **arguments | changed)

    with pytest.raises(TypeError) as raised:
        launch(factor_pointer=torch.ones((), dtype=torch.float64))
    assert str(raised.value) == (
        "factor_pointer of scaled_sign_kernel has dtype torch.float64; it takes torch.float32"
    )
    with pytest.raises(TypeError, match="output_pointer of scaled_sign_kernel has dtype"):
        launch(output_pointer=output.bfloat16())
    with pytest.raises(TypeError) as raised:
        launch(out_pointer=output)
    assert str(raised.value) == (
        "a launch of scaled_sign_kernel lacks [] and has unknown ['out_pointer']"
    )
    del arguments["factor_pointer"]
    with pytest.raises(TypeError, match=r"lacks \['factor_pointer'\] and has unknown \[\]"):
        launch()
    assert torch.equal(output, torch.full((4,), 7.0))


CHIPS = {(7, 5): False, (8, 0): True, (8, 6): False, (8, 9): False, (9, 0): True, (12, 0): False}


@pytest.mark.parametrize(("capability", "full"), CHIPS.items())
def test_a_chip_with_little_shared_memory_is_known(capability, full, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    triton_gemm.has_full_shared_memory.cache_clear()
    assert triton_gemm.has_full_shared_memory(torch.device("cuda", 0)) == full
    triton_gemm.has_full_shared_memory.cache_clear()


@pytest.mark.parametrize("kind", ["half", "float32", "tf32"])
def test_a_losss_panels_fill_the_chip(kind, monkeypatch):
    """The tiles of the encoder's product, on 132 multiprocessors and 80 GB: 65 % of a wave and a
    third were busy where a panel took 128 MiB."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: chip)
    chip = SimpleNamespace(total_memory=80 * 10**9)
    panel_bytes = triton_gemm.panel_bytes.__wrapped__(torch.device("cuda", 0))
    dtype = torch.bfloat16 if kind == "half" else torch.float32
    x = torch.empty(16384, 4096, dtype=dtype, device="meta")
    tiles = [
        triton_gemm.choose_tile(
            triton_gemm.TILES[90][kind], 132, (rows.stop - rows.start, 1024, 4096)
        )[1]
        for rows in panels.panels_of(x, 1024, panel_bytes)
    ]
    assert sum(tiles) / sum(-(-count // 132) * 132 for count in tiles) > 0.95


@pytest.mark.parametrize(("columns", "waste"), [(784, 1 / 8), (4096, 0)])
def test_a_comparisons_tiles_suit_the_columns(columns, waste):
    """The share of a bfloat16 product that is padding on sm_90: 784 columns were 1,024."""
    tile, _ = triton_gemm.choose_tile(
        reconstruction.tiles(90, "half", "sigmoid"), 132, (16384, columns, 1024)
    )
    assert -(-columns // tile.columns) * tile.columns == columns / (1 - waste)


def test_two_comparisons_fit_on_a_multiprocessor():
    """While one compares its tile the other multiplies; as the compiler made them for sm_90."""
    budgets = json.loads(BUDGETS.read_text())
    kernels = next(budgets[origin] for origin in budgets if origin.endswith(", sm_90"))
    for activation in ACTIVATIONS:
        tile, _ = reconstruction.tiles(90, "half", activation)
        for right_by_depth in (False, True):
            kernel = reconstruction._compare_variant(
                90,
                *[torch.bfloat16] * 2,
                "half",
                tile,
                (False, right_by_depth),
                "mse",
                activation,
            )
            counts = kernels[kernel.name]
            registers = -(-counts["registers"] // 8) * 8 * 32 * kernel.warps
            fits = 2 * registers <= 65536 and 2 * (counts["shared bytes"] + 1024) <= 228 * 1024
            assert fits == (activation != "gelu"), kernel.name


def test_a_panel_takes_128_mib_where_a_gpu_has_little_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: chip)
    chip = SimpleNamespace(total_memory=4 << 30)
    assert triton_gemm.panel_bytes.__wrapped__(torch.device("cuda", 0)) == 128 << 20


def test_a_code_is_held_on_the_chip_only_where_it_fits(monkeypatch):
    weight = torch.zeros(256, 64, dtype=torch.bfloat16)
    inputs = PerInput(torch.zeros(1024, 64, dtype=torch.bfloat16), weight, None, None, None, None)
    assert reconstruction._loss_tile(inputs) is not None
    monkeypatch.setattr(triton_gemm, "has_full_shared_memory", lambda device: False)
    assert reconstruction._loss_tile(inputs) is None


def test_the_kernels_of_every_op_are_launched_by_the_tests():
    assert ops.names_with("triton") == launches.OPS

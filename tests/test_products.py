"""add_product, the products that add to a total: every backend, small size, layout and stride."""

import itertools

import pytest
import torch

from aefast import backend, use_backend
from aefast.ops.rbm.settings import ChainSettings, Machine
from aefast.ops.shared import triton_gemm
from tests.backends import is_interpreted

# Sizes at which an index or stride degenerates, and rows of whole 16-byte units.
SIZES = [
    (1, 1, 1),
    (1, 16, 5),
    (1, 4, 1),
    (2, 16, 1),
    (4, 1, 3),
    (3, 2, 4),
    (16, 4, 2),
    (1, 64, 40),
]
LAYOUTS = {
    "dense": lambda m: m,
    "transposed": lambda m: m.t().contiguous().t(),
    "sliced": lambda m: m.repeat_interleave(2, 0).repeat_interleave(3, 1)[::2, ::3],
    "shifted": lambda m: torch.cat([m[:, :1], m], 1)[:, 1:],
}


def adders(device):
    """add_product(left [P, M], right [P, N], total): each op's on the backend."""
    name = backend.select(device, torch.float32)
    machine = Machine(torch.ones(1, 1, device=device), None, None, None)
    settings = ChainSettings(1, None, None, False, 0, 0)
    gibbs = backend.implementation("rbm", name).primitives(machine, settings)
    reconstruction = backend.implementation("reconstruction", name)
    arguments = (device,) if name == "triton" else ()
    clamped = settings._replace(clamp_mask=torch.ones(1, 1, dtype=torch.bool, device=device))
    return {
        "jacobian": backend.implementation("contractive", name).primitives().add_product,
        "reconstruction": reconstruction._Primitives(*arguments).add_product,
        "gibbs": lambda left, right, total: gibbs.add_product(left, gibbs.states(right), total),
        "clamped gibbs": backend.implementation("rbm", name)
        .primitives(machine, clamped)
        .add_product,
    }


@pytest.mark.interpreted(op=["jacobian", "gibbs"])
@pytest.mark.parametrize("op", ["jacobian", "reconstruction", "gibbs", "clamped gibbs"])
def test_a_product_is_added_to_a_total_of_any_size_and_layout(kernel_device, op):
    """The operands are integers, and states 0 and 1, whose sums are exact in float32."""
    add_product = adders(kernel_device)[op]
    layouts = itertools.cycle(itertools.product(LAYOUTS.values(), repeat=3))
    # The interpreter is slow, and the sizes of whole units are those that can be added in place.
    sizes = SIZES[:4] if is_interpreted(kernel_device) else SIZES * 8
    for rows, columns, depth in sizes:
        left_layout, right_layout, total_layout = next(layouts)
        left = torch.randint(-9, 9, (depth, rows), device=kernel_device).float()
        right = torch.randint(0, 2, (depth, columns), device=kernel_device).float()
        start = torch.randint(-9, 9, (rows, columns), device=kernel_device).float()
        expected = left.t() @ right
        total = total_layout(start.clone())
        alone = add_product(left_layout(left), right_layout(right), None)
        added = add_product(left_layout(left), right_layout(right), total)
        case = rows, columns, depth, total.stride()
        assert torch.equal(alone, expected), case
        assert torch.equal(added, start + expected), case


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tritons_products_of_any_two_layouts(dtype):
    if backend.unavailable("triton", "cpu"):
        pytest.skip("the interpreter is not here")
    with use_backend("triton"):
        layouts = list(itertools.product(LAYOUTS.values(), repeat=2))[:: 1 + (dtype.itemsize < 4)]
        for (rows, columns, depth), (left_layout, right_layout) in zip(
            itertools.cycle(SIZES), layouts, strict=False
        ):
            left = torch.randint(-9, 9, (rows, depth)).to(dtype)
            right = torch.randint(-9, 9, (columns, depth)).to(dtype)
            total = torch.randint(-9, 9, (rows, columns)).float()
            exact = left.float() @ right.float().t()
            factors = left_layout(left), right_layout(right)
            case = rows, columns, depth, [factor.stride() for factor in factors]
            assert torch.equal(triton_gemm.multiply(*factors)[0], exact.to(dtype)), case
            assert torch.equal(triton_gemm.add_product(*factors, total.clone()), total + exact), (
                case
            )

"""The largest latents of several ranks' rows are those of one process."""

import pytest
import torch

from aefast.distributed.group import Group
from aefast.distributed.selection import ordered_bits, selected_counts
from aefast.functional import batch_topk_encode
from aefast.ops.topk import eager
from tests.distributed import selecting, worlds


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_ranks_select_what_one_process_does(dtype):
    ranks = worlds.run(3, selecting.selected, dtype)
    for name in selecting.CASES:
        x, weight, bias, k = selecting.operands(name, dtype)
        inputs = x.requires_grad_(), weight.requires_grad_()
        code = batch_topk_encode(*inputs, bias, k)
        grad_x, grad_weight = torch.autograd.grad(code.values.square().sum(), inputs)
        codes, grads_x, grads_weight = zip(*(rank[name] for rank in ranks), strict=True)
        assert torch.equal(torch.cat(codes), selecting.dense(*code)), name
        assert torch.equal(torch.cat(grads_x).nan_to_num(1e9), grad_x.nan_to_num(1e9)), name
        if dtype != torch.bfloat16:  # whose sums are rounded on each rank
            total = torch.stack(grads_weight).sum(0)
            assert torch.equal(total.nan_to_num(1e9), grad_weight.nan_to_num(1e9)), name


# In rising order, equal ones together.
FLOATS = [
    [-torch.inf],
    [-1.0],
    [-1e-45],
    [-0.0, 0.0],
    [1e-45],
    [1.0],
    [torch.inf],
    [-torch.nan, torch.nan],
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_have_the_order_of_floats(dtype):
    keys = [
        [key & (2 * torch.iinfo(bits.dtype).max + 1) for key in bits.tolist()]
        for bits in (ordered_bits(torch.tensor(equal, dtype=dtype)) for equal in FLOATS)
    ]
    assert all(len(set(equal)) == 1 for equal in keys)
    assert keys == sorted(keys)
    assert len({equal[0] for equal in keys}) == len(FLOATS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 17, 399, 400])
def test_one_rank_selects_as_the_definition(count, dtype):
    generator = torch.Generator().manual_seed(count)
    values = torch.randn(20, 20, generator=generator, dtype=dtype).mul(3).round()
    values[3, 4] = torch.nan
    values = values.sort(dim=1, descending=True, stable=True).values
    expected = eager.selected_counts(values, count, None)
    assert torch.equal(selected_counts(values, count, Group()), expected)

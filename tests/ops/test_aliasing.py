"""An op's output is memory of its own, and overlapping inputs are read as what they show."""

import pytest
import torch

from aefast.functional import (
    autoencode,
    contractive_penalty,
    contrastive_divergence,
    corrupt,
    free_energy,
    gated_encode,
    gaussian_kl,
    gibbs,
    jacobian,
    jumprelu_encode,
    kl_sparsity,
    l1_sparsity,
    linear_act,
    mlp,
    reconstruction_loss,
    reparameterize,
    soft_threshold,
    sparse_decode,
    sparse_encode,
    topk_encode,
)

EYE, ALL = torch.eye(4), torch.ones(4, dtype=torch.bool)

# Of data [B, 4] in [0, 1]; with arguments under which the numbers could be the input's own.
OPS = {
    "corrupt, level 0": lambda x: corrupt(x, "masking", 0.0, seed=1),
    "corrupt, Gaussian, level 0": lambda x: corrupt(x, "gaussian", 0.0, seed=1),
    "linear_act": lambda x: linear_act(x, EYE.to(x.device)),
    "mlp": lambda x: mlp(x, [EYE.to(x.device)], [None], ["identity"]),
    "autoencode": lambda x: autoencode(x, EYE.to(x.device), None, activation="identity"),
    "reconstruction_loss": lambda x: reconstruction_loss(x, EYE.to(x.device), None),
    "contractive_penalty": lambda x: contractive_penalty(
        x, EYE.to(x.device), None, "identity", return_code=True
    ),
    "jacobian": lambda x: jacobian(x, EYE.to(x.device), None, "identity"),
    "gibbs, all clamped": lambda x: gibbs(
        x, EYE.to(x.device), None, None, clamp_mask=ALL.to(x.device), return_probs=True, seed=1
    ),
    "gibbs, Gaussian": lambda x: gibbs(
        x, EYE.to(x.device), None, None, visible_kind="gaussian", return_probs=True, seed=1
    ),
    "contrastive_divergence": lambda x: contrastive_divergence(
        x, EYE.to(x.device), None, None, chain=x, seed=1
    ),
    "free_energy": lambda x: free_energy(x, EYE.to(x.device), None, None),
    "reparameterize": lambda x: reparameterize(x, x - 1e9, seed=1),
    "gaussian_kl": lambda x: gaussian_kl(x, x),
    "kl_sparsity": lambda x: kl_sparsity(x, 0.1),
    "l1_sparsity": lambda x: l1_sparsity(x),
    "soft_threshold, 0": lambda x: soft_threshold(x, 0.0),
    "sparse_encode": lambda x: sparse_encode(x, EYE.to(x.device), 0.1, start=x, steps=2),
    "topk_encode": lambda x: topk_encode(x, EYE.to(x.device), None, 4),
    "jumprelu_encode": lambda x: jumprelu_encode(
        x, EYE.to(x.device), None, EYE[0].to(x.device) - 1e9, 0.5
    ),
    "gated_encode": lambda x: gated_encode(
        x, EYE.to(x.device), *(EYE[0].to(x.device) for _ in range(3))
    ),
    "sparse_decode": lambda x: sparse_decode(x, torch.zeros_like(x).long(), EYE.to(x.device)),
}


@pytest.fixture(params=OPS)
def op(request):
    return OPS[request.param]


def outputs(op, x):
    result = op(x)
    return [result] if isinstance(result, torch.Tensor) else list(result)


def storages(tensors):
    return {t.untyped_storage().data_ptr() for t in tensors if t.numel()}


@pytest.mark.parametrize("rows", [1, 3])
def test_what_is_written_into_an_output_changes_nothing_else(device, op, rows):
    x = torch.rand(rows, 4).to(device)
    original, weight = x.clone(), EYE.clone()
    actual = outputs(op, x)
    assert len(storages(actual)) == len(actual)
    for output in actual:
        output.fill_(7)
    assert torch.equal(x, original)
    assert torch.equal(EYE, weight)
    for again, output in zip(outputs(op, x), actual, strict=True):
        assert again.untyped_storage().data_ptr() != output.untyped_storage().data_ptr()
        assert not (again == 7).all()


def test_an_empty_batch_gives_memory_of_its_own(device, op):
    x = torch.rand(0, 4).to(device)
    for output in outputs(op, x):
        assert output is not x


@pytest.mark.parametrize(
    "overlapping",
    [
        lambda x: x[:1].expand(3, 4),
        lambda x: x[:, :1].expand(3, 4),
        lambda x: x.flatten().as_strided((3, 4), (1, 1)),
        lambda x: x[:, 1::2].repeat_interleave(2, 1)[:, ::1],
        lambda x: x.t().contiguous().t(),
    ],
    ids=["rows", "columns", "windows", "dense", "transposed"],
)
def test_overlapping_inputs_are_read_as_what_they_show(device, op, overlapping):
    x = overlapping(torch.rand(3, 4).to(device))
    for actual, expected in zip(outputs(op, x), outputs(op, x.contiguous()), strict=True):
        torch.testing.assert_close(actual, expected)


def test_a_chain_may_take_the_place_of_its_data(device):
    """As PCD is written by hand: ``loss, chain = contrastive_divergence(..., chain=chain)``."""
    weight = torch.randn(5, 4).to(device).requires_grad_()
    chain = (torch.rand(6, 4) < 0.5).float().to(device)
    first, end = contrastive_divergence(chain, weight, None, None, chain=chain, seed=1)
    chain.copy_(torch.ones_like(chain))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        first.backward()
    assert not torch.equal(end, chain)


def test_an_output_changed_in_place_is_refused_where_backward_reads_it(device):
    x = torch.rand(3, 4).to(device).requires_grad_()
    output = linear_act(x, EYE.to(device), None, "sigmoid")
    with torch.no_grad():
        output.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()

"""Weights are packed once for each update, and never stale, however they were updated."""

import gc

import pytest
import torch

from aefast import backend

if backend.unavailable("cpp", "cpu"):
    pytest.skip("the C++ extension is not here", allow_module_level=True)

from aefast.ops.shared import cpp, packing

UPDATES = {
    "in place": lambda w: w.add_(1.0),
    "one bit, behind autograd's back": lambda w: w.data[3, 5:6].view(torch.int32).add_(1),
    "signs, behind autograd's back": lambda w: w.data.neg_(),
    "two rows exchanged": lambda w: w.data.copy_(w.data[[1, 0, *range(2, len(w))]]),
    "through numpy": lambda w: w.detach().numpy().__imul__(0.5),
    "another storage": lambda w: setattr(w, "data", w.data * 2),
    "resized": lambda w: setattr(w, "data", torch.ones(5, 70)),
}


@pytest.fixture
def packs(monkeypatch):
    """Turns packing on, as on matrix units, with copies for packs; the value lists all packs."""
    packs = []

    def pack(matrix):
        packs.append(matrix.detach().clone())
        return cpp.right_operand(matrix)._replace(packed=packs[-1])

    monkeypatch.setattr(packing.cpp, "packing_pays", lambda operand: True)
    monkeypatch.setattr(packing.cpp, "packed_operand", pack)
    return packs


def use(weight, rows=64):
    """The memory that a product would read: the weight itself or its pack."""
    operand = packing.weight_operand(weight, rows)
    return operand.matrix if operand.packed is None else operand.packed


def test_a_weight_that_comes_again_is_packed_once(packs):
    weight = torch.nn.Parameter(torch.randn(40, 70))
    for _ in range(5):
        assert torch.equal(use(weight), weight)
    assert len(packs) == 1


def test_what_the_matrix_units_do_not_serve_is_not_packed(packs):
    """Few rows or a narrow weight take multiply-adds, which would not read a pack."""
    for rows, shape in ((31, (40, 70)), (64, (31, 70)), (64, (40, 31))):
        weight = torch.nn.Parameter(torch.randn(shape))
        for _ in range(3):
            use(weight, rows)
    assert packs == []


def test_training_packs_nothing_beforehand(packs):
    weight = torch.nn.Parameter(torch.randn(40, 70))
    for _ in range(5):
        use(weight)
        with torch.no_grad():
            weight.mul_(0.9)
    assert packs == []


@pytest.mark.parametrize("name", UPDATES)
@torch.no_grad()
def test_a_pack_is_never_stale(packs, name):
    weight = torch.nn.Parameter(torch.randn(40, 70))
    for _ in range(3):
        for _ in range(3):
            assert torch.equal(use(weight), weight)
        UPDATES[name](weight)
    assert torch.equal(use(weight), weight)
    assert packs


def test_a_pack_dies_with_its_weight(packs):
    weight = torch.nn.Parameter(torch.randn(40, 70))
    for _ in range(3):
        use(weight)
    before = len(packing._entries)
    del weight
    gc.collect()
    assert len(packing._entries) == before - 1


def test_what_has_no_version_or_is_no_leaf_is_not_kept(packs):
    with torch.inference_mode():
        inference = torch.randn(40, 70)
    weight = torch.randn(70, 40, requires_grad=True)
    for tensor in (inference, weight * 2, weight.t()):
        for _ in range(3):
            assert torch.equal(use(tensor), tensor)
    assert packs == []


@pytest.mark.parametrize("shape", [(1, 1), (16, 64), (17, 63), (40, 130)])
def test_every_bit_shows_in_the_fingerprint(instruction_set, threads, shape):
    """Each bit of each element, on every instruction set and for any number of threads."""
    matrix = torch.randn(shape)
    bits = matrix.view(torch.int32)
    fingerprint = cpp.fingerprint(matrix)
    for row in range(shape[0]):
        for bit in (0, 22, 31):
            column = (7 * row) % shape[1]
            bits[row, column] ^= -(2**31) if bit == 31 else 2**bit
            assert cpp.fingerprint(matrix) != fingerprint
            bits[row, column] ^= -(2**31) if bit == 31 else 2**bit
    for isa in backend.cpu_features():
        instruction_set(isa)
        for count in (1, 2):
            threads(count)
            assert cpp.fingerprint(matrix) == fingerprint

"""What ranks compare before the first step."""

import numpy as np
import pytest
import torch

from aefast.data import dataset
from aefast.data.dataset import from_array
from aefast.data.tensor_rows import TensorRows
from aefast.distributed import agreement
from aefast.distributed.agreement import data_facts
from aefast.training.arguments import rows_of
from tests.distributed import training

ROWS = np.random.default_rng(0).normal(size=(1001, 12))

KINDS = {
    "a tensor": lambda rows: rows_of(torch.tensor(rows).float(), "data", training.new("ae")),
    "columns first": lambda rows: rows_of(np.asfortranarray(rows, "f4"), "data", None),
    "backwards": lambda rows: rows_of(rows.astype("f4")[::-1], "data", None),
    "float64 in memory": lambda rows: from_array(rows, "data"),
    "bytes": lambda rows: from_array((100 + 10 * rows).astype("u1"), "data"),
    "on the model's device": lambda rows: TensorRows(torch.tensor(rows).bfloat16()),
    "a view": lambda rows: TensorRows(torch.tensor(rows).t().contiguous().t()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_row_that_differs_anywhere_is_found(kind, monkeypatch):
    for module in (agreement, dataset):
        monkeypatch.setattr(module, "CHUNK_BYTES", 1000)  # of several chunks
    facts = data_facts(KINDS[kind](ROWS))
    assert facts == data_facts(KINDS[kind](ROWS.copy()))
    for row, column in [(0, 0), (1, 11), (500, 3), (777, 7), (1000, 11)]:
        other = ROWS.copy()
        other[row, column] += 1
        differing = data_facts(KINDS[kind](other))
        assert [name for name in facts if facts[name] != differing[name]] == ["data's checksum"]


def test_rows_in_another_order_are_found():
    one, other = (data_facts(KINDS["a tensor"](rows)) for rows in (ROWS, ROWS[:, ::-1].copy()))
    assert one["data's checksum"] != other["data's checksum"]

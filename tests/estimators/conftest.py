"""Fixtures that the estimators' tests share."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread(threads):
    threads(1)


@pytest.fixture
def defaults():
    """Sets one of torch's defaults to what no estimator computes in, and restores it."""

    def change(default):
        if default == "dtype":
            torch.set_default_dtype(torch.float64)
        else:
            torch.set_default_device("meta")

    yield change
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)

"""Data for training: any source as rows of numbers, and its shuffled minibatches."""

from aefast.data.batches import batches
from aefast.data.dataset import DataError, Dataset
from aefast.data.sources import load

__all__ = ["DataError", "Dataset", "batches", "load"]

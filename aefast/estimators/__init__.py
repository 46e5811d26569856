"""scikit-learn estimators: pip install 'aefast[estimators]'."""

from aefast.estimators.bernoulli_rbm import BernoulliRBM
from aefast.estimators.sparse_coding import SparseCoding

__all__ = ["BernoulliRBM", "SparseCoding"]

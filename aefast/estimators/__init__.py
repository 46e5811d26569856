"""scikit-learn estimators: pip install 'aefast[estimators]'."""

from aefast.estimators.bernoulli_rbm import BernoulliRBM

__all__ = ["BernoulliRBM"]

"""scikit-learn estimators: pip install 'aefast[estimators]'."""

from aefast.estimators.bernoulli_rbm import BernoulliRBM
from aefast.estimators.factor_analysis import FactorAnalysis
from aefast.estimators.pca import PCA
from aefast.estimators.probabilistic_pca import ProbabilisticPCA

__all__ = ["PCA", "BernoulliRBM", "FactorAnalysis", "ProbabilisticPCA"]

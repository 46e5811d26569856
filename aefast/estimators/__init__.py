"""scikit-learn estimators: pip install 'aefast[estimators]'."""

from aefast.estimators.autoencoder import Autoencoder
from aefast.estimators.bernoulli_rbm import BernoulliRBM
from aefast.estimators.contractive import ContractiveAutoencoder
from aefast.estimators.denoising import DenoisingAutoencoder
from aefast.estimators.factor_analysis import FactorAnalysis
from aefast.estimators.outlier_detector import AutoencoderOutlierDetector
from aefast.estimators.pca import PCA
from aefast.estimators.probabilistic_pca import ProbabilisticPCA
from aefast.estimators.sparse import SparseAutoencoder
from aefast.estimators.sparse_coding import SparseCoding
from aefast.estimators.stochastic import StochasticAutoencoder
from aefast.estimators.variational import VariationalAutoencoder

__all__ = [
    "PCA",
    "Autoencoder",
    "AutoencoderOutlierDetector",
    "BernoulliRBM",
    "ContractiveAutoencoder",
    "DenoisingAutoencoder",
    "FactorAnalysis",
    "ProbabilisticPCA",
    "SparseAutoencoder",
    "SparseCoding",
    "StochasticAutoencoder",
    "VariationalAutoencoder",
]

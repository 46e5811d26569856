"""scikit-learn: the functions that ``aefast.patch("sklearn")`` replaces, a file each."""

from aefast.patching.replacement import Replacement

# Versions whose code was read, and whose results were tested.
VERSIONS = ("1.6", "1.7", "1.8", "1.9")

# The classes and functions that get faster, and which of their calls do.
PUBLIC_NAMES = {
    "sklearn.neural_network.BernoulliRBM": "fit, on dense rows in [0, 1]",
    "sklearn.decomposition.PCA": (
        "fit by the solvers 'full' and 'covariance_eigh', of more rows than features"
    ),
    "sklearn.decomposition.FactorAnalysis": "fit, of more rows than features",
    "sklearn.decomposition.sparse_encode": (
        "the algorithms 'lasso_lars' and 'lasso_cd', for all that calls it: SparseCoder, "
        "DictionaryLearning and MiniBatchDictionaryLearning too"
    ),
    "sklearn.decomposition.MiniBatchDictionaryLearning": (
        "the sparse codes of fit and transform, by 'lasso_lars' and 'lasso_cd'; its calls are "
        "those of sparse_encode"
    ),
}


def replacements() -> list[Replacement]:
    # Here, because they import scikit-learn.
    from aefast.patching.sklearn import bernoulli_rbm, factor_analysis, lasso, pca

    return [
        bernoulli_rbm.replacement(),
        *pca.replacements(),
        factor_analysis.replacement(),
        lasso.replacement(),
    ]

"""What the replaced functions give on small data: a trial of a version that was not tested."""

import numpy as np
from sklearn.decomposition import PCA, FactorAnalysis, sparse_encode
from sklearn.neural_network import BernoulliRBM

from aefast.patching.versions import Results, attributes_of


def trial() -> Results:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 130)) + rng.normal(size=(400, 130)) / 4
    narrow, units = rows[:, :40], rows[:20, :12]
    by_triangle = PCA(3, svd_solver="full").fit(narrow)
    by_covariance = PCA(3, svd_solver="covariance_eigh").fit(rows)
    factors = FactorAnalysis(3, svd_method="lapack").fit(narrow)
    atoms = rng.normal(size=(8, 12))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    machine = BernoulliRBM(4, n_iter=2, random_state=0).fit((narrow > 0).astype(float))
    return {
        "PCA of svd_solver='full'": by_triangle.components_,
        "PCA's explained_variance_": by_triangle.explained_variance_,
        "PCA of svd_solver='covariance_eigh'": by_covariance.components_,
        "PCA": attributes_of(by_covariance),
        "FactorAnalysis": factors.components_,
        "sparse_encode": sparse_encode(units, atoms, algorithm="lasso_lars", alpha=0.1),
        "BernoulliRBM": attributes_of(machine),
    }

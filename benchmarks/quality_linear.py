"""Linear factor models against scikit-learn's: PCA whole, factor analysis by iterations of EM."""

from typing import Any

import numpy as np
from quality import Quality, digits

from aefast import estimators

FACTORS = 16


def pca(rows: np.ndarray, *_: int) -> Any:
    return estimators.PCA(FACTORS).fit(rows)


def pca_by_scikit_learn(rows: np.ndarray, *_: int) -> Any:
    from sklearn.decomposition import PCA

    return PCA(FACTORS).fit(rows)


def factor_analysis(rows: np.ndarray, iterations: int, seed: int) -> Any:
    return estimators.FactorAnalysis(FACTORS, max_iter=iterations, random_state=seed).fit(rows)


def factor_analysis_by_scikit_learn(rows: np.ndarray, iterations: int, seed: int) -> Any:
    from sklearn.decomposition import FactorAnalysis

    return FactorAnalysis(FACTORS, max_iter=iterations, random_state=seed).fit(rows)


def log_likelihood(model: Any, rows: np.ndarray) -> float:
    return float(model.score(rows))


GAUSSIAN: dict[str, Any] = {
    "score": log_likelihood,
    "measure": "a held-out log-likelihood of {:g} nats",
}
QUALITIES = {
    f"PCA({FACTORS})": Quality(
        "sklearn", digits, pca, pca_by_scikit_learn, target=21.9, has_passes=False, **GAUSSIAN
    ),
    f"FactorAnalysis({FACTORS})": Quality(
        "sklearn",
        digits,
        factor_analysis,
        factor_analysis_by_scikit_learn,
        target=80.0,
        **GAUSSIAN,
    ),
}

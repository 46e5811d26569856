"""Rotations of factors to ones that are easier to read."""

import numpy as np

ROTATIONS = ("varimax", "quartimax")
TOLERANCE, MOST_STEPS = 1e-6, 100


def rotated(factors: np.ndarray, kind: str) -> np.ndarray:
    """The factors ``[K, D]``, a row each, rotated so that each has few large entries.

    ``"varimax"`` makes the variance of the squares greatest within each factor, ``"quartimax"``
    within each feature. The steps are scikit-learn's.

    Reference:
        Kaiser, "The varimax criterion for analytic rotation in factor analysis", Psychometrika 23,
        1958.
    """
    rotation = np.eye(len(factors))
    before = 0.0
    for _ in range(MOST_STEPS):
        turned = rotation.T @ factors
        mean = np.square(turned).mean(1, keepdims=True) if kind == "varimax" else 0.0
        left, scales, right = np.linalg.svd(factors @ (turned**3 - turned * mean).T)
        rotation = left @ right
        if before and scales.sum() < before * (1 + TOLERANCE):
            break
        before = scales.sum()
    return rotation.T @ factors

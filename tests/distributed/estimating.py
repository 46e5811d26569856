"""What the ranks of a test's process group estimate."""

from typing import Any

import numpy as np

from aefast.estimators import PCA, FactorAnalysis, ProbabilisticPCA, SparseCoding

ESTIMATORS: dict[str, Any] = {
    "pca": lambda: PCA(3),
    "pca, a share": lambda: PCA(0.9),
    "probabilistic pca": lambda: ProbabilisticPCA(3),
    "factor analysis": lambda: FactorAnalysis(2),
    "sparse coding": lambda: SparseCoding(5, 0.3, batch_size=16, n_iter=3, random_state=0),
}


def rows(count: int, features: int) -> np.ndarray:
    """Correlated, far from 0, and no rows like the others."""
    generator = np.random.default_rng(count)
    mixed = generator.normal(size=(count, 3)) @ generator.normal(size=(3, features))
    return 5 + mixed + 0.3 * generator.normal(size=(count, features))


def fitted(count: int, features: int) -> dict[str, dict[str, Any]]:
    """Each rank has other rows, and rank 0 the fewest."""
    import torch.distributed as dist

    X = rows(count, features)
    if dist.is_initialized():
        ends = np.linspace(0, count**0.5, dist.get_world_size() + 1) ** 2
        first, last = (round(end) for end in ends[dist.get_rank() : dist.get_rank() + 2])
        X = X[first:last]
    models = {
        name: make().fit(X, process_group=dist.group.WORLD) for name, make in ESTIMATORS.items()
    }
    # A feature twice makes an eigenvalue 0, for which all ranks take float64 products again, also
    # one whose rows are too few for float32's.
    twice = X[:, [0, 1, 2, 3, 0]].astype(np.float32)
    models["pca of float32"] = PCA(4).fit(twice, process_group=dist.group.WORLD)
    return {
        name: {key: value for key, value in vars(model).items() if key.endswith("_")}
        for name, model in models.items()
    }

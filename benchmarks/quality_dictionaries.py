"""Sparse coding: a dictionary that is learned, against scikit-learn and SPAMS; and codes in a given
one, against celer and SPAMS, at one bound of how far a code's objective lies above the least."""

from functools import cache
from typing import Any

import numpy as np
import torch
from quality import Quality, digits
from torch.nn.functional import normalize

from aefast import estimators
from aefast.functional import sparse_encode

ATOMS, PENALTY = 32, 0.2


def learn(rows: np.ndarray, passes: int, seed: int) -> np.ndarray:
    model = estimators.SparseCoding(ATOMS, PENALTY, n_iter=passes, random_state=seed)
    return model.fit(rows).components_


def learn_by_scikit_learn(rows: np.ndarray, passes: int, seed: int) -> np.ndarray:
    from sklearn.decomposition import MiniBatchDictionaryLearning

    model = MiniBatchDictionaryLearning(
        ATOMS,
        alpha=PENALTY,
        batch_size=256,
        max_iter=passes,
        fit_algorithm="cd",
        max_no_improvement=None,
        tol=0,
        random_state=seed,
    )
    return model.fit(rows).components_


def learn_by_spams(rows: np.ndarray, passes: int, seed: int) -> np.ndarray:
    """Mairal et al.'s own code of what both sides compute. Its codes are by least angles."""
    import spams

    random = np.random.RandomState(seed)
    first = rows[random.choice(len(rows), ATOMS, replace=False)].astype(np.float64).T
    atoms = spams.trainDL(
        np.asfortranarray(rows.T, np.float64),
        D=np.asfortranarray(first / np.linalg.norm(first, axis=0)),
        lambda1=PENALTY,
        mode=2,
        batchsize=256,
        iter=passes * -(-len(rows) // 256),
        numThreads=torch.get_num_threads(),
        verbose=False,
    )
    return atoms.T


def objective(dictionary: np.ndarray, rows: np.ndarray) -> float:
    """Minus a row's error and penalty, with the codes by coordinate descent for all."""
    from sklearn.decomposition import sparse_encode

    atoms, x = dictionary.astype(np.float64), rows.astype(np.float64)
    codes = sparse_encode(x, atoms, algorithm="lasso_cd", alpha=PENALTY)
    errors = np.square(x - codes @ atoms).sum(1) / 2 + PENALTY * np.abs(codes).sum(1)
    return -float(errors.mean())


MANY_ATOMS, ROWS = 512, 100
# How far a code's objective may lie above the least, as a share of that of zeros; and the tolerance
# that a number of passes divides, so that each solver gets the loosest one with which it is there.
GAP, LOOSEST = 1e-6, 1e-4


@cache
def images() -> tuple[np.ndarray, np.ndarray]:
    """Digits to be coded, which are what is held out, too."""
    rows = digits()[1][:ROWS]
    return rows, rows


@cache
def dictionary() -> np.ndarray:
    """Other digits, of norm 1."""
    return normalize(torch.from_numpy(digits()[0][:MANY_ATOMS])).numpy()


def encode(rows: np.ndarray, passes: int, _: int = 0) -> np.ndarray:
    atoms = torch.from_numpy(dictionary())
    return sparse_encode(torch.from_numpy(rows), atoms, PENALTY, tolerance=LOOSEST / passes).numpy()


def encode_by_celer(rows: np.ndarray, passes: int, _: int) -> np.ndarray:
    """A problem a row, as celer takes them. Its objective is divided by the number of features, and
    its tolerance is of that of zeros, twice."""
    from celer import Lasso

    atoms = np.asfortranarray(dictionary().T, np.float64)
    model = Lasso(PENALTY / len(atoms), tol=LOOSEST / passes / 2, fit_intercept=False)
    return np.stack([model.fit(atoms, row).coef_ for row in rows.astype(np.float64)])


def encode_by_spams(rows: np.ndarray, *_: int) -> np.ndarray:
    """Codes by least angles (LARS), exact to rounding."""
    import spams

    codes = spams.lasso(
        np.asfortranarray(rows.T),
        np.asfortranarray(dictionary().T),
        lambda1=PENALTY,
        mode=2,
        numThreads=torch.get_num_threads(),
    )
    return codes.toarray().T


def primal(codes: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """A row's objective, in float64."""
    residuals = rows.astype(np.float64) - codes @ dictionary().astype(np.float64)
    return np.square(residuals).sum(1) / 2 + PENALTY * np.abs(codes).sum(1)


@cache
def least_objectives() -> np.ndarray:
    """Each image's least objective, from the dual's, which is never above it: at the residual of
    the code that is exact for the atoms in use."""
    images_, atoms = images()[0], dictionary().astype(np.float64)
    least = []
    for x, code in zip(images_.astype(np.float64), encode(images_, 10**6), strict=True):
        used = atoms[code != 0]
        slopes = used @ x - PENALTY * np.sign(code[code != 0])
        residual = x - np.linalg.solve(used @ used.T, slopes) @ used
        scale = PENALTY / max(np.abs(atoms @ residual).max(), PENALTY)
        least.append((np.square(x) - np.square(x - scale * residual)).sum() / 2)
    return np.array(least)


def duality_gap(codes: np.ndarray, rows: np.ndarray) -> float:
    """Minus the largest of the rows' gaps. All are to one dual point: by a solver's own it would be
    charged for how it finds that."""
    of_zeros = np.square(rows.astype(np.float64)).sum(1) / 2
    return -float(((primal(codes, rows) - least_objectives()) / of_zeros).max())


LEARNED: dict[str, Any] = {
    "score": objective,
    "measure": "a held-out objective of {:g}",
    "target": -1.52,
}
CODED: dict[str, Any] = {
    "score": duality_gap,
    "measure": "a relative duality gap of {:g}",
    "target": -GAP,
}
QUALITIES = {
    f"dictionary of {ATOMS} atoms": Quality(
        "sklearn", digits, learn, learn_by_scikit_learn, **LEARNED
    ),
    f"dictionary of {ATOMS} atoms, least angles": Quality(
        "spams", digits, learn, learn_by_spams, **LEARNED
    ),
    f"codes of {ROWS}x64, {MANY_ATOMS} atoms": Quality(
        "celer", images, encode, encode_by_celer, **CODED
    ),
    f"codes of {ROWS}x64, {MANY_ATOMS} atoms, least angles": Quality(
        "spams", images, encode, encode_by_spams, **CODED
    ),
}

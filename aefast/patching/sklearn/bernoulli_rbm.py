"""scikit-learn's BernoulliRBM.fit: persistent contrastive divergence, whole epochs in one call."""

import time

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import sparse
from sklearn.base import _fit_context
from sklearn.neural_network import BernoulliRBM
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data
from torch import Tensor

from aefast import random
from aefast.estimators.conversion import (
    DTYPES,
    LARGEST_SEED,
    as_tensor,
    in_default_modes,
    outside_unit_interval,
)
from aefast.functional import linear_act
from aefast.ops.rbm.op import check_machine, sample_chain
from aefast.patching.replacement import Replacement, UnsupportedCall
from aefast.step.machine_plan import MachinePlan
from aefast.step.machine_steps import MOST_ROWS, PlainSteps

Parameters = tuple[Tensor, Tensor, Tensor]


def replacement() -> Replacement:
    return Replacement(
        "sklearn.neural_network.BernoulliRBM",
        BernoulliRBM,
        "fit",
        ("self", "X", "y"),
        fit,
        relies_on=("_fit", "_mean_hiddens", "_sample_visibles"),
    )


@_fit_context(prefer_skip_nested_validation=True)
@in_default_modes
def fit(self: BernoulliRBM, X: ArrayLike, y: ArrayLike | None = None) -> BernoulliRBM:
    """Replaces ``BernoulliRBM.fit``."""
    if sparse.issparse(X):
        raise UnsupportedCall("sparse rows")
    data: np.ndarray = validate_data(self, X, dtype=DTYPES)
    if len(data) < self.batch_size:
        raise UnsupportedCall("fewer rows than a batch")
    if self.n_iter == 0:
        raise UnsupportedCall("no iteration")
    if outside_unit_interval(data) is not None:
        raise UnsupportedCall("numbers outside [0, 1]")
    if self.learning_rate > np.finfo(np.float32).max:
        raise UnsupportedCall("a learning rate beyond float32")
    rng = check_random_state(self.random_state)
    before = rng.get_state()
    try:
        parameters, hidden = _train(self, data, rng)
    except (FloatingPointError, UnsupportedCall) as reason:
        rng.set_state(before)  # so that the original draws its numbers
        stepped_aside = isinstance(reason, UnsupportedCall)
        raise (reason if stepped_aside else UnsupportedCall("a step that is not finite")) from None
    weight, visible_bias, hidden_bias = (p.numpy().astype(data.dtype) for p in parameters)
    self.components_ = np.asarray(weight, order="F")
    self._n_features_out = self.n_components
    self.intercept_visible_, self.intercept_hidden_ = visible_bias, hidden_bias
    self.h_samples_ = hidden.numpy().astype(data.dtype)
    return self


def _train(
    model: BernoulliRBM, X: np.ndarray, rng: np.random.RandomState
) -> tuple[Parameters, Tensor]:
    """The trained parameters, float32, and the chains' last hidden states."""
    features, batch_size = X.shape[1], model.batch_size
    initial = rng.normal(0, 0.01, (model.n_components, features)).astype(np.float32)
    parameters = (
        torch.from_numpy(initial),
        torch.zeros(features, dtype=torch.float32, device="cpu"),
        torch.zeros(model.n_components, dtype=torch.float32, device="cpu"),
    )
    # Hidden states of 0 and weights near 0 give each visible unit a fair coin.
    chain = torch.from_numpy(rng.randint(0, 2, (batch_size, features)).astype(np.float32))
    rate = float(model.learning_rate)
    steps = PlainSteps(MachinePlan(features, model.n_components), parameters, chain, rate)
    if not steps.is_served:
        raise UnsupportedCall("the C++ kernels do not run here")
    rows, seed = as_tensor(X), int(rng.randint(LARGEST_SEED))
    full_batches, last_batch = rows.split(
        [len(rows) // batch_size * batch_size, len(rows) % batch_size]
    )
    at_once = 1 if model.verbose or len(last_batch) else max(1, MOST_ROWS // len(rows))
    begin = time.time()
    for first in range(0, model.n_iter, at_once):
        iteration = min(first + at_once, model.n_iter)
        seeds = [random.child_seed(seed, epoch) for epoch in range(first, iteration)]
        steps_done = steps.run(full_batches, batch_size, seeds)
        if len(last_batch):
            seed_of_last = random.child_seed(seeds[0], steps_done)
            _last_step(last_batch, parameters, chain, rate, seed_of_last)
        if model.verbose:
            begin = _show(model, X, parameters, iteration, begin)
    machine = check_machine(chain, *parameters)
    last = sample_chain(chain, machine, seed=random.child_seed(seed, model.n_iter))
    return parameters, last.hidden


def _last_step(rows: Tensor, parameters: Parameters, chain: Tensor, rate: float, seed: int) -> None:
    """The step on an epoch's last batch, which has fewer rows than there are chains. As in
    scikit-learn, the sums over rows and over chains are both divided by the number of rows."""
    weight, visible_bias, hidden_bias = parameters
    chain.copy_(sample_chain(chain, check_machine(chain, *parameters), seed=seed).visible)
    positive, negative = (linear_act(v, weight, hidden_bias, "sigmoid") for v in (rows, chain))
    rate /= len(rows)
    weight.addmm_(positive.T, rows, alpha=rate).addmm_(negative.T, chain, alpha=-rate)
    hidden_bias.add_(positive.sum(0) - negative.sum(0), alpha=rate)
    visible_bias.add_(rows.sum(0) - chain.sum(0), alpha=rate)


def _show(
    model: BernoulliRBM, X: np.ndarray, parameters: Parameters, iteration: int, begin: float
) -> float:
    """Print the line that scikit-learn prints after an epoch that started at ``begin``; return the
    time at which the next one starts."""
    weight, visible_bias, hidden_bias = (p.numpy().astype(X.dtype) for p in parameters)
    model.components_ = weight
    model.intercept_visible_, model.intercept_hidden_ = visible_bias, hidden_bias
    end = time.time()
    print(
        f"[{type(model).__name__}] Iteration {iteration}, pseudo-likelihood = "
        f"{model.score_samples(X).mean():.2f}, time = {end - begin:.2f}s"
    )
    return end

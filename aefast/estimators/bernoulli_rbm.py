"""The restricted Boltzmann machine as a scikit-learn transformer."""

import time
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from scipy import sparse
from sklearn.utils import check_array, check_random_state, gen_batches
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from aefast import random
from aefast.estimators.conversion import (
    DTYPES,
    LARGEST_SEED,
    ROWS_AT_ONCE,
    FloatTransformer,
    Matrix,
    MatrixLike,
    RandomState,
    all_or_nothing,
    as_tensor,
    check_verbose,
    in_default_modes,
    outside_unit_interval,
    row_blocks,
    without_nan,
)
from aefast.functional import linear_act
from aefast.nn.rbm import pseudo_log_likelihood
from aefast.ops.rbm.op import check_machine, check_steps, sample_chain
from aefast.ops.shared import checks
from aefast.step.machine_plan import MachinePlan
from aefast.step.machine_steps import MOST_ROWS, PlainSteps

RANGE = "numbers in [0, 1]"


class BernoulliRBM(FloatTransformer):
    """A restricted Boltzmann machine with Bernoulli units, trained by contrastive divergence.

    The parameters and methods are those of :class:`sklearn.neural_network.BernoulliRBM`, whose
    place it takes, with two more: ``k`` and ``persistent``. All is computed in float32.

    Args:
        n_components: the number of Bernoulli hidden units.
        learning_rate: of the gradient steps.
        batch_size: rows a step, at least 1.
        n_iter: passes over the data, at least 0.
        verbose: print the pseudo-likelihood after each pass.
        random_state: an int, a ``numpy.random.RandomState``, or None.
        k: how many Gibbs steps a gradient step takes.
        persistent: let the chains go on from where the last gradient step left them (PCD-k, with
            ``batch_size`` chains); else they start at the data (CD-k).

    Attributes:
        components_: the weight, float32 ``(n_components, n_features)``.
        intercept_hidden_: ``(n_components,)``.
        intercept_visible_: ``(n_features,)``.
        v_samples_: the persistent chains' visible states, ``(batch_size, n_features)``.
        n_features_in_: the number of features seen in fit.
        feature_names_in_: their names, where they have any.

    References:
        Tieleman, "Training restricted Boltzmann machines using approximations to the likelihood
        gradient", ICML 2008.

    >>> import numpy as np
    >>> from aefast.estimators import BernoulliRBM
    >>> X = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 1]])
    >>> model = BernoulliRBM(n_components=2, random_state=0).fit(X)
    >>> model.transform(X).shape
    (4, 2)
    """

    # Whether the first rows to learn from had numbers outside [0, 1].
    _learns_outside = False

    def __init__(
        self,
        n_components: int = 256,
        *,
        learning_rate: float = 0.1,
        batch_size: int = 10,
        n_iter: int = 10,
        verbose: int = 0,
        random_state: RandomState = None,
        k: int = 1,
        persistent: bool = True,
    ) -> None:
        self.n_components = n_components
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.n_iter = n_iter
        self.verbose = verbose
        self.random_state = random_state
        self.k = k
        self.persistent = persistent

    @in_default_modes
    def fit(self, X: MatrixLike, y: object = None) -> "BernoulliRBM":
        """Learn from X, an array or sparse matrix ``(n_samples, n_features)`` of numbers in [0, 1].

        Raises:
            TypeError, ValueError: a parameter is of a wrong type or outside its range.
            FloatingPointError: a step's gradient is infinite or NaN.

        Warns:
            UserWarning: X holds a number outside [0, 1], for which the model has no meaning.
                scikit-learn's takes any, and so does fit; what has learned from numbers in [0, 1]
                takes no others afterwards.
        """
        self._check_parameters()
        X = validate_data(self, X, accept_sparse="csr", dtype=DTYPES)
        self._learns_outside = outside_unit_interval(X) is not None
        self._check_range(X)
        rng = check_random_state(self.random_state)
        self._start(X.shape[1], rng)
        seed = int(rng.randint(LARGEST_SEED))
        steps = self._plain_steps(rng)
        X = X if sparse.issparse(X) else as_tensor(X)
        at_once = 1 if self.verbose or sparse.issparse(X) else max(1, MOST_ROWS // len(X))
        begin = time.time()
        for first in range(0, self.n_iter, at_once):
            iteration = min(first + at_once, self.n_iter)
            seeds = [random.child_seed(seed, epoch) for epoch in range(first, iteration)]
            steps_done = 0
            for rows in self._blocks(X):
                steps_done += steps.run(rows, self.batch_size, seeds, steps_done)
            if self.verbose:
                score = float(np.mean(self._score(X, units=1, seed=iteration)))
                end = time.time()
                print(
                    f"[{type(self).__name__}] Iteration {iteration}, "
                    f"pseudo-likelihood = {score:.2f}, time = {end - begin:.2f}s"
                )
                begin = end
        return self

    @in_default_modes
    def partial_fit(self, X: MatrixLike, y: object = None) -> "BernoulliRBM":
        """One gradient step on X, an array or sparse matrix ``(n_samples, n_features)``.

        Raises:
            TypeError, ValueError, FloatingPointError: as :meth:`fit`; or it goes on from numbers in
                [0, 1] with others.

        Warns:
            UserWarning: as :meth:`fit`.
        """
        with all_or_nothing(self):
            self._check_parameters()
            first = not hasattr(self, "components_")
            X = validate_data(self, X, accept_sparse="csr", dtype=DTYPES, reset=first)
            if not hasattr(self, "random_state_"):
                self.random_state_ = check_random_state(self.random_state)
            if first:
                self._learns_outside = outside_unit_interval(X) is not None
                self._start(X.shape[1], self.random_state_)
            self._check_range(X)
            seed = int(self.random_state_.randint(LARGEST_SEED))
            self._plain_steps(self.random_state_).run(as_tensor(X), X.shape[0], [seed])
            return self

    @in_default_modes
    def transform(self, X: MatrixLike) -> np.ndarray:
        """P(h = 1 given v) of the rows of X: ``(n_samples, n_components)``, in X's dtype.

        Raises:
            ValueError: X holds numbers outside [0, 1], and fit was given none; or numbers whose
                products leave float32's range.

        Warns:
            UserWarning: X holds numbers outside [0, 1], as fit was given.
        """
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=DTYPES, reset=False)
        self._check_range(X)
        weight, _, hidden_bias = self._parameters()
        blocks = (linear_act(rows, weight, hidden_bias, "sigmoid") for rows in row_blocks(X))
        features = np.concatenate([block.numpy() for block in blocks])
        return without_nan(features, X, RANGE).astype(X.dtype, copy=False)

    @in_default_modes
    def gibbs(self, v: MatrixLike) -> np.ndarray:
        """The visible states ``(n_samples, n_features)`` after one Gibbs step from v: booleans.

        Raises:
            ValueError: as :meth:`transform`.
        """
        check_is_fitted(self)
        v = check_array(v, accept_sparse="csr", dtype=DTYPES)
        self._check_range(v, "v")
        if not hasattr(self, "random_state_"):
            self.random_state_ = check_random_state(self.random_state)
        seed = int(self.random_state_.randint(LARGEST_SEED))
        states = as_tensor(v)
        machine = check_machine(states, *self._parameters())
        return sample_chain(states, machine, seed=seed).visible.numpy().astype(bool)

    @in_default_modes
    def score_samples(self, X: MatrixLike) -> np.ndarray:
        """The pseudo-likelihood ``(n_samples,)``, in nats: the sum over the features of
        ln P(feature given all others). scikit-learn's draws one feature for each row.

        Raises:
            ValueError: as :meth:`transform`.
        """
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=DTYPES, reset=False)
        self._check_range(X)
        return self._score(X)

    def _check_parameters(self) -> None:
        for name in ("n_components", "batch_size"):
            checks.check_integer(getattr(self, name), name, 2**31, low=1)
        checks.check_integer(self.n_iter, "n_iter", 2**31)
        check_steps(self.k)
        checks.check_positive(self.learning_rate, "learning_rate")
        checks.check_flag(self.persistent, "persistent")
        check_verbose(self.verbose)

    def _check_range(self, X: Matrix, argument: str = "X") -> None:
        """Check that X is in [0, 1]. Where fit's X was not, it only warns.

        It is called by methods with :func:`in_default_modes`, which the stack level counts.
        """
        wrong = outside_unit_interval(X)
        if wrong is None:
            return
        message = f"{argument} holds {checks.shown_outside(wrong)}; Bernoulli units take {RANGE}"
        if not self._learns_outside:
            raise ValueError(message)
        warnings.warn(message, UserWarning, stacklevel=4)

    def _start(self, features: int, rng: np.random.RandomState) -> None:
        """Small weights, and chains at states of no preference."""
        shape = self.n_components, features
        self.components_ = rng.normal(0, 0.01, shape).astype(np.float32)
        self.intercept_hidden_ = np.zeros(self.n_components, np.float32)
        self.intercept_visible_ = np.zeros(features, np.float32)
        self._n_features_out = self.n_components
        if hasattr(self, "v_samples_"):
            del self.v_samples_

    def _parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """The weight, the visible bias and the hidden bias."""
        arrays = self.components_, self.intercept_visible_, self.intercept_hidden_
        weight, visible_bias, hidden_bias = (as_tensor(array) for array in arrays)
        return weight, visible_bias, hidden_bias

    def _plain_steps(self, rng: np.random.RandomState) -> PlainSteps:
        """The gradient steps, which change the attributes' memory in place."""
        hidden, visible = self.components_.shape
        if self.persistent and not hasattr(self, "v_samples_"):
            slices = gen_batches(self.batch_size, ROWS_AT_ONCE)
            sizes = [(rows.stop - rows.start, visible) for rows in slices]
            states = [rng.randint(0, 2, size).astype(np.float32) for size in sizes]
            self.v_samples_ = np.concatenate(states)
        parameters = self._parameters()
        chain = as_tensor(self.v_samples_) if self.persistent else None
        arrays = (parameter.numpy() for parameter in parameters)
        self.components_, self.intercept_visible_, self.intercept_hidden_ = arrays
        if chain is not None:
            self.v_samples_ = chain.numpy()
        plan = MachinePlan(visible, hidden, k=self.k)
        return PlainSteps(plan, parameters, chain, self.learning_rate)

    def _blocks(self, X: Matrix) -> Iterator[Tensor]:
        """The rows in whole minibatches: of a sparse matrix some at a time, else all."""
        if isinstance(X, Tensor):
            yield X
            return
        rows_at_once = max(ROWS_AT_ONCE // self.batch_size, 1) * self.batch_size
        for rows in gen_batches(X.shape[0], rows_at_once):
            yield as_tensor(X[rows])

    def _score(self, X: Matrix, units: int | None = None, seed: int = 0) -> np.ndarray:
        # In float64 a row's score does not depend on the rows beside it, to scikit-learn's 1e-7.
        weight, visible_bias, hidden_bias = (parameter.double() for parameter in self._parameters())
        generator = torch.Generator().manual_seed(seed)
        scores = [
            pseudo_log_likelihood(
                rows.double(), weight, visible_bias, hidden_bias, units, generator
            )
            for rows in row_blocks(X)
        ]
        return without_nan(torch.cat(scores).numpy(), X, RANGE)

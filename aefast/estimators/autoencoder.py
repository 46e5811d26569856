"""The autoencoder as a scikit-learn transformer, and what all its kinds share."""

import math
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass, fields
from functools import partial
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
import torch
from scipy import sparse
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from aefast import nn
from aefast.backend import use_backend
from aefast.estimators.conversion import (
    DTYPES,
    LARGEST_SEED,
    FloatTransformer,
    as_tensor,
    check_codes,
    in_a_mode_of_its_own,
    row_pieces,
    warn_of_range,
)
from aefast.nn.initialization import initialized
from aefast.ops.shared import contract


@dataclass(eq=False, repr=False)
class BaseAutoencoder(FloatTransformer):
    """What the estimators share: a module of :mod:`aefast.nn`, trained by Adam.

    A field is a parameter. A subclass names its module, and adds that module's options as fields of
    the same names.
    """

    hidden_layer_sizes: int | Sequence[int] = 32
    _: KW_ONLY
    learning_rate: float = 3e-3
    batch_size: int = 32
    n_iter: int = 50
    verbose: int = 0
    random_state: Any = None

    _module_class: ClassVar[type[torch.nn.Module]]

    @in_a_mode_of_its_own
    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn from X, an array or sparse matrix ``(n_samples, n_features)``.

        Raises:
            TypeError, ValueError: a parameter is of a wrong type or outside its range.
            FloatingPointError: the loss of a step is infinite or NaN.

        Warns:
            UserWarning: X holds a number outside [0, 1], and the decoder's units are Bernoulli's.
        """
        self._check_parameters()
        X = validate_data(self, X, accept_sparse="csr", dtype=DTYPES)
        self._start(X.shape[1])
        if self._is_bernoulli():
            warn_of_range(X)
        X = X if sparse.issparse(X) else as_tensor(X)
        batches = -(-X.shape[0] // self.batch_size)
        begin = time.time()
        self.n_iter_, self.loss_curve_ = 0, []
        for iteration in range(1, self.n_iter + 1):
            order = self._random_state.permutation(X.shape[0])
            losses = [self._step(as_tensor(X[rows])) for rows in np.array_split(order, batches)]
            self.loss_curve_.append(float(np.mean(losses)))
            self.n_iter_ = iteration
            if self.verbose:
                end = time.time()
                print(
                    f"[{type(self).__name__}] Iteration {iteration}, "
                    f"loss = {self.loss_curve_[-1]:.4f}, time = {end - begin:.2f}s"
                )
                begin = end
        return self

    @in_a_mode_of_its_own
    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """One gradient step on X, an array or sparse matrix ``(n_samples, n_features)``.

        Raises:
            TypeError, ValueError, FloatingPointError: as :meth:`fit`.
        """
        self._check_parameters()
        first = not hasattr(self, "module_")
        X = validate_data(self, X, accept_sparse="csr", dtype=DTYPES, reset=first)
        if first:
            self._start(X.shape[1])
            if self._is_bernoulli():
                warn_of_range(X)
        self._step(as_tensor(X))
        return self

    @in_a_mode_of_its_own
    def transform(self, X: Any) -> np.ndarray:
        """The codes ``(n_samples, n_components)`` of the rows of X, in X's dtype.

        float32 rows run on the kernels; float64 ones on plain PyTorch, in float64.
        """
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=DTYPES, reset=False)
        return self._apply("encode", X)

    @in_a_mode_of_its_own
    def inverse_transform(self, X: Any) -> np.ndarray:
        """The reconstructions ``(n_samples, n_features)`` of codes ``(n_samples, n_components)``,
        in the codes' dtype."""
        check_is_fitted(self)
        X = check_codes(X, self._n_features_out, "units of the code")
        return self._apply("decode", X)

    @in_a_mode_of_its_own
    @torch.no_grad()
    def score_samples(self, X: Any) -> np.ndarray:
        """The score ``(n_samples,)`` of each row of X, the higher the better; float64."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=DTYPES, reset=False)
        with self._in_double() as module:
            pieces = row_pieces(X, torch.float64)
            return torch.cat([self._score_rows(module, rows) for rows in pieces]).numpy()

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of :meth:`score_samples` over the rows of X."""
        return float(np.mean(self.score_samples(X)))

    @property
    def components_(self) -> np.ndarray:
        """The first layer's weight."""
        layers = (layer for layer in self.module_.modules() if isinstance(layer, nn.LinearAct))
        return next(layers).weight.detach().numpy()

    def _new_module(self, sizes: list[int], options: dict[str, Any]) -> torch.nn.Module:
        """The module with these sizes from the input to the code, and its own options."""
        return self._module_class(layers=sizes, **options)

    @abstractmethod
    def _score_rows(self, module: Any, rows: Tensor) -> Tensor:
        """The scores ``[B]`` of rows ``[B, D]``, each a function of its row alone."""

    @abstractmethod
    def _is_bernoulli(self) -> bool:
        """Whether the model has a meaning for numbers in [0, 1] alone."""

    def _check_parameters(self) -> None:
        contract.check_integer(self.batch_size, "batch_size", 2**31, low=1)
        contract.check_integer(self.n_iter, "n_iter", 2**31)
        contract.check_positive(self.learning_rate, "learning_rate")

    def _start(self, features: int) -> None:
        """A new module and optimizer."""
        sizes = [features, *check_layer_sizes(self.hidden_layer_sizes)]
        shared = {field.name for field in fields(BaseAutoencoder)}
        options = {
            name: value for name, value in self.get_params(deep=False).items() if name not in shared
        }
        random_state = check_random_state(self.random_state)
        seed = int(random_state.randint(LARGEST_SEED))
        module = initialized(partial(self._new_module, sizes, options), seed)
        self._random_state = random_state
        self._n_features_out = sizes[-1]
        self._optimizer = torch.optim.Adam(module.parameters(), fused=True)
        self.module_: Any = module.eval()

    def _step(self, rows: Tensor) -> float:
        """The loss of the rows, before the step."""
        self._optimizer.param_groups[0]["lr"] = self.learning_rate
        self.module_.train()
        loss = self.module_.loss(rows, seed=int(self._random_state.randint(LARGEST_SEED)))
        self.module_.eval()
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss is {value}, with learning_rate = {self.learning_rate:g} and numbers up "
                f"to {rows.abs().max():g} in X; a lower rate or a smaller scale of X may help"
            )
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        return value

    @torch.no_grad()
    def _apply(self, method: str, X: Any) -> np.ndarray:
        """The module's method of the rows of X, in X's dtype."""
        if X.dtype == np.float32:
            parts = [getattr(self.module_, method)(rows) for rows in row_pieces(X)]
        else:
            with self._in_double() as module:
                pieces = row_pieces(X, torch.float64)
                parts = [getattr(module, method)(rows) for rows in pieces]
        return torch.cat(parts).numpy()

    @contextmanager
    def _in_double(self) -> Iterator[Any]:
        """The module in float64, in which a row's result does not depend on the rows beside it, to
        scikit-learn's 1e-7. No kernel takes that, not even one that was forced."""
        with use_backend("eager"):
            yield deepcopy(self.module_).double()


@dataclass(eq=False, repr=False, kw_only=True)
class Autoencoder(BaseAutoencoder):
    """An autoencoder, shallow or deep: :class:`aefast.nn.Autoencoder`, trained by Adam.

    ``transform`` encodes and ``inverse_transform`` decodes. The score of a row is minus the mean
    error of its reconstruction over the features: the squared one, or for ``loss="bce"`` the
    cross-entropy in nats. Training computes in float32,
    the score in float64.

    Args:
        hidden_layer_sizes: the size of the code, an int; or H_1, ..., H_L, the sizes from the first
            hidden layer to the code, which the decoder mirrors.
        learning_rate: Adam's.
        batch_size: the most rows in a gradient step; an epoch's steps take the same number, to one.
        n_iter: epochs.
        verbose: print the mean training loss after each epoch.
        random_state: an int, a ``numpy.random.RandomState``, or None. The same int gives the same
            bits.
        activation: of every layer but the last, one of :class:`aefast.nn.LinearAct`'s.
        code_activation: of the code; None for ``activation``.
        output_activation: of the last layer.
        tied: whether the decoder has the encoder's weights, transposed.
        code_dropout: the probability, below 1, that training sets an element of the code to 0.
        loss: ``"mse"``, or ``"bce"`` for data in [0, 1], which takes a sigmoid output.

    Attributes:
        module_: the trained :class:`aefast.nn.Autoencoder`, in evaluation mode.
        components_: the first layer's weight, float32 ``(H_1, n_features)``.
        loss_curve_: the mean training loss of each epoch of the last fit.
        n_iter_: how many epochs it took.
        n_features_in_: the number of features seen in fit.
        feature_names_in_: their names, where they have any.

    Reference:
        Goodfellow, Bengio, Courville, "Deep Learning", MIT Press, 2016, sections 14.1 to 14.3.

    >>> import numpy as np
    >>> from aefast.estimators import Autoencoder
    >>> X = np.random.default_rng(0).random((20, 6))
    >>> model = Autoencoder((4, 2), activation="tanh", random_state=0).fit(X)
    >>> codes = model.transform(X)
    >>> codes.shape, model.inverse_transform(codes).shape
    ((20, 2), (20, 6))
    """

    activation: str = "sigmoid"
    code_activation: str | None = None
    output_activation: str = "identity"
    tied: bool = False
    code_dropout: float = 0.0
    loss: str = "mse"

    _module_class = nn.Autoencoder

    def _score_rows(self, module: nn.Autoencoder, rows: Tensor) -> Tensor:
        return torch.vmap(lambda row: -module.compare(module.encode(row), row))(rows)

    def _is_bernoulli(self) -> bool:
        return self.loss == "bce"


def check_layer_sizes(sizes: Any) -> list[int]:
    """``hidden_layer_sizes`` as a list, each at least 1."""
    if isinstance(sizes, Integral):
        return [contract.check_integer(sizes, "hidden_layer_sizes", 2**31, low=1)]
    if not isinstance(sizes, Sequence | np.ndarray) or isinstance(sizes, str):
        raise TypeError(
            f"hidden_layer_sizes is a {type(sizes).__name__}; it takes an int or a sequence of ints"
        )
    if len(sizes) == 0:
        raise ValueError(f"hidden_layer_sizes is {sizes}; it takes one size or more")
    return [
        contract.check_integer(size, f"hidden_layer_sizes[{number}]", 2**31, low=1)
        for number, size in enumerate(sizes)
    ]

"""The autoencoder as a scikit-learn transformer, and the base class of all of them."""

import math
import time
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass, field, fields
from functools import partial
from itertools import groupby
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import sparse
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from aefast import nn
from aefast.backend import use_backend
from aefast.data import Dataset
from aefast.deprecation import renamed_argument
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
    check_codes,
    check_unit_interval,
    check_verbose,
    in_default_modes,
    largest,
    row_blocks,
)
from aefast.nn.initialization import initialized
from aefast.nn.likelihood import floored
from aefast.ops.shared import checks
from aefast.step.minibatch_schedule import CHUNK_SECONDS, MinibatchSchedule
from aefast.training.engines import choose_engine
from aefast.training.fit import MOST_ROWS

# Multiply-adds of one float64 product of a layer, which is torch's: Ctrl-C is handled between them.
PRODUCTS_AT_ONCE = 2**29

# A warning is due where X's largest number is 10 times that of the training data, or less than a
# hundredth of it.
LARGER, SMALLER = 10, 100
# Fewer rows may well be that small: of a long-tailed table three in four single rows are.
FEWEST_ROWS_TO_BE_SMALL = 50


@dataclass(eq=False, repr=False)
class BaseAutoencoder(FloatTransformer):
    """The base class of the autoencoders: a module of :mod:`aefast.nn`, trained by Adam.

    A field is a parameter. A subclass names its module, and adds that module's options as fields of
    the same names.
    """

    hidden_layer_sizes: int | Sequence[int] = 32
    _: KW_ONLY
    learning_rate: float = 3e-3
    batch_size: int = 32
    n_iter: int = 50
    max_iter: int | None = None
    verbose: int = 0
    random_state: RandomState = None
    early_stopping: bool = False
    validation_fraction: float = 0.1
    n_iter_no_change: int = 10
    tol: float = 1e-4
    warm_start: bool = False
    device: str = "cpu"

    _module_class: ClassVar[type[torch.nn.Module]]
    # Set by fit; not parameters.
    module_: Any = field(init=False)
    _optimizer: torch.optim.Optimizer = field(init=False)
    _random_state: np.random.RandomState = field(init=False)
    _architecture: dict[str, Any] = field(init=False)
    _largest: float = field(init=False)

    @in_default_modes
    def fit(self, X: MatrixLike, y: object = None) -> Self:
        """Learn from X, an array or sparse matrix ``(n_samples, n_features)``.

        Raises:
            TypeError, ValueError: a parameter is of a wrong type or outside its range, or X holds
                numbers that the loss does not take.
            FloatingPointError: the loss of a step is infinite or NaN.
        """
        self._check_parameters()
        goes_on = self.warm_start and self.__sklearn_is_fitted__()
        X = validate_data(self, X, accept_sparse="csr", dtype=DTYPES, reset=not goes_on)
        self._prepare(X, goes_on)
        X, held_out = self._split(X) if self.early_stopping else (X, None)
        X = X if sparse.issparse(X) else as_tensor(X)
        best = Best(self.tol)
        begin = time.time()
        self.n_iter_, self.loss_curve_, self.validation_loss_curve_ = 0, [], []
        looks_up = self.verbose or held_out is not None or sparse.issparse(X)
        at_once = 1 if looks_up else max(1, MOST_ROWS // X.shape[0])
        most = self.n_iter if self.max_iter is None else self.max_iter
        while self.n_iter_ < most:
            epochs = min(at_once, most - self.n_iter_)
            self.loss_curve_ += self._epochs(X, epochs)
            self.n_iter_ += epochs
            if held_out is not None:
                self.validation_loss_curve_.append(self._held_out_loss(held_out))
                best.update(self.validation_loss_curve_[-1], self.module_)
            if self.verbose:
                end = time.time()
                print(self._progress(end - begin))
                begin = end
            if best.unimproved >= self.n_iter_no_change:
                break
        best.restore(self.module_)
        return self

    @in_default_modes
    def partial_fit(self, X: MatrixLike, y: object = None) -> Self:
        """One gradient step on X, an array or sparse matrix ``(n_samples, n_features)``.

        Raises:
            TypeError, ValueError, FloatingPointError: as :meth:`fit`.
        """
        with all_or_nothing(self):
            self._check_parameters()
            goes_on = self.__sklearn_is_fitted__()
            X = validate_data(self, X, accept_sparse="csr", dtype=DTYPES, reset=not goes_on)
            self._prepare(X, goes_on)
            rows = as_tensor(X)
            seed = int(self._random_state.randint(LARGEST_SEED))
            self._take(rows, MinibatchSchedule(in_order(len(rows)), len(rows), len(rows), [seed]))
            return self

    @in_default_modes
    def transform(self, X: MatrixLike) -> np.ndarray:
        """The codes ``(n_samples, n_components)`` of the rows of X, in X's dtype.

        float32 rows run on the kernels; float64 ones on plain PyTorch, in float64.

        Warns:
            UserWarning: X holds a number ten times as large as any that was learned from, or none
                that is a hundredth of the largest of these.
        """
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=DTYPES, reset=False)
        self._warn_of_scale(X)
        return self._apply("encode", X)

    @in_default_modes
    def inverse_transform(self, X: ArrayLike) -> np.ndarray:
        """The reconstructions ``(n_samples, n_features)`` of codes ``(n_samples, n_components)``,
        in the codes' dtype."""
        check_is_fitted(self)
        X = check_codes(X, self._n_features_out, "units of the code")
        return self._apply("decode", X)

    @in_default_modes
    @torch.no_grad()
    def score_samples(self, X: MatrixLike) -> np.ndarray:
        """The score ``(n_samples,)`` of each row of X, the higher the better; float64.

        Raises:
            ValueError: X holds numbers that the loss does not take.

        Warns:
            UserWarning: as :meth:`transform`.
        """
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=DTYPES, reset=False)
        self._check_range(X, self.module_)
        self._warn_of_scale(X)
        with self._in_double() as module:
            blocks = row_blocks(X, torch.float64, _rows_at_once(module))
            if self._unit_interval_reason(module) is not None:
                blocks = (rows.clamp(0, 1) for rows in blocks)  # 1 + 2e-16 counts as 1
            scores = [self._score_rows(module, rows) for rows in blocks]
            return floored(torch.cat(scores)).numpy()

    def score(self, X: MatrixLike, y: object = None) -> float:
        """The mean of :meth:`score_samples` over the rows of X."""
        return float(np.mean(self.score_samples(X)))

    @property
    def components_(self) -> np.ndarray:
        """The first layer's weight."""
        layers = (layer for layer in self.module_.modules() if isinstance(layer, nn.LinearAct))
        return next(layers).weight.detach().cpu().numpy()

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "module_")

    def _new_module(self, sizes: list[int], options: dict[str, Any]) -> torch.nn.Module:
        """A new module; ``sizes`` go from the input to the code."""
        return self._module_class(layers=sizes, **options)

    @abstractmethod
    def _score_rows(self, module: Any, rows: Tensor) -> Tensor:
        """The scores ``[B]`` of rows ``[B, D]``, each of which depends on its row alone."""

    @abstractmethod
    def _unit_interval_reason(self, module: Any) -> str | None:
        """What requires numbers in [0, 1], for a message; None if nothing does."""

    def _check_parameters(self) -> None:
        checks.check_integer(self.batch_size, "batch_size", 2**31, low=1)
        checks.check_integer(self.n_iter, "n_iter", 2**31)
        if self.max_iter is not None:
            checks.check_integer(self.max_iter, "max_iter", 2**31)
        checks.check_positive(self.learning_rate, "learning_rate")
        checks.check_flag(self.early_stopping, "early_stopping")
        checks.check_fraction(self.validation_fraction, "validation_fraction")
        checks.check_integer(self.n_iter_no_change, "n_iter_no_change", 2**31, low=1)
        checks.check_number(self.tol, "tol", 0)
        checks.check_flag(self.warm_start, "warm_start")
        check_verbose(self.verbose)
        check_device(self.device)

    def _options(self) -> dict[str, Any]:
        """The estimator's parameters that are arguments of the module."""
        shared = {field.name for field in fields(BaseAutoencoder)}
        options = self.get_params(deep=False)
        return {name: value for name, value in options.items() if name not in shared}

    def _module_options(self, options: dict[str, Any], X: Matrix) -> dict[str, Any]:
        """The module's arguments: the options, which may depend on the rows of X."""
        return options

    def _prepare(self, X: Matrix, goes_on: bool) -> None:
        """Set the module and its optimizer: new ones, or with ``goes_on`` those of the last fit."""
        sizes, options = check_layer_sizes(self.hidden_layer_sizes), self._options()
        architecture = {"hidden_layer_sizes": sizes, **options}
        if goes_on:
            self._check_same(architecture)
            module, random_state = self.module_, self._random_state
        else:
            random_state = check_random_state(self.random_state)
            seed = int(random_state.randint(LARGEST_SEED))
            options = self._module_options(options, X)
            module = initialized(partial(self._new_module, [X.shape[1], *sizes], options), seed)
        self._check_range(X, module)
        self._largest = max(largest(X), self._largest if goes_on else 0.0)
        self._random_state, self._architecture = random_state, architecture
        self._n_features_out = sizes[-1]
        self._optimizer = self._placed(module, self._optimizer if goes_on else None)
        self.module_ = module.eval()

    def _placed(self, module: torch.nn.Module, before: Any) -> torch.optim.Optimizer:
        """Move the module to ``device``; its optimizer there, with the state of ``before``."""
        old = next(module.parameters()).device
        new = next(module.to(self.device).parameters()).device
        if before is not None and new == old:
            return before
        optimizer = torch.optim.Adam(module.parameters(), fused=True)
        if before is not None:
            optimizer.load_state_dict(before.state_dict())  # which moves the state, too
        return optimizer

    def _check_range(self, X: Matrix, module: Any) -> None:
        reason = self._unit_interval_reason(module)
        if reason is not None:
            check_unit_interval(X, reason)

    def _warn_of_scale(self, X: Matrix) -> None:
        most = largest(X)
        is_small = 0 < SMALLER * most < self._largest and X.shape[0] >= FEWEST_ROWS_TO_BE_SMALL
        if is_small or most > LARGER * self._largest:
            warnings.warn(
                f"X holds numbers up to {most:g}; the model has learned from numbers up to "
                f"{self._largest:g}: they may be on another scale",
                UserWarning,
                stacklevel=4,
            )

    def _check_same(self, architecture: dict[str, Any]) -> None:
        for name, value in architecture.items():
            if value != self._architecture[name]:
                raise ValueError(
                    f"{name} is {value!r}; to go on, it takes the last fit's, "
                    f"{self._architecture[name]!r}"
                )

    @property
    def _device(self) -> torch.device:
        """The module's device."""
        return next(self.module_.parameters()).device

    def _split(self, X: Matrix) -> tuple[Matrix, Matrix]:
        """The training rows and the held-out rows."""
        samples = X.shape[0]
        count = math.ceil(self.validation_fraction * samples)
        if count >= samples:
            raise ValueError(
                f"validation_fraction is {self.validation_fraction}; of {samples} samples it "
                "leaves none to learn from"
            )
        order = self._random_state.permutation(samples)
        return X[order[count:]], X[order[:count]]

    def _epochs(self, X: sparse.csr_matrix | Tensor, epochs: int) -> list[float]:
        """Train for some epochs; the mean loss of each epoch's steps."""
        samples = X.shape[0]
        orders, seeds = [], []
        for _ in range(epochs):
            orders.append(torch.from_numpy(self._random_state.permutation(samples)))
            seeds.append(int(self._random_state.randint(LARGEST_SEED)))
        schedule = MinibatchSchedule(
            torch.cat(orders), self.batch_size, samples, seeds, is_even=True
        )
        losses = self._take_sparse(X, schedule) if sparse.issparse(X) else self._take(X, schedule)
        return np.reshape(losses, (epochs, -1)).mean(1).tolist()

    def _take_sparse(self, X: sparse.csr_matrix, schedule: MinibatchSchedule) -> list[float]:
        """An epoch over a sparse matrix, of which some minibatches are made dense at a time."""
        losses: list[float] = []
        for minibatches in schedule.epochs():
            for size, alike in groupby(minibatches, len):
                order = torch.cat(list(alike))
                at_once = max(1, ROWS_AT_ONCE // size) * size
                for rows in order.split(at_once):
                    dense, numbers = as_tensor(X[rows.numpy()]), in_order(len(rows))
                    steps = MinibatchSchedule(numbers, size, len(rows), schedule.seeds, len(losses))
                    losses += self._take(dense, steps)
        return losses

    def _take(self, X: Tensor, schedule: MinibatchSchedule) -> list[float]:
        """The losses of the steps over the minibatches of a schedule, each before its step."""
        module = self.module_.train()
        try:
            self._optimizer.param_groups[0]["lr"] = self.learning_rate
            dataset = Dataset(X.numpy(), X.shape[1:], 1.0, "X", -math.inf, math.inf, 0)
            engine = choose_engine(
                module,
                dataset,
                self._optimizer,
                lambda x, seed: module.loss(x, seed=seed),
                schedule.largest_minibatch,
            )
            losses: list[float] = []
            remaining = schedule
            while len(remaining.order):
                losses += engine.run(remaining, CHUNK_SECONDS)
                self._check_loss(losses[-1], X)
                remaining = schedule.after(len(losses))
        finally:
            module.eval()
        return losses

    def _check_loss(self, loss: float, X: Tensor) -> None:
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss}, with learning_rate = {self.learning_rate:g} and numbers up "
                f"to {X.abs().max():g} in X; a lower rate or a smaller scale of X may help"
            )

    @torch.no_grad()
    def _held_out_loss(self, X: Matrix) -> float:
        """The mean loss of the rows in evaluation mode, with the same draws at each call."""
        total = 0.0
        for number, rows in enumerate(row_blocks(X)):
            loss = self.module_.loss(rows.to(self._device), seed=number)
            total += loss.item() * len(rows)
        return total / X.shape[0]

    def _progress(self, seconds: float) -> str:
        held_out = self.validation_loss_curve_
        validation = f", validation loss = {held_out[-1]:.4f}" if held_out else ""
        return (
            f"[{type(self).__name__}] Iteration {self.n_iter_}, "
            f"loss = {self.loss_curve_[-1]:.4f}{validation}, time = {seconds:.2f}s"
        )

    @torch.no_grad()
    def _apply(self, method: str, X: Any) -> np.ndarray:
        """Apply a method of the module to the rows of X; the results in X's dtype."""
        if X.dtype == np.float32:
            blocks = row_blocks(X)
            results = [
                getattr(self.module_, method)(rows.to(self._device)).cpu() for rows in blocks
            ]
        else:
            with self._in_double() as module:
                blocks = row_blocks(X, torch.float64, _rows_at_once(module))
                results = [getattr(module, method)(rows) for rows in blocks]
        return torch.cat(results).numpy()

    @contextmanager
    def _in_double(self) -> Iterator[Any]:
        """The module in float64, run by eager PyTorch.

        In float64 a row's result does not depend on the other rows, to the 1e-7 of scikit-learn's
        checks. Kernels do not take float64, so a forced backend is set aside.
        """
        with use_backend("eager"):
            yield deepcopy(self.module_).cpu().double()


@dataclass(eq=False, repr=False, kw_only=True)
class Autoencoder(BaseAutoencoder):
    """An autoencoder, shallow or deep: :class:`aefast.nn.Autoencoder`, trained by Adam.

    ``transform`` encodes and ``inverse_transform`` decodes. The score of a row is minus the mean
    error of its reconstruction over the features: the squared one, or for
    ``reconstruction="bce"`` the cross-entropy in nats. Training computes in float32, the score in
    float64.

    Args:
        hidden_layer_sizes: the size of the code, an int; or H_1, ..., H_L, the sizes from the first
            hidden layer to the code, which the decoder mirrors.
        learning_rate: Adam's.
        batch_size: the most rows in a gradient step; an epoch's steps take the same number, to one.
        n_iter: epochs.
        max_iter: the same, as scikit-learn's networks name it; None takes ``n_iter``.
        verbose: print the mean training loss after each epoch.
        random_state: an int, a ``numpy.random.RandomState``, or None. The same int gives the same
            bits.
        early_stopping: hold rows out, take their loss after each epoch, end once it no longer
            falls, and keep the parameters that had the least.
        validation_fraction: the share of the rows that is held out, in (0, 1).
        n_iter_no_change: how many epochs the held-out loss may go without falling by ``tol``.
        tol: what counts as falling.
        warm_start: fit goes on with the module and the optimizer of the last fit.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``: where it trains, and encodes float32 rows.
        activation: of every layer but the last, one of :class:`aefast.nn.LinearAct`'s.
        code_activation: of the code; None for ``activation``.
        output_activation: of the last layer.
        tied: whether the decoder has the encoder's weights, transposed.
        code_dropout: the probability, below 1, that training sets an element of the code to 0.
        reconstruction: the error of the reconstruction, ``"mse"``, or ``"bce"`` for data in [0, 1],
            which takes a sigmoid output.
        loss: the old name of ``reconstruction``, of which fit warns.

    Attributes:
        module_: the trained :class:`aefast.nn.Autoencoder`, in evaluation mode.
        components_: the first layer's weight, float32 ``(H_1, n_features)``.
        loss_curve_: the mean training loss of each epoch of the last fit.
        validation_loss_curve_: the held-out loss after each epoch; empty without early stopping.
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
    reconstruction: str = "mse"
    loss: str | None = None

    _module_class = nn.Autoencoder

    def _score_rows(self, module: nn.Autoencoder, rows: Tensor) -> Tensor:
        return torch.vmap(lambda row: -module.compare(module.encode(row), row))(rows)

    def _unit_interval_reason(self, module: nn.Autoencoder) -> str | None:
        return "the cross-entropy takes" if module.reconstruction == "bce" else None

    def _check_parameters(self) -> None:
        super()._check_parameters()
        renamed_argument("loss", self.loss, "reconstruction", self.reconstruction, "mse")

    def _options(self) -> dict[str, Any]:
        options = super()._options()
        old = options.pop("loss")
        return options if old is None else options | {"reconstruction": old}


def _rows_at_once(module: torch.nn.Module) -> int:
    """A number of rows for which the largest layer's product ends soon."""
    largest_layer = max(parameter.numel() for parameter in module.parameters())
    return min(ROWS_AT_ONCE, max(1, PRODUCTS_AT_ONCE // largest_layer))


class Best:
    """Early stopping: the lowest held-out loss, and the parameters that had it.

    Attributes:
        unimproved: for how many epochs no loss was lower by more than the tolerance.
    """

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.loss = self.to_beat = math.inf
        self.parameters: dict[str, Tensor] | None = None
        self.unimproved = 0

    def update(self, loss: float, module: torch.nn.Module) -> None:
        self.unimproved += 1
        if loss < self.to_beat - self.tolerance:
            self.to_beat, self.unimproved = loss, 0
        if loss < self.loss:
            self.loss, self.parameters = loss, deepcopy(module.state_dict())

    def restore(self, module: torch.nn.Module) -> None:
        if self.parameters is not None:
            module.load_state_dict(self.parameters)


def check_device(device: Any) -> None:
    """Check that it is the CPU or an available GPU."""
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError):
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"device is {device!r}; it takes 'cpu', 'cuda' or 'cuda:N'")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}; PyTorch finds no GPU here: it takes 'cpu'")


def in_order(count: int) -> Tensor:
    """The row numbers 0, 1, ..., rows - 1."""
    return torch.arange(count, dtype=torch.int64, device="cpu")


def check_layer_sizes(sizes: Any) -> list[int]:
    """``hidden_layer_sizes`` as a list, each at least 1."""
    if isinstance(sizes, Integral):
        return [checks.check_integer(sizes, "hidden_layer_sizes", 2**31, low=1)]
    if not isinstance(sizes, Sequence | np.ndarray) or isinstance(sizes, str):
        raise TypeError(
            f"hidden_layer_sizes is a {type(sizes).__name__}; it takes an int or a sequence of ints"
        )
    if len(sizes) == 0:
        raise ValueError(f"hidden_layer_sizes is {sizes}; it takes one size or more")
    return [
        checks.check_integer(size, f"hidden_layer_sizes[{number}]", 2**31, low=1)
        for number, size in enumerate(sizes)
    ]

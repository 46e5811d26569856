"""pyod's AutoEncoder and VAE: trained by ``aefast.fit``, scored many rows at a time.

Their own ``build_model``, ``training_prepare`` and losses run, so that parameters begin with the
same numbers. Replaced is what takes most of the time: a data loader that scales row by row, and an
optimizer that updates parameter by parameter.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import torch
import tqdm
from numpy.typing import ArrayLike
from pyod.models.auto_encoder import AutoEncoder, AutoEncoderModel
from pyod.models.vae import VAE, VAEModel, vae_loss
from sklearn.utils import check_array
from torch import Tensor, nn

from aefast.acceleration.objective import objective_of
from aefast.estimators.conversion import in_default_modes
from aefast.patching.pyod.variational import Variational
from aefast.patching.replacement import Replacement, UnsupportedCall
from aefast.training.engines import DivergenceError
from aefast.training.fit import fit as train

Detector: TypeAlias = AutoEncoder | VAE
MODELS = {AutoEncoder: AutoEncoderModel, VAE: VAEModel}
ROWS_AT_ONCE = 4096

# pyod adds it to a column's standard deviation, which may be 0.
LEAST_DEVIATION = 1e-8

SCORING = (
    *("evaluate", "evaluating_prepare", "evaluating_forward"),
    "decision_function_update",
)
TRAINING = (
    *("build_model", "training_prepare", "train", "training_forward", "epoch_update"),
    *("decision_function", "_set_n_classes", "_process_decision_scores"),
)


def replacements() -> list[Replacement]:
    return [
        replacement
        for owner in MODELS
        for replacement in (
            # Replaced before fit, which calls it.
            _replacement(owner, "decision_function", ("self", "X", "batch_size"), score, SCORING),
            _replacement(owner, "fit", ("self", "X", "y"), fit, (*TRAINING, *SCORING)),
        )
    ]


def _replacement(
    owner: type,
    name: str,
    parameters: tuple[str, ...],
    serve: Callable[..., object],
    relies_on: tuple[str, ...],
) -> Replacement:
    public_name = f"{owner.__module__}.{owner.__name__}"
    return Replacement(public_name, owner, name, parameters, serve, relies_on)


@in_default_modes
def fit(self: Detector, X: ArrayLike, y: ArrayLike | None = None) -> Detector:
    """Replaces the detectors' ``fit``."""
    _check_settings(self)
    before = torch.get_rng_state()
    data: np.ndarray = check_array(X)
    if len(data) < self.batch_size:
        raise UnsupportedCall("fewer rows than a batch")
    self._set_n_classes(y)
    self.data_num, self.feature_size = data.shape
    self.build_model()
    self.training_prepare()
    if self.preprocessing:
        self.X_mean, self.X_std = np.mean(data, axis=0), np.std(data, axis=0)
    try:
        _check_model(self)
        _train(self, _rows(self, data))
    except (DivergenceError, UnsupportedCall) as reason:
        torch.set_rng_state(before)  # so that the original draws its numbers
        stepped_aside = isinstance(reason, UnsupportedCall)
        raise (reason if stepped_aside else UnsupportedCall("a loss that is not finite")) from None
    self.decision_scores_ = self.decision_function(data)
    self._process_decision_scores()
    return self


@in_default_modes
def score(self: Detector, X: ArrayLike, batch_size: int | None = None) -> np.ndarray:
    """Replaces ``decision_function``: the distances of rows to their reconstructions."""
    _check_model(self)
    data: np.ndarray = check_array(X)
    if data.shape[1] != self.feature_size:
        raise UnsupportedCall("rows of another width than the model's")
    self.evaluating_prepare()
    scores = []
    with torch.no_grad():
        for rows in _rows(self, data).split(ROWS_AT_ONCE):
            output = self.model(rows)
            difference = rows - (output[0] if isinstance(output, tuple) else output)
            scores.append(difference.square_().sum(1).sqrt_())
    distances = torch.cat(scores).numpy()
    if not np.isfinite(distances).all():
        raise UnsupportedCall("a reconstruction that is not finite")
    decisions: np.ndarray = self.decision_function_update(distances)
    return decisions


def _check_settings(detector: Detector) -> None:
    """
    Raises:
        UnsupportedCall: a setting is not supported.
    """
    if detector.use_compile:
        raise UnsupportedCall("use_compile, which torch.compile serves")
    if torch.device(detector.device).type != "cpu":
        raise UnsupportedCall(f"device {torch.device(detector.device)}")
    if detector.criterion is not vae_loss and objective_of(detector.criterion) != "mse":
        raise UnsupportedCall("a criterion of one's own")


def _check_model(detector: Detector) -> None:
    """
    Raises:
        UnsupportedCall: the network is not pyod's own, or not float32 on a CPU.
    """
    network: nn.Module | None = getattr(detector, "model", None)
    if network is None or type(network) not in MODELS.values():
        raise UnsupportedCall("a network that is not pyod's own")
    if any(p.dtype != torch.float32 or not p.is_cpu for p in network.parameters()):
        raise UnsupportedCall("a network that is not float32 on a CPU")


def _rows(detector: Detector, X: np.ndarray) -> Tensor:
    """The rows, scaled as pyod scales them, float32."""
    if detector.preprocessing:
        X = (X - detector.X_mean) / (detector.X_std + LEAST_DEVIATION)
    return torch.from_numpy(np.ascontiguousarray(X, dtype=np.float32))


def _train(detector: Detector, rows: Tensor) -> None:
    """Train as pyod's ``train`` does: an epoch leaves out a last batch of fewer rows."""
    is_variational = detector.criterion is vae_loss
    model = Variational(detector) if is_variational else detector.model
    batch_size = detector.batch_size
    rows_per_epoch = len(rows) // batch_size * batch_size
    with _fused(detector.optimizer):
        epochs = tqdm.trange(detector.epoch_num, desc="Training: ", disable=detector.verbose != 1)
        for epoch in epochs:
            start = time.time()
            order = torch.randperm(len(rows), dtype=torch.int64, device="cpu")
            shuffled = rows[order[:rows_per_epoch]]
            history = train(
                model,
                shuffled,
                detector.optimizer,
                batch_size=batch_size,
                shuffle=False,
                loss=None if is_variational else detector.criterion,
                process_group=None,
            )
            if detector.verbose == 2:
                print(
                    f"Epoch {epoch + 1}/{detector.epoch_num}, "
                    f"loss={history.losses.mean():.4f}, time={time.time() - start:.2f}s"
                )
            detector.epoch_update()


@contextmanager
def _fused(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Let the optimizer update all parameters in one call, unless its ``fused`` or ``foreach`` was
    set."""
    groups = [
        group
        for group in optimizer.param_groups
        if group.get("fused") is None and group.get("foreach") is None
    ]
    try:
        for group in groups:
            group["fused"] = True
        yield
    finally:
        for group in groups:
            group["fused"] = None

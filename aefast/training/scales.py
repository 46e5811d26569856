"""Checks that data to encode, or codes to decode, are on the scale of the training data."""

import numpy as np

from aefast.data import Dataset
from aefast.messages import OneLineError
from aefast.training.config import Config, DataSummary

# How far numbers may leave the training data's range, in units of its width. NEAR is for data in
# [0, 1]: grey levels, bits or probabilities. FAR is for others, where outliers are of interest.
NEAR = 0.5
FAR = 10.0

# The bounded activations' ranges.
CODE_RANGES = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}


class ScaleError(OneLineError):
    """Numbers are on another scale than the model's; the message, one line, has both ranges."""


def summarize(dataset: Dataset, source: str) -> DataSummary:
    """A run's record of its data.

    Args:
        dataset: the data.
        source: their absolute path, or ``"digits"``.
    """
    return DataSummary(
        source=source,
        rows=len(dataset),
        visible=dataset.rows.shape[1],
        sample_shape=list(dataset.sample_shape),
        dtype=str(dataset.rows.dtype),
        scale=dataset.scale,
        low=dataset.low,
        high=dataset.high,
        checksum=dataset.checksum,
    )


def as_trained(dataset: Dataset, data: DataSummary) -> Dataset:
    """Divide uint8 by the training data's scale. A dataset's own scale depends on its numbers: a
    few rows of images may hold 0 and 1 alone."""
    is_uint8 = dataset.rows.dtype == np.uint8 and data.dtype == "uint8"
    return dataset.on_scale(data.scale) if is_uint8 else dataset


def check_scale(dataset: Dataset, data: DataSummary, run: str) -> tuple[str, ...]:
    """Check that numbers to encode are on the training data's scale.

    Returns:
        warnings where that is doubtful; empty where it is not.

    Raises:
        ScaleError: they are on another scale.
    """
    is_unit = data.low >= 0 and data.high <= 1
    width = 1.0 if is_unit else (data.high - data.low) or abs(data.high) or 1.0
    within = _reach(data.low, data.high, (NEAR if is_unit else FAR) * width)
    description = (
        f"{dataset.name} holds numbers from {dataset.low:g} to {dataset.high:g}, and the model in "
        f"{run} was trained on numbers from {data.low:g} to {data.high:g}"
    )
    is_divided = dataset.rows.dtype == np.uint8 and dataset.scale != 1
    if is_divided and data.dtype != "uint8" and not (data.low >= -NEAR and data.high <= 1 + NEAR):
        raise ScaleError(
            f"{description}: another scale; it takes {data.dtype}, which is not divided by "
            f"{dataset.scale:g}, as uint8 is"
        )
    if not _is_inside(dataset, within):
        raise ScaleError(f"{description}: another scale; it takes {within[0]:g} to {within[1]:g}")
    is_wide = not _is_inside(dataset, _reach(data.low, data.high, NEAR * width))
    is_narrow = dataset.high - dataset.low <= NEAR * (data.high - data.low)
    return (f"{description}: see that they are on the same scale",) if is_wide or is_narrow else ()


def check_codes(codes: Dataset, config: Config, run: str) -> None:
    """Check that codes to decode are in the range of the model's codes.

    Raises:
        ScaleError: they are far outside.
    """
    ends = _code_range(config)
    if ends is None:
        return
    within = _reach(*ends, NEAR * (ends[1] - ends[0]))
    if not _is_inside(codes, within):
        raise ScaleError(
            f"{codes.name} holds codes from {codes.low:g} to {codes.high:g}, and those of the "
            f"model in {run} are from {ends[0]:g} to {ends[1]:g}: another scale; it takes "
            f"{within[0]:g} to {within[1]:g}"
        )


def _code_range(config: Config) -> tuple[float, float] | None:
    if "visible_kind" in config.options:  # a machine's code is probabilities
        return 0.0, 1.0
    if config.model == "vae":  # its code is a mean, without bounds
        return None
    options = config.options
    activation = options.get("code_activation") or options.get("activation")
    return CODE_RANGES.get(activation) if activation else None


def _reach(low: float, high: float, margin: float) -> tuple[float, float]:
    return low - margin, high + margin


def _is_inside(dataset: Dataset, within: tuple[float, float]) -> bool:
    return within[0] <= dataset.low and dataset.high <= within[1]

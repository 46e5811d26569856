"""Sparse autoencoders in the folders of other packages: SAELens' and sparsify's.

Both lay a ``cfg.json`` beside one safetensors file. What is loaded and saved again has the same
numbers, bit for bit; but for thresholds in another dtype than the weights, which are rounded.
"""

import json
import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from torch import Tensor

from aefast.messages import OneLineError, cut
from aefast.nn import (
    BatchTopKSparseAutoencoder,
    GatedSparseAutoencoder,
    JumpReLUSparseAutoencoder,
    TopKSparseAutoencoder,
)
from aefast.nn.dictionary import DictionaryOptions, SparseDictionary
from aefast.nn.initialization import outlined
from aefast.nn.input_normalization import BY_ROW, MEASURED
from aefast.nn.topk import positive_norms
from aefast.ops.shared.checks import FLOATING

if TYPE_CHECKING:
    from os import PathLike

CONFIG = "cfg.json"
SCALER = "activation_scaler.json"
SAELENS_WEIGHTS = "sae_weights.safetensors"
SPARSIFY_WEIGHTS = "sae.safetensors"

# Of checkpoints that aefast.saelens trains.
FAST_TOPK = "aefast_topk"
TOPK = "topk", FAST_TOPK

# The release whose folders these are: SAELens reads those without one as of before its version 6.
SAELENS_VERSION = "6.54.12"

Model = TypeVar("Model", bound=SparseDictionary)
Tensors = dict[str, Tensor]


class FolderError(OneLineError):
    """One line that names the folder and what is wrong with it."""


def load_saelens(folder: "str | PathLike[str]") -> SparseDictionary:
    """The model that a SAELens folder holds, in evaluation mode.

    Read are its architectures ``topk``, as which those of :mod:`aefast.saelens`' checkpoints count,
    ``jumprelu``, which it saves a batch top-k one as, and ``gated``. A checkpoint whose rows are to
    be scaled by one factor has it beside the weights, in ``activation_scaler.json``. Encoders that
    expect rows without the decoder's bias subtracted, and latents that are ranked by their
    directions' norms, are brought to this package's form by SAELens' own formulas, to rounding; a
    threshold below 0 is 0, which gives the same code, and one in another dtype than the weights is
    rounded to theirs; all other numbers are the file's, bit for bit.

    Args:
        folder: with ``cfg.json`` and ``sae_weights.safetensors``.

    Raises:
        FolderError: a file is missing, damaged or of another kind, or the model does
            what none of this package's does, such as to reshape its input.
        ModuleNotFoundError: safetensors is missing: ``pip install 'aefast[train]'``.

    >>> import pathlib, tempfile, torch, aefast
    >>> folder = pathlib.Path(tempfile.mkdtemp()) / "sae"
    >>> model = aefast.nn.TopKSparseAutoencoder(16, 64, k=4)
    >>> aefast.save_saelens(model, folder)
    >>> torch.equal(aefast.load_saelens(folder).decoder_weight, model.decoder_weight)
    True
    """
    path = Path(folder)
    config, tensors = _read(path, SAELENS_WEIGHTS)
    width, latents = _sizes(config, path, "d_in", "d_sae")
    _check_setting(config, "reshape_activations", "none", path)
    normalization = _normalization(config, path)
    expected = {
        "encoder_weight": ("W_enc", (width, latents)),
        "decoder_weight": ("W_dec", (latents, width)),
        "decoder_bias": ("b_dec", (width,)),
    }
    options: DictionaryOptions = {"normalize_activations": normalization}
    make: Callable[[], SparseDictionary]
    architecture = config.get("architecture")
    if architecture in TOPK:
        k = _active(config, path, latents)
        expected["encoder_bias"] = ("b_enc", (latents,))
        make = partial(TopKSparseAutoencoder, width, latents, k, **options)
    elif architecture == "jumprelu":
        expected |= {"encoder_bias": ("b_enc", (latents,)), "threshold": ("threshold", (latents,))}
        make = partial(JumpReLUSparseAutoencoder, width, latents, **options)
    elif architecture == "gated":
        expected |= {
            "encoder_bias": ("b_gate", (latents,)),
            "magnitude_bias": ("b_mag", (latents,)),
            "magnitude_scale": ("r_mag", (latents,)),
        }
        make = partial(GatedSparseAutoencoder, width, latents, **options)
    else:
        raise FolderError(
            f"{path / CONFIG}: architecture is {cut(repr(architecture))}; it takes topk, jumprelu "
            "or gated"
        )
    state = _renamed(tensors, expected, path / SAELENS_WEIGHTS)
    state["encoder_weight"] = state["encoder_weight"].t().contiguous()
    if architecture == "jumprelu":
        state["threshold"].clamp_(min=0)
    if _flag(config, path, "rescale_acts_by_decoder_norm", default=False):
        norms = state["decoder_weight"].norm(dim=-1)
        state["encoder_weight"] *= norms[:, None]
        state["encoder_bias"] *= norms
        state["decoder_weight"] /= norms[:, None]
    if not _flag(config, path, "apply_b_dec_to_input", default=True):
        shift = state["encoder_weight"] @ state["decoder_bias"]
        state["encoder_bias"] += shift
        if architecture == "gated":
            state["magnitude_bias"] += shift * state["magnitude_scale"].exp()
    for name, tensor in state.items():
        if name != "threshold" and not tensor.isfinite().all():
            raise FolderError(
                f"{path}: the settings in {CONFIG} make the {name} infinite or NaN, as a latent's "
                "direction of norm 0 does where activations are rescaled by the norms"
            )
    if normalization in MEASURED:
        state["input_factor"] = state["decoder_bias"].new_tensor(_scaling_factor(path))
    return _filled(make, state)


def save_saelens(model: SparseDictionary, folder: "str | PathLike[str]") -> None:
    """Write a model as a folder that ``sae_lens.SAE.load_from_disk`` takes.

    A batch top-k or Matryoshka model becomes what SAELens saves it as: ``jumprelu``, with its one
    threshold for all latents, in the weights' dtype. A threshold below 0 is saved as 0, which it
    counts as. Other numbers are the model's, bit for bit, but for two conversions, which give the
    same code to rounding. Of a top-k model with ``rescale_acts_by_decoder_norm`` the directions'
    norms are multiplied into the encoder. What ``normalize_activations`` multiplies all rows by is
    multiplied into it, too, and directions and decoder bias are divided by it, as SAELens does at
    the end of a training.

    Args:
        model: top-k, batch top-k, Matryoshka, JumpReLU or gated.
        folder: made where it is not there; nothing in it is overwritten.

    Raises:
        TypeError: the model is another one.
        ValueError: the model is a transcoder.
        FolderError: the folder holds a model already.
        ModuleNotFoundError: safetensors is missing: ``pip install 'aefast[train]'``.
    """
    if not isinstance(model, SparseDictionary):
        raise TypeError(f"model is a {type(model).__name__}; it takes a sparse dictionary")
    _check_autoencoder(model)
    folded = _folded(model)
    tensors: Tensors = {
        "W_enc": folded.encoder_weight.t(),
        "W_dec": folded.directions,
        "b_dec": folded.decoder_bias,
    }
    extra_settings: dict[str, object] = {}
    if isinstance(model, GatedSparseAutoencoder):
        architecture = "gated"
        tensors |= {"b_gate": folded.encoder_bias, "b_mag": model.magnitude_bias}
        tensors["r_mag"] = model.magnitude_scale
    elif isinstance(model, TopKSparseAutoencoder):
        architecture, extra_settings = "topk", {"k": model.k, "rescale_acts_by_decoder_norm": False}
        tensors["b_enc"] = folded.encoder_bias
    else:
        assert isinstance(model, JumpReLUSparseAutoencoder | BatchTopKSparseAutoencoder)
        architecture = "jumprelu"
        threshold = model.threshold.clamp(min=0).to(folded.encoder_bias).expand(model.latents)
        tensors |= {"b_enc": folded.encoder_bias, "threshold": threshold}
    versions = {"sae_lens_version": SAELENS_VERSION, "sae_lens_training_version": None}
    config = {
        "d_in": model.visible,
        "d_sae": model.latents,
        "dtype": str(model.decoder_weight.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": _normalization_by_row(model),
        "reshape_activations": "none",
        "metadata": versions,
        **extra_settings,
        "architecture": architecture,
    }
    _write(Path(folder), config, SAELENS_WEIGHTS, tensors)


def load_sparsify(folder: "str | PathLike[str]") -> TopKSparseAutoencoder:
    """The top-k model that a folder of sparsify (``eai-sparsify``) holds, in evaluation mode.

    Args:
        folder: with ``cfg.json`` and ``sae.safetensors``.

    Raises:
        FolderError: a file is missing, damaged or of another kind, or the model is a
            transcoder, has a skip connection, or another activation.
        ModuleNotFoundError: safetensors is missing: ``pip install 'aefast[train]'``.

    >>> import pathlib, tempfile, torch, aefast
    >>> folder = pathlib.Path(tempfile.mkdtemp()) / "layers.5"
    >>> aefast.save_sparsify(aefast.nn.TopKSparseAutoencoder(16, 64, k=4), folder)
    >>> aefast.load_sparsify(folder).k
    4
    """
    path = Path(folder)
    config, tensors = _read(path, SPARSIFY_WEIGHTS)
    for name, value in (("activation", "topk"), ("skip_connection", False), ("transcode", False)):
        _check_setting(config, name, value, path)
    width = _size(config, path, "d_in")
    latents = _checked_size(
        config.get("num_latents", 0) or width * _size(config, path, "expansion_factor"),
        "num_latents",
        path,
    )
    k = _active(config, path, latents)
    expected = {
        "encoder_weight": ("encoder.weight", (latents, width)),
        "encoder_bias": ("encoder.bias", (latents,)),
        "decoder_weight": ("W_dec", (latents, width)),
        "decoder_bias": ("b_dec", (width,)),
    }
    state = _renamed(tensors, expected, path / SPARSIFY_WEIGHTS)
    return _filled(partial(TopKSparseAutoencoder, width, latents, k), state)


def save_sparsify(model: TopKSparseAutoencoder, folder: "str | PathLike[str]") -> None:
    """Write a top-k model as a folder that ``sparsify.SparseCoder.load_from_disk`` takes. One with
    ``rescale_acts_by_decoder_norm``, or whose rows are all multiplied by one factor, is converted
    as by :func:`save_saelens`.

    Args:
        model: top-k.
        folder: made where it is not there; nothing in it is overwritten.

    Raises:
        TypeError: the model is another one.
        ValueError: the model is a transcoder, or normalizes each row by itself.
        FolderError: the folder holds a model already.
        ModuleNotFoundError: safetensors is missing: ``pip install 'aefast[train]'``.
    """
    if not isinstance(model, TopKSparseAutoencoder):
        raise TypeError(f"model is a {type(model).__name__}; it takes a TopKSparseAutoencoder")
    _check_autoencoder(model)
    normalization = _normalization_by_row(model)
    if normalization != "none":
        raise ValueError(
            f"model has normalize_activations={normalization!r}; sparsify normalizes no rows"
        )
    config = {
        "activation": "topk",
        "expansion_factor": 32,
        "normalize_decoder": True,
        "num_latents": model.latents,
        "k": model.k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": model.visible,
    }
    folded = _folded(model)
    tensors: Tensors = {
        "W_dec": folded.directions,
        "b_dec": folded.decoder_bias,
        "encoder.bias": folded.encoder_bias,
        "encoder.weight": folded.encoder_weight,
    }
    _write(Path(folder), config, SPARSIFY_WEIGHTS, tensors)


class _Folded(NamedTuple):
    """A dictionary's parameters as other packages save them."""

    encoder_weight: Tensor
    encoder_bias: Tensor
    directions: Tensor
    decoder_bias: Tensor


@torch.no_grad()
def _folded(model: SparseDictionary) -> _Folded:
    """A dictionary's parameters, with what its rows are multiplied by, and where the directions'
    norms are part of the selection these, in the encoder."""
    weight, bias, directions, decoder_bias = (
        parameter.detach()
        for parameter in (
            model.encoder_weight,
            model.encoder_bias,
            model.decoder_weight,
            model.decoder_bias,
        )
    )
    if isinstance(model, TopKSparseAutoencoder) and model.rescale_acts_by_decoder_norm:
        norms = positive_norms(directions)
        weight, bias, directions = (
            weight * norms[:, None],
            bias * norms,
            directions / norms[:, None],
        )
    if model.normalize_activations in MEASURED:
        factor = model.input_factor
        if factor.isnan():
            raise ValueError("the rows' scale was not measured: model.start_from(rows) does it")
        weight, directions, decoder_bias = (
            weight * factor,
            directions / factor,
            decoder_bias / factor,
        )
    return _Folded(weight, bias, directions, decoder_bias)


def _normalization_by_row(model: SparseDictionary) -> str:
    """A normalization of each row by itself, which no parameter can take in; else none."""
    name = model.normalize_activations
    return name if name in BY_ROW else "none"


def _normalization(config: dict[str, object], folder: Path) -> str:
    name = config.get("normalize_activations", "none")
    takes = "none", "expected_average_only_in", *BY_ROW
    if name not in takes:
        raise FolderError(
            f"{folder / CONFIG}: normalize_activations is {cut(repr(name))}; it takes "
            f"{', '.join(takes)}"
        )
    return str(name)


def _scaling_factor(folder: Path) -> float:
    """What the rows of a checkpoint are multiplied by."""
    factor = _read_json(folder / SCALER).get("scaling_factor")
    if not isinstance(factor, float) or not 0 < factor < math.inf:
        raise FolderError(
            f"{folder / SCALER}: scaling_factor is {cut(repr(factor))}; it takes a number above 0"
        )
    return factor


def _read(folder: Path, weights: str) -> tuple[dict[str, object], Tensors]:
    from aefast.training.checkpoint import CheckpointError, read_tensors  # of an extra

    config = _read_json(folder / CONFIG)
    try:
        return config, read_tensors(folder / weights)[1]
    except CheckpointError as error:
        raise FolderError(str(error)) from error


def _read_json(file: Path) -> dict[str, object]:
    try:
        if file.exists() and not file.is_file():  # a pipe, which would not end
            raise FolderError(f"{file} cannot be read: it is no regular file")
        settings = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise FolderError(f"{file} cannot be read: {error.strerror or error}") from error
    except FolderError:
        raise
    except (ValueError, RecursionError) as error:
        raise FolderError(f"{file} is no JSON: {cut(error)}") from error
    if not isinstance(settings, dict):
        raise FolderError(f"{file} holds no settings")
    return settings


def _write(folder: Path, config: dict[str, object], weights: str, tensors: Tensors) -> None:
    import safetensors.torch  # of an extra

    from aefast.training.files import replacing

    for name in (CONFIG, weights):
        if os.path.lexists(folder / name):
            raise FolderError(
                f"{folder / name} is there already; it takes a folder without a model"
            )
    folder.mkdir(parents=True, exist_ok=True)
    lying = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(folder / weights) as file:
        file.write(safetensors.torch.save(lying))
    with replacing(folder / CONFIG) as file:
        file.write(json.dumps(config).encode())


def _renamed(
    tensors: Tensors, expected: dict[str, tuple[str, tuple[int, ...]]], file: Path
) -> Tensors:
    """The tensors by this package's names: exactly those, of these shapes and one float dtype, and
    finite. A threshold that no number reaches may be infinite."""
    names = {name for name, _ in expected.values()}
    if tensors.keys() != names:
        raise FolderError(
            f"{file} holds {cut(', '.join(sorted(tensors)))}; it takes {', '.join(sorted(names))}"
        )
    dtype = tensors["W_dec"].dtype
    for name, shape in expected.values():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape:
            raise FolderError(
                f"{file}: {name} has shape {list(tensor.shape)}; with the sizes in {CONFIG} it "
                f"takes {list(shape)}"
            )
        # SAELens trains thresholds in float32 beside halves.
        if tensor.dtype not in FLOATING or (tensor.dtype != dtype and name != "threshold"):
            raise FolderError(
                f"{file}: {name} has dtype {tensor.dtype}, and W_dec has {dtype}; it takes one of "
                "float32, float64, bfloat16 and float16"
            )
        wrong = tensor.isnan() if name == "threshold" else ~tensor.isfinite()
        if wrong.any():
            raise FolderError(f"{file}: {name} holds {tensor[wrong][0]}; it takes finite numbers")
    return {ours: tensors[name].to(dtype) for ours, (name, _) in expected.items()}


def _filled(make: Callable[[], Model], state: Tensors) -> Model:
    """The model of these tensors, which had no memory before."""
    model = outlined(make)
    for name, buffer in model.named_buffers():
        if name in state:
            continue
        state[name] = torch.zeros(buffer.shape, dtype=buffer.dtype, device="cpu")
    model.load_state_dict(state, assign=True)
    return model.eval()


def _check_autoencoder(model: SparseDictionary) -> None:
    if model.is_transcoder:
        raise ValueError("model is a transcoder; a folder takes an autoencoder")


def _sizes(config: dict[str, object], folder: Path, *names: str) -> list[int]:
    return [_size(config, folder, name) for name in names]


def _size(config: dict[str, object], folder: Path, name: str) -> int:
    return _checked_size(config.get(name), name, folder)


def _checked_size(value: object, name: str, folder: Path) -> int:
    if type(value) is not int or not 1 <= value < 2**31:
        raise FolderError(f"{folder / CONFIG}: {name} is {cut(repr(value))}; it takes a size")
    return value


def _active(config: dict[str, object], folder: Path, latents: int) -> int:
    k = _size(config, folder, "k")
    if k > latents:
        raise FolderError(f"{folder / CONFIG}: k is {k}, above its {latents} latents")
    return k


def _flag(config: dict[str, object], folder: Path, name: str, *, default: bool) -> bool:
    value = config.get(name, default)
    if not isinstance(value, bool):
        raise FolderError(
            f"{folder / CONFIG}: {name} is {cut(repr(value))}; it takes true or false"
        )
    return value


def _check_setting(config: dict[str, object], name: str, takes: object, folder: Path) -> None:
    value = config.get(name, takes)
    if value != takes:
        raise FolderError(
            f"{folder / CONFIG}: {name} is {cut(repr(value))}; it takes {json.dumps(takes)}"
        )

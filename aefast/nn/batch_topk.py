"""Sparse autoencoders whose code is the largest latents of a whole batch."""

from collections.abc import Sequence
from typing import Any, Unpack, cast

import torch
from torch import Tensor

from aefast.distributed.group import Group
from aefast.functional import batch_topk_encode, sparse_decode
from aefast.nn.dictionary import Code, DictionaryOptions, SparseDictionary
from aefast.nn.input_normalization import Target
from aefast.nn.plain import known_by_its_parameters
from aefast.nn.reparametrized import renew_weights
from aefast.nn.settings import setting
from aefast.nn.shared_batch import group_of_batch, refuse_traces, warn_if_alone
from aefast.nn.step_plan import NOT_TOGETHER, PlannedDictionary
from aefast.ops.shared import checks, dispatch
from aefast.ops.topk import batch
from aefast.ops.topk.op import SparseCode, as_rows, in_shape_of

# How far a step of training moves the threshold towards its batch's.
THRESHOLD_RATE = 0.01


@known_by_its_parameters("encoder_weight", "encoder_bias", "decoder_weight", "decoder_bias")
class BatchTopKSparseAutoencoder(SparseDictionary):
    """A sparse autoencoder of whose latents k a row are active on the average: in training those
    are the largest of the whole batch, and a row that is hard to reconstruct has more of them.

    In evaluation a row's code must not depend on the others of its batch: active is what is above
    ``threshold``, which follows the smallest active value of the batches of training.

    Ranks that share a batch select over all of its rows: in :func:`aefast.fit`, inside
    ``DistributedDataParallel``, and inside :func:`shared_batch`. Elsewhere a rank selects among its
    own rows, and a loss warns once that it does.

    Args:
        visible: D, the size of each input row.
        latents: L, the size of the code.
        k: how many latents a row has on the average, in (0, L]; 0.5 is one in two rows.
        options: as :class:`SparseDictionary`'s: ``outputs`` of a transcoder, ``aux_k``,
            ``aux_weight``, ``dead_after``, ``normalize_activations``, ``device`` and ``dtype``.

    Attributes:
        encoder_weight, encoder_bias, decoder_weight, decoder_bias, idle: as those of
            :class:`TopKSparseAutoencoder`.
        threshold: a scalar, 0 at first.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: a number is outside its range.

    Reference:
        Bussmann, Leask, Nanda, "BatchTopK sparse autoencoders", 2024.

    >>> import torch
    >>> from aefast.nn import BatchTopKSparseAutoencoder
    >>> model = BatchTopKSparseAutoencoder(64, 512, k=8)
    >>> x = torch.randn(5, 64)
    >>> (model.encode(x).values > 0).sum().item()
    40
    >>> model.loss(x).backward()
    """

    threshold: Tensor
    k: float = setting(lambda model, value, name: _check_mean_active(value, name, model.latents))

    def __init__(
        self,
        visible: int,
        latents: int,
        k: float,
        **options: Unpack[DictionaryOptions],
    ) -> None:
        super().__init__(visible, latents, **options)
        self.k = k
        threshold = torch.zeros((), dtype=torch.float32, device=self.decoder_bias.device)
        self.register_buffer("threshold", threshold)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Directions uniform on the sphere, the encoder tied to them, all else 0."""
        super().reset_parameters()
        self.threshold.zero_()

    def encode(self, x: Tensor) -> SparseCode:
        """The code of x ``[..., D]``: values and latents, ``[..., m]``, the largest first; m is the
        most that a row has, and what a row has less is 0."""
        renew_weights(self)
        centered, weight, bias = self._centered(x), self.encoder_weight, self.encoder_bias
        if self.training:
            group = group_of_batch()
            if group.size > 1:
                return self._encode_shared(x, group)
            warn_if_alone()
            values, indices = batch_topk_encode(centered, weight, bias, self.k)
            return SparseCode(values.relu(), indices)
        centered, weight, bias = dispatch.cast_operands(centered, weight, bias)
        rows = as_rows(centered)
        with dispatch.without_autocast(x.device):
            values, indices = batch.encode(rows, weight, bias, self.k, self.threshold)
        return SparseCode(in_shape_of(x, values).relu(), in_shape_of(x, indices))

    def _encode_shared(self, x: Tensor, group: Group) -> SparseCode:
        """In training the code of this rank's rows ``[..., D]`` of a batch that a group shares: the
        largest are those of all ranks' rows.

        Raises:
            OtherRankError: another rank has an error.
            RuntimeError: something traces or transforms the call, or computes it twice.
        """
        refuse_traces("select a batch's latents", x, *self.parameters())
        if dispatch.is_checkpointed() or dispatch.is_run_ahead():
            raise RuntimeError(
                "the ranks select a batch's latents together, which torch.utils.checkpoint would "
                "do twice; it takes a loss outside it"
            )

        def operands() -> tuple[Tensor, Tensor, Tensor]:
            renew_weights(self)
            centered = as_rows(self._centered(x))
            tensors = dispatch.cast_operands(centered, self.encoder_weight, self.encoder_bias)
            return cast(tuple[Tensor, Tensor, Tensor], tensors)

        rows, weight, bias = group.together(operands)
        with dispatch.without_autocast(x.device):
            values, indices = batch.encode_shared(rows, weight, bias, self.k, group)
        return SparseCode(in_shape_of(x, values).relu(), in_shape_of(x, indices))

    @torch.no_grad()
    def _count(self, code: Code, group: Group | None) -> None:
        super()._count(code, group)
        assert not isinstance(code, Tensor)
        active = torch.where(code.values > 0, code.values, torch.inf)
        # A cast model's threshold may be in half precision. It moves in float32 at least.
        dtype = torch.promote_types(self.threshold.dtype, torch.float32)
        threshold = self.threshold.to(dtype)
        least = active.amin().to(dtype) if active.numel() else torch.full_like(threshold, torch.inf)
        if group is not None and group.size > 1:
            least = group.numbers(least).amin()
        moved = threshold.lerp(least, THRESHOLD_RATE)
        self.threshold.copy_(torch.where(least.isfinite(), moved, threshold))

    def planned_step(self) -> PlannedDictionary | str:
        """The training step for the kernels; or why they cannot take it in one call."""
        return self._planned_batch()

    def _planned_batch(self, **fields: Any) -> PlannedDictionary | str:
        if not self.training:
            return "in evaluation mode a code has what is above the threshold"
        if self.threshold.numel() != 1:
            return NOT_TOGETHER
        fields |= {"selection": "batch_topk", "k": self.k, "threshold_rate": THRESHOLD_RATE}
        return self._planned(threshold=self.threshold, **fields)

    def extra_repr(self) -> str:
        return f"k={self.k}, {super().extra_repr()}"


@known_by_its_parameters("encoder_weight", "encoder_bias", "decoder_weight", "decoder_bias")
class MatryoshkaSparseAutoencoder(BatchTopKSparseAutoencoder):
    """A batch top-k sparse autoencoder whose first latents reconstruct alone, too: general features
    come early, and are not split up by the special ones after them.

    The loss is the mean, over the ``prefixes``, of the mean squared error of what so many first
    latents of the code reconstruct.

    Args:
        visible: D, the size of each input row.
        latents: L, the size of the code.
        k: how many latents a row has on the average, in (0, L].
        prefixes: rising numbers of latents, the last of them L; None takes L/16, L/8, L/4, L/2, L.
        options: as :class:`SparseDictionary`'s.

    Attributes:
        encoder_weight, encoder_bias, decoder_weight, decoder_bias, idle, threshold: as those of
            :class:`BatchTopKSparseAutoencoder`.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: a number is outside its range.

    Reference:
        Bussmann et al., "Learning multi-level features with Matryoshka sparse autoencoders", 2025.

    >>> import torch
    >>> from aefast.nn import MatryoshkaSparseAutoencoder
    >>> model = MatryoshkaSparseAutoencoder(64, 512, k=8, prefixes=[64, 512])
    >>> model.loss(torch.randn(5, 64)).backward()
    """

    prefixes: Sequence[int] = setting(
        lambda model, value, name: _check_prefixes(value, model.latents)
    )

    def __init__(
        self,
        visible: int,
        latents: int,
        k: float,
        *,
        prefixes: Sequence[int] | None = None,
        **options: Unpack[DictionaryOptions],
    ) -> None:
        super().__init__(visible, latents, k, **options)
        halves = sorted({max(1, self.latents >> n) for n in range(5)})
        self.prefixes = halves if prefixes is None else prefixes

    def _objective_of(self, code: Code, target: Target) -> tuple[Tensor, Code, Tensor]:
        assert not isinstance(code, Tensor)
        output, begin, losses = self.decoder_bias.expand_as(target.rows), 0, []
        for end in self.prefixes:
            is_inside = (code.indices >= begin) & (code.indices < end)
            values = torch.where(is_inside, code.values, 0)
            output = output + sparse_decode(values, code.indices, self.decoder_weight)
            loss, residual = target.error(output)
            losses.append(loss)
            begin = end
        return torch.stack(losses).mean(), code, residual

    def planned_step(self) -> PlannedDictionary | str:
        """The training step for the kernels; or why they cannot take it in one call."""
        return self._planned_batch(prefixes=tuple(self.prefixes))

    def extra_repr(self) -> str:
        return f"prefixes={self.prefixes}, {super().extra_repr()}"


def _check_mean_active(value: object, name: str, latents: int) -> float:
    k = checks.check_number(value, name, 0)
    if not 0 < k <= latents:
        raise ValueError(
            f"{name} is {value}; of {latents} latents it takes a number in (0, {latents}]"
        )
    return k


def _check_prefixes(prefixes: Sequence[int], latents: int) -> tuple[int, ...]:
    if isinstance(prefixes, str | Tensor) or not isinstance(prefixes, Sequence):
        raise TypeError(f"prefixes is a {type(prefixes).__name__}; it takes a list of ints")
    sizes = [checks.check_integer(size, "prefixes", 2**31, low=1) for size in prefixes]
    if sizes != sorted(set(sizes)) or sizes[-1:] != [latents]:
        raise ValueError(
            f"prefixes is {sizes}; it takes rising numbers, the last of them {latents}"
        )
    return tuple(sizes)

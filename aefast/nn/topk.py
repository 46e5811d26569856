"""The sparse autoencoder whose code is each row's k largest latents."""

from typing import Unpack

import torch
from torch import Tensor

from aefast.functional import topk_encode
from aefast.nn.dictionary import DictionaryOptions, SparseDictionary, check_active
from aefast.nn.plain import known_by_its_parameters
from aefast.nn.reparametrized import renew_weights
from aefast.nn.settings import setting
from aefast.nn.step_plan import PlannedDictionary
from aefast.ops.shared import checks
from aefast.ops.topk.op import SparseCode


@known_by_its_parameters("encoder_weight", "encoder_bias", "decoder_weight", "decoder_bias")
class TopKSparseAutoencoder(SparseDictionary):
    """A wide autoencoder, of whose latents k are active in each row: a sparse autoencoder over the
    activations of a language model.

        code = relu(topk(W (x - c) + b)),    reconstruction = c + sum_i code_i V[latent_i]

    Neither pass holds ``[B, L]`` numbers. Gradients reach the active latents alone, and are the
    same bits for any thread count. It starts tied: a latent's encoder is its decoder's direction,
    of unit norm, and the biases are 0; :meth:`start_from` puts c at the data's geometric median.

    Where nothing keeps the directions at unit norm, a latent with a small direction needs a large
    pre-activation for the same effect, and is selected too often. With
    ``rescale_acts_by_decoder_norm``, SAELens' default, the k largest are selected by pre-activation
    times the direction's norm, and their values stay the pre-activations. At unit norm it changes
    nothing.

    A latent that was inactive for more than ``dead_after`` rows of training is dead. With ``aux_k``
    the dead ones learn to reconstruct what the others leave: the loss gets ``aux_weight`` times the
    mean squared error of the ``aux_k`` largest dead latents' reconstruction of the residual.

    Args:
        visible: D, the size of each input row.
        latents: L, the size of the code, mostly far above D.
        k: how many latents are active in a row, in [1, L].
        rescale_acts_by_decoder_norm: whether latents are selected by their part in the
            reconstruction, as above, and not by their pre-activations alone.
        options: as :class:`SparseDictionary`'s: ``outputs`` of a transcoder, ``aux_k``,
            ``aux_weight``, ``dead_after``, ``normalize_activations``, ``device`` and ``dtype``.

    Attributes:
        encoder_weight: W ``[L, D]``.
        encoder_bias: b ``[L]``.
        decoder_weight: V ``[L, D]``, a latent's direction a row.
        decoder_bias: c ``[D]``.
        idle: int64 ``[L]``: the rows of training since each latent was active.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: a number is outside its range.

    References:
        Gao et al., "Scaling and evaluating sparse autoencoders", 2024. Bricken et al., "Towards
        monosemanticity", 2023.

    >>> import torch
    >>> from aefast.nn import TopKSparseAutoencoder
    >>> model = TopKSparseAutoencoder(64, 512, k=8)
    >>> x = torch.randn(5, 64)
    >>> model(x).shape, model.encode(x).indices.shape
    (torch.Size([5, 64]), torch.Size([5, 8]))
    >>> model.loss(x).backward()
    """

    k: int = setting(lambda model, value, name: check_active(value, name, 1, model.latents))
    rescale_acts_by_decoder_norm: bool = setting(
        lambda model, value, name: checks.check_flag(value, name)
    )

    def __init__(
        self,
        visible: int,
        latents: int,
        k: int,
        *,
        rescale_acts_by_decoder_norm: bool = False,
        **options: Unpack[DictionaryOptions],
    ) -> None:
        super().__init__(visible, latents, **options)
        self.k = k
        self.rescale_acts_by_decoder_norm = rescale_acts_by_decoder_norm
        self.reset_parameters()

    def encode(self, x: Tensor) -> SparseCode:
        """The code of x ``[..., D]``: values and latents, ``[..., k]``, the largest first."""
        renew_weights(self)
        encoder = self.encoder_weight, self.encoder_bias, self.decoder_weight
        return self._largest(self._centered(x), *encoder, self.k)

    def _largest(
        self, centered: Tensor, weight: Tensor, bias: Tensor, directions: Tensor, k: int
    ) -> SparseCode:
        if not self.rescale_acts_by_decoder_norm:
            return super()._largest(centered, weight, bias, directions, k)
        # The code does not depend on the norms but for the selection, which has no gradient.
        norms = positive_norms(directions.detach())
        values, indices = topk_encode(centered, weight * norms[:, None], bias * norms, k)
        return SparseCode(values.relu() / norms[indices], indices)

    def planned_step(self) -> PlannedDictionary | str:
        """The training step for the kernels; or why they cannot take it in one call."""
        return self._planned(
            selection="topk", k=self.k, ranks_by_norm=self.rescale_acts_by_decoder_norm
        )

    def extra_repr(self) -> str:
        ranking = "rescale_acts_by_decoder_norm=True, " * self.rescale_acts_by_decoder_norm
        return f"k={self.k}, {ranking}{super().extra_repr()}"


def positive_norms(directions: Tensor) -> Tensor:
    """The norms of directions ``[L, D]``, by which a code may be divided."""
    return directions.norm(dim=1).clamp(min=torch.finfo(directions.dtype).tiny)

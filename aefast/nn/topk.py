"""The sparse autoencoder whose code is each row's k largest latents."""

from typing import Unpack

from torch import Tensor

from aefast.functional import topk_encode
from aefast.nn.dictionary import DictionaryOptions, SparseDictionary, check_active
from aefast.nn.reparametrized import renew_weights
from aefast.nn.settings import setting
from aefast.ops.topk.op import SparseCode


class TopKSparseAutoencoder(SparseDictionary):
    """A wide autoencoder, of whose latents k are active in each row: a sparse autoencoder over the
    activations of a language model.

        code = relu(topk(W (x - c) + b)),    reconstruction = c + sum_i code_i V[latent_i]

    Neither pass holds ``[B, L]`` numbers. Gradients reach the active latents alone, and are the
    same bits for any thread count. It starts tied: a latent's encoder is its decoder's direction,
    of unit norm, and the biases are 0; :meth:`start_from` puts c at the data's geometric median.

    A latent that was inactive for more than ``dead_after`` rows of training is dead. With ``aux_k``
    the dead ones learn to reconstruct what the others leave: the loss gets ``aux_weight`` times the
    mean squared error of the ``aux_k`` largest dead latents' reconstruction of the residual.

    Args:
        visible: D, the size of each input row.
        latents: L, the size of the code, mostly far above D.
        k: how many latents are active in a row, in [1, L].
        options: as :class:`SparseDictionary`'s: ``outputs`` of a transcoder, ``aux_k``,
            ``aux_weight``, ``dead_after``, ``device`` and ``dtype``.

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

    def __init__(
        self,
        visible: int,
        latents: int,
        k: int,
        **options: Unpack[DictionaryOptions],
    ) -> None:
        super().__init__(visible, latents, **options)
        self.k = k
        self.reset_parameters()

    def encode(self, x: Tensor) -> SparseCode:
        """The code of x ``[..., D]``: values and latents, ``[..., k]``, the largest first."""
        renew_weights(self)
        values, indices = topk_encode(
            self._centered(x), self.encoder_weight, self.encoder_bias, self.k
        )
        return SparseCode(values.relu(), indices)

    def extra_repr(self) -> str:
        return f"k={self.k}, {super().extra_repr()}"

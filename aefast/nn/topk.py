"""The sparse autoencoder whose code is each row's k largest latents."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aefast.functional import sparse_decode, topk_encode
from aefast.nn.autoencoder import check_draw
from aefast.nn.linear import Device
from aefast.nn.replicas import check_replica
from aefast.ops.shared import checks
from aefast.ops.topk.op import SparseCode


class TopKSparseAutoencoder(nn.Module):
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
        aux_k: how many dead latents reconstruct the residual; 0 for none.
        aux_weight: the factor of their loss, 0 or more.
        dead_after: rows.
        device: of the parameters; None takes torch's default one.
        dtype: of the parameters; None takes torch's default one.

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

    idle: Tensor

    def __init__(
        self,
        visible: int,
        latents: int,
        k: int,
        *,
        aux_k: int = 0,
        aux_weight: float = 1 / 32,
        dead_after: int = 10_000_000,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.visible = checks.check_integer(visible, "visible", 2**31, low=1)
        self.latents = checks.check_integer(latents, "latents", 2**31, low=1)
        self.k = _check_active(k, "k", 1, self.latents)
        self.aux_k = _check_active(aux_k, "aux_k", 0, self.latents)
        self.aux_weight = checks.check_number(aux_weight, "aux_weight", 0)
        self.dead_after = checks.check_integer(dead_after, "dead_after", 2**62)
        directions = torch.empty(latents, visible, device=device, dtype=dtype)
        self.encoder_weight = nn.Parameter(torch.empty_like(directions))
        self.encoder_bias = nn.Parameter(torch.zeros_like(directions[:, 0]))
        self.decoder_weight = nn.Parameter(directions)
        self.decoder_bias = nn.Parameter(torch.zeros_like(directions[0]))
        idle = torch.zeros(latents, dtype=torch.int64, device=directions.device)
        self.register_buffer("idle", idle)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Directions uniform on the sphere, the encoder tied to them, biases and counts 0."""
        nn.init.normal_(self.decoder_weight)
        self.normalize_decoder()
        self.encoder_weight.copy_(self.decoder_weight)
        for tensor in (self.encoder_bias, self.decoder_bias, self.idle):
            tensor.zero_()

    @torch.no_grad()
    def start_from(self, x: Tensor) -> None:
        """Put the decoder's bias at the geometric median of rows ``[..., D]``, before training."""
        self._check_rows(x)
        self.decoder_bias.copy_(geometric_median(x.reshape(-1, self.visible)))

    def encode(self, x: Tensor) -> SparseCode:
        """The code of x ``[..., D]``: values and latents, ``[..., k]``, the largest first."""
        self._check_rows(x)
        values, indices = topk_encode(
            x - self.decoder_bias, self.encoder_weight, self.encoder_bias, self.k
        )
        return SparseCode(values.relu(), indices)

    def decode(self, code: tuple[Tensor, Tensor]) -> Tensor:
        """The reconstruction ``[..., D]`` from what :meth:`encode` gave."""
        return sparse_decode(*code, self.decoder_weight, self.decoder_bias)

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of x, ``[..., D]``."""
        return self.decode(self.encode(x))

    def loss(
        self,
        x: Tensor,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        row_offset: int = 0,
    ) -> Tensor:
        """What training minimizes, a scalar: the mean squared error of the reconstruction, and the
        dead latents' loss. In training it counts the rows since each latent was active. It draws
        nothing: the options are those of every model's loss."""
        check_replica(self)
        check_draw(seed, generator, row_offset)
        code = self.encode(x)
        output = self.decode(code)
        loss = F.mse_loss(output, x)
        if self.training:
            self._count(code)
        if self.aux_k and self.aux_weight:
            loss = loss + self.aux_weight * self._auxiliary_loss(x, x - output.detach())
        return loss

    @property
    def dead(self) -> Tensor:
        """bool ``[L]``: the latents that were inactive for more than ``dead_after`` rows."""
        return self.idle > self.dead_after

    @torch.no_grad()
    def normalize_decoder(self) -> None:
        """Bring each latent's direction back to unit norm: for after an optimizer's step."""
        self.decoder_weight.copy_(F.normalize(self.decoder_weight, dim=1))

    @torch.no_grad()
    def project_decoder_gradient(self) -> None:
        """Take from each direction's gradient what would change its norm: for before the step."""
        gradient, direction = self.decoder_weight.grad, F.normalize(self.decoder_weight, dim=1)
        if gradient is not None:
            gradient -= (gradient * direction).sum(1, keepdim=True) * direction

    @torch.no_grad()
    def _count(self, code: SparseCode) -> None:
        """A latent whose value is 0 is not active: it goes into a slot past the last."""
        values, indices = code
        self.idle += math.prod(values.shape[:-1])
        slots = torch.where(values > 0, indices, self.latents).reshape(-1)
        active = self.idle.new_zeros(self.latents + 1, dtype=torch.bool).index_fill_(0, slots, 1)
        self.idle.masked_fill_(active[:-1], 0)

    def _auxiliary_loss(self, x: Tensor, residual: Tensor) -> Tensor:
        """The mean squared error of the residual's reconstruction by dead latents; 0 for none."""
        dead = self.dead.nonzero().squeeze(1)
        if len(dead) == 0:
            return residual.new_zeros(())
        values, indices = topk_encode(
            x - self.decoder_bias,
            self.encoder_weight[dead],
            self.encoder_bias[dead],
            min(self.aux_k, len(dead)),
        )
        reconstruction = sparse_decode(values.relu(), indices, self.decoder_weight[dead])
        return F.mse_loss(reconstruction, residual)

    def _check_rows(self, x: Tensor) -> None:
        checks.check_tensor(x, "x")
        if x.dim() < 1 or x.shape[-1] != self.visible:
            raise ValueError(f"x has shape {list(x.shape)}; it takes [..., {self.visible}]")

    def extra_repr(self) -> str:
        return (
            f"visible={self.visible}, latents={self.latents}, k={self.k}, aux_k={self.aux_k}, "
            f"aux_weight={self.aux_weight}, dead_after={self.dead_after}"
        )


def _check_active(value: int, argument: str, low: int, latents: int) -> int:
    checks.check_integer(value, argument, 2**63)
    if not low <= value <= latents:
        raise ValueError(
            f"{argument} is {value}; of {latents} latents it takes an int in [{low}, {latents}]"
        )
    return int(value)


@torch.no_grad()
def geometric_median(points: Tensor, steps: int = 100, tolerance: float = 1e-6) -> Tensor:
    """The point ``[D]`` whose distances to the points ``[N, D]`` have the least sum.

    Weiszfeld's iteration from the mean, in float64, until a step is ``tolerance`` of the points'
    mean distance. No few outliers move it far, as they do the mean.

    Reference:
        Weiszfeld, "Sur le point pour lequel la somme des distances de n points donnés est minimum",
        Tohoku Mathematical Journal 43, 1937.

    >>> geometric_median(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1e6]]))[0] < 1
    tensor(True)
    """
    median = points.mean(0, dtype=torch.float64)
    for _ in range(steps):
        distances = torch.linalg.vector_norm(points - median, dim=1)
        spread = distances.mean()
        if not spread > 0:  # all points are one
            break
        weights = 1 / distances.clamp(min=torch.finfo(torch.float32).eps * spread)
        following = (weights @ points.double()) / weights.sum()
        moved = torch.linalg.vector_norm(following - median)
        median = following
        if not moved > tolerance * spread:
            break
    return median.to(points.dtype)

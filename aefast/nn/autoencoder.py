"""The autoencoder, and its loss."""

from collections.abc import Sequence
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from aefast.deprecation import renamed_argument, warn_of_old_name
from aefast.functional import reconstruction_loss
from aefast.nn.compression import CompressedCode, dequantize, quantize
from aefast.nn.encoder_decoder import EncoderDecoder, example_of
from aefast.nn.linear import Device
from aefast.nn.plain import known_by_its_parameters
from aefast.nn.replicas import check_replica
from aefast.nn.settings import setting
from aefast.nn.step_fields import StepFields
from aefast.nn.step_plan import loss_in_one_call
from aefast.ops.corrupt.noise import Noise
from aefast.ops.corrupt.op import corrupt_with
from aefast.ops.reconstruction.op import LOSSES
from aefast.ops.shared import checks, dispatch
from aefast.random import DrawStep


class Architecture(TypedDict, total=False):
    """The options that every kind of autoencoder takes as :class:`Autoencoder` does."""

    layers: Sequence[int] | None
    activation: str
    code_activation: str | None
    output_activation: str
    tied: bool
    code_dropout: float
    reconstruction: str
    loss: str | None
    device: Device
    dtype: torch.dtype | None


def _check_dropout(model: "Autoencoder", value: object, name: str) -> float:
    probability = checks.check_number(value, name, 0, 1)
    if probability == 1:
        raise ValueError(f"{name} is {value}; it takes a number in [0, 1)")
    return probability


def _check_reconstruction(model: "Autoencoder", value: str, name: str) -> str:
    checks.check_choice(value, name, LOSSES)
    if value == "bce" and model.output_activation != "sigmoid":
        raise ValueError(
            f"output_activation is {model.output_activation!r}; with {name} 'bce' it takes "
            "'sigmoid'"
        )
    return value


@known_by_its_parameters()
class Autoencoder(EncoderDecoder):
    """Encodes its input, and reconstructs it from the code.

    With one hidden layer the code is ``h = f(W x + b)`` and the reconstruction
    ``r = g(V h + c)``; a deep one has several such layers on either side, the decoder's sizes
    mirroring the encoder's. Training minimizes what :meth:`loss` says of r and x.

    The layers carry the names that ``nn.Sequential(Linear, activation, Linear, activation, ...)``
    gives them, so a state dict of either loads into the other.

    Args:
        visible: D, the size of each input row.
        hidden: H, the size of the code, of one hidden layer.
        layers: instead of these two, D, H_1, ..., H_L: the sizes from the input to the code.
        activation: f, of every layer but the last, one of :class:`aefast.nn.LinearAct`'s.
        code_activation: of the code; None for ``activation``.
        output_activation: g, of the last layer.
        tied: whether each layer of the decoder has the weight of its mirror image, transposed.
        code_dropout: the probability, below 1, that training sets an element of the code to 0;
            the others are divided by 1 - code_dropout, so that evaluation changes nothing.
        reconstruction: the error of the reconstruction, ``"mse"``, or ``"bce"`` for outputs in
            (0, 1); a mean over all elements.
        loss: the old name of ``reconstruction``, which warns.
        device: of the parameters; None takes torch's default one.
        dtype: of the parameters; None takes torch's default one.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an unknown activation or error, a number outside its range, sizes given twice or
            not at all, or bce of an output that is no sigmoid's.

    References:
        Goodfellow, Bengio, Courville, "Deep Learning", 2016, sections 14.1 to 14.3. Hinton,
        Salakhutdinov, "Reducing the dimensionality of data with neural networks", Science 313,
        2006. Srivastava et al., "Dropout", JMLR 15, 2014.

    >>> import torch
    >>> from aefast.nn import Autoencoder
    >>> model = Autoencoder(layers=[64, 32, 2], activation="tanh", code_activation="identity")
    >>> x = torch.rand(5, 64)
    >>> model(x).shape, model.encode(x).shape
    (torch.Size([5, 64]), torch.Size([5, 2]))
    >>> model.loss(x).backward()
    """

    code_dropout: float = setting(_check_dropout)
    reconstruction: str = setting(_check_reconstruction)

    def __init__(
        self,
        visible: int | None = None,
        hidden: int | None = None,
        *,
        layers: Sequence[int] | None = None,
        activation: str = "sigmoid",
        code_activation: str | None = None,
        output_activation: str = "identity",
        tied: bool = False,
        code_dropout: float = 0.0,
        reconstruction: str = "mse",
        loss: str | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            visible,
            hidden,
            layers=layers,
            activation=activation,
            code_activation=code_activation,
            output_activation=output_activation,
            tied=tied,
            device=device,
            dtype=dtype,
        )
        self.reconstruction = renamed_argument(
            "loss", loss, "reconstruction", reconstruction, "mse"
        )
        self.code_dropout = code_dropout

    @property
    def loss_kind(self) -> str:
        """The old name of ``reconstruction``, which warns."""
        warn_of_old_name("loss_kind", "reconstruction")
        return self.reconstruction

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of x, ``[..., D]``; in training with what the loss draws, the code's
        dropout."""
        return self.decode(self._drop(self.encode(x), None, None, 0))

    def loss(
        self,
        x: Tensor,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        row_offset: int = 0,
    ) -> Tensor:
        """What training minimizes, a scalar: the mean error of the reconstruction of x.

        Of one hidden layer without dropout it is one op over the layers' parameters,
        :func:`aefast.functional.reconstruction_loss`, as long as the layers are plain
        (:func:`aefast.nn.plain.is_plain`). Where hooks, pruning, a reparametrization or an adapter
        stand on them, or a subclass has an ``encode`` or ``decode`` of its own, these are called.

        On a CPU the kernels make the parameters' gradients along with the loss, which holds them
        until its backward pass, and no activations: of a batch of few rows beside the layers' sizes
        more than eager PyTorch's loss holds, of a large one less. The losses of small batches are
        best taken backward one by one: their gradients add up, too.

        Args:
            x: ``[..., D]``.
            seed: what is drawn is a function of it, an int in [0, 2**63); None draws one from
                ``generator``.
            generator: a ``torch.Generator``; None takes torch's default one.
            row_offset: the number of x's first row, where a batch is split over processes.

        Raises:
            TypeError, ValueError: as :func:`aefast.functional.reconstruction_loss`; or x is outside
                [0, 1] and ``reconstruction`` is ``"bce"``, which is checked on a CPU only.
            RuntimeError: ``DistributedDataParallel`` wraps the model: it takes a
                :class:`aefast.nn.LossModule`.
        """
        check_replica(self)
        check_draw(seed, generator, row_offset)
        loss = loss_in_one_call(self, x, seed, generator, row_offset)
        if loss is not None:
            return loss
        if self.is_one_op:
            return self.fused_loss(x)
        code = self._drop(self.encode(x), seed, generator, row_offset)
        return self.compare(code, x)

    def step_fields(self) -> StepFields | str:
        """What a step's plan says beside its layers; or why the kernels cannot run this step."""
        fields: StepFields = {"objective": self.reconstruction}
        if self._drops:
            fields |= {"code_stage": "dropout", "code_level": self.code_dropout}
        return fields

    @property
    def _drops(self) -> bool:
        return self.training and self.code_dropout > 0

    @property
    def is_one_op(self) -> bool:
        """Whether the loss is one :func:`aefast.functional.reconstruction_loss`."""
        return self.depth == 1 and not self._drops and self.is_plain

    def fused_loss(
        self,
        x: Tensor,
        *,
        corruption: str | None = None,
        corruption_level: float = 0.0,
        contraction: float = 0.0,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        row_offset: int = 0,
    ) -> Tensor:
        """The loss of one hidden layer, as :func:`aefast.functional.reconstruction_loss`."""
        self._check_target(x)
        encoder, decoder = self.encoder[0], self.decoder[0]
        return reconstruction_loss(
            x,
            encoder.weight,
            encoder.bias,
            None if self.tied else decoder.weight,
            decoder.bias,
            activation=encoder.activation,
            output_activation=decoder.activation,
            reconstruction=self.reconstruction,
            corruption=corruption,
            corruption_level=corruption_level,
            contraction=contraction,
            seed=seed,
            generator=generator,
            row_offset=row_offset,
        )

    def compare(self, code: Tensor, x: Tensor) -> Tensor:
        """The mean error of a code's reconstruction against x; a scalar."""
        self._check_target(x)
        if self.reconstruction == "mse":
            return F.mse_loss(self.decode(code), x)
        return F.binary_cross_entropy_with_logits(self.preactivation(code), x)

    def _check_target(self, x: Tensor) -> None:
        if self.reconstruction == "bce":
            checks.check_tensor(x, "x")
            checks.check_unit_interval(x, "x", "the cross-entropy takes")

    def _drop(
        self,
        code: Tensor,
        seed: int | None,
        generator: torch.Generator | None,
        row_offset: int,
    ) -> Tensor:
        if not self._drops:
            return code
        draws = seed, generator, row_offset, DrawStep.DROPOUT
        return sample_noise(code, "masking", self.code_dropout, *draws) / (1 - self.code_dropout)

    @torch.no_grad()
    def compress(self, x: Tensor, bits: int = 8) -> CompressedCode:
        """The code of x ``[B, D]``, each element rounded to one of 2**bits levels.

        Args:
            x: ``[B, D]``.
            bits: of each element of the code, 1 to 16.

        Returns:
            What :meth:`decompress` takes; its ``bits_per_element`` counts all that it holds.

        Raises:
            ValueError: x is not ``[B, D]``, its code is not finite, or ``bits`` is none of these.
        """
        checks.check_tensor(x, "x")
        if x.dim() != 2:
            raise ValueError(f"x has shape {list(x.shape)}; it takes [B, D]")
        return quantize(self.encode(x), bits, x.shape[1])

    @torch.no_grad()
    def decompress(self, compressed: CompressedCode) -> Tensor:
        """The reconstruction ``[B, D]`` from what :meth:`compress` gave."""
        return self.decode(dequantize(compressed).to(example_of(self)))

    def extra_repr(self) -> str:
        return f"code_dropout={self.code_dropout}, reconstruction={self.reconstruction!r}"


def check_draw(seed: int | None, generator: torch.Generator | None, row_offset: int) -> None:
    """The arguments of a loss that may draw nothing are right all the same."""
    checks.check_seed_arguments(seed, generator)
    checks.check_integer(row_offset, "row_offset", 2**62)


def sample_noise(
    x: Tensor,
    kind: str,
    level: float,
    seed: int | None,
    generator: torch.Generator | None,
    row_offset: int,
    step: DrawStep,
) -> Tensor:
    """x with noise as :func:`aefast.functional.corrupt` adds it, but drawn at another step."""
    checks.check_tensor(x, "x")
    drawn = dispatch.resolve_seed(seed, generator, x.device, dispatch.is_traced(x))
    return corrupt_with(x, Noise(kind, level, 0.0, 1.0, drawn, row_offset, step.value))

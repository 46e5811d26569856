"""What the sparse autoencoders over a language model's activations share."""

import math
from typing import Any, ClassVar, Self, TypedDict, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aefast.distributed.group import Group
from aefast.functional import linear_act, sparse_decode, topk_encode
from aefast.nn.autoencoder import check_draw
from aefast.nn.candidates import serves
from aefast.nn.dictionary_adam import DictionaryAdam
from aefast.nn.dictionary_modules import DictionaryDecoder, DictionaryEncoder
from aefast.nn.input_normalization import (
    BY_ROW,
    MEASURED,
    NORMALIZATIONS,
    Normalized,
    Target,
    by_row,
    measured_factor,
)
from aefast.nn.linear import Device
from aefast.nn.plain import has_own_methods, is_plain
from aefast.nn.reparametrized import renew_weights
from aefast.nn.replicas import check_replica
from aefast.nn.settings import HasSettings, fixed_choice, integer, number, setting
from aefast.nn.sharded import Shardable
from aefast.nn.shared_batch import active_on_any_rank, group_of_batch
from aefast.nn.step_plan import NOT_TOGETHER, PlannedDictionary
from aefast.ops.jumprelu.op import active_latents
from aefast.ops.linear_act.centered import centered_linear
from aefast.ops.shared import checks, dispatch
from aefast.ops.topk.op import SparseCode
from aefast.random import most_precise
from aefast.step.dictionary_plan import DictionaryPlan
from aefast.step.unit_rows import UnitNorm, normalize_rows, project_rows

Code = SparseCode | Tensor

# The norm of a latent's encoder at the start, where a penalty and no k makes codes sparse: latents
# that are hardly active settle before the penalty has to turn them off.
ENCODER_START = 0.1


class DictionaryOptions(TypedDict, total=False):
    """The options that every sparse dictionary takes as :class:`SparseDictionary` does."""

    outputs: int | None
    aux_k: int
    aux_weight: float
    dead_after: int
    normalize_activations: str
    device: Device
    dtype: torch.dtype | None


class SparseDictionary(HasSettings, Shardable):
    """A wide autoencoder whose decoder is a dictionary: a latent has a direction of unit norm, and
    a row is reconstructed from few of them.

    The base of :class:`TopKSparseAutoencoder` and its kin, which say how a row is encoded.

    Args:
        visible: D, the size of each input row.
        latents: L, the size of the code, mostly far above D.
        outputs: O, the size of each target row of a transcoder, which learns from the input of a
            network's layer what its output is: the loss takes ``target=``, and the input is encoded
            as it is. None is an autoencoder: O is D, the input less the decoder's bias is encoded.
        aux_k: how many dead latents reconstruct the residual; 0 for none.
        aux_weight: the factor of their loss, 0 or more.
        dead_after: rows after which an inactive latent is dead.
        normalize_activations: how rows are brought to one scale before they are encoded, by
            SAELens' names: ``"none"``; by one factor, which :meth:`start_from` measures,
            ``"expected_average_only_in"``, so that rows have a mean norm of the square root of D,
            or ``"unit_mean_squared_norm"``, dictionary_learning's; or each row by itself,
            ``"constant_norm_rescale"`` to a norm of the square root of D, or ``"layer_norm"`` to
            mean 0 and standard deviation 1. :meth:`decode` gives normalized rows, and
            :meth:`restore` their reconstruction, as a call of the model does. A transcoder's
            targets stay as they are.
        device: of the parameters; None takes torch's default one.
        dtype: of the parameters; None takes torch's default one.

    Attributes:
        encoder_weight: W ``[L, D]``.
        encoder_bias: b ``[L]``.
        decoder_weight: V ``[L, O]``, a latent's direction a row.
        decoder_bias: c ``[O]``.
        idle: int64 ``[L]``: the rows of training since each latent was active.
        input_factor: a scalar that rows are multiplied by, NaN until it is measured; only where
            ``normalize_activations`` takes one.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: a number is outside its range.
    """

    ENCODER: ClassVar[type[DictionaryEncoder]] = DictionaryEncoder

    idle: Tensor
    input_factor: Tensor
    normalize_activations: str = fixed_choice(NORMALIZATIONS)
    aux_k: int = setting(lambda model, value, name: check_active(value, name, 0, model.latents))
    aux_weight: float = number(0)
    dead_after: int = integer(0, 2**62)

    def __init__(
        self,
        visible: int,
        latents: int,
        *,
        outputs: int | None = None,
        aux_k: int = 0,
        aux_weight: float = 1 / 32,
        dead_after: int = 10_000_000,
        normalize_activations: str = "none",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.visible = checks.check_integer(visible, "visible", 2**31, low=1)
        self.latents = checks.check_integer(latents, "latents", 2**31, low=1)
        self.is_transcoder = outputs is not None
        width = visible if outputs is None else outputs
        self.outputs = checks.check_integer(width, "outputs", 2**31, low=1)
        self.aux_k = aux_k
        self.aux_weight = aux_weight
        self.dead_after = dead_after
        directions = torch.empty(latents, self.outputs, device=device, dtype=dtype)
        self.encoder_weight = nn.Parameter(directions.new_empty(latents, visible))
        self.encoder_bias = nn.Parameter(torch.zeros_like(directions[:, 0]))
        self.decoder_weight = nn.Parameter(directions)
        self.decoder_bias = nn.Parameter(torch.zeros_like(directions[0]))
        idle = torch.zeros(latents, dtype=torch.int64, device=directions.device)
        self.register_buffer("idle", idle)
        self.normalize_activations = normalize_activations
        if normalize_activations == "layer_norm" and visible == 1:
            raise ValueError("visible is 1; normalize_activations='layer_norm' takes 2 or more")
        if normalize_activations in MEASURED:
            # In float32 at least: a scalar does not change the dtype of the rows.
            factor = torch.full_like(directions[0, 0], torch.nan)
            precise = torch.promote_types(factor.dtype, torch.float32)
            self.register_buffer("input_factor", factor.to(precise))
        self._make_modules()

    def _make_modules(self) -> None:
        # In a tuple, which hides them from the modules: their parameters are the model's.
        self._encoder_decoder = self.ENCODER(self), DictionaryDecoder(self)

    @property
    def encoder(self) -> DictionaryEncoder:
        """From rows to codes, as a module. It subtracts the decoder's bias."""
        return self._encoder_decoder[0]

    @property
    def decoder(self) -> DictionaryDecoder:
        """From codes to rows, as a module."""
        return self._encoder_decoder[1]

    def __setattr__(self, name: str, value: object) -> None:
        if name in ("encoder", "decoder"):
            raise AttributeError(f"{name} is made of the model's parameters: set {name}_weight")
        super().__setattr__(name, value)

    def _replicate_for_data_parallel(self) -> Self:
        replica = cast(Self, super()._replicate_for_data_parallel())
        replica._make_modules()
        return replica

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Directions uniform on the sphere, the encoder tied to them, biases and counts 0. A
        transcoder's encoder has directions of its own."""
        nn.init.normal_(self.decoder_weight)
        self.normalize_decoder()
        if self.is_transcoder:
            nn.init.normal_(self.encoder_weight)
            self.encoder_weight.copy_(F.normalize(self.encoder_weight, dim=1))
        else:
            self.encoder_weight.copy_(self.decoder_weight)
        for tensor in (self.encoder_bias, self.decoder_bias, self.idle):
            tensor.zero_()

    @torch.no_grad()
    def start_from(self, x: Tensor, inputs: Tensor | None = None) -> None:
        """Put the decoder's bias at the geometric median of rows, before training, and measure what
        ``normalize_activations`` takes of all rows.

        Args:
            x: ``[..., O]``: of the data, or of a transcoder's targets.
            inputs: ``[..., D]``: a transcoder's input rows, where their scale is to be measured.

        Raises:
            ValueError: a shape is wrong, inputs are missing, there are no rows or all are 0, or a
                number is infinite or NaN.
        """
        self._check_start(x, "x", self.outputs)
        if inputs is not None:
            self._check_start(inputs, "inputs", self.visible)
        if self.normalize_activations in MEASURED:
            self._measure(x if inputs is None and not self.is_transcoder else inputs)
        rows = x if self.is_transcoder else self._normalized(x).rows
        self.decoder_bias.copy_(geometric_median(rows.reshape(-1, self.outputs)))

    def _check_start(self, rows: Tensor, argument: str, width: int) -> None:
        checks.check_tensor(rows, argument)
        self._check_width(rows, argument, width)
        if rows.numel() == 0:
            raise ValueError(f"{argument} has shape {list(rows.shape)}; it takes one row or more")
        is_wrong = ~rows.isfinite()
        if is_wrong.any():
            raise ValueError(
                f"{argument} holds {rows[is_wrong][0].item()}; it takes finite numbers"
            )

    def _measure(self, rows: Tensor | None) -> None:
        if rows is None:
            raise ValueError(
                f"inputs is None; normalize_activations={self.normalize_activations!r} measures a "
                f"transcoder's input rows, [..., {self.visible}]"
            )
        factor = measured_factor(rows.reshape(-1, self.visible), self.normalize_activations)
        if not factor.isfinite():
            raise ValueError(
                f"the rows' norms give a factor of {factor.item()}; it takes some not 0"
            )
        self.input_factor.copy_(factor)

    def encode(self, x: Tensor) -> Code:
        """The code of x ``[..., D]``."""
        raise NotImplementedError

    def encode_dense(self, x: Tensor) -> Tensor:
        """The code of x ``[..., D]`` as ``[..., L]``: 0 for a latent that is not active."""
        code = self.encode(x)
        if isinstance(code, Tensor):
            return code
        dense = code.values.new_zeros(*code.values.shape[:-1], self.latents)
        return dense.scatter_add(-1, code.indices, code.values)

    def decode(self, code: Code | tuple[Tensor, Tensor]) -> Tensor:
        """The reconstruction ``[..., O]`` from what :meth:`encode` or :meth:`encode_dense` gave."""
        renew_weights(self)
        if isinstance(code, Tensor):
            return linear_act(code, self.decoder_weight.t(), self.decoder_bias)
        return sparse_decode(*code, self.decoder_weight, self.decoder_bias)

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction ``[..., O]`` of x ``[..., D]``; training draws nothing."""
        return self.restore(self.decode(self.encode(x)), x)

    def restore(self, reconstruction: Tensor, x: Tensor | None = None) -> Tensor:
        """Bring what :meth:`decode` gave of a code of rows x ``[..., D]`` to their scale. Where
        ``normalize_activations`` is ``"none"``, and of a transcoder, it is as it was.

        Raises:
            ValueError: x is None, and each row has a scale of its own.
        """
        if self.normalize_activations == "none" or self.is_transcoder:
            return reconstruction
        if self.normalize_activations in MEASURED:
            return reconstruction / self._measured_factor(reconstruction)
        if x is None:
            raise ValueError(
                f"x is None; with normalize_activations={self.normalize_activations!r} each row "
                "has a scale of its own, which its code does not hold"
            )
        _, scale, shift = self._normalized(x)
        return reconstruction * scale + shift

    def loss(
        self,
        x: Tensor,
        *,
        target: Tensor | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        row_offset: int = 0,
    ) -> Tensor:
        """What training minimizes, a scalar: the mean squared error of the reconstruction, what the
        model adds to it, and the dead latents' loss. In training, and with gradients enabled, it
        counts the rows since each latent was active. It draws nothing: the options are those of
        every model's loss.

        Args:
            x: ``[..., D]``.
            target: what the reconstruction is compared with, ``[..., O]`` of x's dtype, as a
                transcoder takes it; None is x.
            seed, generator, row_offset: not used.

        Raises:
            ValueError: a transcoder has no target, or it has another shape.
            RuntimeError: the dead latents' loss under ``torch.utils.checkpoint``, which would
                compute it again, when others may be dead; in training inside ``torch.func.vmap``
                or ``torch.func.grad``, for there is one count of a latent's rows.
        """
        check_replica(self)
        check_draw(seed, generator, row_offset)
        counts = self.training and (torch.is_grad_enabled() or dispatch.is_run_ahead())
        if counts and self.aux_k and dispatch.is_checkpointed():
            raise RuntimeError(
                "the dead latents are counted with each loss, which torch.utils.checkpoint would "
                "compute twice; it takes aux_k=0"
            )
        if counts and dispatch.is_in_functorch():
            raise RuntimeError(
                "the loss counts the rows since each latent was active, which it cannot inside a "
                "transform of torch.func; it takes model.eval()"
            )
        loss, code, residual = self._objective(x, self._checked_target(x, target))
        if counts and not (dispatch.is_recomputed() or dispatch.is_in_backward()):
            self._count(code, None if dispatch.is_traced(x) else group_of_batch())
        return self._with_auxiliary(loss, x, residual)

    def _with_auxiliary(self, loss: Tensor, x: Tensor, residual: Tensor) -> Tensor:
        """A loss with that of the dead latents, of x whose reconstruction is target + residual."""
        if self.aux_k and self.aux_weight > 0:
            loss = loss + self.aux_weight * self._auxiliary_loss(x, -residual.to(x.dtype))
        return loss

    def _objective(self, x: Tensor, target: Target) -> tuple[Tensor, Code, Tensor]:
        """The loss without the dead latents', the code, and the residual: the reconstruction less
        the target, without a gradient."""
        return self._objective_of(self.encode(x), target)

    def _objective_of(self, code: Code, target: Target) -> tuple[Tensor, Code, Tensor]:
        """The same of rows that are encoded."""
        if isinstance(code, Tensor) or not self._has_method_of(SparseDictionary, "decode"):
            loss, residual = target.error(self.decode(code))
        else:
            loss, residual = target.error_of(code, self.decoder_weight, self.decoder_bias)
        return loss, code, residual

    def _serves_candidates(self, x: Tensor, cls: type["SparseDictionary"]) -> bool:
        """Whether a loss may be of the active latents alone: of a model that encodes and decodes as
        ``cls`` does."""
        is_as_cls = self._has_method_of(cls, "encode") and self._has_method_of(cls, "decode")
        return is_as_cls and serves(self, x)

    def _has_method_of(self, cls: type["SparseDictionary"], name: str) -> bool:
        """Whether a method is that of ``cls``, which no subclass overrides and nothing replaces."""
        return getattr(type(self), name) is getattr(cls, name) and name not in self.__dict__

    @property
    def dead(self) -> Tensor:
        """bool ``[L]``: the latents that were inactive for more than ``dead_after`` rows."""
        return self.idle > self.dead_after

    @torch.no_grad()
    def normalize_decoder(self) -> None:
        """Bring each latent's direction back to unit norm: for after an optimizer's step.

        Raises:
            RuntimeError: something makes the decoder's weight anew, as pruning does.
        """
        self._check_directions()
        normalize_rows(self.decoder_weight)

    @torch.no_grad()
    def project_decoder_gradient(self) -> None:
        """Take from each direction's gradient what would change its norm: for before the step.

        Raises:
            RuntimeError: as :meth:`normalize_decoder`.
        """
        self._check_directions()
        gradient = self.decoder_weight.grad
        if gradient is not None:
            project_rows(gradient, self.decoder_weight)

    def keep_unit_norm(self, optimizer: torch.optim.Optimizer) -> None:
        """Have every step of an optimizer project the decoder's gradient before it, and bring the
        directions back to unit norm after it; a JumpReLU's thresholds to 0 or more, too. By hooks
        on the step; a :class:`DictionaryAdam` does it in the same pass.

        Raises:
            RuntimeError: as :meth:`normalize_decoder`.
        """
        self._check_directions()
        if isinstance(optimizer, DictionaryAdam):
            optimizer.dictionaries += (self,)
            return
        hooks = UnitNorm(self)
        optimizer.register_step_pre_hook(hooks.before)
        optimizer.register_step_post_hook(hooks.after)

    def _constrain(self) -> None:
        """Bring the parameters back to where they may be, after an optimizer's step."""
        self.normalize_decoder()
        self._constrain_encoder()

    def _constrain_encoder(self) -> None:
        """Those of the encoder."""

    def _own_directions(self) -> Tensor | None:
        """The directions, where an optimizer may keep their norm: no subclass does it its way."""
        methods = "normalize_decoder", "project_decoder_gradient"
        if all(self._has_method_of(SparseDictionary, name) for name in methods):
            return self._parameters.get("decoder_weight")
        return None

    @torch.no_grad()
    def _active(self, code: Code) -> Tensor:
        """bool ``[L]``: the latents that some row's code has above 0."""
        if isinstance(code, Tensor):
            return active_latents(code)
        values, indices = code
        # One that is not active goes into a slot past the last.
        slots = torch.where(values > 0, indices, self.latents).contiguous().view(-1)
        active = self.idle.new_zeros(self.latents + 1, dtype=torch.bool).index_fill_(0, slots, 1)
        return active[:-1]

    @torch.no_grad()
    def _count(self, code: Code, group: Group | None) -> None:
        """The rows of a code, in training, and those of the other ranks of a group; None in a
        graph, which asks for the ranks each time it runs."""
        values = code if isinstance(code, Tensor) else code.values
        self._count_active(self._active(code), math.prod(values.shape[:-1]), group)

    @torch.no_grad()
    def _count_active(self, active: Tensor, rows: int, group: Group | None) -> None:
        """The same of the latents, bool ``[L]``, that are active in so many rows."""
        active, rows_of_all = active_on_any_rank(active, rows, group)
        self.idle += rows_of_all
        self.idle.masked_fill_(active, 0)

    def _auxiliary_loss(self, x: Tensor, residual: Tensor) -> Tensor:
        """The mean squared error of the residual's reconstruction by dead latents; 0 for none."""
        centered = self._centered(x)
        # A product with all latents waits for no count of them, which a graph could not hold.
        if residual.device.type != "cpu" or dispatch.is_traced(x):
            bias = self.encoder_bias.masked_fill(~self.dead, -torch.inf)
            encoder = self.encoder_weight, bias, self.decoder_weight
            code = self._largest(centered, *encoder, self.aux_k)
            return self._error_by(code, self.decoder_weight, x, residual) * self.dead.any()
        dead = self.dead.nonzero().squeeze(1)
        if len(dead) == 0:
            return residual.new_zeros(())
        parameters = self.encoder_weight, self.encoder_bias, self.decoder_weight
        weight, bias, directions = (parameter[dead] for parameter in parameters)
        code = self._largest(centered, weight, bias, directions, min(self.aux_k, len(dead)))
        return self._error_by(code, directions, x, residual)

    def _error_by(
        self, code: SparseCode, directions: Tensor, x: Tensor, residual: Tensor
    ) -> Tensor:
        """The mean squared error of what a code of x and some directions give of the residual."""
        reconstruction = sparse_decode(*code, directions)
        scale = self._target_of(x, residual).scale
        return F.mse_loss(reconstruction if scale is None else reconstruction * scale, residual)

    def _largest(
        self, centered: Tensor, weight: Tensor, bias: Tensor, directions: Tensor, k: int
    ) -> SparseCode:
        """The code of the k largest of some latents, which have these parameters."""
        values, indices = topk_encode(centered, weight, bias, k)
        return SparseCode(values.relu(), indices)

    def _planned(
        self, *further: Tensor, threshold: Tensor | None = None, **selection: Any
    ) -> PlannedDictionary | str:
        """The training step for the kernels, with further parameters ``[L]`` and fields of its
        :class:`DictionaryPlan`; or why they cannot take it in one call."""
        if torch.compiler.is_compiling() or not is_plain(self) or has_own_methods(self):
            return "it has a hook, a parametrization or a method of its own, or is being traced"
        if self.normalize_activations != "none":
            return "its rows are normalized"
        parameters: list[Tensor] = [self.encoder_weight, self.encoder_bias]
        parameters += [self.decoder_weight, self.decoder_bias, *further]
        tensors = [*parameters, self.idle]
        if any(tensor is None for tensor in tensors):
            return "a parameter is None"
        if len({id(tensor) for tensor in tensors}) < len(tensors):
            return "two layers share a parameter"
        shapes = [
            (self.latents, self.visible),
            (self.latents,),
            (self.latents, self.outputs),
            (self.outputs,),
            *((self.latents,),) * (len(further) + 1),
        ]
        if [tensor.shape for tensor in tensors] != shapes:
            return NOT_TOGETHER
        plan = DictionaryPlan(
            self.visible,
            self.outputs,
            self.latents,
            **selection,
            is_transcoder=self.is_transcoder,
            aux_k=self.aux_k,
            aux_weight=self.aux_weight,
            dead_after=self.dead_after,
        )
        return PlannedDictionary(plan, parameters, self.idle, threshold)

    def _check_directions(self) -> None:
        if "decoder_weight" not in self._parameters:
            raise RuntimeError(
                "decoder_weight is made anew from other parameters (pruning, a parametrization); "
                "to bring it to unit norm takes a parameter"
            )

    def _centered(self, x: Tensor) -> Tensor:
        """The rows ``[..., D]`` that are encoded: a transcoder's bias is its targets'."""
        x = self._normalized(x).rows
        return x if self.is_transcoder else x - self.decoder_bias

    def _normalized(self, x: Tensor) -> Normalized:
        """Rows ``[..., D]`` on the scale of those that are encoded."""
        x = self._checked_rows(x)
        if self.normalize_activations in BY_ROW:
            return by_row(x, self.normalize_activations)
        if self.normalize_activations == "none":
            return Normalized(x)
        return Normalized(x * self._measured_factor(x))

    def _measured_factor(self, x: Tensor) -> Tensor:
        is_known = x.device.type != "cpu" or dispatch.is_traced(x, self.input_factor)
        if not is_known and math.isnan(self.input_factor.item()):
            raise RuntimeError(
                f"normalize_activations is {self.normalize_activations!r}, and the rows' scale was "
                "not measured: model.start_from(rows) does it"
            )
        return self.input_factor

    def _target_of(self, x: Tensor, target: Tensor) -> Target:
        """What x's reconstruction is compared with, of targets ``[..., O]``: on the scale of the
        rows that are encoded, where they all have one, and on that of x where each has its own."""
        if self.normalize_activations == "none" or self.is_transcoder:
            return Target(target)
        if self.normalize_activations in BY_ROW:
            _, scale, shift = self._normalized(x)
            return Target(target, scale, shift)
        return Target(target * self._measured_factor(x))

    def _checked_rows(self, x: Tensor) -> Tensor:
        checks.check_tensor(x, "x")
        self._check_width(x, "x", self.visible)
        return x

    def _products(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The products of rows ``[..., D]`` with all latents' encoders, ``[..., L]``, and a bias's
        sum."""
        rows = self._normalized(x).rows
        if self.is_transcoder:
            return linear_act(rows, self.encoder_weight, bias)
        return centered_linear(rows, self.decoder_bias, self.encoder_weight, bias)

    def _checked_target(self, x: Tensor, target: Tensor | None) -> Target:
        if target is None:
            if self.is_transcoder:
                raise ValueError(f"target is None; a transcoder takes [..., {self.outputs}]")
            return self._target_of(self._checked_rows(x), x)
        checks.check_like(target, "target", x, "x")
        self._check_width(target, "target", self.outputs)
        if target.shape[:-1] != x.shape[:-1]:
            raise ValueError(
                f"target has shape {list(target.shape)}; with x's shape {list(x.shape)} it takes "
                f"{[*x.shape[:-1], self.outputs]}"
            )
        return self._target_of(x, target)

    def _check_width(self, rows: Tensor, argument: str, width: int) -> None:
        if rows.dim() < 1 or rows.shape[-1] != width:
            raise ValueError(f"{argument} has shape {list(rows.shape)}; it takes [..., {width}]")

    def extra_repr(self) -> str:
        outputs = f"outputs={self.outputs}, " if self.is_transcoder else ""
        normalization = ""
        if self.normalize_activations != "none":
            normalization = f", normalize_activations={self.normalize_activations!r}"
        return (
            f"visible={self.visible}, latents={self.latents}, {outputs}aux_k={self.aux_k}, "
            f"aux_weight={self.aux_weight}, dead_after={self.dead_after}{normalization}"
        )


def check_active(value: int, argument: str, low: int, latents: int) -> int:
    checks.check_integer(value, argument, 2**63)
    if not low <= value <= latents:
        raise ValueError(
            f"{argument} is {value}; of {latents} latents it takes an int in [{low}, {latents}]"
        )
    return int(value)


@torch.no_grad()
def geometric_median(points: Tensor, steps: int = 100, tolerance: float = 1e-6) -> Tensor:
    """The point ``[D]`` whose distances to the points ``[N, D]`` have the least sum.

    Weiszfeld's iteration from the mean, in float64 where the device has it, until a step is
    ``tolerance`` of the points' mean distance. No few outliers move it far, as they do the mean.

    Reference:
        Weiszfeld, "Sur le point pour lequel la somme des distances de n points donnés est minimum",
        Tohoku Mathematical Journal 43, 1937.

    >>> geometric_median(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1e6]]))[0] < 1
    tensor(True)
    """
    dtype = most_precise(points.device)
    median = points.mean(0, dtype=dtype)
    for _ in range(steps):
        distances = torch.linalg.vector_norm(points - median, dim=1)
        spread = distances.mean()
        if not spread > 0:  # all points are one
            break
        weights = 1 / distances.clamp(min=torch.finfo(torch.float32).eps * spread)
        following = (weights @ points.to(dtype)) / weights.sum()
        moved = torch.linalg.vector_norm(following - median)
        median = following
        if not moved > tolerance * spread:
            break
    return median.to(points.dtype)

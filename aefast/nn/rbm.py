"""The restricted Boltzmann machine."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aefast import functional, random
from aefast.capture import is_captured
from aefast.distributed.group import Group
from aefast.functional import contrastive_divergence, kl_sparsity, linear_act
from aefast.nn.autoencoder import check_draw
from aefast.nn.likelihood import floored
from aefast.nn.linear import Device
from aefast.nn.plain import is_plain, known_by_its_parameters
from aefast.nn.reparametrized import renew_weights
from aefast.nn.replicas import check_replica
from aefast.nn.settings import HasSettings, fixed_choice, inside_unit_interval, number, setting
from aefast.nn.sharded import Shardable
from aefast.nn.shared_batch import group_of_training, refuse_traces
from aefast.nn.step_plan import (
    NOT_TOGETHER,
    PlannedMachine,
    host_seed,
    keep,
    loss_of_kept_step,
)
from aefast.ops.rbm.op import VISIBLE_KINDS, check_states, check_steps
from aefast.ops.shared import checks, dispatch
from aefast.ops.sparsity.eager import divergence
from aefast.step.machine_loss import machine_loss
from aefast.step.machine_plan import MachinePlan

INITIAL_DEVIATION = 0.01

# What flipping every unit of some rows may take: [rows, D, H] inputs of hidden units.
FLIPPED_ELEMENTS = 1 << 22


def _check_target(model: "RBM", value: object, name: str) -> float | None:
    return None if value is None else inside_unit_interval(model, value, name)


@known_by_its_parameters("weight", "visible_bias", "hidden_bias", "log_var")
class RBM(HasSettings, Shardable):
    """A restricted Boltzmann machine with Bernoulli hidden and Bernoulli or Gaussian visible units.

    Its probability is P(v, h) = exp(-E(v, h)) / Z, with the weight W, the visible units' bias b and
    the hidden ones' c::

        bernoulli:  E(v, h) = -bt v - ct h - ht W v
        gaussian:   E(v, h) = |(v - b) / s|^2 / 2 - ct h - ht W (v / s^2)

    :meth:`loss` is contrastive divergence. It takes any torch optimizer, and with it momentum and
    weight decay: plain gradients climb the likelihood. DistributedDataParallel takes it in a
    :class:`aefast.nn.LossModule`; give each rank its ``row_offset``. Inside it, and inside
    :func:`shared_batch`, each rank moves some of the persistent chains, and the mean activity is
    that of all ranks' rows. Elsewhere a rank's chains and mean activity are its own.

    Args:
        visible: D, the number of visible units.
        hidden: H, the number of hidden units.
        visible_kind: ``"bernoulli"``, of numbers in [0, 1], or ``"gaussian"``.
        learn_variance: learn the Gaussian units' variances s^2, which else are 1.
        k: how many Gibbs steps a training step takes, at least 1.
        chains: 0 starts them at the data (CD-k); else this many persistent chains go on from where
            the last training step left them (PCD-k).
        sparsity_target: the mean activity that hidden units are drawn to, in (0, 1); None for none.
        sparsity_weight: of the penalty that draws them, at least 0.
        device: of the parameters and chains; None takes torch's default one.
        dtype: of the parameters and chains; None takes torch's default one.

    Attributes:
        weight: ``[H, D]``, at first normal with a standard deviation of 0.01.
        visible_bias: ``[D]``, at first 0.
        hidden_bias: ``[H]``, at first 0.
        log_var: ln s^2, ``[D]``, at first 0; None unless the variances are learned.
        chain: the persistent chains' states, ``[chains, D]``, saved with the parameters; or None.
            A state dict's chains are taken however many they are, and kept where it has none.
        training_steps: how often :meth:`loss` was taken in training, saved as well; a scalar.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: one is outside its range.

    References:
        Hinton, "A practical guide to training restricted Boltzmann machines", 2010. Goodfellow,
        Bengio, Courville, "Deep Learning", MIT Press, 2016, section 20.2.

    >>> import torch
    >>> from aefast.nn import RBM, exact_log_partition
    >>> _ = torch.manual_seed(0)
    >>> machine = RBM(6, 4)
    >>> data = torch.tensor([[1.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]])
    >>> optimizer = torch.optim.SGD(machine.parameters(), lr=0.2, momentum=0.5)
    >>> for _ in range(400):
    ...     optimizer.zero_grad()
    ...     machine.loss(data).backward()
    ...     optimizer.step()
    >>> log_partition = exact_log_partition(machine)
    >>> bool(machine.log_likelihood(data, log_partition).mean() > -2)  # from -6 ln 2
    True
    >>> machine.sample(3, k=50).shape
    torch.Size([3, 6])
    """

    chain: Tensor | None
    training_steps: Tensor
    log_var: nn.Parameter | None
    visible_kind: str = fixed_choice(VISIBLE_KINDS)
    k: int = setting(lambda model, value, name: check_steps(value))
    sparsity_target: float | None = setting(_check_target)
    sparsity_weight: float = number(0)

    def __init__(
        self,
        visible: int,
        hidden: int,
        *,
        visible_kind: str = "bernoulli",
        learn_variance: bool = False,
        k: int = 1,
        chains: int = 0,
        sparsity_target: float | None = None,
        sparsity_weight: float = 1.0,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        visible = checks.check_integer(visible, "visible", 2**31, low=1)
        hidden = checks.check_integer(hidden, "hidden", 2**31, low=1)
        self.visible_kind = visible_kind
        learn_variance = checks.check_flag(learn_variance, "learn_variance")
        if learn_variance and visible_kind != "gaussian":
            raise ValueError(
                f"learn_variance is True and visible_kind {visible_kind!r}; it takes 'gaussian'"
            )
        self.k = k
        self.sparsity_target = sparsity_target
        self.sparsity_weight = sparsity_weight
        weight = torch.empty(hidden, visible, device=device, dtype=dtype)
        self.weight = nn.Parameter(weight)
        self.visible_bias = nn.Parameter(weight.new_empty(visible))
        self.hidden_bias = nn.Parameter(weight.new_empty(hidden))
        log_var = nn.Parameter(weight.new_empty(visible)) if learn_variance else None
        self.register_parameter("log_var", log_var)
        chains = checks.check_integer(chains, "chains", 2**31)
        self.register_buffer("chain", weight.new_empty(chains, visible) if chains else None)
        steps = torch.zeros((), dtype=torch.int64, device=weight.device)
        self.register_buffer("training_steps", steps)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the weight and the chains anew; all else begins at 0."""
        self.weight.normal_(0, INITIAL_DEVIATION)
        for parameter in (self.visible_bias, self.hidden_bias, self.log_var):
            if parameter is not None:
                parameter.zero_()
        self.training_steps.zero_()
        if self.chain is not None and not self.chain.is_meta:
            self.chain.copy_(self._random_states(len(self.chain)))

    def forward(self, visible: Tensor) -> Tensor:
        """P(h = 1 given v), the features: ``[..., D]`` to ``[..., H]``.

        Raises:
            TypeError, ValueError: as :func:`aefast.functional.linear_act`; or a Bernoulli unit's
                number is outside [0, 1], which is checked on a CPU only. So do the other methods.
        """
        self._check_visible(visible)
        if self.log_var is not None:
            visible = visible * torch.exp(-self.log_var)
        return linear_act(visible, self.weight, self.hidden_bias, "sigmoid")

    def visible_mean(self, hidden: Tensor) -> Tensor:
        """P(v = 1 given h), or the mean of Gaussian units: ``[..., H]`` to ``[..., D]``."""
        renew_weights(self)
        checks.check_tensor(hidden, "hidden")
        check_states(hidden, "hidden", "bernoulli")
        activation = "sigmoid" if self.visible_kind == "bernoulli" else "identity"
        return linear_act(hidden, self.weight.t(), self.visible_bias, activation)

    def reconstruct(self, visible: Tensor) -> Tensor:
        """The visible units' mean given the hidden ones' probabilities given v, ``[..., D]``."""
        return self.visible_mean(self(visible))

    def loss(
        self,
        visible: Tensor,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        row_offset: int = 0,
    ) -> Tensor:
        """Contrastive divergence of a batch ``[..., D]``: see
        :func:`aefast.functional.contrastive_divergence`. A scalar, in nats; its gradient is what
        counts, and on a CPU is held from here to the backward pass, as
        :meth:`aefast.nn.Autoencoder.loss` holds its own. With a sparsity target, plus the weighted
        sum over the hidden units of KL(target, mean activity). In training mode, and with gradients
        enabled, the persistent chains move on.

        Raises:
            FloatingPointError: the last training step left a parameter infinite or NaN; the
                message names both. Nothing is looked at under torch.compile, torch.func or while a
                CUDA graph is captured.
            ValueError: as :func:`aefast.functional.gibbs`.
            RuntimeError: persistent chains under ``torch.utils.checkpoint``, which would compute
                the loss again from where it has moved them; in training inside ``torch.func.grad``
                and its kin.
        """
        check_replica(self)
        check_draw(seed, generator, row_offset)
        if torch.compiler.is_compiling():
            return self._loss_after_checks(visible, seed, generator, row_offset)
        loss = loss_of_kept_step(self, visible, seed, generator, row_offset)
        if loss is None:
            return self._loss_after_checks(visible, seed, generator, row_offset)
        if not math.isfinite(loss.item()):
            self.check_finite()
        if self.training and torch.is_grad_enabled():
            self._buffers["training_steps"].add_(1)  # type: ignore[union-attr]
        return loss

    def _loss_after_checks(
        self,
        visible: Tensor,
        seed: int | None,
        generator: torch.Generator | None,
        row_offset: int,
    ) -> Tensor:
        """The loss of a first call, and of one that no kept step serves."""
        renew_weights(self)
        checks.check_like(visible, "visible", self.weight, "weight")
        moves_on = self.training and torch.is_grad_enabled()
        if moves_on and self.chain is not None and dispatch.is_checkpointed():
            raise RuntimeError(
                "persistent chains move on with each loss, which torch.utils.checkpoint would "
                "compute twice; it takes chains=0"
            )
        if moves_on and dispatch.is_functional_gradient():
            raise RuntimeError(
                "the loss counts the training steps, and moves persistent chains, which it cannot "
                "inside a transform of torch.func; it takes model.eval()"
            )
        if self.exchanges:
            group = group_of_training(self)
            if group.size > 1:
                return self._shared_loss(visible, group, seed, generator, row_offset)
        fused = self._loss_in_one_call(visible, seed, generator, row_offset)
        loss, chain = fused or self._loss_op_by_op(visible, seed, generator, row_offset)
        # Last of all: where anything above was interrupted, no step was taken.
        if moves_on and not dispatch.is_recomputed():
            if self.chain is not None and chain is not None:
                self.chain.copy_(chain)
            self.training_steps.add_(1)
        return loss

    @property
    def exchanges(self) -> bool:
        """Whether the loss of a batch is no mean over its rows, so that ranks that share it
        exchange what it is a function of: the persistent chains, or the mean activity."""
        return self.chain is not None or self.sparsity_target is not None

    def _shared_loss(
        self,
        visible: Tensor,
        group: Group,
        seed: int | None,
        generator: torch.Generator | None,
        row_offset: int,
    ) -> Tensor:
        """The loss of this rank's rows ``[..., D]`` of a batch that a group shares: the mean of the
        ranks' losses is the batch's.

        Raises:
            OtherRankError: another rank has an error.
            RuntimeError: something traces or transforms the call.
        """
        refuse_traces("move a machine's chains and take its mean activity", visible)

        def checked_rows() -> tuple[Tensor, int]:
            self.check_finite()
            self._check_visible(visible)
            checks.check_seed_arguments(seed, generator)
            rows = visible.reshape(-1, visible.shape[-1])
            return rows, int(dispatch.resolve_seed(seed, generator, visible.device, False))

        rows, drawn = group.together(checked_rows)
        weight = len(rows) / group.total(len(rows))
        part = self._part_of_loss(rows, group, weight, drawn, row_offset)
        if self.chain is not None:
            group.gather_rows(self.chain)
        if not dispatch.is_recomputed():
            self.training_steps.add_(1)
        return rows.new_zeros(()) if part is None else group.size * part

    def _part_of_loss(
        self,
        visible: Tensor,
        group: Group,
        weight: float,
        seed: int,
        row_offset: int,
        mean_of: Callable[[Tensor], Tensor] | None = None,
        moves_chains: bool = True,
    ) -> Tensor | None:
        """This rank's part of the loss of a batch that a group shares: the parts sum to it. Of the
        persistent chains it moves its own, those of :meth:`Group.rows_of`. None without rows and
        chains.

        Args:
            visible: this rank's rows, ``[B, D]``; there may be none.
            weight: their share of the batch's rows.
            mean_of: the batch's mean activity ``[H]``, from that of these rows ``[B, H]``; None
                asks the group.
            moves_chains: False for the later parts of a rank's rows.
        """
        terms: list[Tensor] = []
        if self.sparsity_target is not None:
            code = group.together(lambda: self(visible)) if mean_of is None else self(visible)
            activity = (mean_of or group.mean)(code)
            penalty = divergence(activity, self.sparsity_target).sum()
            if len(visible):
                terms.append(weight * self.sparsity_weight * penalty)
        start, first, chains_weight = visible, row_offset, weight
        if self.chain is not None:
            own = group.rows_of(len(self.chain)) if moves_chains else slice(0, 0)
            start, first = self.chain[own].to(visible.dtype), own.start
            chains_weight = len(start) / len(self.chain)
        if len(visible):
            terms.append(weight * self.free_energy(visible).mean())
        if len(start):
            end = self._chain_ends(start, seed, first)
            terms.append(-chains_weight * self.free_energy(end).mean())
            if self.chain is not None:
                self.chain[own] = end.to(self.chain.dtype)
        return torch.stack(terms).sum() if terms else None

    @torch.no_grad()
    def _chain_ends(self, start: Tensor, seed: int, row_offset: int) -> Tensor:
        parameters = self.weight, self.visible_bias, self.hidden_bias
        options: Any = {"visible_kind": self.visible_kind, "log_var": self.log_var}
        chain = functional.gibbs(
            start, *parameters, self.k, seed=seed, row_offset=row_offset, **options
        )
        return chain.visible

    def _loss_in_one_call(
        self,
        visible: Tensor,
        seed: int | None,
        generator: torch.Generator | None,
        row_offset: int,
    ) -> tuple[Tensor, Tensor | None] | None:
        """The loss and where persistent chains end; None where the kernels cannot take it all."""
        step = self.planned_step()
        if isinstance(step, str):
            return None
        rows = visible.reshape(-1, visible.shape[-1]) if visible.dim() > 2 else visible
        if step.refusal(rows) is not None:
            return None
        check_states(visible, "visible", self.visible_kind)
        if step.chain is not None:
            check_states(step.chain, "chain", self.visible_kind)
        if not self.exchanges:
            keep(self, step)
        drawn = host_seed(seed, generator)
        plan, parameters, chain, _ = step
        end = None if chain is None else torch.empty_like(chain)
        loss = machine_loss(plan, parameters, rows, chain, end, drawn, row_offset)
        if not math.isfinite(loss.item()):
            self.check_finite()
        return loss, end

    def _loss_op_by_op(
        self,
        visible: Tensor,
        seed: int | None,
        generator: torch.Generator | None,
        row_offset: int,
    ) -> tuple[Tensor, Tensor]:
        self.check_finite()
        # FSDP2 may compute in another dtype than the chains', which are no parameters.
        chain = None if self.chain is None else self.chain.to(visible.dtype)
        loss, end = contrastive_divergence(
            visible,
            self.weight,
            self.visible_bias,
            self.hidden_bias,
            self.k,
            chain=chain,
            visible_kind=self.visible_kind,
            log_var=self.log_var,
            seed=seed,
            generator=generator,
            row_offset=row_offset,
        )
        if self.sparsity_target is not None:
            with dispatch.without_autocast(visible.device):
                loss = loss + self.sparsity_weight * self._sparsity_penalty(visible)
        return loss, end

    def planned_step(self) -> PlannedMachine | str:
        """The training step for the kernels; or why they cannot take it in one call."""
        if torch.compiler.is_compiling() or not is_plain(self):
            return "it has a hook or a parametrization, or is being traced"
        # From the dictionaries: an attribute of a module takes 0.3 us.
        named: Any = self._parameters
        buffers: Any = self._buffers
        parameters: list[Tensor] = [named["weight"], named["visible_bias"], named["hidden_bias"]]
        if named["log_var"] is not None:
            parameters.append(named["log_var"])
        chain, training_steps = buffers["chain"], buffers["training_steps"]
        if parameters[0].dim() != 2:
            return NOT_TOGETHER
        hidden, visible = parameters[0].shape
        shapes = [(hidden, visible), (visible,), (hidden,), (visible,)]
        if any(p.shape != shape for p, shape in zip(parameters, shapes, strict=False)):
            return NOT_TOGETHER
        if chain is not None and chain.shape[1:] != (visible,):
            return NOT_TOGETHER
        target = self.sparsity_target
        plan = MachinePlan(
            visible,
            hidden,
            visible_kind=self.visible_kind,
            has_log_var=len(parameters) == 4,
            k=self.k,
            sparsity_weight=0.0 if target is None else self.sparsity_weight,
            sparsity_target=0.5 if target is None else target,
        )
        return PlannedMachine(plan, parameters, chain, training_steps)

    def check_finite(self) -> None:
        """Training loops that end, or save, after a step call it then; :meth:`loss` does at first.

        Raises:
            FloatingPointError: a parameter is infinite or NaN; the message names it and the step.
            ValueError: the storage of one was freed.
        """
        if dispatch.is_traced(*self.parameters()) or dispatch.is_in_functorch():
            return
        if self.weight.is_meta:
            return
        if is_captured(self.weight.device):
            return
        for name, parameter in self.named_parameters():
            dispatch.materialize(parameter, name)
        # A sum is not finite where an element is not: one pass, no mask, and one wait for a GPU.
        if torch.stack([parameter.sum() for parameter in self.parameters()]).isfinite().all():
            return
        for name, parameter in self.named_parameters():
            if parameter.isfinite().all():
                continue
            kind = "NaN" if parameter.isnan().any() else "an infinity"
            raise FloatingPointError(
                f"{name} holds {kind} after training step {self.training_steps.item()}; "
                "a lower learning rate may help"
            )

    def free_energy(self, visible: Tensor) -> Tensor:
        """F(v) = -ln sum_h exp(-E(v, h)), in nats: ``[..., D]`` to ``[...]``."""
        renew_weights(self)
        self._check_visible(visible)
        return functional.free_energy(
            visible,
            self.weight,
            self.visible_bias,
            self.hidden_bias,
            visible_kind=self.visible_kind,
            log_var=self.log_var,
        )

    @torch.no_grad()
    def sample(
        self,
        samples: int,
        k: int = 1000,
        *,
        start: Tensor | None = None,
        clamp_mask: Tensor | None = None,
        beta: float | Tensor | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The visible states of chains after k Gibbs steps.

        Args:
            samples: how many chains.
            k: how many steps, at least 1.
            start: the states ``[samples, D]`` or ``[D]`` that they begin with; None for random
                ones, which under torch.compile take a ``seed``.
            clamp_mask: boolean, ``[samples, D]`` or ``[D]``: where it is True a unit keeps its
                state in ``start``, and the others are drawn given these.
            beta: the inverse temperature, a number or ``[samples]``.
            seed: an int in [0, 2**63); None draws one from ``generator``.
            generator: a ``torch.Generator``; None takes torch's default one.

        Returns:
            ``[samples, D]``.

        Raises:
            TypeError, ValueError: as :func:`aefast.functional.gibbs`; or a mask without ``start``.
        """
        renew_weights(self)
        samples = checks.check_integer(samples, "samples", 2**31)
        width = self.weight.shape[1]
        if start is None:
            if clamp_mask is not None:
                raise ValueError("clamp_mask is given and start is None; it takes the states kept")
            checks.check_seed_arguments(seed, generator)
            seed = int(dispatch.resolve_seed(seed, generator, self.weight.device, False))
            generator = None
            start = self._random_states(samples, seed)
        checks.check_like(start, "start", self.weight, "weight")
        if start.shape not in ((width,), (samples, width)):
            raise ValueError(
                f"start has shape {list(start.shape)}; it takes [{samples}, {width}] or [{width}]"
            )
        return functional.gibbs(
            start.expand(samples, -1),
            self.weight,
            self.visible_bias,
            self.hidden_bias,
            k,
            visible_kind=self.visible_kind,
            log_var=self.log_var,
            beta=beta,
            clamp_mask=clamp_mask,
            seed=seed,
            generator=generator,
        ).visible

    @torch.no_grad()
    def pseudo_log_likelihood(
        self, visible: Tensor, *, units: int | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """sum_i ln P(v_i given all other visible units), in nats: ``[..., D]`` to ``[...]``.

        Args:
            visible: states ``[..., D]``; a grey unit v is flipped to 1 - v.
            units: None sums over all units; else over this many that are drawn for each row, times
                D / units: the same on average.
            generator: what they are drawn from; None takes torch's default one.

        Raises:
            ValueError: the visible units are Gaussian, a state is outside [0, 1], or ``units`` is
                none of [1, D].

        Reference:
            Besag, "Statistical analysis of non-lattice data", The Statistician 24, 1975.
        """
        if self.visible_kind != "bernoulli":
            raise ValueError("visible_kind is 'gaussian'; the pseudo-likelihood takes 'bernoulli'")
        renew_weights(self)
        width = self.weight.shape[1]
        checks.check_like(visible, "visible", self.weight, "weight")
        if visible.dim() < 1 or visible.shape[-1] != width:
            raise ValueError(f"visible has shape {list(visible.shape)}; it takes [..., {width}]")
        check_states(visible, "visible", self.visible_kind)
        checks.check_seed_arguments(None, generator)
        if units is not None and not 1 <= checks.check_integer(units, "units", 2**31) <= width:
            raise ValueError(f"units is {units}; it takes an int in [1, {width}]")
        rows = visible.reshape(-1, width)
        with dispatch.without_autocast(rows.device):
            likelihood = pseudo_log_likelihood(
                rows, self.weight, self.visible_bias, self.hidden_bias, units, generator
            )
        return floored(likelihood.reshape(visible.shape[:-1]))

    @torch.no_grad()
    def log_likelihood(self, visible: Tensor, log_partition: float) -> Tensor:
        """ln P(v) = -F(v) - ln Z, in nats: ``[..., D]`` to ``[...]``.

        ``log_partition`` is ln Z, which :func:`aefast.nn.exact_log_partition` finds, or
        :func:`aefast.nn.annealed_importance_sampling` as its ``estimate``.
        """
        log_partition = checks.check_number(log_partition, "log_partition")
        return floored(-self.free_energy(visible) - log_partition)

    def _check_visible(self, visible: Tensor) -> None:
        checks.check_tensor(visible, "visible")
        check_states(visible, "visible", self.visible_kind)

    def _random_states(self, count: int, seed: int | None = None) -> Tensor:
        like = self.weight
        if like.is_meta:  # states of no memory, which take no seed of torch's
            return like.new_empty(count, like.shape[1])
        if seed is None:
            seed = int(dispatch.resolve_seed(None, None, like.device, False))
        distribution = random.normal if self.visible_kind == "gaussian" else random.uniform
        drawn = distribution(
            seed, count, like.shape[1], step=random.DrawStep.CHAIN_START, device=like.device
        )
        if self.visible_kind == "bernoulli":
            drawn = drawn < 0.5
        return drawn.to(like.dtype)

    def _sparsity_penalty(self, visible: Tensor) -> Tensor:
        """sum_j KL(target, mean_j), whose gradient is Hinton's cross-entropy's, section 11."""
        assert self.sparsity_target is not None
        return kl_sparsity(self(visible), self.sparsity_target)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key = f"{prefix}chain"
        stored, chain = state_dict.get(key), self.chain
        if (
            stored is not None
            and chain is not None
            and stored.shape != chain.shape
            and stored.shape[1:] == chain.shape[1:]
        ):
            # The same tensor: a training that is under way has it. Where the chains are as many as
            # before, they go into the same memory, which a CUDA graph has.
            chain.data = chain.new_empty(stored.shape)
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )
        for name in (key, f"{prefix}training_steps"):  # of dicts from before, or of a CD-k's
            if name in missing_keys:
                missing_keys.remove(name)

    def extra_repr(self) -> str:
        hidden, visible = self.weight.shape
        chains = 0 if self.chain is None else len(self.chain)
        sparsity = ""
        if self.sparsity_target is not None:
            sparsity = (
                f", sparsity_target={self.sparsity_target}, sparsity_weight={self.sparsity_weight}"
            )
        return (
            f"{visible}, {hidden}, visible_kind={self.visible_kind!r}, k={self.k}, {chains=}"
            f"{sparsity}"
        )


def pseudo_log_likelihood(
    visible: Tensor,
    weight: Tensor,
    visible_bias: Tensor,
    hidden_bias: Tensor,
    units: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """:meth:`RBM.pseudo_log_likelihood` of a matrix ``[B, D]``, some rows at a time; ``[B]``."""
    width = weight.shape[1]
    if units is None:
        flipped = torch.arange(width, dtype=torch.int64, device=visible.device).expand(
            visible.shape
        )
    else:
        keys = torch.rand(
            visible.shape, generator=generator, dtype=torch.float32, device=visible.device
        )
        flipped = keys.argsort(1)[:, :units]
    elements = max(1, flipped.shape[1] * len(hidden_bias))
    rows_at_once = max(1, FLIPPED_ELEMENTS // elements)
    parameters = weight, visible_bias, hidden_bias
    terms = [
        _log_conditionals(rows, chosen, *parameters).sum(1)
        for rows, chosen in zip(
            visible.split(rows_at_once), flipped.split(rows_at_once), strict=True
        )
    ]
    return torch.cat(terms) * (width / flipped.shape[1])


def _log_conditionals(
    visible: Tensor, units: Tensor, weight: Tensor, visible_bias: Tensor, hidden_bias: Tensor
) -> Tensor:
    """ln P(v_i given the others) = ln sigmoid(F(v with v_i flipped) - F(v)) of the units [B, N]."""
    inputs = F.linear(visible, weight, hidden_bias)
    change = 1 - 2 * visible.gather(1, units)
    changed = inputs[:, None] + change[:, :, None] * weight.t()[units]
    hidden_term = (F.softplus(changed) - F.softplus(inputs)[:, None]).sum(2)
    return F.logsigmoid(-change * visible_bias[units] - hidden_term)

"""pyod's variational autoencoder as a module with a ``loss``, which ``aefast.fit`` trains."""

import math

from pyod.models.vae import VAE, VAEModel, vae_loss
from torch import Tensor, nn

from aefast.acceleration.recognition import is_plain_linear
from aefast.nn.plain import has_hooks
from aefast.nn.step_plan import NOT_TOGETHER, PlannedStep, fits_together
from aefast.step.plan import Plan, PlannedLayer
from aefast.training.plain_model import Planner, blocks_of


class Variational(nn.Module):
    """The network of pyod's VAE, with pyod's loss.

    Args:
        detector: the VAE; its network has been built.
    """

    def __init__(self, detector: VAE) -> None:
        super().__init__()
        self.network: VAEModel = detector.model
        self.beta = detector.beta
        self.capacity = detector.capacity
        self.log_var_bounds = detector.logvar_clip_

    def loss(self, x: Tensor, *, seed: int | None = None) -> Tensor:
        """The mean loss of a batch ``[B, D]``. The code is drawn from torch's generator."""
        output, mean, log_var = self.network(x)
        loss: Tensor = vae_loss(
            x, output, mean, log_var, self.beta, self.capacity, self.log_var_bounds
        )
        return loss

    def planned_step(self) -> PlannedStep | str:
        """The training step as a plan; or the reason why no kernel computes it in one call."""
        network = self.network
        if has_hooks(network):
            return "hooks stand on the model"
        blocks = blocks_of(network.encoder), blocks_of(network.decoder)
        planner = Planner()
        stacks = []
        for stack in blocks:
            layers = stack if isinstance(stack, str) else planner.layers(stack)
            if isinstance(layers, str):
                return layers
            stacks.append(layers)
        encoder, decoder = stacks
        posterior = self._posterior(planner)
        if isinstance(posterior, str):
            return posterior
        plan = Plan(
            (*encoder, posterior),
            tuple(decoder),
            planner.numbering.sizes,
            code_stage="posterior",
            divergence_weight=float(self.beta),
            divergence_limit=math.inf if self.capacity is None else float(self.capacity),
            log_var_bounds=self.log_var_bounds or (-math.inf, math.inf),
        )
        if not fits_together(plan):
            return NOT_TOGETHER
        return PlannedStep(plan, planner.numbering.parameters, tuple(planner.norms))

    def _posterior(self, planner: Planner) -> PlannedLayer | str:
        """The layer whose outputs are the mean and the log variance; or why there is no plan."""
        mean, log_var = self.network.encoder_mu, self.network.encoder_logvar
        if not (is_plain_linear(mean) and is_plain_linear(log_var)):
            return "the posterior's layers are not torch's own"
        number = planner.numbering.number
        latent, inputs = mean.weight.shape
        return PlannedLayer(
            inputs,
            2 * latent,
            "identity",
            number(mean.weight),
            number(mean.bias),
            log_var_weight=number(log_var.weight),
            log_var_bias=number(log_var.bias),
        )

"""SAELens' top-k training with this package's kernels: a training class in SAELens' own registry.

To import this module registers it, as the architecture ``aefast_topk``; nothing of SAELens is
patched. It is no part of ``import aefast``: it takes ``pip install 'aefast[sae]'``.
"""

from dataclasses import dataclass
from typing import Any

import torch
from sae_lens.registry import register_sae_class, register_sae_training_class
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from sae_lens.saes.topk_sae import (
    TopKSAE,
    TopKSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from torch import Tensor

from aefast.functional import sparse_decode, topk_encode
from aefast.sae_folders import FAST_TOPK


@dataclass
class FastTopKTrainingSAEConfig(TopKTrainingSAEConfig):
    """SAELens' ``TopKTrainingSAEConfig``, with the same fields, of :class:`FastTopKTrainingSAE`."""

    @classmethod
    def architecture(cls) -> str:
        return FAST_TOPK


class FastTopKTrainingSAE(TopKTrainingSAE):
    """SAELens' top-k sparse autoencoder, whose training step holds no array of pre-activations.

    Losses, gradients and options are those of SAELens' ``TopKTrainingSAE``. In the step's output
    ``feature_acts`` is a sparse COO tensor, as with SAELens' ``use_sparse_activations``, and
    ``hidden_pre`` is that tensor, too: the other pre-activations are in no memory. A hook on the
    pre-activations or on the code needs them, and has the step taken by SAELens itself. What is
    saved for inference is SAELens' ``topk``, and loads without this package.

    ::

        from aefast.saelens import FastTopKTrainingSAEConfig

        config = LanguageModelSAERunnerConfig(
            sae=FastTopKTrainingSAEConfig(d_in=768, d_sae=16384, k=32), ...
        )
        LanguageModelSAETrainingRunner(config).run()
    """

    def initialize_weights(self) -> None:
        super().initialize_weights()
        # In memory a latent a row, as the kernels take it: SAELens' shape is a view of that.
        self.W_enc.data = self.W_enc.data.t().contiguous().t()

    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        hooks = (self.hook_sae_acts_pre, self.hook_sae_acts_post)
        if any(hook._forward_hooks or hook._backward_hooks for hook in hooks):
            return super().training_forward_pass(step_input)
        sae_in = step_input.sae_in
        centered, norms = self.process_sae_in(sae_in), None
        weight, bias = self.W_enc.t(), self.b_enc
        if self.cfg.rescale_acts_by_decoder_norm:
            norms = self.W_dec.norm(dim=-1)
            weight, bias = weight * norms[:, None], bias * norms
        values, latents = topk_encode(centered, weight, bias, self.cfg.k)
        values = values.relu()
        output = self.hook_sae_recons(self._decode(values, latents, norms, self.b_dec))
        output = self.reshape_fn_out(self.run_time_activation_norm_fn_out(output), self.d_head)
        error = self.mse_loss_fn(output, sae_in).sum(dim=-1).mean()
        auxiliary = self._auxiliary_loss(step_input, centered, weight, bias, norms, output)
        losses = {"mse_loss": error, "auxiliary_reconstruction_loss": auxiliary}
        code = _sparse(values.detach(), latents, self.cfg.d_sae)
        return TrainStepOutput(sae_in, output, code, code, error + auxiliary, losses)

    def _decode(
        self, values: Tensor, latents: Tensor, norms: Tensor | None, bias: Tensor | None = None
    ) -> Tensor:
        if norms is not None:
            values = values / norms[latents]
        return sparse_decode(values, latents, self.W_dec, bias)

    def _auxiliary_loss(
        self,
        step_input: TrainStepInput,
        centered: Tensor,
        weight: Tensor,
        bias: Tensor,
        norms: Tensor | None,
        output: Tensor,
    ) -> Tensor:
        """SAELens' loss of the dead latents, of which alone it multiplies."""
        is_dead = step_input.dead_neuron_mask
        dead = output.new_empty(0) if is_dead is None else is_dead.nonzero().squeeze(1)
        if len(dead) == 0:
            return output.new_zeros(())
        if self.cfg.normalize_activations in ("constant_norm_rescale", "layer_norm"):
            # SAELens' own error: it has no loss of dead latents for these.
            return self.calculate_topk_aux_loss(step_input.sae_in, output, output, is_dead)
        most = step_input.sae_in.shape[-1] // 2
        values, indices = topk_encode(centered, weight[dead], bias[dead], min(most, len(dead)))
        residual = (step_input.sae_in - output).detach()
        recovered = self.reshape_fn_out(self._decode(values, dead[indices], norms), self.d_head)
        error = (recovered - residual).square().sum(-1).mean()
        return self.cfg.aux_loss_coefficient * min(len(dead) / most, 1.0) * error

    def process_state_dict_for_saving(self, state_dict: dict[str, Any]) -> None:
        super().process_state_dict_for_saving(state_dict)
        state_dict["W_enc"] = state_dict["W_enc"].contiguous()


def _sparse(values: Tensor, latents: Tensor, count: int) -> Tensor:
    """A code ``[..., k]`` as a sparse COO tensor ``[..., count]``."""
    shape = (*values.shape[:-1], count)
    leading = torch.ones_like(latents).nonzero().t()[:-1]
    indices = torch.cat([leading, latents.reshape(1, -1)])
    return torch.sparse_coo_tensor(
        indices,
        values.reshape(-1),
        shape,
        dtype=values.dtype,
        device=values.device,
        check_invariants=False,
    )


register_sae_class(FAST_TOPK, TopKSAE, TopKSAEConfig)
register_sae_training_class(FAST_TOPK, FastTopKTrainingSAE, FastTopKTrainingSAEConfig)

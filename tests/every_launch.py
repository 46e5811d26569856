"""Every kernel's launch, on tensors that no kernel ever reads.

For programs that watch the launches go by: they patch ``Variant.launch`` and ``triton_gemm.chip``,
and choose the batch sizes.
"""

from collections.abc import Iterable

import torch

from aefast.ops.contractive import triton as contractive
from aefast.ops.corrupt import triton as corrupt
from aefast.ops.linear_act import triton as linear_act
from aefast.ops.rbm import triton as rbm
from aefast.ops.rbm.chain import divergence, run_chain
from aefast.ops.rbm.settings import ChainSettings, Machine
from aefast.ops.reconstruction import triton as reconstruction
from aefast.ops.reconstruction.settings import LossSettings, PerInput
from aefast.ops.sparse_coding import triton as sparse_coding
from aefast.ops.sparse_coding.problem import Problem
from aefast.ops.sparsity import triton as sparsity
from aefast.ops.topk import triton as topk
from aefast.ops.variational import triton as variational
from aefast.random import Step


def launch_every_op(batches: Iterable[int]) -> None:
    weight, bias = torch.zeros(100, 96), torch.zeros(100)
    settings = LossSettings("sigmoid", "identity", "mse", None, 0.0, 0, 0)
    needed = PerInput(False, True, True, True, True, False)
    for batch in batches:
        x = torch.zeros(batch, 96)
        output, _ = linear_act.forward(x, weight, bias, "tanh", False)
        linear_act.backward(output, x, weight, output, "tanh", (True, True, True))
        inputs = PerInput(x, weight, bias, weight.T.contiguous(), torch.zeros(96), None)
        reconstruction.reconstruction_loss(inputs, settings, 0.5, needed)
        halves = PerInput(*(None if t is None else t.bfloat16() for t in inputs))
        reconstruction.reconstruction_loss(halves, settings, 1.0, PerInput(*[False] * 6))
        for code in (output, output.bfloat16()):
            lengths, grad = torch.ones(100), torch.ones(batch)
            contractive.primitives().penalty(code, "tanh", lengths)
            contractive.primitives().penalty_backward(code, "tanh", None, grad, lengths)
            contractive.primitives().slope_backward(code, "tanh", code, code)
        for seed in (0, 1, 16, 2**40):
            corrupt.corrupt(x, "masking", 0.5, 0.0, 0.0, seed, batch, Step.MASKING.value)
            variational.reparameterize(x, x.expand(3, batch, 96)[0], seed, batch)
            variational.scaled_noise(x, x, 0.5, seed, batch)
        variational.gaussian_kl_backward(variational.gaussian_kl(x, x), x, x)
        chain = ChainSettings(1, None, None, True, batch, batch)
        machine = Machine(weight, None, bias, None)
        run_chain(rbm.primitives(machine, chain), x, machine, chain)
        mask = torch.zeros(batch, 96, dtype=torch.bool)
        clamped = chain._replace(beta=torch.ones(batch, 1), clamp_mask=mask)
        run_chain(rbm.primitives(machine, clamped), x, machine, clamped)
        normal = machine._replace(log_var=torch.zeros(96))
        run_chain(rbm.primitives(normal, clamped), x, normal, clamped)
        divergence(rbm.primitives(machine, chain), x, None, machine, chain, True)
        sparse_coding.soft_threshold_backward(x, sparse_coding.soft_threshold(x, 0.1 * batch), 0.5)
        sparsity.kl_sparsity(output, 0.1)
        sparsity.l1_sparsity(output)
        sparsity.l1_gradient(output, 0.5)
        energy = torch.ones(batch)
        lasso = Problem(torch.zeros(batch, 100), torch.eye(100), energy, 0.1, 1e-8, batch % 3)
        sparse_coding.encode(lasso, lasso.correlation)
        indices = torch.zeros(batch, 3, dtype=torch.int64)
        topk.topk_encode(x, weight, bias, 3)
        topk.sparse_decode(x[:, :3], indices, weight, None)
        topk.sampled_product(x, weight, indices)
        topk.latent_sums(x[:, :3], indices, x, 100)

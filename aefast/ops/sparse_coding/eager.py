"""Sparse coding as the equations read.

Reference: Beck, Teboulle, "A fast iterative shrinkage-thresholding algorithm for linear inverse
problems", SIAM Journal on Imaging Sciences 2, 2009, section 4; O'Donoghue, Candes, "Adaptive
restart for accelerated gradient schemes", Foundations of Computational Mathematics 15, 2015.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from aefast.ops.shared.precision import upcast
from aefast.ops.sparse_coding.problem import Problem


def soft_threshold(x: Tensor, threshold: float) -> Tensor:
    """sign(x) max(|x| - threshold, 0).

    In a half precision torch 2.15 rounds the threshold before it compares; 2.13 did not.
    """
    return F.softshrink(upcast(x), threshold).to(x.dtype)


def soft_threshold_backward(grad: Tensor, x: Tensor, threshold: float) -> Tensor:
    return torch.where(upcast(x).abs() <= threshold, 0, grad)


def multiply(left: Tensor, right: Tensor) -> Tensor:
    return left @ right.t()


def encode(problem: Problem, start: Tensor) -> Tensor:
    """FISTA, with a restart of the momentum in each row whose last step led against it. A row ends
    where its gap is small enough, or where rounding keeps it from falling."""
    correlation, gram, energy, penalty, tolerance, steps = problem
    curvature = largest_eigenvalue(gram)
    code = previous = start
    momentum = torch.ones_like(energy)[:, None]
    weight, gap = torch.zeros_like(momentum), torch.full_like(energy, math.inf)
    for _ in range(steps):
        last_gap, gap = gap, duality_gap(problem, code)
        done = gap <= tolerance * energy / 2
        done |= stands_still(code, previous) & (gap >= last_gap)
        if done.all():
            break
        point = code + weight * (code - previous)
        gradient = point @ gram - correlation
        next_code = soft_threshold(point - gradient / curvature, penalty / curvature)
        next_code = torch.where(done[:, None], code, next_code)
        uphill = ((point - next_code) * (next_code - code)).sum(1, keepdim=True) > 0
        next_momentum = torch.where(uphill, 1, (1 + torch.sqrt(1 + 4 * momentum**2)) / 2)
        weight = torch.where(uphill, 0, (momentum - 1) / next_momentum)
        code, previous, momentum = next_code, code, next_momentum
    return code


def stands_still(code: Tensor, previous: Tensor) -> Tensor:
    """[B]: whether a step changed a code by no more than roundings may."""
    change = torch.linalg.vector_norm(code - previous, dim=1)
    return change <= 4 * torch.finfo(code.dtype).eps * torch.linalg.vector_norm(code, dim=1)


def duality_gap(problem: Problem, code: Tensor) -> Tensor:
    """[B]: a bound of how far the objective lies above its least value.

    It is the objective less the dual's at scale r, where r = x - z D is the residual and scale the
    largest number, at most 1, for which scale |D r| <= penalty; written as two terms that are not
    negative, 1/2 (1 - scale)^2 |r|^2 + sum_k |z_k| penalty - scale z_k (D r)_k.
    """
    correlation, gram, energy, penalty, *_ = problem
    slopes = correlation - code @ gram  # D r
    scale = penalty / slopes.abs().amax(1).clamp(min=penalty)
    squared_residual = (energy - (code * (correlation + slopes)).sum(1)).clamp(min=0)
    slack = (code.abs() * penalty - scale[:, None] * code * slopes).sum(1)
    return (1 - scale).square() / 2 * squared_residual + slack


def largest_eigenvalue(gram: Tensor) -> float:
    """The largest eigenvalue of a positive semi-definite matrix; above 0, so that one may divide by
    it."""
    return max(torch.linalg.eigvalsh(gram)[-1].item(), torch.finfo(gram.dtype).tiny)

"""The squared norm of a deep encoder's Jacobian, without the Jacobian.

A sample's rows are pulled from the code's end through the layers, up to the first one's weight,

    R = D_L W_L ... D_2 W_2 D_1,  ||J||^2 = ||R W_1||^2 = sum (R G) * R,  G = W_1 W_1t,

of which G is the same for all samples, symmetric, and mostly smaller than W_1. An estimate pulls
probes P instead of the identity: R = P D_L W_L .... Where the input is narrower than the code, the
exact norm pushes columns from the input's end, S = W_1t D_1 W_2t ... D_L, ||J||^2 = sum S * S.

G squares W_1's condition: rows that W_1 nearly cancels would lose by G all that is left of them.
Where ||R||^2 ||G|| is more than MOST_CANCELLED times the norm, ||R W_1||^2 is taken instead. Up to
there the error is float32's own, by measurement: 1e-7 at 1,000 times, 2e-6 at 10,000, 2e-4 at 10^6.

Other orders than the definition's also leave float32's range elsewhere: G does where W_1 is beyond
1e19 or below 1e-19. What came out infinite, or of such a G, is made anew in the definition's order.

This goes over panels of samples that stay in cache; backward makes the rows of a panel anew.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aefast.ops.contractive.primitives import Operand, PenaltyPrimitives
from aefast.ops.contractive.settings import EncoderLayer

# The columns of a symmetric matrix that are taken at a time, each set up to its diagonal.
NARROWEST = 128
MOST_PARTS = 4

# The multiplications that G must save: making it, summing its diagonal apart and comparing the
# norms with the rows takes 100 us, whatever the sizes (a Zen 4, one thread).
LEAST_SAVED = 2**22

MOST_CANCELLED = 2048

# A Gram matrix's norm: what underflows in a larger one is less than its rounding.
LEAST_NORMAL = 2.0**-100


class Stage(NamedTuple):
    """One factor of the product D_L W_L ... D_1 W_1: a weight, or its transpose, then a layer's
    slopes."""

    weight: int | None  # None: the start
    transposed: bool
    slope: int


class Route(NamedTuple):
    """The factors of the Jacobian's product, in the order of fewest multiplications."""

    from_code: bool
    stages: list[Stage]
    has_gram: bool  # ends with G; else, from the code's end, with W_1


def route_of(
    layers: Sequence[EncoderLayer], probes: int, may_take_gram: bool = True, may_push: bool = True
) -> Route:
    """The way of the fewest products; without a Gram matrix and from the code it is the
    definition's."""
    depth = len(layers)
    hidden, visible = layers[0].weight.shape
    code = layers[-1].weight.shape[0]
    between = sum(layer.weight.numel() for layer in layers[1:])
    pulled = between if probes else between - layers[-1].weight.numel()
    pulling = (probes or code) * (pulled + min(hidden * hidden // 2, hidden * visible))
    if may_push and probes == 0 and visible * between < pulling:
        stages = [Stage(None, False, 0)]
        stages += [Stage(layer, True, layer) for layer in range(1, depth)]
        return Route(False, stages, False)
    first = depth - 1 if probes else depth - 2
    stages = [Stage(None, False, first)]
    stages += [Stage(layer, False, layer - 1) for layer in range(first, 0, -1)]
    return Route(True, stages, may_take_gram and hidden < 2 * visible)


def gram_pays(layers: Sequence[EncoderLayer], probes: int, samples: int) -> bool:
    """Whether a Gram matrix saves more than its checks take."""
    hidden, visible = layers[0].weight.shape
    rows = probes or layers[-1].weight.shape[0]
    return samples * rows * hidden * (2 * visible - hidden) >= LEAST_SAVED


class NormGradients(NamedTuple):
    """The gradients by the slopes at x and at x with noise, and by the weights."""

    slopes: list[Tensor]
    noisy_slopes: list[Tensor] | None
    weights: list[Tensor | None]

    def times(self, factor: float | Tensor) -> "NormGradients":
        scaled = iter(torch._foreach_mul(self._tensors(), factor))  # one call of torch
        return NormGradients(
            [next(scaled) for _ in self.slopes],
            None if self.noisy_slopes is None else [next(scaled) for _ in self.noisy_slopes],
            [None if weight is None else next(scaled) for weight in self.weights],
        )

    def where(self, condition: Tensor, other: "NormGradients") -> "NormGradients":
        """These where the condition holds, else the other's, which are of the same inputs."""

        def choose(first: Tensor, second: Tensor) -> Tensor:
            return torch.where(condition, first, second)

        noisy_slopes = None
        if self.noisy_slopes is not None and other.noisy_slopes is not None:
            noisy_slopes = list(map(choose, self.noisy_slopes, other.noisy_slopes))
        weights = [
            None if first is None or second is None else choose(first, second)
            for first, second in zip(self.weights, other.weights, strict=True)
        ]
        return NormGradients(list(map(choose, self.slopes, other.slopes)), noisy_slopes, weights)

    def is_finite(self) -> bool:
        """Whether all are, and their sums: reading them takes less than asking each number."""
        return all(math.isfinite(tensor.sum().item()) for tensor in self._tensors())

    def _tensors(self) -> list[Tensor]:
        tensors = [*self.slopes, *(self.noisy_slopes or []), *self.weights]
        return [tensor for tensor in tensors if tensor is not None]


class Norms:
    """The squared norms for the weights of one call, and their gradients.

    ``draw_probes`` draws the probes [P, R, H] of some samples; an exact norm has none. ``slopes``
    are those at x, one [B, H_l] a layer. ``noisy_slopes`` are those at x with noise; where they are
    given, ``change_weight ||J - J'||^2`` is added.
    """

    def __init__(
        self,
        primitives: PenaltyPrimitives,
        layers: Sequence[EncoderLayer],
        probes: int,
        draw_probes: Callable[[slice], Tensor],
        change_weight: float,
        route: Route,
    ) -> None:
        self.primitives, self.draw_probes, self.change_weight = (
            primitives,
            draw_probes,
            change_weight,
        )
        self.weights = [layer.weight for layer in layers]
        self.is_exact = probes == 0
        self.route = route
        self.rows = probes or self.weights[-1].shape[0]
        if not self.route.from_code:
            self.rows = self.weights[0].shape[1]
        self.gram = Gram(primitives, self.weights[0]) if self.route.has_gram else None
        self.start = self.weights[-1] if self.route.from_code else self.weights[0].t()
        self.start = self.start.contiguous()
        self.operands: dict[tuple[int, bool], Operand] = {}

    def is_right(self, norms: Tensor) -> bool | Tensor:
        """Whether they have lost nothing to the order of the products; True where nothing can be
        lost, else a tensor, whose answer waits for a GPU."""
        if self.gram is None:
            return self.route.from_code or norms.isfinite().all()
        size = self.gram.matrix.norm()
        total = norms.sum(1)
        right = self.squared_rows.sum(1) * size <= MOST_CANCELLED * total
        return (right & (total < math.inf) & (size >= LEAST_NORMAL)).all()

    def forward(self, slopes: list[Tensor], noisy_slopes: list[Tensor] | None) -> Tensor:
        """[B, R]."""
        norms = slopes[0].new_empty(slopes[0].shape[0], self.rows)
        self.squared_rows = torch.zeros_like(norms)
        for samples in self._panels(slopes[0].shape[0]):
            probes = None if self.is_exact else self.draw_probes(samples)
            rows = self._rows_by_stage(slopes, samples, probes)[-1]
            self._add_squared_rows(rows, samples, 1.0)
            panel_norms = self._lengths(rows)
            if noisy_slopes is not None:
                rows = rows - self._rows_by_stage(noisy_slopes, samples, probes)[-1]
                self._add_squared_rows(rows, samples, self.change_weight)
                panel_norms = panel_norms + self.change_weight * self._lengths(rows)
            norms[samples] = panel_norms.reshape(-1, self.rows)
        return norms

    def with_gradients(
        self, slopes: list[Tensor], noisy_slopes: list[Tensor] | None, grad: Tensor | None = None
    ) -> tuple[Tensor, "NormGradients"]:
        """The norms times ``grad`` [B], None for 1, and half the gradients of all that summed up.

        Made along with the norms the gradients take two products less than made alone.
        """
        self.grad_weights: list[Tensor | None] = [None] * len(self.weights)
        self.grad_first: Tensor | None = None  # of the first weight, transposed
        self.grad_start: Tensor | None = None
        norms = slopes[0].new_empty(slopes[0].shape[0], self.rows)
        self.squared_rows = torch.zeros_like(norms)
        grad_slopes = [torch.empty_like(slope) for slope in slopes]
        grad_noisy_slopes = (
            None if noisy_slopes is None else [torch.empty_like(slope) for slope in noisy_slopes]
        )
        for samples in self._panels(slopes[0].shape[0]):
            probes = None if self.is_exact else self.draw_probes(samples)
            stage_rows = self._rows_by_stage(slopes, samples, probes)
            factor = None if grad is None else grad[samples][:, None, None]
            if grad is None:
                self._add_squared_rows(stage_rows[-1], samples, 1.0)
            panel_norms, grad_rows = self._lengths_and_gradient(stage_rows[-1], factor)
            if noisy_slopes is not None and grad_noisy_slopes is not None:
                noisy_rows = self._rows_by_stage(noisy_slopes, samples, probes)
                weight = self.change_weight if factor is None else self.change_weight * factor
                change, grad_change = self._lengths_and_gradient(
                    stage_rows[-1] - noisy_rows[-1], weight
                )
                panel_norms, grad_rows = panel_norms + change, grad_rows + grad_change
                self._rows_backward(
                    noisy_rows, -grad_change, noisy_slopes, samples, grad_noisy_slopes
                )
            self._rows_backward(stage_rows, grad_rows, slopes, samples, grad_slopes)
            norms[samples] = panel_norms.reshape(-1, self.rows)
        gradients = NormGradients(grad_slopes, grad_noisy_slopes, self._weights_gradients())
        return norms, gradients

    def _panels(self, batch: int) -> Iterator[slice]:
        widest = max(max(weight.shape) for weight in self.weights)
        panel_bytes = self.primitives.panel_bytes(self.weights[0].device)
        samples = max(1, panel_bytes // (4 * self.rows * widest))
        for start in range(0, batch, samples):
            yield slice(start, min(start + samples, batch))

    def _add_squared_rows(self, rows: Tensor, samples: slice, weight: float) -> None:
        """Adds up the squared rows, which is_right() compares the norms with."""
        if self.gram is not None:
            flat = _flat(rows)
            squares = self.primitives.dot_rows(flat, flat, flat.new_zeros(flat.shape[0]))
            self.squared_rows[samples] += weight * squares.reshape(-1, self.rows)

    def _rows_by_stage(
        self, slopes: list[Tensor], samples: slice, probes: Tensor | None
    ) -> list[Tensor]:
        """The rows before and after each stage's slopes; the last are the finished ones."""
        before, row_slope = self._start(slopes, samples, probes)
        stage_rows: list[Tensor] = []
        for stage in self.route.stages:
            if stage.weight is not None:
                before, row_slope = (
                    self._times(stage_rows[-1], stage.weight, stage.transposed),
                    None,
                )
            stage_rows += [
                before,
                self.primitives.expand(before, row_slope, slopes[stage.slope][samples]),
            ]
        return stage_rows

    def _start(
        self, slopes: list[Tensor], samples: slice, probes: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if probes is not None:
            return probes, None
        if self.route.from_code:
            return self.start, slopes[-1][samples]
        return self.start, None

    def _rows_backward(
        self,
        stage_rows: list[Tensor],
        grad: Tensor,
        slopes: list[Tensor],
        samples: slice,
        grad_slopes: list[Tensor],
    ) -> None:
        """The gradients by slopes and weights, from that by the finished rows."""
        for index, stage in reversed(list(enumerate(self.route.stages))):
            before, slope = stage_rows[2 * index], slopes[stage.slope][samples]
            is_common = stage.weight is None and self.is_exact
            row_slope = slopes[-1][samples] if is_common and self.route.from_code else None
            grad_row_slope, grad_slope, grad = self.primitives.expand_backward(
                grad, before, row_slope, slope, self.grad_start if is_common else None
            )
            grad_slopes[stage.slope][samples] = grad_slope
            if grad_row_slope is not None:
                grad_slopes[-1][samples] = grad_row_slope
            if stage.weight is None:
                self.grad_start = grad if is_common else None
                return
            self._add_weight_gradient(
                stage.weight, stage.transposed, stage_rows[2 * index - 1], grad
            )
            grad = self._times(grad, stage.weight, not stage.transposed)

    def _times(self, rows: Tensor, weight: int, transposed: bool) -> Tensor:
        """Rows @ weight, or its transpose."""
        product = self.primitives.multiply(_flat(rows), self._operand(weight, transposed))
        return product.reshape(rows.shape[0], self.rows, -1)

    def _operand(self, weight: int, transposed: bool) -> Operand:
        """A weight as the right operand [N, K] of left @ right.T, packed once."""
        if (weight, transposed) not in self.operands:
            matrix = self.weights[weight]
            operand = self.primitives.operand(matrix if transposed else matrix.t())
            self.operands[weight, transposed] = operand
        return self.operands[weight, transposed]

    def _add_weight_gradient(
        self, weight: int, transposed: bool, rows: Tensor, grad: Tensor
    ) -> None:
        left, right = (grad, rows) if transposed else (rows, grad)
        total = self.grad_weights[weight]
        self.grad_weights[weight] = self.primitives.add_product(_flat(left), _flat(right), total)

    def _lengths(self, rows: Tensor) -> Tensor:
        rows = _flat(rows)
        if self.gram is not None:
            return self.gram.lengths(rows)
        if self.route.from_code:
            rows = self.primitives.multiply(rows, self._operand(0, False))
        return self.primitives.dot_rows(rows, rows, rows.new_zeros(rows.shape[0]))

    def _lengths_and_gradient(
        self, rows: Tensor, factor: Tensor | float | None
    ) -> tuple[Tensor, Tensor]:
        """The rows' squared lengths times ``factor``, and half the gradient by the rows."""
        flat = _flat(rows)
        lengths = rows.new_zeros(flat.shape[0])
        if self.gram is None and self.route.from_code:
            ends = self.primitives.multiply(flat, self._operand(0, False))
            weighted = ends if factor is None else _flat(ends.reshape(*rows.shape[:2], -1) * factor)
            self.primitives.dot_rows(ends, weighted, lengths)
            # The narrower factor first: the vendor's product rounds less so.
            self.grad_first = self.primitives.add_product(weighted, flat, self.grad_first)
            return lengths, self.primitives.multiply(weighted, self._operand(0, True)).reshape(
                rows.shape
            )
        weighted = flat if factor is None else _flat(rows * factor)
        if self.gram is not None:
            grad = self.gram.backward(flat, weighted)
            self.primitives.dot_rows(flat, grad, lengths)
        else:
            self.primitives.dot_rows(flat, weighted, lengths)
            grad = weighted.clone() if weighted is flat else weighted
        return lengths, grad.reshape(rows.shape)

    def _weights_gradients(self) -> list[Tensor | None]:
        gradients = self.grad_weights
        if self.gram is not None:
            gradients[0] = self.gram.weight_gradient()
        if self.grad_first is not None:
            gradients[0] = self.grad_first.t()
        if self.grad_start is not None and self.route.from_code:
            gradients[-1] = self.grad_start
        elif self.grad_start is not None:
            gradients[0] = self.grad_start.t()
        return gradients


class Gram:
    """G = W Wt [H, H], of which the part up to the diagonal's blocks is enough.

    G's diagonal and its gradient's are sums of squares, which outweigh the rest. They are summed
    apart, which rounds less than a product: at 1024x784-512-256 with 8 probes the gradients' errors
    are 2.1e-7 and 0.5e-7 instead of 2.5e-7 and 0.9e-7, those of autograd 1.2e-7 and 0.5e-7.
    """

    def __init__(self, primitives: PenaltyPrimitives, weight: Tensor) -> None:
        self.primitives, self.weight = primitives, weight
        self.matrix = primitives.multiply(weight, primitives.operand(weight))
        self.matrix.diagonal().copy_(weight.square().sum(1))
        hidden = weight.shape[0]
        width = max(NARROWEST, -(-hidden // (32 * MOST_PARTS)) * 32)
        self.blocks = [
            slice(start, min(start + width, hidden)) for start in range(0, hidden, width)
        ]
        self.triangle: list[Operand] = []
        self.full_operand: Operand = None
        self.totals: list[Tensor | None] = [None] * len(self.blocks)
        self.total_diagonal = weight.new_zeros(hidden)

    def lengths(self, rows: Tensor) -> Tensor:
        """sum (rows G) * rows over each row; [M]."""
        if not self.triangle:
            self.triangle = [
                self.primitives.operand(self._doubled(block_rows)) for block_rows in self.blocks
            ]
        total = rows.new_zeros(rows.shape[0])
        for block_rows, operand in zip(self.blocks, self.triangle, strict=True):
            product = self.primitives.multiply(rows[:, : block_rows.stop], operand)
            self.primitives.dot_rows(product, rows[:, block_rows], total)
        return total

    def _doubled(self, block_rows: slice) -> Tensor:
        """These rows of G up to the diagonal's block, which the other side of it repeats."""
        block = self.matrix[block_rows, : block_rows.stop].clone()
        block[:, : block_rows.start] *= 2
        return block

    def backward(self, rows: Tensor, weighted: Tensor) -> Tensor:
        """weighted G; and keeps half the gradient by G, rowst weighted, which is symmetric."""
        if self.full_operand is None:
            self.full_operand = self.primitives.operand(self.matrix)
        for index, block_rows in enumerate(self.blocks):
            self.totals[index] = self.primitives.add_product(
                rows[:, : block_rows.stop], weighted[:, block_rows], self.totals[index]
            )
        self.total_diagonal += (rows * weighted).sum(0)
        return self.primitives.multiply(weighted, self.full_operand)

    def weight_gradient(self) -> Tensor:
        """Half of it: through G = W Wt it is twice the gradient by G times W."""
        symmetric = torch.empty_like(self.matrix)
        for block_rows, total in zip(self.blocks, self.totals, strict=True):
            if total is None:  # no samples
                return torch.zeros_like(self.weight)
            symmetric[: block_rows.stop, block_rows] = total
            symmetric[block_rows, : block_rows.stop] = total.t()
        symmetric.diagonal().zero_()
        gradient = self.primitives.multiply(symmetric, self.primitives.operand(self.weight.t()))
        return gradient.addcmul_(self.total_diagonal[:, None], self.weight)


def _flat(rows: Tensor) -> Tensor:
    return rows.reshape(-1, rows.shape[-1])

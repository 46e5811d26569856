"""Calls of the C++ kernels at small shapes, without torch: the program that runs under callgrind.

    python kernels.py EXTENSION INSTRUCTION_SET REQUESTS

Each case is called once, so that its working memory is there, and three times more to be counted;
the library REQUESTS, of requests.c, tells callgrind where the counting begins and ends. Printed is
the instruction set in use: another one, and nothing counted, where the wanted one is missing.
"""

import ctypes
import importlib.util
import itertools
import random
import sys
from array import array
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

Call = Callable[[], object]
Matrix = tuple[int, int, int, int, int]

# Ragged on purpose: no multiple of a vector, and a depth of more than one block of a product.
ROWS, INPUTS, OUTPUTS = 40, 300, 70
# A training step's: digits.
BATCH, VISIBLE, HIDDEN = 32, 64, 32
STREAM = (7, 0, 1)  # seed, row offset, step
COUNTED_CALLS = 3
LEVEL, THRESHOLD = 0.3, int(0.3 * 2**24)

_numbers = random.Random(0)
_arrays: list[Any] = []  # the kernels know addresses alone, so these must stay


def keep(numbers: Any) -> int:
    """The address of an array of Python's, which stays."""
    _arrays.append(numbers)
    return numbers.buffer_info()[0]


def floats(count: int, low: float = -1.0, high: float = 1.0) -> int:
    return keep(array("f", (_numbers.uniform(low, high) for _ in range(count))))


def zeros(count: int, kind: str = "d") -> int:
    return keep(array(kind, bytes(count * array(kind).itemsize)))


def integers(count: int, below: int) -> int:
    return keep(array("q", (_numbers.randrange(below) for _ in range(count))))


def matrix(rows: int, columns: int, low: float = -1.0, high: float = 1.0) -> Matrix:
    """A dense matrix of random numbers, as a kernel takes it."""
    return floats(rows * columns, low, high), rows, columns, columns, 1


def binary(rows: int, columns: int) -> Matrix:
    bits = array("f", (float(_numbers.random() < 0.5) for _ in range(rows * columns)))
    return keep(bits), rows, columns, columns, 1


def transposed(dense: Matrix) -> Matrix:
    address, rows, columns, row_stride, column_stride = dense
    return address, columns, rows, column_stride, row_stride


def products(c: ModuleType) -> dict[str, Call]:
    """The three of a layer: its output, and the gradients of its input and its weight."""
    x, weight, grad = matrix(ROWS, INPUTS), matrix(OUTPUTS, INPUTS), matrix(ROWS, OUTPUTS)
    bias, output = floats(OUTPUTS), floats(ROWS * OUTPUTS)
    grad_x, grad_weight = floats(ROWS * INPUTS), floats(OUTPUTS * INPUTS)

    def multiply(left: Matrix, right: Matrix, output: int, bias: int, accumulate: bool) -> None:
        act = c.Activation.sigmoid if bias else c.Activation.identity
        c.gemm(left, right, 0, bias, act, output, 0, accumulate, c.Precision.highest, 1)

    return {
        "gemm, x W^T and a sigmoid": lambda: multiply(x, weight, output, bias, False),
        "gemm, gradient of x": lambda: multiply(grad, transposed(weight), grad_x, 0, False),
        "gemm, gradient of W": lambda: multiply(
            transposed(grad), transposed(x), grad_weight, 0, True
        ),
    }


def activations(c: ModuleType) -> dict[str, Call]:
    float32, count = c.ElementType.float32, ROWS * OUTPUTS
    values, gradient = floats(count), matrix(ROWS, OUTPUTS)
    output, bias, sums = floats(count), floats(OUTPUTS), zeros(ROWS * OUTPUTS)
    calls: dict[str, Call] = {}
    for name, activation in c.Activation.__members__.items():
        calls[f"activate, {name}"] = lambda a=activation: c.activate(values, float32, count, a, 1)
        calls[f"activation_backward, {name}"] = lambda a=activation: c.activation_backward(
            gradient, values, output, bias, sums, float32, a, 1
        )
    return calls


def noise(c: ModuleType) -> dict[str, Call]:
    x, output = matrix(ROWS, INPUTS), floats(ROWS * INPUTS)
    one = 0x3F800000  # the bits of 1.0
    return {
        f"corrupt, {name}": lambda kind=kind: c.corrupt(
            kind, x, output, 4, STREAM, LEVEL, THRESHOLD, THRESHOLD // 2, 0, one, 1
        )
        for name, kind in c.Noise.__members__.items()
    }


def losses(c: ModuleType) -> dict[str, Call]:
    output, target = matrix(ROWS, OUTPUTS), matrix(ROWS, OUTPUTS, 0.0)
    bias, sums = floats(OUTPUTS), zeros(ROWS * OUTPUTS)
    sigmoid = c.Activation.sigmoid
    return {
        f"compare, {name}": lambda loss=loss: c.compare(
            output, target, 0, bias, sums, True, loss, sigmoid, 0.5, 1
        )
        for name, loss in c.Loss.__members__.items()
    }


def penalties(c: ModuleType) -> dict[str, Call]:
    float32, sigmoid = c.ElementType.float32, c.Activation.sigmoid
    code, grad_code = matrix(ROWS, OUTPUTS, 0.01, 0.99), matrix(ROWS, OUTPUTS)
    lengths, penalty, output = floats(OUTPUTS), floats(ROWS), floats(ROWS * OUTPUTS)
    sums, two_sums = zeros(ROWS * OUTPUTS), floats(2 * OUTPUTS)
    start = floats(OUTPUTS * INPUTS), OUTPUTS, 0, INPUTS
    slope, samples = matrix(ROWS, INPUTS, 0.0), floats(ROWS * OUTPUTS * INPUTS)
    return {
        "layer_penalty": lambda: c.layer_penalty(code, lengths, 0, penalty, sigmoid, 1),
        "slopes": lambda: c.slopes(code[0], output, ROWS * OUTPUTS, sigmoid, 1),
        "slope_backward": lambda: c.slope_backward(
            code, grad_code, 0, penalty, lengths, 0, output, two_sums, sigmoid, 1
        ),
        "expand": lambda: c.expand(start, code[0], slope, samples, 1),
        "kl_sparsity": lambda: c.kl_sparsity(code, sums, float32, 0.05, lengths, 1),
        "l1_sparsity": lambda: c.l1_sparsity(code, sums, float32, 1),
    }


def gaussian_codes(c: ModuleType) -> dict[str, Call]:
    float32, layout = c.ElementType.float32, (ROWS, OUTPUTS)
    mean, log_var = ((floats(ROWS * OUTPUTS), ROWS, 0, OUTPUTS) for _ in range(2))
    divergence, grad_mean, grad_log_var = (floats(ROWS * OUTPUTS) for _ in range(3))
    return {
        "scaled_noise": lambda: c.scaled_noise(
            c.NoiseUse.add, mean, log_var, grad_mean, float32, *layout, 1.0, STREAM, 1
        ),
        "gaussian_kl": lambda: c.gaussian_kl(mean, log_var, divergence, float32, *layout, 1),
        "gaussian_kl_backward": lambda: c.gaussian_kl_backward(
            divergence, mean, log_var, grad_mean, grad_log_var, float32, *layout, 1
        ),
    }


def chains(c: ModuleType) -> dict[str, Call]:
    values, weight = binary(ROWS, INPUTS), matrix(OUTPUTS, INPUTS, -0.1, 0.1)
    words, drawn = (zeros(ROWS * (INPUTS // 64 + 1), "Q") for _ in range(2))
    turned, is_binary = zeros(INPUTS * (ROWS // 64 + 1), "Q"), zeros(ROWS, "b")
    bias, output, sums = floats(OUTPUTS), floats(ROWS * OUTPUTS), floats(INPUTS)
    probabilities, grad = matrix(ROWS, OUTPUTS, 0.0), floats(OUTPUTS * INPUTS)
    unpacked, grey = floats(ROWS * INPUTS), matrix(ROWS, OUTPUTS)
    bits = c.BitMatrixView(words, ROWS, INPUTS)
    columns = c.BitMatrixView(turned, INPUTS, ROWS)
    return {
        "pack_bits": lambda: c.pack_bits(values, words, is_binary, 1),
        "unpack_bits": lambda: c.unpack_bits(bits, unpacked, 1),
        "transpose_bits": lambda: c.transpose_bits(bits, turned, sums, 1),
        "bit_matrix_product": lambda: c.bit_matrix_product(bits, weight, bias, output, 1),
        "draw_bits": lambda: c.draw_bits(bits, weight, bias, 0, drawn, 0, STREAM, 1),
        "transposed_bit_matrix_product": lambda: c.transposed_bit_matrix_product(
            columns, transposed(probabilities), grad, False, 1
        ),
        "draw": lambda: c.draw(grey, 0, 0, 0, STREAM, 1),
        "measure_phase": lambda: c.measure_phase(grey, bias, 0.5, 1),
    }


def sparse_codes(c: ModuleType) -> dict[str, Call]:
    float32, k, latents = c.ElementType.float32, 5, OUTPUTS
    x, weight = matrix(ROWS, INPUTS), matrix(latents, INPUTS)
    values, indices = matrix(ROWS, k), integers(ROWS * k, latents)
    output, sums = floats(ROWS * INPUTS), floats(latents * INPUTS)
    best, where = floats(ROWS * k), integers(ROWS * k, latents)
    bias, totals = floats(latents), floats(latents)
    # Of 16 atoms, each of which goes with itself most: their matrix of products is positive.
    atoms = c.ATOM_LANES
    gram = array("f", (1.0 if i == j else 0.2 for i in range(atoms) for j in range(atoms)))
    gram_matrix = keep(gram), atoms, atoms, atoms, 1
    correlations, codes = matrix(ROWS, atoms), (zeros(ROWS * atoms, "f"), ROWS, atoms, atoms, 1)
    energies = floats(ROWS, 1.0, 2.0)
    return {
        "topk_encode": lambda: c.topk_encode(
            x, weight, bias, k, best, where, c.Precision.highest, 1
        ),
        "sparse_decode": lambda: c.sparse_decode(values, indices, weight, 0, output, 1),
        "sampled_product": lambda: c.sampled_product(x, weight, indices, k, best, 1),
        "latent_sums": lambda: c.latent_sums(values, indices, x, sums, totals, latents, 1),
        "soft_threshold": lambda: c.soft_threshold(x[0], output, float32, ROWS * INPUTS, 0.5, 1),
        # No tolerance: as many steps each time, from wherever the last ones ended.
        "sparse_encode": lambda: c.sparse_encode(
            correlations, energies, gram_matrix, codes, 1.0, 0.1, 0.0, 20, 1
        ),
    }


def learned_codes(c: ModuleType) -> dict[str, Call]:
    """JumpReLU and gated codes, and the loss of a sparse code, each with its gradients."""
    float32, k, latents = c.ElementType.float32, 5, OUTPUTS
    product, grad = matrix(ROWS, latents), matrix(ROWS, latents)
    threshold, grad_threshold = floats(latents, 0.0), floats(latents)
    values, active, grad_product = (floats(ROWS * latents) for _ in range(3))
    counts, sums = floats(ROWS), zeros(ROWS * 3 * latents)
    gates, grad_gates = [floats(latents) for _ in range(3)], floats(3 * latents)
    code, indices = matrix(ROWS, k), integers(ROWS * k, latents)
    weight, target = matrix(latents, INPUTS), matrix(ROWS, INPUTS)
    squares, residual, slopes = zeros(ROWS), floats(ROWS * INPUTS), floats(ROWS * k)
    return {
        "jumprelu": lambda: c.jumprelu(product, threshold, values, 0, counts, float32, 1),
        "jumprelu_backward": lambda: c.jumprelu_backward(
            *(grad, grad, product, threshold, grad_product, grad_threshold, sums, float32),
            *(0.1, c.Estimator.rectangle, 1),
        ),
        "gated": lambda: c.gated(product, gates, values, active, counts, 1),
        "gated_backward": lambda: c.gated_backward(
            product, gates, grad[0], grad[0], counts, grad_product, grad_gates, sums, 1
        ),
        "sparse_reconstruction_loss": lambda: c.sparse_reconstruction_loss(
            code, indices, weight, 0, target, squares, residual, slopes, 1
        ),
    }


def layer(c: ModuleType, first: int, inputs: int, outputs: int, activation: Any) -> Any:
    """A layer whose weight and bias are the parameters ``first`` and the next."""
    return c.StepLayer(
        inputs=inputs,
        outputs=outputs,
        activation=activation,
        weight=first,
        bias=first + 1,
        is_tied=False,
        log_var_weight=-1,
        log_var_bias=-1,
        norm=None,
        dropout=None,
    )


def stack(c: ModuleType) -> dict[str, Call]:
    """Two layers that an accelerated model's own call takes at once."""
    sigmoid, precision = c.Activation.sigmoid, c.Precision.highest
    mlp = c.Mlp([layer(c, 0, INPUTS, OUTPUTS, sigmoid), layer(c, 2, OUTPUTS, INPUTS, sigmoid)])
    sizes = [OUTPUTS * INPUTS, OUTPUTS, INPUTS * OUTPUTS, INPUTS]
    x, grad, output = matrix(ROWS, INPUTS), matrix(ROWS, INPUTS), floats(ROWS * INPUTS)
    parameters, gradients = [floats(size, -0.1, 0.1) for size in sizes], [*map(floats, sizes)]
    saved, grad_x = floats(ROWS * mlp.saved_columns), floats(ROWS * INPUTS)
    return {
        "mlp_forward": lambda: c.mlp_forward(mlp, x, parameters, saved, output, precision, 1),
        "mlp_backward": lambda: c.mlp_backward(
            mlp, x, parameters, saved, output, grad, grad_x, gradients, precision, 1
        ),
    }


class Model:
    """An encoder-decoder's plan, with memory for its parameters, gradients and Adam's moments."""

    def __init__(self, c: ModuleType, widths: list[int], **changes: Any) -> None:
        self.c = c
        self.sizes: list[int] = []
        doubles = changes.get("code_stage") == c.CodeStage.posterior
        deep = len(widths) // 2
        pairs = list(itertools.pairwise(widths))
        layers = [
            self._layer(
                inputs,
                outputs * (2 if doubles and number == deep - 1 else 1),
                c.Activation.identity
                if number == len(pairs) - 1 or (doubles and number == deep - 1)
                else c.Activation.sigmoid,
            )
            for number, (inputs, outputs) in enumerate(pairs)
        ]
        settings = {
            "noise": None,
            "code_stage": c.CodeStage.plain,
            "code_level": 0.0,
            "code_threshold": 0,
            "code_step": 2,
            "divergence_weight": 1.0,
            "divergence_limit": float("inf"),
            "lowest_log_var": -float("inf"),
            "highest_log_var": float("inf"),
            "penalty": c.CodePenalty.none,
            "penalty_weight": 0.01,
            "penalty_target": 0.05,
            "objective": c.Objective.mse,
            "log_var": -1,
        }
        self.plan = c.StepPlan(
            encoder=layers[:deep], decoder=layers[deep:], sizes=self.sizes, **(settings | changes)
        )
        self.parameters = [floats(size, -0.1, 0.1) for size in self.sizes]
        self.gradients = [floats(size) for size in self.sizes]

    def _layer(self, inputs: int, outputs: int, activation: Any) -> Any:
        first = len(self.sizes)
        self.sizes += [inputs * outputs, outputs]
        return layer(self.c, first, inputs, outputs, activation)

    def step(self, x: Matrix) -> Any:
        return self.c.step(
            self.plan, x, 7, 0, self.parameters, self.gradients, self.c.Precision.highest, 1
        )


class Machine:
    """A restricted Boltzmann machine's plan and tensors."""

    def __init__(self, c: ModuleType, visible: int, hidden: int, k: int) -> None:
        self.c = c
        self.sizes = [hidden * visible, visible, hidden]
        plan = c.MachinePlan(
            visible=visible,
            hidden=hidden,
            is_gaussian=False,
            has_log_var=False,
            k=k,
            sparsity_weight=0.0,
            sparsity_target=0.0,
        )
        self.plan = plan.with_chains(start=0, end=zeros(BATCH * visible, "f"), chains=0)
        self.parameters = [floats(size, -0.1, 0.1) for size in self.sizes]
        self.gradients = [floats(size) for size in self.sizes]

    step = Model.step


class Dictionary:
    """A sparse dictionary's plan, its parameters, and the counts that its steps move."""

    def __init__(self, c: ModuleType, selection: str, more: int = 0, **changes: Any) -> None:
        self.c = c
        latents = OUTPUTS
        products = latents * VISIBLE
        self.sizes = [products, latents, products, VISIBLE, *[latents] * more]
        self.parameters = [floats(size, 0.0, 0.1) for size in self.sizes]
        settings = {
            "k": 5.0,
            "ranks_by_norm": False,
            "prefixes": [],
            "is_transcoder": False,
            "aux_k": 0,
            "aux_weight": 0.0,
            "sparsity_weight": 0.0,
            "bandwidth": 0.0,
            "estimator": c.Estimator.rectangle,
            "dead_after": 0,
            "threshold_rate": 0.0,
        }
        self.plan = c.DictionaryPlan(
            visible=VISIBLE,
            outputs=VISIBLE,
            latents=latents,
            selection=getattr(c.LatentSelection, selection),
            idle=zeros(latents, "q"),
            # Of JumpReLU, whose steps move a parameter, it is that; else a number beside them.
            threshold=self.parameters[-1] if selection == "jumprelu" else zeros(1, "f"),
            **(settings | changes),
        )


def fit(model: Any, data: Matrix) -> Call:
    """An epoch of two batches with Adam, whose moments go on from call to call."""
    c, steps = model.c, 2
    address, rows, columns, row_stride, _ = data
    updates = [
        c.ParameterUpdate(
            kind=c.OptimizerKind.adam,
            parameter=parameter,
            first=zeros(size, "f"),
            second=zeros(size, "f"),
            size=size,
            learning_rate=1e-3,
            beta1=0.9,
            beta2=0.999,
            epsilon=1e-8,
        )
        for parameter, size in zip(model.parameters, model.sizes, strict=True)
    ]
    rows_of_data = c.DataRows(
        rows=address, are_bytes=False, scale=1.0, columns=columns, row_stride=row_stride
    )
    order, losses = keep(array("q", range(rows))), zeros(steps)
    return lambda: c.fit(
        plan=model.plan,
        data=rows_of_data,
        targets=None,
        order=order,
        count=rows,
        epoch_rows=rows,
        batch_size=rows // steps,
        is_even=True,
        seeds=[7],
        first_step=0,
        parameters=model.parameters,
        updates=updates,
        updated=list(range(len(updates))),
        losses=losses,
        seconds=1e9,
        precision=c.Precision.highest,
        threads=1,
    )


def training(c: ModuleType) -> dict[str, Call]:
    x, states = matrix(BATCH, VISIBLE, 0.0), binary(BATCH, VISIBLE)
    masking = c.StepNoise(
        kind=c.Noise.masking, step=1, level=LEVEL, level_threshold=THRESHOLD, low_threshold=0
    )
    narrow, deep = [VISIBLE, HIDDEN, VISIBLE], [VISIBLE, HIDDEN, 16, HIDDEN, VISIBLE]
    models = {
        "plain": Model(c, narrow),
        "denoising": Model(c, narrow, noise=masking, objective=c.Objective.bce),
        "contractive": Model(c, narrow, penalty=c.CodePenalty.contraction),
        "sparse": Model(c, narrow, penalty=c.CodePenalty.kl),
        "variational": Model(
            c, deep, code_stage=c.CodeStage.posterior, objective=c.Objective.bernoulli
        ),
        "deep": Model(c, deep),
    }
    calls: dict[str, Call] = {
        f"step, {name}": lambda model=model: model.step(x) for name, model in models.items()
    }
    machine = Machine(c, VISIBLE, HIDDEN, k=1)
    calls["step, rbm"] = lambda: machine.step(states)
    calls["fit, plain"] = fit(models["plain"], x)
    calls["fit, rbm"] = fit(machine, states)
    learned = {"k": 0.0, "sparsity_weight": 0.01, "bandwidth": 0.1}
    dictionaries = {
        "top-k": Dictionary(c, "topk"),
        "top-k with dead latents": Dictionary(c, "topk", aux_k=8, aux_weight=0.03, dead_after=1),
        "batch top-k": Dictionary(c, "batch_topk", threshold_rate=0.01),
        "matryoshka": Dictionary(c, "batch_topk", prefixes=[OUTPUTS // 2, OUTPUTS]),
        "JumpReLU": Dictionary(c, "jumprelu", more=1, **learned),
        "gated": Dictionary(c, "gated", more=2, **learned),
    }
    calls |= {f"fit, {name}": fit(model, x) for name, model in dictionaries.items()}
    return calls


FAMILIES = (
    products,
    activations,
    noise,
    losses,
    penalties,
    gaussian_codes,
    chains,
    sparse_codes,
    learned_codes,
    stack,
    training,
)


def load(extension: Path) -> ModuleType:
    """The extension, as a module of its own."""
    spec = importlib.util.spec_from_file_location("_C", extension)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(extension: str, instruction_set: str, requests: str) -> None:
    callgrind = ctypes.CDLL(requests)
    c = load(Path(extension))
    c.cap_instruction_set(instruction_set)
    print(c.instruction_set())
    if c.instruction_set() != instruction_set:
        return
    calls = {name: call for family in FAMILIES for name, call in family(c).items()}
    callgrind.start()
    for name, call in calls.items():
        call()
        for _ in range(COUNTED_CALLS):
            callgrind.begin()
            call()
            callgrind.end(name.encode())


if __name__ == "__main__":
    main(*sys.argv[1:])

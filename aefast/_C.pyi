"""The kernels, compiled from csrc/: each folder's bindings.cpp binds its own.

An argument of type ``int`` that is a tensor's name is the address of its first element, 0 for none;
the tensor is dense. Where a kernel takes any layout, or a shape, it is ``_Matrix``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final, TypeAlias

from torch import Tensor

# Address, rows, columns, row stride, column stride: aefast.ops.shared.cpp.as_matrix makes it.
_Matrix: TypeAlias = tuple[int, int, int, int, int]
# Address, rows of a sample, sample stride, row stride.
_Samples: TypeAlias = tuple[int, int, int, int]
_Objects: TypeAlias = tuple[object, ...]
# Seed, row offset, step.
_RandomStream: TypeAlias = tuple[int, int, int]

ATOM_LANES: Final[int]
ROWS_PER_PARTIAL_SUM: Final[int]

class Activation:
    __members__: ClassVar[Mapping[str, Activation]]
    identity: ClassVar[Activation]
    relu: ClassVar[Activation]
    leaky_relu: ClassVar[Activation]
    sigmoid: ClassVar[Activation]
    tanh: ClassVar[Activation]
    softplus: ClassVar[Activation]
    gelu: ClassVar[Activation]
    silu: ClassVar[Activation]

class CodePenalty:
    __members__: ClassVar[Mapping[str, CodePenalty]]
    none: ClassVar[CodePenalty]
    kl: ClassVar[CodePenalty]
    l1: ClassVar[CodePenalty]
    contraction: ClassVar[CodePenalty]

class CodeStage:
    __members__: ClassVar[Mapping[str, CodeStage]]
    plain: ClassVar[CodeStage]
    dropout: ClassVar[CodeStage]
    gaussian: ClassVar[CodeStage]
    posterior: ClassVar[CodeStage]

class ElementType:
    __members__: ClassVar[Mapping[str, ElementType]]
    float32: ClassVar[ElementType]
    bfloat16: ClassVar[ElementType]
    float16: ClassVar[ElementType]

class Estimator:
    __members__: ClassVar[Mapping[str, Estimator]]
    rectangle: ClassVar[Estimator]
    tanh: ClassVar[Estimator]

class Loss:
    __members__: ClassVar[Mapping[str, Loss]]
    mse: ClassVar[Loss]
    bce: ClassVar[Loss]

class Noise:
    __members__: ClassVar[Mapping[str, Noise]]
    masking: ClassVar[Noise]
    salt_and_pepper: ClassVar[Noise]
    gaussian: ClassVar[Noise]

class NoiseUse:
    __members__: ClassVar[Mapping[str, NoiseUse]]
    add: ClassVar[NoiseUse]
    multiply: ClassVar[NoiseUse]

class Objective:
    __members__: ClassVar[Mapping[str, Objective]]
    mse: ClassVar[Objective]
    bce: ClassVar[Objective]
    bernoulli: ClassVar[Objective]
    gaussian: ClassVar[Objective]

class OptimizerKind:
    __members__: ClassVar[Mapping[str, OptimizerKind]]
    sgd: ClassVar[OptimizerKind]
    adam: ClassVar[OptimizerKind]
    adamw: ClassVar[OptimizerKind]
    average: ClassVar[OptimizerKind]

class Precision:
    __members__: ClassVar[Mapping[str, Precision]]
    highest: ClassVar[Precision]
    high: ClassVar[Precision]
    medium: ClassVar[Precision]

class BitMatrixView:
    def __init__(self, words: int, rows: int, columns: int) -> None: ...

class CudaError(RuntimeError): ...

class CudaKernel:
    def __init__(
        self,
        image: bytes,
        symbol: str,
        warps: int,
        shared: int,
        arguments: Sequence[str],
        descriptors: Sequence[dict[str, object]],
    ) -> None: ...
    def launch(
        self, programs: int, stream: int, device: int, arguments: tuple[object, ...]
    ) -> None: ...

class CudaLoadError(CudaError): ...

class DataRows:
    def __init__(
        self, *, rows: int, are_bytes: bool, scale: float, columns: int, row_stride: int
    ) -> None: ...

class DictionaryPlan:
    def __init__(
        self,
        *,
        visible: int,
        outputs: int,
        latents: int,
        selection: LatentSelection,
        k: float,
        ranks_by_norm: bool,
        prefixes: Sequence[int],
        is_transcoder: bool,
        aux_k: int,
        aux_weight: float,
        sparsity_weight: float,
        bandwidth: float,
        estimator: Estimator,
        dead_after: int,
        idle: int,
        threshold: int,
        threshold_rate: float,
    ) -> None: ...

class LatentSelection:
    batch_topk: LatentSelection
    gated: LatentSelection
    jumprelu: LatentSelection
    topk: LatentSelection

class MachinePlan:
    def __init__(
        self,
        *,
        visible: int,
        hidden: int,
        is_gaussian: bool,
        has_log_var: bool,
        k: int,
        sparsity_weight: float,
        sparsity_target: float,
    ) -> None: ...
    def with_chains(self, start: int, end: int, chains: int) -> MachinePlan: ...

class Mlp:
    def __init__(self, layers: Sequence[StepLayer]) -> None: ...
    @property
    def saved_columns(self) -> int: ...

class PackedLaunch:
    def __init__(
        self, kernel: CudaKernel, programs: int, device: int, arguments: tuple[object, ...]
    ) -> None: ...
    def launch(self, stream: int, *tensors: object) -> None: ...

class ParameterUpdate:
    def __init__(
        self,
        *,
        kind: OptimizerKind,
        parameter: int,
        first: int = 0,
        second: int = 0,
        size: int,
        learning_rate: float = 0.0,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
        is_first: bool = False,
        beta1: float = 0.0,
        beta2: float = 0.0,
        epsilon: float = 0.0,
        step: int = 1,
        count: int = 0,
        is_cumulative: bool = False,
        batches: int = 0,
        columns: int = 0,
        has_unit_rows: bool = False,
    ) -> None: ...

class StepDropout:
    def __init__(self, *, level: float, threshold: int, step: int) -> None: ...

class StepLayer:
    def __init__(
        self,
        *,
        inputs: int,
        outputs: int,
        activation: Activation,
        weight: int,
        bias: int,
        is_tied: bool,
        log_var_weight: int,
        log_var_bias: int,
        norm: StepNorm | None,
        dropout: StepDropout | None,
    ) -> None: ...

class StepNoise:
    def __init__(
        self, *, kind: Noise, step: int, level: float, level_threshold: int, low_threshold: int
    ) -> None: ...

class StepNorm:
    def __init__(
        self,
        *,
        follows_activation: bool,
        scale: int,
        shift: int,
        mean: int,
        variance: int,
        epsilon: float,
    ) -> None: ...

class StepPlan:
    def __init__(
        self,
        *,
        encoder: Sequence[StepLayer],
        decoder: Sequence[StepLayer],
        noise: StepNoise | None,
        code_stage: CodeStage,
        code_level: float,
        code_threshold: int,
        code_step: int,
        divergence_weight: float,
        divergence_limit: float,
        lowest_log_var: float,
        highest_log_var: float,
        penalty: CodePenalty,
        penalty_weight: float,
        penalty_target: float,
        objective: Objective,
        log_var: int,
        sizes: Sequence[int],
    ) -> None: ...

def activate(
    values: int, element_type: ElementType, count: int, activation: Activation, threads: int
) -> None: ...
def active_latents(
    values: _Matrix, active: int, element_type: ElementType, threads: int
) -> None: ...
def activation_backward(
    gradient: _Matrix,
    saved: int,
    grad_preactivation: int,
    grad_bias: int,
    partial_sums: int,
    element_type: ElementType,
    activation: Activation,
    threads: int,
) -> None: ...
def bit_matrix_product(
    left: BitMatrixView, right: _Matrix, bias: int, output: int, threads: int
) -> None: ...
def cap_instruction_set(cap: str) -> None: ...
def compare(
    output: _Matrix,
    target: _Matrix,
    grad_target: int,
    grad_bias: int,
    partial_sums: int,
    gradient_needed: bool,
    loss: Loss,
    output_activation: Activation,
    scale: float,
    threads: int,
) -> float: ...
def in_signal_handler() -> bool: ...
def layer_penalty(
    saved: _Matrix,
    squares: int,
    scales: int,
    penalty: int,
    activation: Activation,
    threads: int,
) -> None: ...
def corrupt(
    noise: Noise,
    x: _Matrix,
    output: int,
    element_size: int,
    stream: _RandomStream,
    level: float,
    level_threshold: int,
    low_threshold: int,
    low_bits: int,
    high_bits: int,
    threads: int,
) -> None: ...
def detected_features() -> list[str]: ...
def dot_rows(left: _Matrix, right: _Matrix, totals: int, threads: int) -> None: ...
def draw(
    values: _Matrix, means: int, deviations: int, beta: int, stream: _RandomStream, threads: int
) -> None: ...
def draw_bits(
    left: BitMatrixView,
    right: _Matrix,
    bias: int,
    beta: int,
    words: int,
    means: int,
    stream: _RandomStream,
    threads: int,
) -> None: ...
def dropout_noise(state: int, noise: int, count: int, keep_probability: float) -> None: ...
def enter_forked_child() -> None: ...
def expand(start: _Samples, row_slope: int, slope: _Matrix, output: int, threads: int) -> None: ...
def expand_backward(
    grad: int,
    start: _Samples,
    row_slope: int,
    slope: _Matrix,
    grad_row_slope: int,
    grad_slope_parts: int,
    grad_start: int,
    accumulate: bool,
    threads: int,
) -> None: ...
def fingerprint(values: _Matrix, threads: int) -> int: ...
def fit(
    *,
    plan: StepPlan | MachinePlan | DictionaryPlan,
    data: DataRows,
    targets: DataRows | None,
    order: int,
    count: int,
    epoch_rows: int,
    batch_size: int,
    is_even: bool,
    seeds: Sequence[int],
    first_step: int,
    parameters: Sequence[int],
    updates: Sequence[ParameterUpdate],
    updated: Sequence[int],
    losses: int,
    seconds: float,
    precision: Precision,
    threads: int,
) -> tuple[int, bool]: ...
def gated(
    product: _Matrix,
    parameters: Sequence[int],
    values: int,
    opened: int,
    totals: int,
    threads: int,
) -> None: ...
def gated_backward(
    product: _Matrix,
    parameters: Sequence[int],
    grad_values: int,
    grad_opened: int,
    grad_totals: int,
    grad_product: int,
    grad_parameters: int,
    partial_sums: int,
    threads: int,
) -> None: ...
def gaussian_kl(
    mean: _Samples,
    log_var: _Samples,
    divergence: int,
    element_type: ElementType,
    rows: int,
    columns: int,
    threads: int,
) -> None: ...
def gaussian_kl_backward(
    grad: int,
    mean: _Samples,
    log_var: _Samples,
    grad_mean: int,
    grad_log_var: int,
    element_type: ElementType,
    rows: int,
    columns: int,
    threads: int,
) -> None: ...
def gemm(
    left: _Matrix,
    right: _Matrix,
    packed: int,
    bias: int,
    activation: Activation,
    output: int,
    preactivation: int,
    accumulate: bool,
    precision: Precision,
    threads: int,
) -> None: ...
def has_matrix_units() -> bool: ...

class MappingGuard:
    def __init__(self, first: int, bytes: int) -> None: ...
    def watch(self) -> None: ...
    def is_cut(self) -> bool: ...

def instruction_set() -> str: ...
def is_one(
    gradient: Tensor,
    questions: tuple[Callable[[], object], ...],
    attributes: tuple[_Objects, _Objects, _Objects],
) -> bool: ...
def is_unchanged(
    attributes: tuple[_Objects, _Objects, _Objects],
    members: tuple[_Objects, _Objects],
    classes: tuple[_Objects, _Objects],
    functions: tuple[_Objects, _Objects, _Objects],
    tensors: tuple[_Objects, _Objects],
) -> bool: ...
def jumprelu(
    preactivation: _Matrix,
    threshold: int,
    values: int,
    active: int,
    counts: int,
    element_type: ElementType,
    threads: int,
) -> None: ...
def jumprelu_backward(
    grad_values: _Matrix,
    grad_active: _Matrix,
    preactivation: _Matrix,
    threshold: int,
    grad_preactivation: int,
    grad_threshold: int,
    partial_sums: int,
    element_type: ElementType,
    bandwidth: float,
    estimator: Estimator,
    threads: int,
) -> None: ...
def kl_sparsity(
    values: _Matrix,
    partial_sums: int,
    element_type: ElementType,
    target: float,
    slope: int,
    threads: int,
) -> float: ...
def l1_sparsity(
    values: _Matrix, partial_sums: int, element_type: ElementType, threads: int
) -> float: ...
def latent_sums(
    values: _Matrix,
    indices: int,
    matrix: _Matrix,
    sums: int,
    totals: int,
    latents: int,
    threads: int,
) -> None: ...
def launch_in_turn(
    launches: Sequence[tuple[CudaKernel, int, tuple[object, ...], int]],
    stream: int,
    device: int,
    first_step: int,
    rounds: int,
) -> None: ...
def measure_phase(values: _Matrix, sums: int, scale: float, threads: int) -> float: ...
def mersenne_normal(state: int, values: int, count: int) -> None: ...
def mersenne_uniform(state: int, values: int, count: int) -> None: ...
def mlp_backward(
    mlp: Mlp,
    x: _Matrix,
    parameters: Sequence[int],
    saved: int,
    output: int,
    gradient: _Matrix,
    x_gradient: int,
    gradients: Sequence[int],
    precision: Precision,
    threads: int,
) -> None: ...
def mlp_forward(
    mlp: Mlp,
    x: _Matrix,
    parameters: Sequence[int],
    saved: int,
    output: int,
    precision: Precision,
    threads: int,
) -> None: ...
def lie_in_unit_interval(address: int, count: int) -> bool: ...
def multiply_adds(rounds: int, threads: int) -> int: ...
def normalize_rows(rows: _Matrix, threads: int) -> None: ...
def pack_bits(values: _Matrix, words: int, is_binary: int, threads: int) -> None: ...
def pack_tiles(right: _Matrix, precision: Precision, packed: int, threads: int) -> None: ...
def packed_bytes(rows: int, depth: int, precision: Precision) -> int: ...
def project_rows(gradient: _Matrix, rows: _Matrix, threads: int) -> None: ...
def reads_tensors() -> bool: ...
def sampled_product(
    left: _Matrix, weight: _Matrix, indices: int, k: int, products: int, threads: int
) -> None: ...
def scaled_noise(
    use: NoiseUse,
    operand: _Samples,
    log_var: _Samples,
    output: int,
    element_type: ElementType,
    rows: int,
    columns: int,
    scale: float,
    stream: _RandomStream,
    threads: int,
) -> None: ...
def row_lengths(weight: _Matrix, squares: int, threads: int) -> bool: ...
def scaled_sign(
    values: _Matrix, output: int, element_type: ElementType, factor: float, threads: int
) -> None: ...
def serves(
    x: Tensor,
    width: int,
    most_rows: int,
    takes_unit_interval: bool,
    questions: tuple[Callable[[], object], ...],
    attributes: tuple[_Objects, _Objects, _Objects],
    members: tuple[_Objects, _Objects],
    classes: tuple[_Objects, _Objects],
    functions: tuple[_Objects, _Objects, _Objects],
    tensors: tuple[_Objects, _Objects],
) -> bool: ...
def slope_backward(
    saved: _Matrix,
    grad_code: _Matrix | None,
    grad_slope: int,
    grad_penalty: int,
    squares: int,
    scales: int,
    grad_preactivation: int,
    grad_sums: int,
    activation: Activation,
    threads: int,
) -> None: ...
def slopes(saved: int, output: int, count: int, activation: Activation, threads: int) -> None: ...
def soft_threshold(
    x: int, output: int, element_type: ElementType, count: int, threshold: float, threads: int
) -> None: ...
def soft_threshold_backward(
    gradient: int,
    x: int,
    grad_x: int,
    element_type: ElementType,
    count: int,
    threshold: float,
    threads: int,
) -> None: ...
def sparse_decode(
    values: _Matrix, indices: int, weight: _Matrix, bias: int, output: int, threads: int
) -> None: ...
def sparse_encode(
    correlations: _Matrix,
    energies: int,
    gram: _Matrix,
    codes: _Matrix,
    curvature: float,
    penalty: float,
    tolerance: float,
    steps: int,
    threads: int,
) -> None: ...
def sparse_reconstruction_loss(
    values: _Matrix,
    indices: int,
    weight: _Matrix,
    bias: int,
    target: _Matrix,
    squares: int,
    residual: int,
    slopes: int,
    threads: int,
) -> None: ...
def step(
    plan: StepPlan | MachinePlan,
    x: _Matrix,
    seed: int,
    row_offset: int,
    parameters: Sequence[int],
    gradients: Sequence[int],
    precision: Precision,
    threads: int,
) -> float: ...
def step_on_tensors(
    plan: StepPlan | MachinePlan,
    x: Tensor,
    seed: int,
    row_offset: int,
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    precision: Precision,
    threads: int,
) -> float: ...
def topk_encode(
    x: _Matrix,
    weight: _Matrix,
    bias: int,
    k: int,
    values: int,
    indices: int,
    precision: Precision,
    threads: int,
) -> None: ...
def transpose_bits(bits: BitMatrixView, words: int, counts: int, threads: int) -> None: ...
def transposed_bit_matrix_product(
    left: BitMatrixView, right: _Matrix, output: int, accumulate: bool, threads: int
) -> None: ...
def unpack_bits(bits: BitMatrixView, values: int, threads: int) -> None: ...
def release_step_memory() -> None: ...
def wait_at_barrier(counts: int, rank: int, ranks: int, number: int, seconds: float) -> bool: ...
def update(updates: Sequence[ParameterUpdate], gradients: Sequence[int], threads: int) -> None: ...

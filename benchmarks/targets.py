"""What the first release was to reach: the asked figure of a case, or of the worst of some, and
what a result has of it, reached or not; and what was asked that no case measures.

A target that is not reached has its reason here, as far as one was found.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from results import PEAK_SHARES, Record, Result, label


@dataclass(frozen=True)
class Measure:
    """What of a case is asked.

    Args:
        of: its value in a case's record; None where that was not measured.
        shown: a value, as the tables show it.
        is_floor: whether the asked value is the lowest that will do; else it is the highest.
    """

    of: Callable[[Record], float | None]
    shown: Callable[[float], str]
    is_floor: bool = True

    def worst(self, values: Sequence[float]) -> float:
        return min(values) if self.is_floor else max(values)

    def is_reached(self, value: float, asked: float) -> bool:
        return value >= asked if self.is_floor else value <= asked

    def asked(self, value: float) -> str:
        return f"{'' if self.is_floor else 'at most '}{self.shown(value)}"


def ratio(case: Record) -> float | None:
    """To eager PyTorch, or to the peer that the case names."""
    spread = case["baselines"]["eager"].get("ratio")
    return None if spread is None else spread[1]


def share_of_limit(case: Record) -> float | None:
    return case["limit"]["share"][1] if "limit" in case else None


def over_limit(case: Record) -> float | None:
    share = share_of_limit(case)
    return None if share is None else 1 / share


def share_of_peak(case: Record) -> float | None:
    return case.get(PEAK_SHARES, {}).get("aefast")


def times(value: float) -> str:
    return f"{value:.2f}x" if value < 9.995 else f"{value:.3g}x"


RATIO = Measure(ratio, times)
SHARE_OF_LIMIT = Measure(share_of_limit, "{:.0%}".format)
OVER_LIMIT = Measure(over_limit, times, is_floor=False)
SHARE_OF_PEAK = Measure(share_of_peak, "{:.0%}".format)
RUNS = Measure(lambda case: case["seconds"][1] and 1.0, lambda _: "runs")
SECONDS = Measure(lambda case: case["seconds"][1], lambda s: f"{1e3 * s:.3g} ms", is_floor=False)
MEMORY = Measure(
    lambda case: case.get("peak_bytes"), lambda count: f"{count / 2**20:.1f} MiB", is_floor=False
)


@dataclass(frozen=True)
class Target:
    """A line of the table.

    Args:
        group: what it is one of.
        words: what is asked, in words.
        op: of its cases.
        cases: their names, as the tables have them; the worst of them counts.
        avx2: the asked value on a processor with AVX2.
        avx512: on one with AVX-512; None where that is the same.
        measure: what is asked of the cases.
        why: the reason where it is not reached.
        device: which the cases run on.
    """

    group: str
    words: str
    op: str
    cases: tuple[str, ...]
    avx2: float
    avx512: float | None = None
    measure: Measure = RATIO
    why: str = "No reason was found."
    device: str = "cpu"

    def asked(self, instruction_set: str) -> float:
        """The asked value on a processor: AMX comes with AVX-512."""
        is_wide = instruction_set in ("avx512", "amx")
        return self.avx512 if is_wide and self.avx512 is not None else self.avx2

    def measured(self, results: Iterable[Result]) -> float | None:
        """The worst of its cases in the results of one machine; None unless all were measured."""
        by_name = {
            case["case"]: case
            for result in results
            for case in result["cases"]
            if case["op"] == self.op and case["device"] == self.device
        }
        values = [self.measure.of(by_name[name]) for name in self.cases if name in by_name]
        known = [value for value in values if value is not None]
        return self.measure.worst(known) if len(known) == len(self.cases) else None

    def heading(self) -> str:
        """What is asked, with AVX2 and with AVX-512 where they differ."""
        asked = [self.avx2] if self.avx512 is None else [self.avx2, self.avx512]
        return " / ".join(map(self.measure.asked, asked))


FIT, STEP, YOURS = "`aefast.fit`", "Single steps", "Your model"
PEERS, DICTIONARIES = "Peers", "Sparse autoencoders"
RANKS, GPU = "Several processes", "On a GPU"

PYTHON_IS_FASTER = (
    "Where plain PyTorch's calls take less than on the AMD Zen 3 that it was asked after, there is "
    "less to gain: a step of ours is its products, its numbers' exponentials and Adam."
)
PEAK_IS_NEAR = (
    "Both sides are near the processor's peak: on an AMD Zen 4 plain PyTorch's step takes 65 % of "
    "its multiply-adds (784-512) and 59 % (784-1024), so that 1.5x and 1.7x would be all of them. "
    "It takes 512 bits in two halves: its peak is that of AVX2. On an Intel Xeon MKL's product is "
    "the faster one."
)
SMALL_STEPS = (
    "Asked after an AMD Zen 3, on which plain PyTorch takes 0.42 ms a step of the smallest model; "
    "an AMD Zen 4's takes 0.33. Of 43 us of ours at 64-32, 128 rows, 30 are products, which take "
    "6.0 us each where MKL's take 8.0. Tried: a second thread (42.7 us; it serves larger models), "
    "rows asked for ahead, and a division less in Adam (30-16: 6.9 us, before 7.4)."
)
SHARED_STEPS = (
    "Products take four fifths of a step (AMD Zen 4, 784-64), at 80 to 90 % of the peak of "
    "multiply-adds; at 200-50 at 71 to 81 %. Two threads need 0.52 (784-256) to 0.70 (deep) of "
    "one's time. Their waits are 0.5 us each, 3 % of a step; what costs is that a core writes what "
    "the other has read: 7 to 29 ns a line of a cache, asked for ahead or not, so that Adam takes "
    "two threads as long as one at 200-50. Tried, and kept: the losses, gathers and Adam of small "
    "layers by two threads, too (200-50: 205 to 142 us), each with the same part of every loop "
    "(784-64: 464 to 454), blocks cut at any row (200-50: 135), and the last two of 50 columns by "
    "themselves (123). Not kept: each thread with its rows through all layers, and with half of "
    "all weights (deep 11 % faster, 784-64 the same, 784-256, and 784-64 with 64 rows, 7 % "
    "slower). A call has a millisecond of checks besides, and is of 4 steps at 784-256, of 17 at "
    "784-64."
)
SAME_PRODUCTS = (
    "Most of the time is the same products on both sides. On an AMD Zen 4 ours are 1.07 times as "
    "fast (784-512, 1024 rows)."
)
OWN_CALLS = (
    "zero_grad, torch's fused Adam and a loss that computes nothing are 159 us of a single step of "
    "210 (AMD Zen 4, 64-32, 32 rows; plain PyTorch 304), and 196 of a deep model's 252, whose "
    "plain step takes 409. It makes no difference whether the loss's node is Python's or C++ "
    "linked to torch (tried side by side). Left are the kernel, 12 us and 20 between torch's, "
    "whose code fills the caches, and the checks of the call and of the model, which are one call "
    "of C++. aefast.fit takes many steps in one call."
)
NUMBA_CALLS = (
    "A loss is one autograd node: torch's products, those of the smallest layers numba's, and "
    "numba's loops for the rest. That was 0.96 (plain 64-32, 128 rows) to 1.7x on an AMD Zen 4; a "
    "lower figure is from before it. A plain step saves autograd's nodes, 40 us of 330, and pays "
    "as much for the checks of the call and of the model, which are Python's without the "
    "extension. Tried, and not kept: torch's operators under its own autograd, from the model's "
    "plan (0.81 to 0.87x plain, 0.98x variational, 32 rows); numba's products for larger layers "
    "(plain 64-32, 128 rows: 0.84 instead of 0.91x), and two rows at a time; the node with torch's "
    "products alone (plain 0.86x, 30-16)."
)
OWN_CODE = (
    "Layers called by kernels do not pay at so few rows. One autograd function that computes "
    "nothing would leave 1.4x (AMD Zen 4); with its kernel and the checks of a call it was 0.92 "
    "to 1.05x, and layers one by one were less. So the model's own code serves, after a look-up "
    "of the rows' shape; the model is checked in one of 64 such calls."
)
SYMMETRIC_PRODUCT = (
    "On an AMD Zen 4 the covariance's product is 75 ms of 130 on both sides, OpenBLAS's syrk near "
    "the peak; torch's, in steps of columns, took 19 ms of 4096 rows, where it takes 15. "
    "Eigenvectors are float64's, 22 ms of them the tridiagonal form, on one thread as on two. "
    "LAPACK's drivers were timed, and the quickest serves each number of components; "
    "scikit-learn's are float32's."
)
EXACT_EIGENVECTORS = (
    "Each of five steps takes eigenvectors exactly, 27 ms on an AMD Zen 4, beside 40 ms of a "
    "product in float64; scikit-learn takes them by a randomized SVD. Iterations on the last "
    "step's vectors took 375 ms, for the eigenvalues of noise lie close together; Lanczos's "
    "method took 19 ms, but may miss an eigenvalue that is there twice."
)
RANDOM_NUMBERS = (
    "Of a step of 100 rows and 64 units (AMD Zen 4) 40 % are products, sums of the weights of "
    "units that are 1; 23 % random numbers and states, 18 % probabilities and the loss, each at "
    "the rate of its instructions; a fit of three epochs has half a millisecond of checks "
    "besides, of five. Without the loss, of which fit only asks whether it is finite, a step took "
    "8 % less; with tables of sums instead of rows that are added, 3 % less."
)
BITS_AND_DRAWS = (
    "Beside its products a step is chains of bits, exponentials and random numbers. A core of an "
    "Intel Xeon took twice an AMD Zen 4's time for the whole (aefast.fit on one thread: 13.7 and "
    "6.9 ms), while scikit-learn, most of whose step is products by its own library, took less "
    "there (153 and 189 ms)."
)
MEMORYS_RATE = (
    "Adam, which both sides take, reads and writes all parameters, gradients and moments at the "
    "rate of memory, and an Intel Xeon's was measured as half of an AMD Zen 4's."
)


def step_names(kinds: Iterable[str], *shapes: str) -> tuple[str, ...]:
    return tuple(f"{kind} {shape}" for shape in shapes for kind in kinds)


MODELS = ("plain", "denoising", "contractive", "sparse", "stochastic", "variational", "deep", "rbm")
FOUR_SIZES = ("32x64-32", "128x64-32", "128x784-64", "1024x784-512")
NUMBA_SIZES = ("32x30-16", "32x64-32", "128x64-32", "128x200-50", "128x784-64", "128x784-256")
NUMBA_SIZES += ("1024x784-512",)
LARGE = ("plain 1024x784-512", "plain 4096x784-1024")
SAE_STEP, WIDE_STEP = "1024x512-8192 k32 float32", "1024x768-16384 k32 float32"
TARGETS = (
    Target(FIT, "30-16, 32 rows", "fit", ("plain 32x30-16, 4000 steps",), 50, why=SMALL_STEPS),
    Target(FIT, "64-32, 32 rows", "fit", ("plain 32x64-32, 4000 steps",), 25, why=SMALL_STEPS),
    Target(FIT, "64-32, 128 rows", "fit", ("plain 128x64-32, 1000 steps",), 8, why=SMALL_STEPS),
    Target(FIT, "200-50, 128 rows", "fit", ("plain 128x200-50",), 3.5, 4, why=SHARED_STEPS),
    Target(FIT, "784-64, 128 rows", "fit", ("plain 128x784-64",), 2.2, 3, why=SHARED_STEPS),
    Target(FIT, "784-256, 128 rows", "fit", ("plain 128x784-256",), 1.4, 2, why=SHARED_STEPS),
    Target(FIT, "784-512, 1024 rows; 784-1024, 4096", "fit", LARGE, 1.15, 2, why=PEAK_IS_NEAR),
    Target(
        FIT,
        "784-512, 784-1024: share of the peak of multiply-adds",
        "fit",
        LARGE,
        0.8,
        0.7,
        SHARE_OF_PEAK,
        why="On an AMD Zen 4 products alone, with those of their gradients, take 82 and 83 % of "
        "the peak; the rest of a step is memory's.",
    ),
    Target(
        FIT,
        "denoising, contractive, sparse: 64-32, 128 rows",
        "fit",
        tuple(f"{kind} 128x64-32, 1000 steps" for kind in ("denoising", "contractive", "sparse")),
        8,
        why=PYTHON_IS_FASTER,
    ),
    Target(
        FIT,
        "variational 64-32-2, 128 rows",
        "fit",
        ("variational 128x64-32-2, 1000 steps",),
        10,
        why=SMALL_STEPS,
    ),
    Target(
        FIT,
        "variational 784-200-20, 128 rows",
        "fit",
        ("variational 128x784-200-20",),
        1.8,
        2.5,
        why=SHARED_STEPS,
    ),
    Target(
        FIT,
        "deep 64-128-64-2, 128 rows",
        "fit",
        ("deep 128x64-128-64-2, 1000 steps",),
        5,
        6,
        why=SHARED_STEPS,
    ),
    Target(
        FIT,
        "64-32 beside a busy program, against alone",
        "fit",
        tuple(
            f"plain {rows}x64-32, 1000 steps, beside a busy program, eager is fit alone"
            for rows in (32, 128)
        ),
        1 / 1.5,
    ),
    Target(
        STEP,
        "plain, denoising, contractive, sparse: 64-32, 32 rows",
        "step",
        step_names(MODELS[:4], "32x64-32"),
        1.4,
        why=OWN_CALLS,
    ),
    Target(
        STEP,
        "variational, deep: 64-32, 32 rows",
        "step",
        step_names(("variational", "deep"), "32x64-32"),
        2,
        why=OWN_CALLS,
    ),
    Target(
        STEP,
        "every model: 64-32, 32 and 128 rows; 784-64, 128; 784-512, 1024",
        "step",
        step_names(MODELS, *FOUR_SIZES),
        1,
        why="The lowest is an RBM's, on an AMD Zen 4 as on an Intel Xeon: its plain step writes "
        "its gradients without autograd. A loss that computes nothing and torch's Adam take 144 "
        "us of its 217 at 32 rows (AMD Zen 4).",
    ),
    Target(
        STEP,
        "numba alone: plain, denoising, variational at seven sizes",
        "step",
        tuple(
            f"{kind} {shape}, numba alone"
            for shape in NUMBA_SIZES
            for kind in ("plain", "denoising", "variational")
        ),
        0.95,
        why=NUMBA_CALLS,
    ),
    Target(
        YOURS,
        "`accelerate`, your own loop: denoising 784-512, 1024 rows",
        "accelerate",
        ("1 x the loop's step, Denoising 784-512 b1024",),
        1.15,
        1.8,
        why=SAME_PRODUCTS,
    ),
    Target(
        YOURS,
        "`accelerate`, your own loop: denoising and plain 64-32, 32 rows",
        "accelerate",
        tuple(f"50 x the loop's step, {kind} 64-32 b32" for kind in ("Denoising", "plain")),
        1.3,
        why=OWN_CODE,
    ),
    Target(
        YOURS,
        "`accelerate`, your own loop: variational 784-200-20, 128 rows",
        "accelerate",
        ("1 x the loop's step, Variational 784-200 b128",),
        1.1,
        1.5,
        why=OWN_CODE,
    ),
    Target(
        YOURS,
        "`aefast.fit` instead of the loop, 64-32, 32 rows",
        "accelerate",
        ("aefast.fit, an epoch of 8192 rows, plain 64-32 b32",),
        20,
        why=PYTHON_IS_FASTER,
    ),
    Target(
        YOURS,
        "`aefast.fit` instead of the loop, 784-256, 128 rows",
        "accelerate",
        ("aefast.fit, an epoch of 2048 rows, plain 784-256 b128",),
        1.35,
        2,
        why=SHARED_STEPS,
    ),
    Target(
        YOURS,
        "a model with nothing to replace",
        "accelerate",
        (
            "50 x the loop's step, nothing 64-32 b32",
            "1 x the loop's step, nothing 784-256 b128",
        ),
        1,
        why="What is below is the noise of a run: the model's own code is called.",
    ),
    Target(
        YOURS,
        "`accelerate` itself",
        "accelerate",
        ("itself, Variational 784-200, eager is torch.fx's trace",),
        0.05,
        measure=SECONDS,
    ),
    Target(
        YOURS,
        '`torch.compile(backend="aefast")`, against inductor: denoising 784-512, 1024 rows',
        "accelerate",
        ("torch.compile(backend='aefast'), Denoising 784-512 b1024, eager is inductor's",),
        1.1,
        1.6,
        why=SAME_PRODUCTS,
    ),
    Target(
        PEERS,
        "`estimators.BernoulliRBM` on digits, batches of 10",
        "estimators",
        tuple(f"BernoulliRBM 64-{hidden} b10" for hidden in (64, 256)),
        6,
        why=RANDOM_NUMBERS,
    ),
    Target(
        PEERS,
        "`estimators.BernoulliRBM` on digits, batches of 100",
        "estimators",
        tuple(f"BernoulliRBM 64-{hidden} b100" for hidden in (64, 256)),
        4,
        why=RANDOM_NUMBERS,
    ),
    Target(
        PEERS,
        "`estimators.Autoencoder` 64-32, 32 rows, against MLPRegressor",
        "estimators",
        ("Autoencoder 64-32 b32, MLPRegressor",),
        15,
        why=(
            "Asked where scikit-learn takes 0.53 ms a step, an AMD Zen 3; on an AMD Zen 4 it takes "
            "0.18 to 0.24. The steps "
            "alone are three quarters of a fit: without a line of Python it would be 13x."
        ),
    ),
    Target(
        PEERS,
        "`estimators.PCA` 20000x784, 10 and 100 components",
        "estimators",
        ("PCA(10), 20000x784", "PCA(100), 20000x784"),
        1.1,
        1.5,
        why=SYMMETRIC_PRODUCT,
    ),
    Target(
        PEERS,
        "`estimators.FactorAnalysis` 5000x784",
        "estimators",
        ("FactorAnalysis(10), 5000x784",),
        1.1,
        1.5,
        why=EXACT_EIGENVECTORS,
    ),
    Target(
        PEERS,
        "patched BernoulliRBM on digits, its defaults",
        "patch",
        ("BernoulliRBM on digits",),
        5,
        why=RANDOM_NUMBERS,
    ),
    Target(
        PEERS,
        "patched BernoulliRBM 784-256, 128 rows",
        "patch",
        ("BernoulliRBM 784-256 b128",),
        4,
        why=BITS_AND_DRAWS,
    ),
    Target(
        PEERS,
        "patched PCA, FactorAnalysis, dictionary learning at scikit-learn's examples",
        "patch",
        (
            "PCA(2) on digits",
            "PCA(50), 2560x256",
            "PCA(0.95) on digits",
            "PCA(svd_solver='full') on digits",
            "PCA(6, svd_solver='randomized')",
            "FactorAnalysis(7) on digits",
            "FactorAnalysis(2, 'varimax'), 150x4",
            "MiniBatchDictionaryLearning(50) on patches",
            "MiniBatchDictionaryLearning(6), b3",
        ),
        0.95,
        why="A patched class asks first whether it serves the call: 50 us, of some milliseconds.",
    ),
    Target(
        PEERS,
        "patched rbms, PCD-100, 784-500, 512 chains",
        "patch",
        ("rbms PCD k=100, 784-500, 512 chains",),
        3,
        8,
        why=(
            "The chains' states are bits, whose products run at twice the rate of multiply-adds: "
            "what is left is mostly draws."
        ),
    ),
    Target(
        PEERS,
        "patched pyod's AutoEncoder, 5000x30",
        "patch",
        ("pyod AutoEncoder, 5000x30",),
        10,
    ),
    Target(
        RANKS,
        "a group of one rank, against none",
        "distributed",
        ("fit 512x784-512, a group of one rank, eager is without it",),
        0.98,
        why="What is below is the noise of a run.",
    ),
    Target(
        RANKS,
        "rows a second of two ranks of one thread, against one process of one",
        "distributed",
        ("fit 512x784-512 a rank, 2 ranks, eager is one process",),
        1.8,
        why=(
            "Two processes that exchange nothing reach 1.9x on two cores; the rest is waits for "
            "the other rank, and the sum of gradients through memory."
        ),
    ),
    Target(
        DICTIONARIES,
        "top-k, a step of 512-8192, against dense codes",
        "topk",
        (f"step against dense, {SAE_STEP}",),
        3.5,
        why=MEMORYS_RATE,
    ),
    Target(
        DICTIONARIES,
        "top-k, a step of 512-8192, against embedding_bag",
        "topk",
        (f"step against embedding_bag, {SAE_STEP}",),
        2,
        why=MEMORYS_RATE,
    ),
    Target(
        DICTIONARIES,
        "top-k, a step of 768-16384, against dense codes",
        "topk",
        (f"step against dense, {WIDE_STEP}",),
        3.5,
        why=MEMORYS_RATE,
    ),
    Target(
        DICTIONARIES,
        "top-k, a step of 768-16384, against embedding_bag",
        "topk",
        (f"step against embedding_bag, {WIDE_STEP}",),
        2,
        why=MEMORYS_RATE,
    ),
    Target(
        DICTIONARIES,
        "top-k, both steps: time over that of the encoder's product",
        "topk",
        (f"step against dense, {SAE_STEP}", f"step against dense, {WIDE_STEP}"),
        1.9,
        measure=OVER_LIMIT,
        why=MEMORYS_RATE,
    ),
    Target(
        DICTIONARIES,
        "`topk_encode` of 65,536 latents, 4096 rows: memory, 3 % of all pre-activations",
        "topk",
        ("topk_encode 4096x64-65536 k32 float32",),
        0.03 * 4 * 4096 * 65536,
        measure=MEMORY,
    ),
    Target(
        DICTIONARIES,
        "SAELens' trainer with the registered class, against its own",
        "saelens",
        (f"its trainer's step {SAE_STEP}, eager is its own class",),
        2,
    ),
    Target(
        GPU,
        "`corrupt`, masking: share of a copy's rate",
        "corrupt",
        ("masking 8192x8192 float32",),
        0.85,
        measure=SHARE_OF_LIMIT,
        device="cuda",
    ),
    *(
        Target(
            GPU,
            f"`linear_act` at {precision}: share of cuBLAS's rate",
            "linear_act",
            (f"sigmoid fwd+bwd 8192x4096->4096 {precision}",),
            asked,
            measure=SHARE_OF_LIMIT,
            device="cuda",
        )
        for precision, asked in (("bfloat16", 0.95), ("high", 0.9))
    ),
    *(
        Target(
            GPU,
            f"`reconstruction_loss` at {precision} and its gradients",
            "reconstruction_loss",
            (f"fwd+bwd 16384x784-1024-784 {precision}",),
            asked,
            device="cuda",
        )
        for precision, asked in (("bfloat16", 1.0), ("highest", 1.5))
    ),
    *(
        Target(
            GPU,
            f"Gibbs chains, k = {k}",
            "gibbs",
            (f"k={k} {shape}, eager draws by torch.bernoulli",),
            4,
            device="cuda",
        )
        for k, shape in ((1, "16384x784-1024"), (100, "512x784-500"))
    ),
    Target(
        GPU,
        "a PCD-1 update",
        "contrastive_divergence",
        ("PCD-1 update 16384x784-1024",),
        2.5,
        device="cuda",
    ),
    Target(
        GPU,
        "a contractive penalty of two layers and its gradients",
        "contractive_penalty",
        ("fwd+bwd 4096x784-512-256 highest, eager is batched products",),
        2,
        device="cuda",
    ),
    *(
        Target(
            GPU,
            f"top-k, {latents} latents of 2688, {words}: the seconds published for an H100",
            "topk",
            (f"4096x2688-{latents} k32 {passes} float32, eager in parts of rows",),
            published,
            measure=SECONDS,
            device="cuda",
        )
        for latents, words, passes, published in (
            (344064, "the loss", "fwd", 0.054),
            (344064, "the loss and its gradients", "fwd+bwd", 0.134),
            (688128, "the loss", "fwd", 0.110),
            (688128, "the loss and its gradients", "fwd+bwd", 0.264),
        )
    ),
    Target(
        GPU,
        "top-k, 1048576 latents of 2688, the loss and its gradients: published as out of memory",
        "topk",
        ("4096x2688-1048576 k32 fwd+bwd float32, eager in parts of rows",),
        1,
        measure=RUNS,
        device="cuda",
    ),
)


@dataclass(frozen=True)
class UntimedTarget:
    """What was asked that no case of the suite measures.

    Args:
        group: what it is one of.
        words: what is asked, in words.
        asked: the figure.
        found: what was found of it; "-" where nothing could be.
        by: the file that finds it: a test or a program.
    """

    group: str
    words: str
    asked: str
    found: str
    by: str


UNTIMED_TARGETS = (
    UntimedTarget(
        RANKS,
        "every kind of model on 1, 2 and 4 processes, 50 steps, against one process",
        "parameters within 1e-6, draws to the bit",
        "reached",
        "tests/distributed/test_fit.py",
    ),
    UntimedTarget(
        RANKS,
        "random ranks killed at random moments, runs resumed on 1, 2 or 4",
        "100 kills, each run at the uninterrupted one's numbers, no rank past 30 s",
        "110 kills, reached",
        "tests/distributed/test_train.py",
    ),
    UntimedTarget(
        RANKS,
        "FSDP2: the root, by layer, in mixed precision",
        "gradients equal one process's",
        "reached",
        "tests/distributed/test_sharded.py",
    ),
    UntimedTarget(
        DICTIONARIES,
        "4096 synthetic features, 2000 steps: F1 of top-k latents beside SAELens' model",
        "not 0.01 below, in half the time",
        "0.654 beside 0.656 and 0.658 beside 0.655 (two seeds), in an eighth to a sixth",
        "benchmarks/features.py",
    ),
    UntimedTarget(
        DICTIONARIES,
        "training, on 1 and 2 threads",
        "the same bits",
        "reached",
        "tests/nn/test_topk.py",
    ),
    UntimedTarget(
        GPU,
        "the host's time of a linear layer with its gradients, of a loss, of Gibbs k = 100",
        "60, 100, 300 us",
        "- (78, 280, 198 us with a driver that launches nothing, on an AMD Zen 4)",
        "aefast/docs/predicted.md",
    ),
    UntimedTarget(
        GPU,
        "noise",
        "the CPU's bits",
        "reached in Triton's interpreter",
        "tests/ops/test_corrupt.py",
    ),
    UntimedTarget(
        GPU,
        "gpu-check killed at ten moments",
        "what was done is there",
        "reached",
        "tests/test_gpu_check.py",
    ),
)


@dataclass(frozen=True)
class Verdict:
    """A target on one machine.

    Attributes:
        value: what was measured; None where something of it was not.
        asked: what was asked there.
    """

    target: Target
    value: float | None
    asked: float

    @property
    def is_reached(self) -> bool:
        return self.value is not None and self.target.measure.is_reached(self.value, self.asked)

    @property
    def is_short(self) -> bool:
        return self.value is not None and not self.is_reached

    def shown(self) -> str:
        """The value; with what was asked where it is less."""
        if self.value is None:
            return "-"
        text = self.target.measure.shown(self.value)
        return text if self.is_reached else f"{text} of {self.target.measure.shown(self.asked)}"


def verdicts(results: Iterable[Result]) -> dict[str, list[Verdict]]:
    """Each machine's, in the targets' order; without machines that measured none of them."""
    by_machine: dict[str, list[Result]] = {}
    for result in results:
        by_machine.setdefault(label(result["machine"]), []).append(result)
    judged = {machine: list(judge(of_machine)) for machine, of_machine in by_machine.items()}
    return {
        machine: found
        for machine, found in judged.items()
        if any(verdict.value is not None for verdict in found)
    }


def judge(results: Sequence[Result]) -> Iterator[Verdict]:
    """The targets on the machine of these results."""
    instruction_set = results[0]["machine"]["cpu_isa"]
    for target in TARGETS:
        yield Verdict(target, target.measured(results), target.asked(instruction_set))

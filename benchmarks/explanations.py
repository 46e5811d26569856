"""Why a case is slower than its quickest baseline: the causes found, and the cases of each.

What no cause names is listed on the report's page without one, and fails a test where it is in a
committed result.
"""

import itertools
import re
from dataclasses import dataclass

from results import Record, Result, setting_of, worst

# Medians of two runs on one machine differ by so much: what is nearer to 1 is no loss.
NOISE = 0.05


@dataclass(frozen=True)
class Explanation:
    """A cause.

    Args:
        text: the cause.
        op: of its cases, as a regular expression.
        setting: of its cases, likewise.
        rows, columns: the most that its cases have.
        products: the fewest and the most multiplications in a case's largest product.
        instruction_set: of the processor that it ran on, as a regular expression; "" on a GPU.
        least: the lowest ratio that it accounts for.
        overhead: whether it is of the cases that measure a call's own cost.
    """

    text: str
    op: str
    setting: str = ".*"
    rows: float = float("inf")
    columns: float = float("inf")
    products: tuple[float, float] = (0, float("inf"))
    instruction_set: str = ".*"
    least: float = 0.0
    overhead: bool = False

    def fits(self, case: Record, instruction_set: str) -> bool:
        rows, *widths = case.get("shape", [1])
        fewest, most = self.products
        return (
            re.fullmatch(self.op, case["op"]) is not None
            and re.fullmatch(self.setting, setting_of(case["case"])) is not None
            and re.fullmatch(self.instruction_set, instruction_set) is not None
            and rows <= self.rows
            and max(widths, default=0) <= self.columns
            and fewest <= rows * largest_weight(widths) <= most
            and worst(case) >= self.least
            and self.overhead == case["overhead"]
        )


def largest_weight(widths: list[int]) -> int:
    """The elements of the largest matrix between two widths."""
    return max((a * b for a, b in itertools.pairwise(widths)), default=0)


OWN_CALL = (
    "A call's own cost. A differentiable op checks its arguments, finds its backend and has its "
    "node in autograd's graph in Python: 20 us forward and as much backward, on a Zen 4. Eager "
    "PyTorch's operators have theirs in C++. In a model's loss a whole step is one such call, in "
    "aefast.fit an epoch is."
)
OPS = (
    "linear_act|mlp|autoencode|reconstruction_loss|contractive_penalty|jacobian|free_energy|"
    "variational|sparsity|jumprelu|corrupt"
)
EXPLANATIONS = (
    Explanation(OWN_CALL, ".*", overhead=True),
    Explanation(
        "The baseline is the same call without the busy program, which takes a core's time.",
        "fit",
        ".*beside a busy program.*",
    ),
    Explanation(
        "The baseline is the same call without a process group.",
        "distributed",
        ".*one rank.*",
    ),
    Explanation(
        "Without the C++ extension the checks of a call and of the model are Python's. Products of "
        "all but the smallest layers are torch's on both sides.",
        "step",
        ".*numba alone",
    ),
    Explanation(
        "A product with bits goes through the weights once for 16 rows: one row takes as long.",
        "gibbs",
        rows=1,
        products=(2**16, float("inf")),
    ),
    Explanation(OWN_CALL, f"{OPS}|gibbs|soft_threshold", rows=128),
    Explanation(
        "An RBM's step by loss and backward: its statistics are the gradients, which the plain "
        "step writes without autograd. aefast.fit does so, too.",
        "step",
        "rbm.*",
    ),
    Explanation(OWN_CALL, f"{OPS}|step", rows=1024, columns=64),
    Explanation(
        "One row a step: the time is that of reading the weights and their moments, on one thread.",
        "step|fit",
        rows=1,
    ),
    Explanation(
        "Where the largest product has fewer than 1.5 million multiplications a step takes one "
        "thread, so that another program on a core slows it less. Eager PyTorch takes all; on one "
        "thread it is not the faster.",
        "step",
        products=(0, 3 * 2**19),
    ),
    Explanation(
        "MKL's float32 product is the faster one on an Intel Xeon, and serves on both sides. A "
        "loss over panels of rows saves memory there, not time.",
        "linear_act|reconstruction_loss|mlp",
        products=(2**24, float("inf")),
        instruction_set="amx",
        least=0.8,
    ),
    Explanation(
        "Parameters, gradients and moments take 400 MB, and the time is that of reading them, "
        "which depends on where their pages lie: measured by itself the case took as long as the "
        "plain model's, which was no slower than eager PyTorch's.",
        "fit",
        "denoising",
        products=(2**30, float("inf")),
        instruction_set="amx",
    ),
    Explanation(
        "Both sides take the vendor's bfloat16 product, or ours where it is the faster; what is "
        "left is the conversion of the operands.",
        "linear_act|reconstruction_loss|product",
        ".*(medium|bfloat16).*",
    ),
    Explanation(
        "The product that a call takes is the faster of ours and the vendor's. This row is ours "
        "alone, where the vendor's serves.",
        "product",
    ),
    Explanation(
        "The kernel takes e^x - 1 - x and sums over a row so that nothing cancels, in float64; "
        "what torch.compile makes of the formula does neither, and half the arithmetic.",
        "variational|sparsity",
        "(gaussian_kl|l1|kl) .*",
    ),
    Explanation(
        "The contraction itself: the loss that it is compared with has none.",
        "reconstruction_loss",
        ".*eager is ours without it.*",
    ),
    Explanation(
        "One pass over memory, which is torch's own on CPUs; an earlier commit's was ours.",
        "soft_threshold",
    ),
    Explanation(
        "The baseline traces the model alone. Ours also looks at what it found, once for a model.",
        "accelerate",
        "itself.*",
    ),
    Explanation(
        "A model with nothing to replace runs its own code: what differs is the noise of the run.",
        "accelerate",
        ".*nothing.*",
    ),
    Explanation(
        "Few rows take the model's own code, after a look-up of their shape; the kernels took them "
        "in runs of earlier commits.",
        "accelerate",
    ),
    Explanation(
        "Eigenvectors of J J^T in float64, those of the plain way in float32; runs of earlier "
        "commits had subspace iteration.",
        "tangents",
    ),
    Explanation(
        "A patched class asks first whether it serves the call: 50 us, of some milliseconds.",
        "patch",
    ),
    Explanation(
        "A millisecond of work: the rows are centered twice, so that data far from 0 lose nothing.",
        "quality",
        "PCA.*",
    ),
    Explanation(
        "SPAMS follows the path of least angles, which ends at the exact code in about as many "
        "steps as that has nonzeros; ours are first-order steps.",
        "quality",
        ".*against spams",
    ),
    Explanation(
        "Eigenvectors of the covariance are float64's; scikit-learn takes them in float32, and in "
        "factor analysis by a randomized SVD.",
        "estimators",
        "(PCA|FactorAnalysis).*",
    ),
    Explanation(
        "Whole epochs by the command's loop, with its metrics and checkpoints, against bare steps.",
        "training",
        ".*bare steps",
    ),
)


def explanation_of(case: Record, instruction_set: str) -> str | None:
    """The cause of a case that is slower; None where none was found."""
    causes = (cause.text for cause in EXPLANATIONS if cause.fits(case, instruction_set))
    return next(causes, None)


def losses(result: Result) -> dict[str | None, list[Record]]:
    """The cases that are slower than a baseline by more than noise, by their cause."""
    by_cause: dict[str | None, list[Record]] = {}
    for case in result["cases"]:
        if worst(case) < 1 - NOISE:
            is_on_cpu = case["device"] == "cpu"
            cause = explanation_of(case, result["machine"]["cpu_isa"] if is_on_cpu else "")
            by_cause.setdefault(cause, []).append(case)
    return by_cause

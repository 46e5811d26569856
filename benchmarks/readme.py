"""The figures of README and of the page "Measured", from the committed results alone:
``python benchmarks/readme.py``, which fills them in.

A figure is the median ratio to the quickest of a case's baselines, eager PyTorch, torch.compile or
the peer that is named: the lowest and the highest of the cases that a row stands for.
"""

import math
import re
import statistics
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import explanations
import targets
from report import origin, table
from results import Result, label, read, setting_of, worst

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "aefast" / "docs"
PAGES = (ROOT / "README.md", DOCS / "measured.md", DOCS / "targets.md")
RESULTS = ROOT / "benchmarks" / "results"

SMALL = "single calls on 8x8 matrices"


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Args:
        group: what the first table calls it and its like.
        words: what the table calls it.
        op: of its cases.
        setting: of its cases, as a regular expression.
    """

    group: str
    words: str
    op: str
    setting: str


MODELS = ("plain", "denoising", "contractive", "sparse", "stochastic", "variational", "deep")
BOTH = r"fwd\+bwd"
LAYERS, CHAINS = "layers and losses with their gradients", "Gibbs chains and their updates"
PENALTIES, PRODUCTS = "a code's divergences and penalties", "products in bfloat16"
DICTIONARIES = "sparse autoencoders over many latents"
ESTIMATORS = "`aefast.estimators`, against scikit-learn's"
YOURS, PATCHED = "your model under `aefast.accelerate`", "peers under `aefast.patch`"
ROWS = [
    Row(
        "whole training by `aefast.fit`",
        "`aefast.fit`",
        "fit",
        rf"({'|'.join(MODELS)})(, \d+ steps)?",
    ),
    Row("whole training by `aefast.fit`", "`aefast.fit` of an RBM", "fit", "rbm"),
    Row("single steps", "loss, backward and Adam", "step", "|".join(MODELS)),
    Row("single steps", "the same of an RBM", "step", "rbm"),
    Row("noise", "`corrupt`, masking", "corrupt", "masking float32"),
    Row("noise", "`corrupt`, salt-and-pepper", "corrupt", "salt_and_pepper float32"),
    Row("noise", "`corrupt`, Gaussian", "corrupt", "gaussian float32"),
    Row(LAYERS, "`linear_act` and its gradients", "linear_act", f"sigmoid {BOTH} highest"),
    Row(
        LAYERS, "`reconstruction_loss` and its gradients", "reconstruction_loss", f"{BOTH} highest"
    ),
    Row(LAYERS, "the same with masking", "reconstruction_loss", f"{BOTH} highest masking"),
    Row(LAYERS, "the same with contraction", "reconstruction_loss", f"{BOTH} highest contraction"),
    Row(LAYERS, "`mlp` of six layers and its gradients", "mlp", f"{BOTH} highest"),
    Row(
        LAYERS,
        "`contractive_penalty` of one layer and its gradients, against the closed form",
        "contractive_penalty",
        f"{BOTH} highest, eager is the closed form",
    ),
    Row(
        LAYERS,
        "the same of two layers, against batched products",
        "contractive_penalty",
        f"{BOTH} highest, eager is batched products",
    ),
    Row(
        PRODUCTS,
        "`linear_act` at `medium` or of bfloat16, and its gradients",
        "linear_act",
        f"sigmoid {BOTH} (medium|bfloat16)",
    ),
    Row(
        PRODUCTS,
        "`reconstruction_loss` at `medium` and its gradients",
        "reconstruction_loss",
        f"{BOTH} medium",
    ),
    Row(CHAINS, "`gibbs`, against `rand < p`", "gibbs", "k=1, eager draws by rand < p"),
    Row(CHAINS, "a PCD-1 update", "contrastive_divergence", "PCD-1 update"),
    Row(
        CHAINS,
        "the same, against scikit-learn's in float32",
        "contrastive_divergence",
        "PCD-1 update against scikit-learn's _fit, float32",
    ),
    Row(
        "sparse codes",
        "`sparse_encode`, against scikit-learn's `lasso_cd` on one core",
        "sparse_encode",
        ".*lasso_cd, jobs: 1",
    ),
    Row(
        DICTIONARIES,
        "a top-k dictionary's loss, gradients and Adam, against dense codes",
        "topk",
        "step against dense.*",
    ),
    Row(DICTIONARIES, "the same, against `embedding_bag`", "topk", "step against embedding_bag.*"),
    Row(DICTIONARIES, "`topk_encode`, against `topk` of all", "topk", "topk_encode.*"),
    Row(
        DICTIONARIES,
        "a batch top-k or matryoshka one's, against dense codes",
        "dictionary",
        "(b|m).*",
    ),
    Row(DICTIONARIES, "a JumpReLU or gated one's", "dictionary", "(J|g).*"),
    Row(
        "a Gaussian code's samples",
        "`reparameterize` and its gradients",
        "variational",
        f"reparameterize .*{BOTH}",
    ),
    Row(PENALTIES, "`gaussian_kl` and its gradients", "variational", f"gaussian_kl .*{BOTH}"),
    Row(PENALTIES, "`kl_sparsity` and its gradients", "sparsity", "kl .*"),
    Row(PENALTIES, "`l1_sparsity` and its gradients", "sparsity", "l1 .*"),
    Row(PENALTIES, "`soft_threshold`", "soft_threshold", ".*"),
    Row(YOURS, "your own training loop, a step", "accelerate", ".*the loop's step.*"),
    Row(YOURS, "`aefast.fit` instead of the loop", "accelerate", "aefast.fit.*"),
    Row(ESTIMATORS, "`BernoulliRBM`, against scikit-learn's", "estimators", "BernoulliRBM.*"),
    Row(ESTIMATORS, "`Autoencoder`, against MLPRegressor", "estimators", "Autoencoder.*"),
    Row(
        ESTIMATORS,
        "`PCA` and `FactorAnalysis` of 784 features, against scikit-learn's",
        "estimators",
        "(PCA|FactorAnalysis).*",
    ),
    Row(PATCHED, "scikit-learn's BernoulliRBM", "patch", "BernoulliRBM.*"),
    Row(PATCHED, "its PCA and FactorAnalysis", "patch", "(PCA|FactorAnalysis).*"),
    Row(PATCHED, "its MiniBatchDictionaryLearning", "patch", "MiniBatch.*"),
    Row(PATCHED, "pyod's AutoEncoder and VAE", "patch", "pyod.*"),
    Row(PATCHED, "rbms, persistent chains", "patch", "rbms.*"),
    Row("training to a held-out score, beside peers", "the same score as peers", "quality", ".*"),
    Row(
        "`aefast train`",
        "`aefast train`, against a script with a DataLoader",
        "training",
        ".* against DataLoader",
    ),
]


def fill(text: str, results: Sequence[Result]) -> str:
    """The text with the figures of ``results`` between its markers."""
    figures_of = {
        "headline": headline,
        "summary": summary,
        "table": figure_table,
        "targets": target_table,
        "untimed": lambda _: untimed_target_table(),
        "reasons": reasons,
        "origins": origins,
        "losses": losses,
    }
    for name, render in figures_of.items():
        begin, end = f"<!-- {name}: filled by `make readme` -->\n", f"<!-- end of {name} -->"
        if begin not in text:
            continue
        before, rest = text.split(begin)
        _, after = rest.split(end)
        text = f"{before}{begin}{render(results)}\n{end}{after}"
    return text


def headline(results: Sequence[Result]) -> str:
    """Where it is faster, by how much, and where it is not, in a sentence."""
    training = {
        machine: measured
        for machine, of_machine in machines(results).items()
        if (measured := ratios(of_machine, [row for row in ROWS if row.op == "fit"]))
    }
    spans = [f"{span(measured)} ({machine})" for machine, measured in training.items()]
    return textwrap.fill(
        "Relative to the quickest loop in plain PyTorch, training by `aefast.fit` has a speed of "
        f"{', '.join(spans)}; {SMALL} have {span(small_calls(results))}.",
        width=104,
        break_on_hyphens=False,
    )


def summary(results: Sequence[Result]) -> str:
    """A row a group of cases, a column a machine: where it is faster, and where it is not."""
    return _table({group: rows_of(group) for group in groups_of(ROWS)}, results)


def figure_table(results: Sequence[Result]) -> str:
    """The same with a row a kind of case."""
    return _table({row.words: [row] for row in ROWS}, results)


def _table(kinds: dict[str, list[Row]], results: Sequence[Result]) -> str:
    """A table of the kinds of cases that were measured; what has a loss in it is bold."""
    columns = {
        machine: of_machine
        for machine, of_machine in machines(results).items()
        if ratios(of_machine, ROWS) or small_calls(of_machine)
    }
    counts = [
        len(ratios(of_machine, ROWS)) + len(small_calls(of_machine))
        for of_machine in columns.values()
    ]
    headings = [f"{name}: {count} cases" for name, count in zip(columns, counts, strict=True)]
    lines = [["", *headings]]
    for words, rows in kinds.items():
        ratios_of_kind = [ratios(machine, rows) for machine in columns.values()]
        if any(ratios_of_kind):
            lines.append([words, *map(cell, ratios_of_kind)])
    return table([*lines, [SMALL, *(cell(small_calls(machine)) for machine in columns.values())]])


def target_table(results: Sequence[Result]) -> str:
    """What was asked of the first release, a column a machine; what is less is bold."""
    found = targets.verdicts(results)
    rows = [["", "asked, AVX2 / AVX-512", *found]]
    group = ""
    for verdicts in zip(*found.values(), strict=True):
        target = verdicts[0].target
        if target.group != group:
            group = target.group
            rows.append([f"*{group}*", *[""] * (1 + len(found))])
        shown = (f"**{each.shown()}**" if each.is_short else each.shown() for each in verdicts)
        rows.append([target.words, target.heading(), *shown])
    return table(rows)


def untimed_target_table() -> str:
    """What was asked that no case measures."""
    heading = ["", "asked", "found", "by"]
    rows = [
        [f"{target.group}: {target.words}", target.asked, target.found, f"`{target.by}`"]
        for target in targets.UNTIMED_TARGETS
    ]
    return table([heading, *rows])


def reasons(results: Sequence[Result]) -> str:
    """Why a target is not reached, a paragraph a reason."""
    words: dict[str, list[str]] = {}
    for verdicts in zip(*targets.verdicts(results).values(), strict=True):
        if any(each.is_short for each in verdicts):
            target = verdicts[0].target
            words.setdefault(target.why, []).append(f"{target.group}: {target.words}")
    return "\n".join(
        f"- {why}\n" + "\n".join(f"  - {each}" for each in of_reason)
        for why, of_reason in words.items()
    )


def origins(results: Sequence[Result]) -> str:
    """When each machine was measured, and at which commits."""
    return "\n".join(
        f"- {machine}: {'; '.join(dict.fromkeys(map(origin, of_machine)))}"
        for machine, of_machine in machines(results).items()
    )


def losses(results: Sequence[Result]) -> str:
    """Where aefast is slower by more than noise: a paragraph a cause, a line a machine."""
    found: dict[str | None, list[str]] = {}
    for machine, of_machine in machines(results).items():
        by_cause: dict[str | None, list[float]] = {}
        for result in of_machine:
            for cause, cases in explanations.losses(result).items():
                by_cause.setdefault(cause, []).extend(map(worst, cases))
        for cause, slower in by_cause.items():
            of_cause = f"{len(slower)} case{'s' * (len(slower) > 1)}, {cell(sorted(slower))}"
            found.setdefault(cause, []).append(f"  - {machine}: {of_cause}".replace("**", ""))
    return "\n".join(
        f"- {cause or 'No cause was found.'}\n" + "\n".join(lines) for cause, lines in found.items()
    )


def machines(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each kind of machine, which several files may tell of."""
    by_machine: dict[str, list[Result]] = {}
    for result in results:
        by_machine.setdefault(label(result["machine"]), []).append(result)
    return by_machine


def ratios(results: Iterable[Result], rows: Iterable[Row]) -> list[float]:
    """Of the cases on a CPU that some rows stand for, in order."""
    return sorted(
        worst(case)
        for result in results
        for case in result["cases"]
        if not case["overhead"]
        and case["device"] == "cpu"
        and math.isfinite(worst(case))
        and any(
            case["op"] == row.op and re.fullmatch(row.setting, setting_of(case["case"]))
            for row in rows
        )
    )


def small_calls(results: Iterable[Result]) -> list[float]:
    """Of the cases on a CPU that measure a call's own cost, in order."""
    return sorted(
        worst(case)
        for result in results
        for case in result["cases"]
        if case["overhead"] and case["device"] == "cpu"
    )


def groups_of(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row.group for row in rows))


def rows_of(group: str) -> list[Row]:
    return [row for row in ROWS if row.group == group]


def cell(ratios: list[float]) -> str:
    """The span of the cases' ratios, and the median in brackets; bold where one is a loss."""
    if not ratios:
        return "-"
    text = f"**{span(ratios)}**" if ratios[0] < 1 else span(ratios)
    return text if len(ratios) == 1 else f"{text} ({shown(statistics.median(ratios))})"


def span(ratios: list[float]) -> str:
    lowest, highest = shown(ratios[0]), shown(ratios[-1])
    return f"{lowest}x" if lowest == highest else f"{lowest} to {highest}x"


def shown(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 1 else f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"


def committed() -> list[Result]:
    return [read(path) for path in sorted(RESULTS.glob("*.json"))]


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(fill(page.read_text(), committed()))

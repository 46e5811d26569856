"""Writes ``aefast/ops/shared/product_ratios.py`` from the committed results:
``python benchmarks/routes.py``.

The cases of ``bench_products.py`` count, and of a setting that has none those of
``bench_linear_act.py``, whose limit is the vendor's product; but not at "medium", where the
vendor's product served in them. A weight's ratio is the median over its batches.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from results import Record, Result, read, setting_of

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "aefast" / "ops" / "shared" / "product_ratios.py"
RESULTS = ROOT / "benchmarks" / "results"
LEVELS = {"product": ("highest", "high", "medium"), "linear_act": ("highest", "high")}

HEAD = '''"""How many times as fast as the vendor's product ours is: see ``benchmarks/routes.py``.

Of a processor, instruction set and precision: ``(elements of the weight, ratio)``.
"""

RATIOS: dict[tuple[str, str, str], tuple[tuple[int, float], ...]] = {
'''

Key = tuple[str, str, str]


def ratios(results: Iterable[Result]) -> dict[Key, dict[int, float]]:
    """The medians of all the results, by setting and by the size of the weight."""
    measured = list(results)
    table = {**_of(measured, "linear_act"), **_of(measured, "product")}
    return dict(sorted(table.items()))


def _of(results: Iterable[Result], op: str) -> dict[Key, dict[int, float]]:
    collected: dict[Key, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        machine = result["machine"]
        for case in result["cases"]:
            level = setting_of(case["case"]).split()[-1]
            ratio = _ratio(case) if case["op"] == op and case["device"] == "cpu" else None
            if level in LEVELS[op] and ratio is not None:
                _, inputs, outputs = case["shape"]
                key = machine["processor"], machine["cpu_isa"], level
                collected[key][inputs * outputs].append(ratio)
    return {
        key: {size: statistics.median(values) for size, values in sorted(sizes.items())}
        for key, sizes in collected.items()
    }


def _ratio(case: Record) -> float | None:
    """Ours against the vendor's product alone."""
    if case["op"] == "product":
        ratio: float = case["baselines"]["eager"]["ratio"][1]
        return ratio
    return case["limit"]["share"][1] if "limit" in case else None


def source(table: dict[Key, dict[int, float]]) -> str:
    """The module's text."""
    lines = []
    for key, sizes in table.items():
        entries = "".join(f"        ({size}, {ratio:.3g}),\n" for size, ratio in sizes.items())
        name = ", ".join(f'"{part}"' for part in key)
        lines.append(f"    ({name}): (\n{entries}    ),\n")
    return HEAD + "".join(lines) + "}\n"


def committed() -> str:
    """What the committed results make of the module."""
    return source(ratios(read(file) for file in sorted(RESULTS.glob("*.json"))))


if __name__ == "__main__":
    TABLE.write_text(committed())

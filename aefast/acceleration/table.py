"""What was replaced in a model and what was not, with calls and milliseconds, as a table."""

from dataclasses import dataclass

from aefast.deprecation import OldAttribute


@dataclass(frozen=True)
class ReportRow:
    """A module, or a part of its forward.

    Attributes:
        name: of the module, as ``named_modules`` has it.
        operation: its layers' sizes and activations, or the name of a random draw.
        is_replaced: whether kernels compute it.
        reason: why they do not; or why calls fell back to PyTorch.
        served, fallbacks: the number of calls that kernels computed, and of those that fell back.
        served_ms, fallback_ms: the time that their forward passes took, in milliseconds.
    """

    name: str
    operation: str
    is_replaced: bool
    reason: str = ""
    served: int = 0
    served_ms: float = 0.0
    fallbacks: int = 0
    fallback_ms: float = 0.0

    what = OldAttribute("operation")
    fallen = OldAttribute("fallbacks")
    fallen_ms = OldAttribute("fallback_ms")


@dataclass(frozen=True)
class Report:
    """What :func:`aefast.accelerate` replaced, and what it did not; printed, it is a table."""

    rows: tuple[ReportRow, ...]

    @property
    def replaced(self) -> tuple[ReportRow, ...]:
        """The rows of the parts that kernels compute."""
        return tuple(row for row in self.rows if row.is_replaced)

    def __str__(self) -> str:
        lines = [("module", "operation", "replaced", "served", "fell back", "reason")]
        for row in self.rows:
            lines.append(
                (
                    row.name or "(the model)",
                    row.operation,
                    "yes" if row.is_replaced else "no",
                    f"{row.served} in {row.served_ms:.1f} ms" if row.served else "-",
                    f"{row.fallbacks} in {row.fallback_ms:.1f} ms" if row.fallbacks else "-",
                    row.reason,
                )
            )
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )

    __repr__ = __str__

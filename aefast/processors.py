"""The processor, as Linux describes it: its name, and its kind by the numbers of family and model,
since a virtual machine's name may not tell; or, where these may not either, by what it can do."""

import platform
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")

# Vendor, family, models, name; the first that fits.
KINDS = [
    ("AuthenticAMD", 23, range(0x00, 0x30), "AMD Zen"),
    ("AuthenticAMD", 23, range(0x30, 0x100), "AMD Zen 2"),
    ("AuthenticAMD", 25, range(0x10, 0x20), "AMD Zen 4"),
    ("AuthenticAMD", 25, range(0x60, 0xB0), "AMD Zen 4"),
    ("AuthenticAMD", 25, range(0x00, 0x100), "AMD Zen 3"),
    ("AuthenticAMD", 26, range(0x00, 0x100), "AMD Zen 5"),
]


def name() -> str:
    """The processor's name, as the operating system gives it."""
    return _fields().get("model name") or platform.processor() or platform.machine()


@cache
def kind() -> str | None:
    """This processor's kind, ``"AMD Zen 3"``; None of one that is not in the list."""
    fields = _fields()
    if fields.get("vendor_id") == "GenuineIntel" and "amx_tile" in fields.get("flags", "").split():
        return "Intel Xeon with AMX"
    numbers = fields.get("cpu family", ""), fields.get("model", "")
    if not all(map(str.isdigit, numbers)):
        return None
    return kind_of(fields.get("vendor_id", ""), *map(int, numbers))


def kind_of(vendor: str, family: int, model: int) -> str | None:
    """The kind with these numbers; None of one that is not in the list.

    >>> kind_of("AuthenticAMD", 25, 1)
    'AMD Zen 3'
    """
    for known_vendor, known_family, models, known in KINDS:
        if (vendor, family) == (known_vendor, known_family) and model in models:
            return known
    return None


def _fields() -> dict[str, str]:
    """What Linux says of the first processor; nothing elsewhere."""
    if not CPUINFO.exists():
        return {}
    lines = CPUINFO.read_text().partition("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    return {field.strip(): value.strip() for field, _, value in pairs}

"""The kinds of processors by cpuid's numbers: a virtual machine's name may not tell."""

from aefast import backend

# Vendor, family, models, name; the first that fits.
KINDS = [
    ("AuthenticAMD", 23, range(0x00, 0x30), "AMD Zen"),
    ("AuthenticAMD", 23, range(0x30, 0x100), "AMD Zen 2"),
    ("AuthenticAMD", 25, range(0x10, 0x20), "AMD Zen 4"),
    ("AuthenticAMD", 25, range(0x60, 0xB0), "AMD Zen 4"),
    ("AuthenticAMD", 25, range(0x00, 0x100), "AMD Zen 3"),
    ("AuthenticAMD", 26, range(0x00, 0x100), "AMD Zen 5"),
]


def this_kind() -> str | None:
    """This machine's; None without the extension, which asks cpuid."""
    if backend.cpu_isa() == "none":
        return None
    return kind_of(*backend.extension().processor())


def kind_of(vendor: str | None, family: int | None, model: int | None) -> str | None:
    """The kind's name, ``"AMD Zen 3"``; None of one that is not in the list.

    >>> kind_of("AuthenticAMD", 25, 1)
    'AMD Zen 3'
    """
    for known_vendor, known_family, models, name in KINDS:
        if (vendor, family) == (known_vendor, known_family) and model in models:
            return name
    return None

"""Notes which Triton kernels a test launches."""

import pytest


def note_launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the variants that are launched from now on."""
    from aefast.ops.shared.triton import Variant  # Triton may be missing

    names: list[str] = []
    launch = Variant.launch_in_order

    def noted(variant, *arguments):
        names.append(variant.name)
        launch(variant, *arguments)

    monkeypatch.setattr(Variant, "launch_in_order", noted)
    return names

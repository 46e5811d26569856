"""Small models, served as larger ones are."""

import pytest

from aefast.acceleration import draws


@pytest.fixture(autouse=True)
def small_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of so few numbers torch draws itself, faster."""
    monkeypatch.setattr(draws, "FEWEST_OF_DROPOUT", 0)
    monkeypatch.setattr(draws, "FEWEST", 0)

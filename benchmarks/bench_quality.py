"""Time to quality: how long a peer library's model, and the same one here, takes to a stated score
on rows that were held out. A library that is not installed is left out: ``aefast[peers]`` has all
but SAELens, which ``aefast[sae]`` brings."""

from collections.abc import Callable

import pytest

pytest.importorskip("sklearn", reason="its data are trained on, and most of its models compared")

import quality_autoencoders
import quality_dictionaries
import quality_linear
import quality_machines
import quality_topk
from harness import Case

QUALITIES = {
    **quality_machines.QUALITIES,
    **quality_autoencoders.QUALITIES,
    **quality_dictionaries.QUALITIES,
    **quality_linear.QUALITIES,
    **quality_topk.QUALITIES,
}


@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize("name", QUALITIES)
def test_quality(compare: Callable[[Case], None], name: str, device: str) -> None:
    pytest.importorskip(QUALITIES[name].peer)
    compare(QUALITIES[name].case(name, device))

"""The random-number contract against Random123's known answers, and by its distribution."""

import math

import pytest
import torch

from aefast import random
from aefast.functional import corrupt

# Random123's kat_vectors for philox4x32-10: counter, key, output.
KNOWN_ANSWERS = [
    (
        (0x00000000, 0x00000000, 0x00000000, 0x00000000),
        (0x00000000, 0x00000000),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_gives_random123s_known_answers(counter, key, answer):
    output = random.philox(
        tuple(torch.tensor(word) for word in counter), tuple(torch.tensor(word) for word in key)
    )
    assert tuple(int(word) for word in output) == answer


def test_kernels_draw_random123s_known_answer(kernel_place):
    """Counter 0 with key 0: the four words decide four elements at thresholds beside them."""
    uniforms = [(word >> 8) * 2.0**-24 for word in KNOWN_ANSWERS[0][2]]
    ones = torch.ones(1, 4, device=kernel_place)
    for column, uniform in enumerate(uniforms):
        kept = corrupt(ones, "masking", uniform, seed=0)
        dropped = corrupt(ones, "masking", uniform + 2.0**-24, seed=0)
        assert kept[0, column] == 1
        assert dropped[0, column] == 0


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1])
@pytest.mark.parametrize("row_offset", [0, 2**31 - 1, 2**32 - 1, 2**40])
def test_kernels_draw_the_definitions_numbers_at_every_seed_and_row(kernel_place, seed, row_offset):
    """Bit by bit: each of a uniform's 24 bits by a threshold would take long; 8 levels do."""
    ones = torch.ones(3, 21, device=kernel_place)
    uniform = random.uniform(seed, 3, 21, row_offset=row_offset).to(kernel_place)
    for level in torch.linspace(0.05, 0.95, 8).tolist():
        corrupted = corrupt(ones, "masking", level, seed=seed, row_offset=row_offset)
        expected = (uniform >= torch.tensor(level)).float()
        assert torch.equal(corrupted, expected)


def test_a_step_draws_other_numbers():
    assert not torch.equal(random.uniform(0, 4, 8), random.uniform(0, 4, 8, step=1))


def test_uniforms_are_uniform():
    """Chi-square over 256 bins; its 99.9 % quantile at 255 degrees of freedom is 330.5."""
    counts = torch.histc(random.uniform(7, 1000, 1000), 256, 0, 1)
    expected = 1e6 / 256
    assert ((counts - expected) ** 2 / expected).sum() < 330.5


def test_normals_are_normal():
    """The normals' distribution function values are uniform: chi-square as above."""
    counts = torch.histc(torch.special.ndtr(random.normal(7, 1000, 1000)), 256, 0, 1)
    expected = 1e6 / 256
    assert ((counts - expected) ** 2 / expected).sum() < 330.5


def test_columns_of_normals_are_uncorrelated():
    """A correlation of a million pairs has standard deviation 1e-3."""
    z = random.normal(3, 1_000_000, 4)
    assert (torch.corrcoef(z.t()) - torch.eye(4)).abs().max() < 4.5e-3


def test_threshold_agrees_with_the_float32_comparison():
    probabilities = [*torch.rand(1000).tolist(), 0.0, 1.0, 2.0**-24, 1 - 2.0**-24, 1e-30]
    for probability in probabilities:
        threshold = random.threshold(probability)
        for word in {max(threshold - 1, 0), min(threshold, 2**24 - 1)}:
            below = torch.tensor(word * 2.0**-24) < torch.tensor(probability)
            assert bool(below) == (word < threshold)


def test_drawn_seed_follows_torchs_generator():
    device = torch.device("cpu")
    first, second = (random.draw_seed(torch.Generator().manual_seed(5), device) for _ in range(2))
    assert first == second
    torch.manual_seed(1)
    third = random.draw_seed(None, device)
    torch.manual_seed(1)
    assert random.draw_seed(None, device) == third
    assert random.draw_seed(None, device) != third
    assert 0 <= third < random.SEED_LIMIT
    assert math.log2(third) > 40

"""The random numbers: Random123's known answers, and their distribution."""

import ast
import itertools
import math
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from aefast import random
from aefast.functional import (
    contractive_penalty,
    contrastive_divergence,
    corrupt,
    gibbs,
    reconstruction_loss,
    reparameterize,
)
from aefast.nn import RBM, Autoencoder, StochasticAutoencoder
from aefast.nn.likelihood import sample_visible
from aefast.ops.contractive import eager as contractive
from aefast.ops.contractive.settings import PenaltySettings
from aefast.ops.corrupt.op import corrupt_with
from aefast.random import SEED_LIMIT, DrawStep

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


def test_kernels_draw_the_definitions_words(kernel_device):
    """For key 0, row 0 and masking's step, four words decide four elements. Thresholds are put
    directly below and above each word."""
    words = random.philox((0, 0, 0, DrawStep.MASKING), (0, 0))
    uniforms = [(word >> 8) * 2.0**-24 for word in words]
    ones = torch.ones(1, 4, device=kernel_device)
    for column, uniform in enumerate(uniforms):
        passed = corrupt(ones, "masking", uniform, seed=0)
        dropped = corrupt(ones, "masking", uniform + 2.0**-24, seed=0)
        assert passed[0, column] == 1
        assert dropped[0, column] == 0


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1])
@pytest.mark.parametrize("row_offset", [0, 2**31 - 1, 2**32 - 1, 2**40])
@pytest.mark.interpreted(seed=[2**63 - 1], row_offset=[2**40])
def test_kernels_draw_the_definitions_numbers_at_every_seed_and_row(
    kernel_device, seed, row_offset
):
    """Uniforms are compared through noise at 8 levels; a threshold for each of 24 bits would take
    long."""
    ones = torch.ones(3, 21, device=kernel_device)
    draws = {"step": DrawStep.MASKING, "row_offset": row_offset}
    uniform = random.uniform(seed, 3, 21, **draws).to(kernel_device)
    for level in torch.linspace(0.05, 0.95, 8).tolist():
        corrupted = corrupt(ones, "masking", level, seed=seed, row_offset=row_offset)
        expected = (uniform >= torch.tensor(level)).float()
        assert torch.equal(corrupted, expected)


def test_a_step_draws_other_numbers():
    assert not torch.equal(random.uniform(0, 4, 8), random.uniform(0, 4, 8, step=1))


ROWS, COLUMNS = 64, 32


def draws(seed, device):
    """Everything that draws with a seed, each as a fair bit for each row and column."""
    zeros, ones = (
        torch.zeros(ROWS, COLUMNS, device=device),
        torch.ones(ROWS, COLUMNS, device=device),
    )
    unconnected = torch.zeros(COLUMNS, COLUMNS, device=device)
    states = gibbs(zeros, unconnected, None, None, 2, seed=seed)
    normal = gibbs(zeros, unconnected, None, None, visible_kind="gaussian", seed=seed)
    penalty = PenaltySettings(1, 1.0, 1.0, seed, 0)
    log_var = torch.zeros((), device=device)
    layers = {"visible": COLUMNS, "hidden": COLUMNS}
    dropout = Autoencoder(**layers, code_dropout=0.5).to(device)
    stochastic = StochasticAutoencoder(**layers, code_noise=1.0).to(device)
    torch.nn.init.zeros_(stochastic.encoder[0].weight)
    torch.nn.init.zeros_(stochastic.encoder[0].bias)
    machine = RBM(COLUMNS, COLUMNS).to(device)
    probes = contractive.draw_probes(zeros, COLUMNS, penalty, corrupt_with)
    return {
        "direct": random.uniform(seed, ROWS, COLUMNS, device=device) < 0.5,
        "masking": corrupt(ones, "masking", 0.5, seed=seed) == 0,
        "salt and pepper": corrupt(ones, "salt_and_pepper", 1, seed=seed) == 0,
        "gaussian": corrupt(zeros, "gaussian", 1, seed=seed) > 0,
        "reparameterize": reparameterize(zeros, zeros, seed=seed) > 0,
        "hidden units": states.hidden == 1,
        "visible units": states.visible == 1,
        "normal units": normal.visible > 0,
        "first hidden units": normal.hidden == 1,
        "probes": probes[:, 0] == 1,
        "Hessian noise": contractive.with_noise(zeros, penalty, corrupt_with) > 0,
        "dropout": dropout._drop(ones, seed, None, 0) == 0,
        "code noise": stochastic._sample_code(ones, seed) > stochastic.encode(ones),
        "latent": random.normal(seed, ROWS, COLUMNS, step=DrawStep.LATENT, device=device) > 0,
        "visible given a code": sample_visible(ones / 2, None, seed) == 1,
        "normal given a code": sample_visible(zeros, log_var, seed) > 0,
        "chains' start": machine._random_states(ROWS, seed) == 1,
    }


# One draw of one distribution or another.
SHARED = {("visible given a code", "normal given a code")}


def test_one_seed_draws_independently_wherever_it_is_given(device):
    """Independent draws agree in half of their bits: 2048 coins have standard deviation 22.6."""
    with torch.no_grad():
        bits = draws(2**40 + 5, device)
    for pair in itertools.combinations(bits, 2):
        agreeing = int((bits[pair[0]] == bits[pair[1]]).sum())
        assert pair in SHARED or abs(agreeing - 1024) < 4.5 * 22.6, pair


def test_no_draw_takes_one_of_gibbs_samplings_steps():
    assert min(DrawStep) >= 2 * random.MOST_STEPS
    assert max(DrawStep) < 2**32


def test_gibbs_refuses_more_steps_than_it_has():
    with pytest.raises(ValueError, match=r"k is 1073741824; it takes an int in \[1, 2\*\*30\)"):
        gibbs(torch.zeros(1, 1), torch.zeros(1, 1), None, None, random.MOST_STEPS)


@pytest.mark.parametrize("width", [np.int8, np.uint8, np.int32, np.uint32, np.int64, np.uint64])
def test_a_seed_of_numpys_is_the_int(width):
    seed = int(np.iinfo(width).max) & (SEED_LIMIT - 1)
    x = torch.ones(3, 5)
    expected = random.child_seed(seed, seed)
    with warnings.catch_warnings(action="error"):
        assert random.child_seed(width(seed), width(seed)) == expected
        assert random.child_seeds(width(seed), 0, 2)[1] == random.child_seed(seed, 1)
        masked = corrupt(x, "masking", 0.5, seed=width(seed), row_offset=width(7))
    assert torch.equal(masked, corrupt(x, "masking", 0.5, seed=seed, row_offset=7))


@pytest.mark.parametrize("seed", [-1, SEED_LIMIT, 2**64 - 1])
def test_a_child_descends_from_a_seed_in_its_range(seed):
    for descend in (random.child_seed, lambda seed, _: random.child_seeds(seed, 0, 1)):
        with pytest.raises(ValueError, match=rf"seed is {seed}; it takes an int in \[0, 2\*\*63\)"):
            descend(seed, 0)
    with pytest.raises(ValueError, match=r"child is -1; it takes an int in \[0, 2\*\*64\)"):
        random.child_seed(0, -1)
    with pytest.raises(TypeError):
        random.child_seed(1.5, 0)


def test_a_negative_seed_in_a_tensor_is_refused_where_it_is_read(device):
    with pytest.raises(ValueError, match=r"seed is -3; it takes an int in \[0, 2\*\*63\)"):
        corrupt(torch.ones(2, 2).to(device), "masking", 0.5, seed=torch.tensor(-3))


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


MACHINE = torch.zeros(5, 8), None, None
LAYERS = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), None
DRAWING = {
    "corrupt": lambda x, **device: corrupt(x, "masking", 0.5, **device),
    "reparameterize": lambda x, **device: reparameterize(x, x, **device),
    "reconstruction_loss": lambda x, **device: reconstruction_loss(
        x, *LAYERS, corruption="gaussian", corruption_level=1, **device
    ),
    "gibbs": lambda x, **device: gibbs(x, *MACHINE, **device).hidden,
    "contrastive_divergence": lambda x, **device: contrastive_divergence(x, *MACHINE, **device)[1],
    "contractive_penalty": lambda x, **device: contractive_penalty(
        x, *LAYERS, hessian_noise=1, **device
    ),
}


@pytest.mark.parametrize("name", DRAWING)
def test_vmap_draws_as_its_randomness_says(name):
    """vmap's randomness is obeyed as by torch's own: an error, different or the same draws."""
    op, x = DRAWING[name], torch.ones(2, 6, 8)
    with pytest.raises(RuntimeError, match="randomness error mode"):
        torch.vmap(op)(x)
    one, other = torch.vmap(op, randomness="same")(x)
    torch.testing.assert_close(one, other)
    one, other = torch.vmap(op, randomness="different")(x)
    assert not torch.allclose(one, other)
    # With a seed the op is a function, and draws nothing.
    one, other = torch.vmap(partial(op, seed=3))(x)
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(one, op(x[0], seed=3))


def test_nothing_seeds_or_forks_torchs_own_generator():
    """All threads share torch's generator. Exempt are docstrings' examples, users' programs, and
    two files that restore it after another package drew from it: pyod, before its own fit runs, and
    a library in the trial of its version."""
    patching = Path(random.__file__).parent / "patching"
    restoring = patching / "pyod" / "detectors.py", patching / "versions.py"
    forbidden = {
        "torch.manual_seed",
        "torch.seed",
        "torch.random.manual_seed",
        "torch.set_rng_state",
        "torch.random.fork_rng",
        "torch.default_generator.manual_seed",
    }
    for path in patching.parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if path in restoring and called == "torch.set_rng_state":
                    continue
                assert called not in forbidden, f"{path.name}:{node.lineno}"

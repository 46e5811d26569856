# mypy: allow-untyped-defs
"""Device functions that every Triton kernel shares: random numbers, activations, rounding.

The random numbers are those of :mod:`aefast.random`: Philox4x32-10 with the seed as its key and
(column block, row low, row high, step) as its counter, one call for four adjacent columns.
"""

import triton
import triton.language as tl

from aefast.ops.shared.triton import ACTIVATIONS

IDENTITY = tl.constexpr(ACTIVATIONS["identity"])
RELU = tl.constexpr(ACTIVATIONS["relu"])
LEAKY_RELU = tl.constexpr(ACTIVATIONS["leaky_relu"])
SIGMOID = tl.constexpr(ACTIVATIONS["sigmoid"])
TANH = tl.constexpr(ACTIVATIONS["tanh"])
SOFTPLUS = tl.constexpr(ACTIVATIONS["softplus"])
GELU = tl.constexpr(ACTIVATIONS["gelu"])
SILU = tl.constexpr(ACTIVATIONS["silu"])
LEAKY_SLOPE = tl.constexpr(0.01)

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def philox(seed, column_block, row, step):
    """The four 32-bit random words of columns 4 * column_block to 4 * column_block + 3 of a row.

    seed, row: 64-bit; column_block, step: 32-bit. Shapes broadcast.
    """
    seed = seed.to(tl.uint64)
    row = row.to(tl.uint64)
    key_0 = seed.to(tl.uint32)
    key_1 = (seed >> 32).to(tl.uint32)
    word_0 = column_block.to(tl.uint32)
    word_1 = row.to(tl.uint32)
    word_2 = (row >> 32).to(tl.uint32)
    word_3 = tl.zeros((), tl.uint32) + step
    for _ in tl.static_range(10):
        # Written as one 64-bit product, so that ptxas makes it one multiplication, not two.
        product_0 = word_0.to(tl.uint64) * 0xD2511F53
        product_2 = word_2.to(tl.uint64) * 0xCD9E8D57
        word_0 = (product_2 >> 32).to(tl.uint32) ^ word_1 ^ key_0
        word_2 = (product_0 >> 32).to(tl.uint32) ^ word_3 ^ key_1
        word_1 = product_2.to(tl.uint32)
        word_3 = product_0.to(tl.uint32)
        # The sum wraps. It goes through 64 bits since the interpreter refuses 32-bit overflow.
        key_0 = (key_0.to(tl.uint64) + 0x9E3779B9).to(tl.uint32)
        key_1 = (key_1.to(tl.uint64) + 0xBB67AE85).to(tl.uint32)
    return word_0, word_1, word_2, word_3


@triton.jit
def load_seed(seed, seed_address):
    """The seed, or the number at its address, which may differ at each replay of a CUDA graph."""
    pointer = seed_address.to(tl.int64).to(tl.pointer_type(tl.uint64))
    return tl.load(pointer, mask=seed_address != 0, other=seed.to(tl.uint64))


@triton.jit
def interleave(first, second, third, fourth):
    """Four tensors [m, n] as one [m, 4 n], interleaved by columns."""
    joined = tl.join(tl.join(first, third), tl.join(second, fourth))
    return tl.reshape(joined, (first.shape[0], 4 * first.shape[1]))


@triton.jit
def uniform_bits(word):
    """A word's top 24 bits, the uniform times 2^24, so that u < p is a comparison of integers."""
    return (word >> 8).to(tl.int32)


@triton.jit
def uniform(word):
    """A word as a float32 uniform in [0, 1)."""
    return uniform_bits(word).to(tl.float32) * 5.9604644775390625e-08  # 2^-24


@triton.jit
def normal_pair(radius_word, angle_word):
    """Two float32 standard normals (Box-Muller) from two words.

    The angle is reduced exactly, in integers, to the nearest quarter turn. Sine and cosine of the
    remainder are polynomials with an error below 1e-7; tl.sin has a slow path with a table on the
    stack.
    """
    # In (0, 1], so that the logarithm is finite.
    radius_uniform = radius_word.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10
    radius = tl.sqrt(-2.0 * tl.log(radius_uniform))
    bits = uniform_bits(angle_word)
    quarter = (bits + (1 << 21)) >> 22
    remainder = (bits - (quarter << 22)).to(tl.float32) * 2.384185791015625e-07  # 2^-22
    square = remainder * remainder
    sine = -0.0046021491289138794 * square + 0.07968021929264069
    sine = sine * square - 0.6459634900093079
    sine = (sine * square + 1.5707963705062866) * remainder
    cosine = 0.0009067399078048766 * square - 0.02086152881383896
    cosine = cosine * square + 0.253669410943985
    cosine = (cosine * square - 1.2337005138397217) * square + 1.0
    odd = (quarter & 1) == 1
    turned_cosine = tl.where(odd, sine, cosine)
    turned_sine = tl.where(odd, cosine, sine)
    turned_cosine = tl.where(((quarter + 1) & 2) == 2, -turned_cosine, turned_cosine)
    turned_sine = tl.where((quarter & 2) == 2, -turned_sine, turned_sine)
    return radius * turned_cosine, radius * turned_sine


@triton.jit
def four_uniforms(seed, column_block, row, step):
    word_0, word_1, word_2, word_3 = philox(seed, column_block, row, step.to(tl.uint32))
    return uniform_bits(word_0), uniform_bits(word_1), uniform_bits(word_2), uniform_bits(word_3)


@triton.jit
def four_normals(seed, column_block, row, step):
    word_0, word_1, word_2, word_3 = philox(seed, column_block, row, step.to(tl.uint32))
    normal_0, normal_1 = normal_pair(word_0, word_1)
    normal_2, normal_3 = normal_pair(word_2, word_3)
    return normal_0, normal_1, normal_2, normal_3


@triton.jit
def draw_units(four: tl.constexpr, seed, row, step, unit, WIDTH: tl.constexpr):
    """The units' noise [UNITS, WIDTH], from one call of `four` for each four columns."""
    if WIDTH == 8:
        # Joined last: then a thread holds its whole unit, and nothing goes through shared memory.
        first_0, first_1, first_2, first_3 = four(seed, 2 * unit, row, step)
        second_0, second_1, second_2, second_3 = four(seed, 2 * unit + 1, row, step)
        noise = interleave(
            tl.join(first_0, second_0),
            tl.join(first_1, second_1),
            tl.join(first_2, second_2),
            tl.join(first_3, second_3),
        )
    else:
        noise_0, noise_1, noise_2, noise_3 = four(seed, unit[:, None], row[:, None], step)
        noise = interleave(noise_0, noise_1, noise_2, noise_3)
    return noise


@triton.jit
def locate_units(
    unit_count,
    units_per_row,
    columns,
    UNITS: tl.constexpr,
    WIDTH: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """The UNITS units of this program, each of WIDTH adjacent columns of one row.

    Returns each unit's row and its number in that row, [UNITS]; its columns, and whether they
    exist, [UNITS, WIDTH].
    """
    first = tl.program_id(0).to(tl.int64) * UNITS
    first_row = first // units_per_row
    # Only a program's first unit takes a 64-bit division; the others are counted from it.
    index = tl.arange(0, UNITS)
    local = (first - first_row * units_per_row).to(tl.uint32) + index.to(tl.uint32)
    local_row = local // units_per_row.to(tl.uint32)
    unit = local - local_row * units_per_row.to(tl.uint32)
    row = first_row + local_row.to(tl.int64)
    column = unit.to(tl.int64)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    mask = (first + index < unit_count)[:, None]
    if not ALIGNED:
        mask = mask & (column < columns)
    return row, unit, column, mask


@triton.jit
def exp_remainder_reduced(r):
    """e^r - 1 - r for abs(r) <= ln(2) / 2, within 2.6e-7."""
    series = 0.001395172 * r + 0.008369599
    series = series * r + 0.041666187
    series = series * r + 0.16666512
    series = series * r + 0.5
    return series * r * r


@triton.jit
def expm1_reduced(r):
    """e^r - 1 for abs(r) <= ln(2) / 2, within 3e-9."""
    return exp_remainder_reduced(r) + r


@triton.jit
def exp(x):
    """e^x to float32's last place; tl.exp's error grows with x."""
    x = tl.where(x < -104.0, -104.0, x)
    x = tl.where(x > 89.0, 89.0, x)
    exponent = tl.floor(x * 1.4426950408889634 + 0.5)
    r = (x - exponent * 0.693359375) - exponent * -2.12194440e-4
    # 2^n in two factors, so that results may be subnormal. NaN stays in r.
    n = tl.where(x == x, exponent, 0.0).to(tl.int32)
    half = n >> 1
    power_0 = ((half + 127) << 23).to(tl.float32, bitcast=True)
    power_1 = ((n - half + 127) << 23).to(tl.float32, bitcast=True)
    return (expm1_reduced(r) + 1.0) * power_0 * power_1


@triton.jit
def expm1(x):
    """e^x - 1, without cancellation where x is small."""
    return tl.where(tl.abs(x) < 0.34657359, expm1_reduced(x), exp(x) - 1.0)


@triton.jit
def exp_remainder(x):
    """e^x - 1 - x, without cancellation where x is small."""
    return tl.where(tl.abs(x) < 0.34657359, exp_remainder_reduced(x), exp(x) - 1.0 - x)


@triton.jit
def one_minus_exp(y):
    """1 - exp(-y) for y >= 0, to float32's relative accuracy down to y = 0."""
    series = -0.0011234042467549443 * y + 0.008189613930881023
    series = series * y - 0.04163007438182831
    series = series * y + 0.16666242480278015
    series = series * y - 0.4999998211860657
    series = (series * y + 1.0) * y
    return tl.where(y < 0.5, series, 1.0 - tl.exp(-y))


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    rise = one_minus_exp(2.0 * tl.abs(x))
    magnitude = rise / (2.0 - rise)
    return tl.where(x < 0.0, -magnitude, magnitude)


@triton.jit
def log1p_exp_negative(magnitude):
    """ln(1 + e^-m) for m >= 0."""
    decay = tl.exp(-magnitude)
    one_plus = 1.0 + decay
    # The last term corrects the rounding of the sum above.
    return tl.log(one_plus) + (decay - (one_plus - 1.0)) / one_plus


@triton.jit
def softplus(x):
    return tl.where(x > 0.0, x, 0.0) + log1p_exp_negative(tl.abs(x))


@triton.jit
def normal_cdf(x):
    return 0.5 + 0.5 * tl.erf(x * 0.7071067811865476)


@triton.jit
def activate(x, activation):
    """act(x) in float32; `activation` is a number from ACTIVATIONS. NaN stays NaN."""
    if activation == RELU:
        x = tl.where(x < 0.0, 0.0, x)
    elif activation == LEAKY_RELU:
        x = tl.where(x < 0.0, x * LEAKY_SLOPE, x)
    elif activation == SIGMOID:
        x = sigmoid(x)
    elif activation == TANH:
        x = tanh(x)
    elif activation == SOFTPLUS:
        x = softplus(x)
    elif activation == GELU:
        x = x * normal_cdf(x)
    elif activation == SILU:
        x = x * sigmoid(x)
    return x


@triton.jit
def activation_gradient(grad, saved, activation):
    """grad * act'(preactivation) in float32.

    saved: the pre-activation for gelu and silu, the output for every other activation.
    """
    if activation == RELU:
        grad = tl.where(saved <= 0.0, 0.0, grad)
    elif activation == LEAKY_RELU:
        grad = tl.where(saved > 0.0, grad, grad * LEAKY_SLOPE)
    elif activation == SIGMOID:
        grad = grad * ((1.0 - saved) * saved)
    elif activation == TANH:
        grad = grad * ((1.0 - saved) * (1.0 + saved))
    elif activation == SOFTPLUS:
        grad = grad * one_minus_exp(saved)
    elif activation == GELU:
        density = 0.3989422804014327 * tl.exp(-0.5 * saved * saved)
        grad = grad * (normal_cdf(saved) + saved * density)
    elif activation == SILU:
        share = sigmoid(saved)
        grad = grad * (share * (1.0 + saved * (1.0 - share)))
    return grad


@triton.jit
def activation_curvature(saved, activation):
    """act''(preactivation) in float32; ``saved`` as for :func:`activation_gradient`."""
    curvature = tl.zeros_like(saved)
    if activation == SIGMOID:
        curvature = saved * (1.0 - saved) * (1.0 - 2.0 * saved)
    elif activation == TANH:
        curvature = -2.0 * saved * (1.0 - saved) * (1.0 + saved)
    elif activation == SOFTPLUS:
        curvature = one_minus_exp(saved) * tl.exp(-saved)
    elif activation == GELU:
        square = tl.where(saved * saved > 1e8, 1e8, saved * saved)
        curvature = 0.3989422804014327 * tl.exp(-0.5 * square) * (2.0 - square)
    elif activation == SILU:
        share = sigmoid(saved)
        curvature = share * sigmoid(-saved) * (2.0 + saved * (1.0 - 2.0 * share))
    return curvature


@triton.jit
def round_to(x, dtype: tl.constexpr):
    """float32 x to `dtype`, rounded to nearest even."""
    if INTERPRETED and dtype == tl.bfloat16:
        # The interpreter's own conversion truncates.
        bits = x.to(tl.uint32, bitcast=True)
        rounded = (bits.to(tl.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16
        rounded = tl.where(x == x, rounded, 0x7FC0)
        return rounded.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(dtype)


@triton.jit
def store_tile(pointer, value, row, column, rows, padded_columns, ALIGNMENT: tl.constexpr):
    """Store a tile of a contiguous matrix ``[rows, padded_columns]``, 16 bytes at a time."""
    pointers = pointer + row.to(tl.int64)[:, None] * padded_columns + column[None, :]
    mask = (row < rows)[:, None] & (column < padded_columns)[None, :]
    tl.store(tl.multiple_of(pointers, [1, 16]), value, mask=tl.max_constancy(mask, [1, ALIGNMENT]))

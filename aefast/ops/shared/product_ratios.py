"""How many times as fast as the vendor's product ours is: see ``benchmarks/routes.py``.

Of a processor, instruction set and precision: ``(elements of the weight, ratio)``.
"""

RATIOS: dict[tuple[str, str, str], tuple[tuple[int, float], ...]] = {
    ("AMD Zen 3", "avx2", "highest"): (
        (480, 1.28),
        (2048, 0.993),
        (10000, 0.917),
        (50176, 1.1),
        (200704, 1.22),
        (256000, 1.17),
        (401408, 1.12),
        (802816, 1.09),
    ),
    ("AMD Zen 4", "avx2", "highest"): (
        (480, 1.05),
        (2048, 1.01),
        (10000, 0.982),
        (50176, 1.02),
        (200704, 1.11),
        (256000, 1.09),
        (401408, 1.08),
        (802816, 1.17),
    ),
    ("AMD Zen 4", "avx512", "high"): (
        (401408, 0.977),
        (802816, 1),
    ),
    ("AMD Zen 4", "avx512", "highest"): (
        (480, 0.974),
        (2048, 1.06),
        (10000, 1.06),
        (50176, 1.43),
        (200704, 1.09),
        (256000, 1.06),
        (401408, 1.11),
        (802816, 1.05),
    ),
    ("AMD Zen 4", "avx512", "medium"): (
        (200704, 0.997),
        (401408, 0.925),
        (802816, 0.892),
    ),
    ("AMD Zen 5", "avx2", "high"): (
        (401408, 1.07),
        (802816, 1.06),
    ),
    ("AMD Zen 5", "avx2", "highest"): (
        (401408, 1.08),
        (802816, 1.08),
    ),
    ("AMD Zen 5", "avx512", "high"): (
        (401408, 1.8),
        (802816, 1.92),
    ),
    ("AMD Zen 5", "avx512", "highest"): (
        (401408, 1.89),
        (802816, 1.92),
    ),
}

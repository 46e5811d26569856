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
        (401408, 0.961),
        (802816, 0.992),
    ),
    ("AMD Zen 4", "avx512", "highest"): (
        (480, 0.763),
        (2048, 0.982),
        (10000, 0.899),
        (50176, 1.19),
        (200704, 1.09),
        (256000, 1.08),
        (401408, 1.07),
        (802816, 1.06),
    ),
    ("AMD Zen 4", "avx512", "medium"): (
        (200704, 1),
        (401408, 0.919),
        (802816, 0.896),
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

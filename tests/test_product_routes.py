"""Which matrix product is used, ours or the vendor's: a table over processors and weights."""

from pathlib import Path

import pytest

from aefast import backend, processors
from aefast.ops.shared import product_routes
from aefast.processors import kind_of

needs_cpp = pytest.mark.skipif(
    backend.cpu_isa() == "none", reason="the C++ kernels are not installed"
)
ROOT = Path(__file__).parents[1]
RATIOS = {
    ("AMD Zen 3", "avx2", "highest"): ((1000, 0.8), (100_000, 1.2)),
    ("AMD Zen 5", "avx512", "highest"): ((100_000, 1.9),),
}


@pytest.fixture(autouse=True)
def table(monkeypatch):
    monkeypatch.setattr(product_routes, "RATIOS", RATIOS)


def test_a_processor_takes_its_own_measured_ratios():
    assert product_routes.measured("AMD Zen 3", "avx2", "highest") == ((1000, 0.8), (100_000, 1.2))


def test_one_of_amds_that_was_not_measured_takes_the_nearest_generations():
    assert product_routes.measured("AMD Zen 2", "avx2", "highest")[0] == (1000, 0.8)
    assert product_routes.measured("AMD Zen 4", "avx512", "highest") == ((100_000, 1.9),)
    assert product_routes.measured("AMD Zen", "avx2", "highest")[0] == (1000, 0.8)


def test_any_other_processor_and_setting_has_none():
    assert product_routes.measured(None, "avx2", "highest") == ()
    assert product_routes.measured("AMD Zen 3", "avx2", "medium") == ()
    assert product_routes.measured("AMD Zen 3", "baseline", "highest") == ()
    assert product_routes.measured("Intel Xeon with AMX", "avx512", "highest") == ()


@needs_cpp
def test_the_size_of_the_weight_decides(monkeypatch):
    monkeypatch.setattr(product_routes.processors, "kind", lambda: "AMD Zen 3")
    monkeypatch.setattr(product_routes, "product_level", lambda device: "highest")
    instruction_set = ["avx2"]
    extension = backend.extension()
    monkeypatch.setattr(extension, "instruction_set", lambda: instruction_set[0])
    product_routes._outpaces.cache_clear()
    sizes = (0, 1, 9_000, 11_000, 10**9)
    assert [product_routes.outpaces_vendor(size) for size in sizes] == [
        False,
        False,
        False,
        True,
        True,
    ]
    monkeypatch.setattr(product_routes, "product_level", lambda device: "medium")
    assert product_routes.outpaces_vendor(11_000)
    instruction_set[0] = "avx512"
    assert not product_routes.outpaces_vendor(11_000)
    instruction_set[0] = "amx"
    assert product_routes.outpaces_vendor(1)
    monkeypatch.setattr(product_routes, "product_level", lambda device: "highest")
    assert not product_routes.outpaces_vendor(11_000)
    product_routes._outpaces.cache_clear()


def test_the_kind_and_the_name_are_read_from_what_linux_says(monkeypatch, tmp_path):
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(processors, "CPUINFO", file)
    assert processors.kind.__wrapped__() is None
    assert processors.name()
    zen_4 = "vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n"
    file.write_text(zen_4 + "\n" + zen_4.replace("25", "26"))
    assert (processors.kind.__wrapped__(), processors.name()) == ("AMD Zen 4", "AMD EPYC")
    file.write_text("vendor_id: GenuineIntel\ncpu family: 6\nmodel: 143\nflags: avx2 amx_tile\n")
    assert processors.kind.__wrapped__() == "Intel Xeon with AMX"
    file.write_text("Processor: ARMv8\nmodel name: Neoverse\n")
    assert (processors.kind.__wrapped__(), processors.name()) == (None, "Neoverse")


@pytest.mark.parametrize(
    ("family", "model", "name"),
    [(23, 1, ""), (23, 0x31, " 2"), (25, 1, " 3"), (25, 0x61, " 4"), (26, 2, " 5")],
)
def test_amds_generations_are_told_by_their_numbers(family, model, name):
    assert kind_of("AuthenticAMD", family, model) == f"AMD Zen{name}"


def test_a_processor_that_is_not_in_the_list_has_no_kind():
    assert kind_of("GenuineIntel", 6, 143) is None


@pytest.mark.skipif(not (ROOT / "benchmarks" / "results").exists(), reason="needs the source tree")
def test_the_ratios_are_the_committed_results(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import routes

    assert routes.TABLE.read_text() == routes.committed(), "python benchmarks/routes.py fills them"

"""Ready-made cubins on a GPU compute what Triton's own compilation computes."""

import pytest
import torch

from aefast import cubins, selftest
from aefast.functional import corrupt
from aefast.ops.shared import triton_packed

CAPABILITY = torch.cuda.get_device_capability() if torch.cuda.is_available() else (0, 0)

pytestmark = pytest.mark.skipif(
    cubins.architecture(CAPABILITY) is None, reason="needs a GPU that cubins are made for"
)


def forget():
    cubins._kernels.cache_clear()
    cubins._loaded.clear()


@pytest.fixture
def launched(request, monkeypatch):
    """Collects the names of ready-made cubins that are launched, with the installed ones."""
    names = []

    def launch(name, *arguments):
        is_launched = launch_cubin(name, *arguments)
        if is_launched:
            names.append(name)
        return is_launched

    launch_cubin = cubins.launch
    if not cubins.serves(CAPABILITY):
        compile_ahead = request.getfixturevalue("compile_ahead")
        compiled = compile_ahead(int(cubins.architecture(CAPABILITY)), every=True)
        monkeypatch.setattr(cubins, "FOLDER", compiled.cubins)
    monkeypatch.setattr(cubins, "launch", launch)
    forget()
    yield names
    forget()


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_results_are_the_jits_bit_for_bit(
    precision, launched, matmul_precision, monkeypatch, tmp_path
):
    matmul_precision(precision)
    from_cubins = every_result()
    kernels = {name.split()[0] for name in launched}
    assert len(kernels) > 15
    count = len(launched)
    monkeypatch.setattr(cubins, "FOLDER", tmp_path)
    monkeypatch.setattr(triton_packed, "gpu_of", lambda tensor: None)  # nor are launches kept
    forget()
    compiled = every_result()
    assert len(launched) == count
    different = [
        name
        for name, results in from_cubins.items()
        if not all(map(torch.equal, results, compiled[name]))
    ]
    assert different == []


def every_result():
    """The outputs and gradients of each of the self-test's cases, in each dtype."""
    target = selftest.Target("triton", "cuda")
    return {
        (case.op, case.name, dtype): selftest.results(case, target, dtype, dtype)
        for case in selftest.cases()
        for dtype in case.dtypes
    }


def test_a_first_launch_may_be_captured_in_a_graph(launched):
    x = torch.rand(100, 30, device="cuda")
    expected = corrupt(x, "masking", 0.5, seed=3)
    forget()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = corrupt(x, "masking", 0.5, seed=3)
    output.zero_()
    graph.replay()
    assert torch.equal(output, expected)
    assert len(launched) == 2


def test_launches_go_to_the_current_stream(launched):
    """Launches behind a stream's long work wait for it."""
    x, stream = torch.zeros(1000, 1000, device="cuda"), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        x.fill_(1)
        output = corrupt(x, "masking", 0.5, seed=3)
    stream.synchronize()
    assert output.count_nonzero() > 0
    assert launched


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_tensors_own_device_runs_its_kernels(launched):
    first, second = (torch.rand(100, 30, device="cpu").to(f"cuda:{index}") for index in (0, 1))
    second.copy_(first)
    outputs = [corrupt(x, "masking", 0.5, seed=3) for x in (first, second)]
    assert outputs[1].device == second.device
    assert torch.equal(outputs[0].cpu(), outputs[1].cpu())
    assert len(launched) == 2

"""Private names of torch stand in one file, and the installed torch has each of them."""

import importlib
import re
import runpy
from pathlib import Path

import pytest
import torch
from torch.autograd import forward_ad, profiler

import aefast
from aefast import torch_private

PRIVATE = re.compile(
    r"torch(?:\.\w+)*\._[A-Za-z]\w*|torch\._C|from torch\S* import (?:\w+, )*_|import torch\._"
    r"|forward_ad\._|profiler\._|\._is_zerotensor|torch_\w+\._\w+|\._global_\w+|_wrapped_by_lr_sched"
    r"|_backward_cls"
)
# In-place arithmetic on lists of tensors, which torch's own optimizers are written with.
ALLOWED = re.compile(r"torch\._foreach_\w+")


def test_no_other_file_reads_a_private_name():
    (package,) = aefast.__path__
    readers = {
        path.name: names
        for path in Path(package).rglob("*.py")
        if (names := PRIVATE.findall(ALLOWED.sub("", path.read_text())))
    }
    assert set(readers) == {"torch_private.py", "dispatch.py", "public.py", "autograd.py"}
    assert readers["dispatch.py"] == ["forward_ad._"]
    assert readers["public.py"] == ["profiler._"]
    assert readers["autograd.py"] == ["_backward_cls"]  # a call more in each backward pass else


def test_the_installed_torch_has_every_name():
    assert all(hasattr(torch_private, name) for name in torch_private.__all__)
    assert torch_private.dispatch_modes() == []
    assert torch_private.count_dispatch_modes() == 0
    assert not torch_private.has_transforms()
    assert not torch_private.transforms()
    assert not torch_private.is_jit_tracing()
    assert importlib.import_module(torch_private.ONNX_FLAGS)._is_onnx_exporting is False
    assert not torch_private.is_autocast_enabled_anywhere()
    assert not torch_private.includes_dispatch_key(torch_private.PRE_DISPATCH)
    assert torch_private.saved_tensors_hooks(True) is None
    assert not torch_private.is_zero_tensor(torch.zeros(1))
    assert torch_private.fp32_precision("mkldnn", "matmul") in ("none", "ieee", "tf32", "bf16")


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (torch._C, "_is_tracing"),
        (torch._C._functorch, "TransformType"),
        (torch.cpu, "_is_avx512_bf16_supported"),
        (profiler, "_is_profiler_enabled"),
        (forward_ad, "_current_level"),
    ],
)
def test_a_torch_without_one_is_named(monkeypatch, owner, name):
    monkeypatch.delattr(owner, name)
    with pytest.raises(ImportError, match=f"torch {re.escape(torch.__version__)} lacks.*{name}"):
        runpy.run_path(torch_private.__file__)

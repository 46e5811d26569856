"""The extension and the compiled kernels that the check runs on, so that nothing compiles in it.

``make gpu-bundle`` makes both elsewhere, into a folder that is carried along with the tree.
"""

import os
import shutil
import sys
from pathlib import Path

from gpu_check.process import ROOT

BUNDLE = ROOT / "build" / "gpu-bundle"
PACKAGE = ROOT / "aefast"

COMPILE = {
    "extension": [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
    "kernels": [
        *(sys.executable, "-m", "aefast.aot", "--archs", "90"),
        *("--jobs", str(os.cpu_count()), "--cubins", str(PACKAGE / "cubins")),
    ],
}


def install(bundle: Path, package: Path) -> bool:
    """Put the bundle's files into the package; whether there is a bundle."""
    if not bundle.is_dir():
        return False
    shutil.rmtree(package / "cubins", ignore_errors=True)
    shutil.copytree(bundle, package, dirs_exist_ok=True)
    return True


def work(_: str, record: "object") -> None:
    """Refuse binaries that are of other sources, of another Python or for other GPUs."""
    import torch

    from aefast import backend, cubins

    assert callable(record)
    extension = Path(backend.extension().__file__ or "")
    capability = torch.cuda.get_device_capability()
    if not cubins.serves(capability):
        raise RuntimeError(f"no binaries of these sources for a GPU of capability {capability}")
    damaged = cubins.broken(capability)
    if damaged:
        raise RuntimeError(f"broken binaries: {', '.join(damaged[:5])}")
    record(case="binaries", extension=extension.name, kernels=len(cubins._records(capability)))

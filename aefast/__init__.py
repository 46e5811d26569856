"""aefast: compiled kernels for the autoencoder family.

>>> import torch, aefast
>>> code = aefast.functional.linear_act(torch.zeros(2, 3), torch.ones(4, 3), activation="sigmoid")
>>> code.shape
torch.Size([2, 4])
"""

from typing import TYPE_CHECKING

from aefast import functional, nn, random
from aefast.acceleration.public import accelerate, report, restore
from aefast.acceleration.table import Report
from aefast.backend import BackendUnavailableError, use_backend
from aefast.deprecation import renamed_global
from aefast.loading import load
from aefast.patching import Patch, PatchStatus, patch, patched, unpatch
from aefast.sae_folders import load_saelens, load_sparsify, save_saelens, save_sparsify
from aefast.training.engines import DivergenceError
from aefast.training.fit import History, fit
from aefast.training.fit_steps import TrainingProgress
from aefast.version import __version__

__all__ = [
    "BackendUnavailableError",
    "DivergenceError",
    "History",
    "Patch",
    "PatchStatus",
    "Report",
    "TrainingProgress",
    "__version__",
    "accelerate",
    "fit",
    "functional",
    "load",
    "load_saelens",
    "load_sparsify",
    "nn",
    "patch",
    "patched",
    "random",
    "report",
    "restore",
    "save_saelens",
    "save_sparsify",
    "unpatch",
    "use_backend",
]

if not TYPE_CHECKING:  # to a type checker any name would be one

    def __getattr__(name: str) -> object:
        old_names = {"Look": "TrainingProgress", "Patched": "PatchStatus"}
        return renamed_global(__name__, name, old_names)

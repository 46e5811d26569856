"""``aefast.load``: the trained model of a folder of ``aefast train``."""

import os
from pathlib import Path

import torch
from torch import nn


def load(run: str | os.PathLike[str], device: str | torch.device = "cpu") -> nn.Module:
    """The model that ``aefast train`` left in a run's folder, in evaluation mode: of a run with
    ``--patience`` that of the best epoch on the held-out rows, else that after the last step.

    It takes rows ``[B, D]``, float32, on the scale of the data that it was trained on, as
    :func:`aefast.data.load` gives them: of uint8 images numbers in [0, 1].

    Args:
        run: the folder, or the ``best.safetensors`` or ``checkpoint.safetensors`` in it.
        device: where the parameters go.

    Returns:
        a module of :mod:`aefast.nn`: an autoencoder, an RBM or a stack of them.

    Raises:
        aefast.training.checkpoint.CheckpointError: there is no run, or its file is damaged.
        ModuleNotFoundError: safetensors is missing: ``pip install 'aefast[train]'``.

    >>> import pathlib, tempfile, torch, aefast
    >>> from aefast.data import load
    >>> from aefast.training import run
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = run.start(folder, {"model": "dae", "data": "digits"})  # aefast train dae --data digits
    >>> model = aefast.load(folder)
    >>> model.encode(load("digits").take(torch.arange(5))).shape, model.training
    (torch.Size([5, 128]), False)
    """
    from aefast.training.checkpoint import load_trained  # it takes a package of an extra

    return load_trained(Path(run)).model.to(device)

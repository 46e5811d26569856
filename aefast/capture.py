"""While a CUDA graph is captured nothing can wait for the GPU: its work is only written down."""

import torch


def is_captured(device: torch.device) -> bool:
    """Whether what is computed on the device goes into a CUDA graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def refuse_capture(device: torch.device, op: str) -> None:
    """Refuse to capture an op whose number of steps depends on the data, which the host must read.

    Raises:
        RuntimeError: a CUDA graph is being captured.
    """
    if is_captured(device):
        raise RuntimeError(
            f"{op} waits for the GPU to say how many steps are left, which a CUDA graph cannot "
            "hold; call it outside the capture"
        )

"""Where an op runs in a test."""

import torch

from aefast import backend


def is_interpreted(device: torch.device) -> bool:
    """Whether Triton's interpreter serves, which is slow: shapes are small there."""
    return device.type == "cpu" and backend.select(device, torch.float32) == "triton"

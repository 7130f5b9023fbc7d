"""What a target runs on, for reports."""

from typing import Any

import torch


def describe_device(target: Any) -> str:
    """Return the kind of device, and its name where torch knows one.

    Args:
        target: an opened target.

    Returns:
        Such as "cpu" or "cuda: NVIDIA H100 80GB HBM3".
    """
    device = target.device
    return f"cuda: {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device.type)

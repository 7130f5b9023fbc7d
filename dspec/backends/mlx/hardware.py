"""What a target runs on, for reports."""

from typing import Any

import mlx.core as mx

from dspec.backends.mlx.ops import on_metal


def describe_device(target: Any) -> str:
    """Return what MLX runs on, Metal, another GPU or the CPU, and the device's name.

    Args:
        target: an opened target; MLX has one device for all.

    Returns:
        Such as "mlx on Metal: Apple M3 Max" or "mlx on the CPU: x86_64".
    """
    facts = mx.device_info(mx.default_device())
    # MLX has a build for CUDA too, which nothing here was written for: it is not to pass for Metal.
    gpu = "Metal" if mx.metal.is_available() else "a GPU that is not Metal"
    kind = gpu if on_metal() else "the CPU"
    return f"mlx on {kind}: {facts.get('device_name') or facts.get('architecture')}"

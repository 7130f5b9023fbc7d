"""An MLX array that cannot be evaluated: whatever waits for it, by whatever name, fails."""

import os

import mlx.core as mx


def unreadable(shape, folder):
    """A float32 array read lazily from a file whose content is gone."""
    path = folder / "gone.safetensors"
    mx.save_safetensors(str(path), {"x": mx.zeros(shape)})
    array = mx.load(str(path))["x"]
    os.truncate(path, 0)
    return array

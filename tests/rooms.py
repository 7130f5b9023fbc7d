"""The backends' rooms as tests see them: the same modules by name, arrays from and to numpy.

A test that takes the fixture `room` runs once a room. `room.target.Target` is the room's target,
`room.drafter.load_drafter` its loader, and so on: the rooms have the same file and function names.
"""

import importlib
import importlib.util
from functools import cached_property

import numpy as np
import pytest

PACKAGES = {"torch": "torch", "mlx": "mlx_lm"}
DEVICES = {"torch": "cpu", "mlx": "mlx"}


class Room:
    """One backend's modules, and how to carry arrays in and out."""

    def __init__(self, name):
        self.name, self.device = name, DEVICES[name]

    def __repr__(self):
        return self.name

    def __getattr__(self, module):
        if module.startswith("_"):
            raise AttributeError(module)
        return importlib.import_module(f"dspec.backends.{self.name}.{module}")

    @property
    def installed(self):
        """Whether the framework is there."""
        return importlib.util.find_spec(PACKAGES[self.name]) is not None

    @cached_property
    def operations(self):
        """The room's `ArrayOps`."""
        return self.ops.open_ops(self.device)

    @property
    def xp(self):
        """The room's array namespace."""
        return self.operations.xp

    def array(self, values, dtype=None):
        """A numpy array or nested list as the room's; `dtype` by name, such as "bfloat16"."""
        values = np.asarray(values)
        if values.dtype == np.float64 and dtype not in (None, "float64"):
            values = values.astype(np.float32)  # Metal has no float64 to narrow from
        made = self._torch(values) if self.name == "torch" else self.xp.asarray(values)
        return made if dtype is None else self.xp.astype(made, getattr(self.xp, dtype))

    def _torch(self, values):
        import torch

        return torch.tensor(values)

    def numpy(self, array):
        """The room's array as numpy; 16-bit floats as float32."""
        if self.name == "torch":
            array = array.detach().cpu()
            narrow = str(array.dtype) in ("torch.bfloat16", "torch.float16")
            return (array.float() if narrow else array).numpy()
        narrow = array.dtype in (self.xp.bfloat16, self.xp.float16)
        return np.array(self.xp.astype(array, self.xp.float32) if narrow else array)

    def gradient(self, function, values):
        """Gradient of a scalar function of one array, as numpy; `values` is the room's array."""
        if self.name == "torch":
            import torch

            leaf = values.detach().clone().requires_grad_()
            (found,) = torch.autograd.grad(function(leaf), leaf)
            return self.numpy(found)
        import mlx.core as mx

        return self.numpy(mx.grad(function)(values))

    def stop_gradient(self, array):
        """The array as a constant to `gradient`."""
        return array.detach() if self.name == "torch" else self.xp.stop_gradient(array)


ROOMS = {name: Room(name) for name in PACKAGES}


def of_rooms(names=tuple(ROOMS)):
    """Parameters by name, marked `mlx` where MLX runs, so that `-m mlx` chooses them."""
    return [pytest.param(name, marks=[pytest.mark.mlx] if name == "mlx" else []) for name in names]

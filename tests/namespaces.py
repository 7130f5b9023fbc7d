"""The array namespaces that core must run on, and the precision at which each can be judged."""

import array_api_compat.numpy
import array_api_strict
import numpy as np
import pytest

from tests import tolerances
from tests.rooms import ROOMS

NAMESPACES = {"numpy": array_api_compat.numpy, "strict": array_api_strict}
NAMESPACES |= {name: room.xp for name, room in ROOMS.items() if room.installed}
# The limits of MLX and of compiled code: no reads by mask, no shape that depends on values.
array_api_strict.set_array_api_strict_flags(boolean_indexing=False, data_dependent_shapes=False)

# MLX is judged in float32: it has float64 on the CPU only, and its exp there is float32's (measured on
# (-12, 0): relative error 1.3e-6 of float64, 9e-7 of float32).
DTYPES = {name: ("float32",) if name == "mlx" else ("float32", "float64") for name in NAMESPACES}


def with_dtypes():
    """Parameters (name of a namespace, name of a dtype), marked `mlx` where MLX runs."""
    return [
        pytest.param(name, dtype, marks=[pytest.mark.mlx] if name == "mlx" else [])
        for name, dtypes in DTYPES.items()
        for dtype in dtypes
    ]


def name_of(xp):
    """The key of a namespace."""
    return next(name for name, known in NAMESPACES.items() if known is xp)


def widest(xp):
    """Name of the widest floating dtype that a namespace is judged in."""
    return DTYPES[name_of(xp)][-1]


def narrowed(arrays, xp):
    """Numpy arrays whose floats are no wider than that: what the oracle must be given too."""
    arrays, limit = [np.asarray(x) for x in arrays], np.dtype(widest(xp))
    return [x.astype(limit) if x.dtype.kind == "f" and x.itemsize > limit.itemsize else x for x in arrays]


def place(arrays, xp):
    """Numpy arrays as the namespace's, floats no wider than it is judged in."""
    return [xp.asarray(x) for x in narrowed(arrays, xp)]


def to_numpy(x):
    """An array of any namespace as numpy; 16-bit floats as float32."""
    for room in ROOMS.values():
        if type(x).__module__.split(".")[0] == room.name:
            return room.numpy(x)
    return np.asarray(x)


def gradient_close(xp):
    """Tolerances of gradients by autograd against a hand gradient, in the widest dtype."""
    bound = {"float32": tolerances.FLOAT32, "float64": tolerances.GRADIENT_F64}[widest(xp)]
    return {"rtol": bound, "atol": bound}


def close(xp):
    """Tolerances of the same formula in another order of summation, in the widest dtype."""
    bound = {"float32": tolerances.FLOAT32, "float64": tolerances.FLOAT64}[widest(xp)]
    return {"rtol": bound, "atol": bound}

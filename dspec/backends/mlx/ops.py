"""Array operations, devices and precision on MLX."""

from time import perf_counter
from typing import Any

import mlx.core as mx
import numpy as np

from dspec.errors import BackendUnavailable, ConfigError, explain

DEVICES = ("auto", "mlx")
DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}


class Namespace:
    """`mlx.core` as core calls it: its own functions, and under their standard names those it lacks.

    Example:
        >>> namespace.argsort(mx.array([2.0, 1.0, 1.0]), stable=True).tolist()
        [1, 2, 0]
    """

    bool = mx.bool_

    def __getattr__(self, name: str) -> Any:
        return getattr(mx, name)

    def argsort(self, x: mx.array, /, *, axis: int = -1, stable: bool = True) -> mx.array:
        """Return the indices that sort an axis; MLX's own sort keeps equal entries in order."""
        return mx.argsort(x, axis=axis)

    def asarray(self, x: Any, /, *, dtype: Any = None) -> mx.array:
        """Return an array of the same dtype: MLX alone would narrow numpy's float64 in silence."""
        if dtype is None and isinstance(x, (np.ndarray, np.generic)) and x.dtype == np.float64:
            dtype = mx.float64
        return mx.array(x, dtype=dtype)


namespace = Namespace()


class MlxOps:
    """`ArrayOps` on MLX's default device: Metal on a Mac, the CPU elsewhere.

    Spec: DL-6.

    Example:
        >>> ops = MlxOps()
        >>> ops.to_host(ops.xp.cumulative_sum(mx.ones(3)))
        [1.0, 2.0, 3.0]
    """

    xp = namespace

    def to_host(self, array: mx.array) -> list[Any]:
        """Return nested lists: the one synchronisation of a block."""
        return array.tolist()

    def from_host(self, array: Any) -> mx.array:
        """Return a numpy array on the device, dtype kept."""
        return self.xp.asarray(array)

    def mark(self) -> Any:
        """Return a point in time on the host's clock: MLX has no events to time its queue by."""
        return perf_counter()

    def seconds(self, start: Any, end: Any) -> float:
        """Return the seconds between two marks."""
        return float(end - start)

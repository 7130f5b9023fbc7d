"""Array operations, the device and precision on MLX."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

# MLX reads this once, at its first product: 1, its default, multiplies float32 with 10 bits of mantissa
# on the GPUs that can (NU-6). A caller's own setting is left as it is, and warned about where it matters.
os.environ.setdefault("MLX_ENABLE_TF32", "0")

import mlx.core as mx
import numpy as np

from dspec.errors import ConfigError, explain

DEVICES = ("auto", "mlx")
DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}


# Terms that `Namespace.sum` adds one after another: 152k equal float32 terms came out 1.7e-3 short when
# MLX's CPU added them in one go, 5e-7 in runs of 128, in less time.
RUN = 128


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
        """Return the indices that sort an axis; equal entries stay in order, whatever `stable` says.

        MLX does not promise that: its CPU sort compares indices where values are equal, its Metal
        sort merges with the left part first. tests/test_hazards.py would see it change.
        """
        return mx.argsort(x, axis=axis)

    def asarray(self, x: Any, /, *, dtype: Any = None) -> mx.array:
        """Return an array of the same dtype: MLX alone would narrow numpy's float64 in silence.

        Raises:
            ConfigError: float64, on a GPU: MLX has it on the CPU only, and nothing is narrowed here.
        """
        wide = isinstance(x, np.ndarray | np.generic) and x.dtype == np.float64
        dtype = mx.float64 if dtype is None and wide else dtype
        if dtype is not None and dtype == mx.float64 and on_metal():
            remedy = "Convert it first: every law and uniform is made in float32."
            raise ConfigError(explain("array", "float64", "float32 or narrower on a GPU", remedy=remedy))
        return mx.array(x, dtype=dtype)

    def cumulative_prod(self, x: mx.array, /, *, axis: int = -1) -> mx.array:
        """Return the running product along an axis."""
        return mx.cumprod(x, axis=axis)

    def sum(self, x: mx.array, /, *, axis: Any = None, keepdims: bool = False) -> mx.array:
        """Return the sum; that of a long last axis, or of all entries, is added in runs of RUN."""
        if axis is None and not keepdims:
            x, axis = mx.reshape(x, (-1,)), -1
        if axis not in (-1, x.ndim - 1):
            return mx.sum(x, axis=axis, keepdims=keepdims)
        while x.shape[-1] > RUN:
            whole = x.shape[-1] // RUN * RUN
            runs = mx.sum(mx.reshape(x[..., :whole], (*x.shape[:-1], -1, RUN)), axis=-1)
            rest = mx.sum(x[..., whole:], axis=-1, keepdims=True)
            x = mx.concatenate([runs, rest], axis=-1)
        return mx.sum(x, axis=-1, keepdims=keepdims)


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

    def operation(self, name: str) -> Callable[..., Any]:
        """Return the function that runs a named core operation here."""
        from dspec.backends.mlx import overrides  # which are made of operations of this module

        return overrides.operation(name)

    def top(self, values: mx.array, count: int) -> tuple[mx.array, mx.array]:
        """Return the `count` largest of the last axis and their indices."""
        ids = mx.argpartition(-values, count - 1, axis=-1)[..., :count]
        return mx.take_along_axis(values, ids, axis=-1), ids

    def mark(self) -> None:
        """Return None: MLX is lazy and has no events, so a clock here would time graph building only."""
        return None

    def seconds(self, start: Any, end: Any) -> float:
        """Return NaN: there are no marks to measure between."""
        return float("nan")


def open_ops(device: str) -> MlxOps:
    """Return the array operations of a device.

    Args:
        device: see `resolve_device`.

    Returns:
        Its `ArrayOps`.

    Raises:
        ConfigError: the name is unknown.
    """
    resolve_device(device)
    return MlxOps()


def on_metal() -> bool:
    """Return whether MLX's default device is a GPU: Metal on a Mac."""
    return bool(mx.default_device() == mx.Device(mx.gpu))


def resolve_device(choice: str) -> str:
    """Return the name of the device that a setting asks for: MLX's default one, the only one there is.

    Args:
        choice: "auto" or "mlx".

    Returns:
        "mlx".

    Raises:
        ConfigError: any other name.

    Example:
        >>> resolve_device("auto")
        'mlx'
    """
    if choice not in DEVICES:
        raise ConfigError(explain("device", repr(choice), "one of " + ", ".join(DEVICES)))
    return "mlx"


def resolve_dtype(choice: str | mx.Dtype, *, stored: mx.Dtype | None) -> mx.Dtype | None:
    """Return the dtype of weights.

    Args:
        choice: "auto", a name, or a dtype. "auto" is float32 where MLX runs on the CPU, whose
            half-width products are slow, and the checkpoint's own dtype on Metal.
        stored: the checkpoint's dtype; None: not known yet.

    Returns:
        The dtype; None if "auto" asks for the stored one and it is not known yet.

    Raises:
        ConfigError: the name is unknown, or the dtype is not one of those.

    Example:
        >>> resolve_dtype("bfloat16", stored=mx.float32)
        mlx.core.bfloat16
    """
    if choice == "auto":
        return stored if on_metal() else mx.float32
    dtype = choice if isinstance(choice, mx.Dtype) else DTYPES.get(choice)
    if dtype is None or dtype not in DTYPES.values():
        raise ConfigError(explain("dtype", repr(choice), "one of auto, " + ", ".join(DTYPES)))
    return dtype


def check_placed(what: str, dtype: mx.Dtype, *, device: str, dtype_asked: str | mx.Dtype) -> None:
    """Check that settings agree with what is loaded already: that is the caller's, and stays as it is.

    Args:
        what: for the message.
        dtype: of the loaded weights.
        device: "auto", or the device asked for.
        dtype_asked: "auto", or the dtype asked for.

    Raises:
        ConfigError: a setting contradicts the weights.

    Example:
        >>> check_placed("drafter", mx.float32, device="auto", dtype_asked="float32")
    """
    if device not in DEVICES:
        remedy = f"Leave device out, or load a {what} of that device's framework."
        raise ConfigError(explain("device", repr(device), f"mlx, the {what}'s", remedy=remedy))
    if dtype_asked != "auto" and resolve_dtype(dtype_asked, stored=None) != dtype:
        remedy = f"Convert the {what}, or leave dtype out."
        raise ConfigError(explain("dtype", str(dtype_asked), f"{dtype}, the {what}'s", remedy=remedy))


@contextmanager
def exact_inference() -> Iterator[None]:
    """Float32 products in full float32 inside, or a warning that says how to get them.

    There is nothing to switch off: MLX differentiates only what `mx.grad` is asked to, and reads its
    setting for TF32 once in a process, which importing this module sets to 0.

    Spec: NU-6.
    """
    if on_metal():
        _warn_of_narrow_products()
    yield


@cache
def _warn_of_narrow_products() -> None:
    """Warn, once a process, if float32 products are rounded: a product was made before this module."""
    step = 1 + 2.0**-12  # needs 12 bits of mantissa; TF32 has 10
    product = mx.full((64, 64), step) @ mx.eye(64)
    if not mx.all(product == step).item():
        warnings.warn(
            "MLX multiplies float32 in TF32 in this process: float32 models are exact only with "
            "MLX_ENABLE_TF32=0 set before Python starts. [NU-6]",
            RuntimeWarning,
            stacklevel=4,
        )


def peak_memory() -> int:
    """Return the most bytes that MLX has held at once since the start or the last reset."""
    return int(mx.get_peak_memory())

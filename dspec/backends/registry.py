"""Names of backends, and the one place where a framework is imported by name."""

import platform
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from dspec.backends.foreign import framework_of
from dspec.backends.protocol import ArrayOps
from dspec.errors import BackendUnavailable, ConfigError, explain

# name -> room. A device name of torch is a backend name of dspec.
ROOMS = {"cuda": "torch", "cpu": "torch", "mps": "torch", "mlx": "mlx"}
# room -> the package that must be there; `pip install 'dspec[room]'` brings it.
PACKAGES = {"torch": "torch", "mlx": "mlx_lm"}
NAMES = ("auto", *ROOMS)


def open_room(name: str, *, lent: Sequence[Any] = ()) -> tuple[ModuleType, str]:
    """Return the module of a backend and the device it is to use.

    Spec: DL-8.

    Args:
        name: "auto", "cuda", "cpu", "mps" or "mlx". "auto" takes the room of what is lent, else MLX
            on Apple silicon, else torch with the first accelerator that is there, else the one of
            the two that is installed.
        lent: models that the caller has loaded; paths and None among them say nothing.

    Returns:
        The room's front module and a device name the room understands ("auto" included).

    Raises:
        ConfigError: no such name.
        BackendUnavailable: its framework is not installed.
    """
    return import_module(f"dspec.backends.{_room_of(name, lent)}.front"), name


def open_ops(name: str) -> ArrayOps:
    """Return the array operations of a backend alone, without models.

    Args:
        name: "numpy", or a name that `open_room` takes.

    Returns:
        Its `ArrayOps`.

    Raises:
        ConfigError: no such name.
        BackendUnavailable: its framework or device is not here.

    Example:
        >>> type(open_ops("numpy")).__name__
        'NumpyOps'
    """
    if name == "numpy":
        from dspec.backends.numpy import NumpyOps

        return NumpyOps()
    ops: ArrayOps = import_module(f"dspec.backends.{_room_of(name, ())}.ops").open_ops(name)
    return ops


def _room_of(name: str, lent: Sequence[Any]) -> str:
    """Return "torch" or "mlx", whose framework is there."""
    if name not in NAMES:
        raise ConfigError(explain("backend", repr(name), f"one of {', '.join(NAMES)}"))
    room = _automatic(lent) if name == "auto" else ROOMS[name]
    if room is None:
        remedy = "pip install 'dspec[torch]', or on Apple silicon 'dspec[mlx]'"
        needed = "one of them installed"
        raise BackendUnavailable(
            explain("backend='auto'", "no package 'torch' and no 'mlx_lm'", needed, remedy=remedy)
        )
    if find_spec(PACKAGES[room]) is None:
        remedy = f"pip install 'dspec[{room}]'"
        raise BackendUnavailable(
            explain(f"backend={name!r}", f"no package {PACKAGES[room]!r}", "it installed", remedy=remedy)
        )
    return room


def _automatic(lent: Sequence[Any]) -> str | None:
    """Return the room of what is lent, else the one with the faster device here; None: neither is there."""
    for model in lent:
        room = framework_of(model)
        if room is not None:
            return room
    here = [room for room, package in PACKAGES.items() if find_spec(package) is not None]
    apple = sys.platform == "darwin" and platform.machine() == "arm64"
    order = ("mlx", "torch") if apple else ("torch", "mlx")
    return next((room for room in order if room in here), None)

"""Names of backends, and the one place where a framework is imported by name."""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from dspec.backends.protocol import ArrayOps
from dspec.errors import BackendUnavailable, ConfigError, explain

# name -> (room, what to install). A device name of torch is a backend name of dspec.
ROOMS = {
    "cuda": ("torch", "torch"),
    "cpu": ("torch", "torch"),
    "mps": ("torch", "torch"),
}
NAMES = ("auto", *ROOMS)


def open_room(name: str) -> tuple[ModuleType, str]:
    """Return the module of a backend and the device it is to use.

    Spec: DL-8.

    Args:
        name: "auto", "cuda", "cpu" or "mps"; "auto" takes the first accelerator that is there,
            else the CPU, and says so in the result.

    Returns:
        The room's front module and a device name the room understands ("auto" included).

    Raises:
        ConfigError: no such name.
        BackendUnavailable: its framework is not installed.
    """
    if name not in NAMES:
        raise ConfigError(explain("backend", repr(name), f"one of {', '.join(NAMES)}"))
    room, package = ROOMS["cpu"] if name == "auto" else ROOMS[name]
    if find_spec(package) is None:
        remedy = f"pip install 'dspec[{room}]'"
        raise BackendUnavailable(
            explain(f"backend={name!r}", f"no package {package!r}", "it installed", remedy=remedy)
        )
    return import_module(f"dspec.backends.{room}.front"), name


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
    room, device = open_room(name)
    return room.open_ops(device)

"""Array operations, devices and precision on torch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import array_api_compat.torch
import torch
from torch import Tensor

from dspec.errors import BackendUnavailable, ConfigError, explain

DEVICES = ("auto", "cuda", "cpu", "mps")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TorchOps:
    """`ArrayOps` on one torch device.

    Spec: DL-6.

    Args:
        device: where arrays live.

    Example:
        >>> ops = TorchOps(torch.device("cpu"))
        >>> ops.to_host(ops.xp.cumulative_sum(torch.ones(3)))
        [1.0, 2.0, 3.0]
    """

    xp = array_api_compat.torch

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def to_host(self, array: Tensor) -> list[Any]:
        """Return nested lists: the one synchronisation of a block."""
        return array.tolist()

    def from_host(self, array: Any) -> Tensor:
        """Return a numpy array on the device, dtype kept, without waiting for the device."""
        tensor = torch.tensor(array)
        if self.device.type == "cuda":
            # From ordinary memory the copy would wait for everything queued before it.
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def operation(self, name: str) -> Callable[..., Any]:
        """Return the function that runs a named core operation on the device."""
        from dspec.backends.torch import overrides  # which are made of operations of this module

        return overrides.operation(name, device=self.device.type)

    def top(self, values: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return the `count` largest of the last axis and their indices."""
        found = torch.topk(values, count, dim=-1, sorted=False)
        return found.values, found.indices

    def mark(self) -> Any:
        """Return a point in time on the device's clock: an event where work is queued."""
        if self.device.type == "cpu":
            return perf_counter()
        kind = torch.cuda.Event if self.device.type == "cuda" else torch.mps.event.Event
        event = kind(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: Any, end: Any) -> float:
        """Return the seconds between two marks; waits until the second one has passed."""
        if self.device.type == "cpu":
            return float(end - start)
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000


def open_ops(device: str) -> TorchOps:
    """Return the array operations of a device.

    Args:
        device: see `resolve_device`.

    Returns:
        Its `ArrayOps`.

    Raises:
        ConfigError: the name is unknown.
        BackendUnavailable: the device is not on this machine.
    """
    return TorchOps(resolve_device(device))


def devices_here() -> tuple[str, ...]:
    """Return the kinds of device that torch can use on this machine, the fastest first."""
    kinds = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return tuple(kind for kind, here in kinds.items() if here)


def resolve_device(choice: str | torch.device) -> torch.device:
    """Return the device that a setting names; nothing falls back to another.

    Args:
        choice: "auto" (the fastest kind here), "cuda", "cpu", "mps", a numbered "cuda:1", or a device.

    Returns:
        The device.

    Raises:
        ConfigError: the name is unknown.
        BackendUnavailable: the device is not on this machine.

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    here = devices_here()
    if choice == "auto":
        return torch.device(here[0])
    kind, colon, index = str(choice).partition(":")
    if kind not in DEVICES or (colon and not index.isdecimal()):
        raise ConfigError(explain("device", repr(str(choice)), "one of " + ", ".join(DEVICES)))
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if kind not in here or int(index or 0) >= count:
        needed = "a device of this machine: " + ", ".join(here)
        remedy = "Install a torch built for it, or name one that is here."
        raise BackendUnavailable(explain("device", repr(str(choice)), needed, remedy=remedy))
    return torch.device(choice)


def resolve_dtype(
    choice: str | torch.dtype, *, device: torch.device, stored: torch.dtype | None
) -> torch.dtype | None:
    """Return the dtype of weights.

    Args:
        choice: "auto", a name, or a dtype. "auto" is float32 on a CPU, where half-width products are
            slow, and the checkpoint's own dtype elsewhere.
        device: where the weights go.
        stored: the checkpoint's dtype; None: not known yet.

    Returns:
        The dtype; None if "auto" asks for the stored one and it is not known yet.

    Raises:
        ConfigError: the name is unknown.

    Example:
        >>> resolve_dtype("auto", device=torch.device("cpu"), stored=torch.bfloat16)
        torch.float32
    """
    if choice == "auto":
        return torch.float32 if device.type == "cpu" else stored
    dtype = choice if isinstance(choice, torch.dtype) else DTYPES.get(choice)
    if dtype is None or not dtype.is_floating_point:
        raise ConfigError(explain("dtype", repr(choice), "one of auto, " + ", ".join(DTYPES)))
    return dtype


def check_placed(what: str, weight: Tensor, *, device: str | torch.device, dtype: str | torch.dtype) -> None:
    """Check that settings agree with what is loaded already: that is the caller's, and stays as it is.

    Args:
        what: for the message.
        weight: one of the loaded weights.
        device: "auto", or the device asked for.
        dtype: "auto", or the dtype asked for.

    Raises:
        ConfigError: a setting contradicts the weight.
    """
    wants = resolve_device(device) if device != "auto" else weight.device
    if wants.type != weight.device.type or wants.index not in (None, weight.device.index):
        remedy = f"Move the {what}, or leave device out."
        raise ConfigError(explain("device", str(device), f"{weight.device}, the {what}'s", remedy=remedy))
    if dtype != "auto" and resolve_dtype(dtype, device=wants, stored=None) != weight.dtype:
        remedy = f"Convert the {what}, or leave dtype out."
        raise ConfigError(explain("dtype", str(dtype), f"{weight.dtype}, the {what}'s", remedy=remedy))


@contextmanager
def exact_inference() -> Iterator[None]:
    """No autograd, and float32 products in full float32 (TF32 and its kin off) inside.

    A caller's wish for TF32 is put back at the end: it holds for training, not for an exact path.

    Spec: NU-6.
    """
    narrowed = []
    for products in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul):
        asked = products.fp32_precision  # its own setting, else the one for all backends
        if asked not in ("none", "ieee"):
            # What came from the setting for all must not become a setting of its own.
            narrowed.append((products, "none" if asked == torch.backends.fp32_precision else asked))
            products.fp32_precision = "ieee"
    try:
        with torch.inference_mode():
            yield
    finally:
        for products, before in narrowed:
            products.fp32_precision = before

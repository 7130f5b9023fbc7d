"""One replaced core operation, and how a room's table of them is read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dspec.core.gold
import dspec.core.log_probs
import dspec.core.overlap
import dspec.core.policies
import dspec.core.warp
from dspec.errors import ConfigError, explain

CORE: dict[str, Callable[..., Any]] = {
    "gold_log_probs": dspec.core.gold.gold_log_probs,
    "overlap_statistics": dspec.core.overlap.overlap_statistics,
    "judge": dspec.core.policies.judge,
    "log_probs": dspec.core.log_probs.log_probs,
    "warp": dspec.core.warp.warp,
}


@dataclass(frozen=True, kw_only=True)
class Override:
    """One replaced operation; the conformance tests are generated from these entries.

    Args:
        operation: its name in core, a key of `CORE`.
        function: the replacement, with the operation's signature.
        devices: devices of the room it may run on.
        clauses: spec clauses that both must keep.
        tolerance: largest difference from core in float32, in nats and in units of the gradient.
        reason: why it exists, with the measured gain and the command that measured it.
    """

    operation: str
    function: Callable[..., Any]
    devices: tuple[str, ...]
    clauses: tuple[str, ...]
    tolerance: float
    reason: str


def find(table: Sequence[Override], name: str, device: str) -> Callable[..., Any]:
    """Return the function that runs a named core operation on a device.

    Args:
        table: a room's overrides.
        name: a key of `CORE`.
        device: a device of the room.

    Returns:
        The override whose entry lists the device, else core's function; both take `xp`.

    Raises:
        ConfigError: core has no overridable operation of that name.

    Example:
        >>> find((), "gold_log_probs", "cpu").__module__
        'dspec.core.gold'
    """
    if name not in CORE:
        raise ConfigError(explain("operation", repr(name), "one of " + ", ".join(CORE)))
    for entry in table:
        if entry.operation == name and device in entry.devices:
            return entry.function
    return CORE[name]

"""The table of core operations that torch replaces by a faster one: all of them, and nothing else.

An override changes how an operation runs, never its signature, law, dtype policy or errors. With the
table emptied core runs, and every test still passes, only slower and with more memory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dspec.core.gold
from dspec.backends.torch.gold import gold_log_probs
from dspec.errors import ConfigError, explain


@dataclass(frozen=True, kw_only=True)
class Override:
    """One replaced operation; the conformance tests are generated from these entries.

    Args:
        operation: its name in core, a key of `CORE`.
        function: the replacement, with the operation's signature.
        devices: torch device types it may run on.
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


CORE: dict[str, Callable[..., Any]] = {"gold_log_probs": dspec.core.gold.gold_log_probs}

OVERRIDES: tuple[Override, ...] = (
    Override(
        operation="gold_log_probs",
        function=gold_log_probs,
        devices=("cpu", "cuda", "mps"),
        clauses=("OB-1", "OB-10", "NU-2", "NU-5"),
        tolerance=2e-5,
        reason=(
            "forward and backward of 'ltr', 480 rows, D=1024, V=151,936, float32, one CPU thread: 1.12 times "
            "the two matrix products alone, 0.54 times core checkpointed by chunks of 120; peak "
            "77 MB against 1,167 MB unchunked (benchmarks/results/objective.json). "
            "CUDA and MPS: not measured; taken there for its memory."
        ),
    ),
)


def operation(name: str, *, enabled: bool = True, device: str = "cpu") -> Callable[..., Any]:
    """Return the function that runs a named core operation on a device.

    Args:
        name: a key of `CORE`.
        enabled: False answers core's own function, as if the table were empty.
        device: torch device type, such as "cuda".

    Returns:
        The override whose entry lists the device, else core's function; both take `xp`.

    Raises:
        ConfigError: core has no overridable operation of that name.

    Example:
        >>> operation("gold_log_probs", enabled=False).__module__
        'dspec.core.gold'
    """
    if name not in CORE:
        raise ConfigError(explain("operation", repr(name), "one of " + ", ".join(CORE)))
    for entry in OVERRIDES if enabled else ():
        if entry.operation == name and device in entry.devices:
            return entry.function
    return CORE[name]

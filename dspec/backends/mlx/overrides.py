"""The table of core operations that MLX replaces by a faster one: all of them, and nothing else.

An override changes how an operation runs, never its signature, law, dtype policy or errors. With the
table emptied core runs, and every test still passes, only slower and with more memory.
"""

from collections.abc import Callable
from typing import Any

from dspec.backends.mlx.gold import gold_log_probs
from dspec.backends.mlx.overlap import overlap_statistics
from dspec.backends.override import Override, find

OVERRIDES: tuple[Override, ...] = (
    Override(
        operation="gold_log_probs",
        function=gold_log_probs,
        devices=("mlx",),
        clauses=("OB-1", "OB-10", "NU-2", "NU-5"),
        tolerance=2e-5,
        reason=(
            "forward and backward of 2,048 rows, D=32, V=8,192, float32, on a CPU: 0.70 times core's time; "
            "peak 8.7 MB, 1.03 times one chunk of 256 rows of logits, against core's 420 MB "
            "(benchmarks/objective_mlx.py, MLX 0.32.4). And core adds 151,936 terms one by one there: its "
            "log-probability is 9e-5 off, this one's 1e-6. Metal: not measured; taken there for its memory."
        ),
    ),
    Override(
        operation="overlap_statistics",
        function=overlap_statistics,
        devices=("mlx",),
        clauses=("OB-1", "OB-10", "OB-12", "OB-16", "NU-2", "NU-5"),
        tolerance=2e-5,
        reason=(
            "forward and backward of 2,048 rows, D=32, V=8,192, float32, on a shared CPU: with all three "
            "signals 0.50 times core's time, with the divergence alone 0.69; peak 28 MB, 3.3 times one chunk "
            "of 256 rows of logits, against core's 1.26 GB (benchmarks/objective_mlx.py --operation "
            "overlap_statistics, MLX 0.32.4). Metal: not measured; taken there for its memory."
        ),
    ),
)


def operation(name: str, *, enabled: bool = True, device: str = "mlx") -> Callable[..., Any]:
    """Return the function that runs a named core operation on a device.

    Args:
        name: a key of `dspec.backends.override.CORE`.
        enabled: False answers core's own function, as if the table were empty.
        device: device of this room: "mlx".

    Returns:
        The override whose entry lists the device, else core's function; both take `xp`.

    Raises:
        ConfigError: core has no overridable operation of that name.

    Example:
        >>> operation("gold_log_probs", enabled=False).__module__
        'dspec.core.gold'
    """
    return find(OVERRIDES if enabled else (), name, device)

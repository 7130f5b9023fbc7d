"""The numbers of a slot through which an objective's gradient reaches the drafter.

Example:
    >>> SIGNALS
    ('gold', 'overlap', 'divergence', 'mixed')
"""

from collections.abc import Sequence

from dspec.errors import ConfigError, explain

# log q(gold); sum_v min(p(v), q(v)); KL(p || q): q the drafter's law, p the target's (OB-12). Then the mix of
# the last two in lk (OB-16): one number, so that it costs one product with the head and not two.
SIGNALS = ("gold", "overlap", "divergence", "mixed")


def check_signals(signals: Sequence[str]) -> tuple[str, ...]:
    """Return the signals that are asked for, in the order of `SIGNALS`.

    Spec: OB-12.

    Args:
        signals: names, in any order.

    Raises:
        ConfigError: one is unknown.

    Example:
        >>> check_signals(("divergence", "gold"))
        ('gold', 'divergence')
    """
    unknown = [name for name in signals if name not in SIGNALS]
    if unknown:
        raise ConfigError(explain("signals", unknown, "some of " + ", ".join(SIGNALS), clause="OB-12"))
    return tuple(name for name in SIGNALS if name in signals)

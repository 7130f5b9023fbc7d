"""Numbers that a user sets, read once: type and range in one rule, numpy's numbers among them."""

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

from dspec.errors import ConfigError, explain


def read_integer(name: str, value: Any, low: int, below: int, needed: str, *, clause: str) -> int:
    """Return an integer setting as an int.

    A bool, a float and a text are no integers, whatever `int` would make of them.

    Args:
        name: of the setting, for the message.
        value: what was set; numpy integers pass.
        low, below: the range [low, below).
        needed: what is allowed, for the message.
        clause: id of the spec clause.

    Returns:
        The integer.

    Raises:
        ConfigError: no integer, or out of range.

    Example:
        >>> read_integer("top_k", 5, 0, 2**31, "an integer >= 0", clause="RS-13")
        5
    """
    if isinstance(value, Integral) and not isinstance(value, bool) and low <= int(value) < below:
        return int(value)
    raise ConfigError(explain(name, repr(value), needed, clause=clause))


def read_number(
    name: str, value: Any, accepts: Callable[[float], bool], needed: str, *, clause: str
) -> float:
    """Return a real setting as a float.

    Args:
        name: of the setting, for the message.
        value: what was set; numpy floats and integers pass, a bool and a text do not.
        accepts: whether a float is in range; NaN must fail it.
        needed: what is allowed, for the message.
        clause: id of the spec clause.

    Returns:
        The number.

    Raises:
        ConfigError: no number, or out of range.

    Example:
        >>> read_number("top_p", 1, lambda p: 0 < p <= 1, "a number in (0, 1]", clause="RS-13")
        1.0
    """
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # an int too large for a float
            number = float("inf")
        if accepts(number):
            return number
    raise ConfigError(explain(name, repr(value), needed, clause=clause))

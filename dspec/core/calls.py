"""Settings in a text form, "name(1, 2)": one rule for selections, estimators and routes."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dspec.errors import ConfigError, explain

_FORM = re.compile(r"\s*(?P<name>[a-z][a-z_0-9]*)\s*(?:\((?P<numbers>[^()]*)\))?\s*")


@dataclass(frozen=True)
class Number:
    """One number of a call.

    Args:
        name: for messages.
        default: where it is left out; None: it must be given.
        low, high: closed range.
        integer: whether it must be one.
        needed: the range in words.
    """

    name: str
    default: float | None
    low: float
    high: float
    needed: str
    integer: bool = False


def read_call(
    what: str, text: Any, known: Mapping[str, Sequence[Number]], *, clause: str
) -> tuple[str, tuple[float, ...]]:
    """Return name and numbers of a call, defaults filled in.

    Args:
        what: the setting, for messages.
        text: such as "hysteresis(0, -1)" or "never".
        known: name -> its numbers.
        clause: id of the spec clause.

    Returns:
        The name and as many numbers as it has.

    Raises:
        ConfigError: no such form, an unknown name, too many or too few numbers, or one out of range.

    Example:
        >>> read_call("route", "span", {"span": [Number("t", 1, 1, 99, "1..99")]}, clause="SS-13")
        ('span', (1,))
    """
    match = _FORM.fullmatch(text) if isinstance(text, str) else None
    if match is None or match["name"] not in known:
        forms = ", ".join(_shown(name, numbers) for name, numbers in known.items())
        raise ConfigError(explain(what, repr(text), f"one of {forms}", clause=clause))
    numbers = known[match["name"]]
    inside = (match["numbers"] or "").strip()
    given = [word.strip() for word in inside.split(",")] if inside else []
    if len(given) > len(numbers):
        needed = f"at most {len(numbers)} numbers, as in {_shown(match['name'], numbers)}"
        raise ConfigError(explain(what, repr(text), needed, clause=clause))
    filled = [*given, *[None] * (len(numbers) - len(given))]
    read = (_read(what, text, n, word, clause) for n, word in zip(numbers, filled, strict=True))
    return match["name"], tuple(read)


def _read(what: str, text: str, number: Number, word: str | None, clause: str) -> float:
    try:
        value = float(word) if word is not None else number.default
    except ValueError:
        value = None
    if value is None or math.isnan(value) or not number.low <= value <= number.high:
        raise ConfigError(explain(f"{what}: {number.name} of {text!r}", word, number.needed, clause=clause))
    if number.integer and value != int(value):
        raise ConfigError(explain(f"{what}: {number.name} of {text!r}", word, "an integer", clause=clause))
    return int(value) if number.integer else value


def _shown(name: str, numbers: Sequence[Number]) -> str:
    return f"{name}({', '.join(n.name for n in numbers)})" if numbers else name

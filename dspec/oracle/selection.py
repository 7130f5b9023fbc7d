"""Which masked positions a pass commits: the selection rules of SS-8."""

from collections.abc import Callable, Mapping

from dspec.errors import ConfigError, ShapeError, explain
from dspec.oracle.rejection import Number

RULES = ("static", "dynamic", "sequential", "entropy", "factor", "frechet")
WITH_PARAMETER = ("dynamic", "entropy", "factor", "frechet")


def ranked(values: Mapping[int, Number], *, descending: bool) -> list[int]:
    """Return the positions by value; among equals the left one first.

    Example:
        >>> ranked({5: 0.1, 6: 0.7, 7: 0.7}, descending=True)
        [6, 7, 5]
    """
    return sorted(
        values, key=lambda position: (-values[position] if descending else values[position], position)
    )


def leftmost_sub_block(confidence: Mapping[int, Number], sub_block: int) -> dict[int, Number]:
    """Return the masked positions of the leftmost sub-block that holds a mask.

    Spec: SS-8.

    Example:
        >>> leftmost_sub_block({6: 0.1, 7: 0.2, 8: 0.3}, 4)
        {6: 0.1, 7: 0.2}
    """
    first = min(confidence) // sub_block
    return {position: value for position, value in confidence.items() if position // sub_block == first}


def longest(n_positions: int, holds: Callable[[int], bool]) -> int:
    """Return the largest n of 1..n_positions for which `holds(n)`, at least 1."""
    return max([n for n in range(1, n_positions + 1) if holds(n)], default=1)


def select(
    rule: str,
    confidence: Mapping[int, Number],
    *,
    budget: int = 1,
    parameter: Number | None = None,
    entropy: Mapping[int, Number] | None = None,
    sub_block: int | None = None,
) -> list[int]:
    """Return the positions that a rule commits, ascending, at least one.

    Spec: SS-8.

    Args:
        rule: one of `RULES`.
        confidence: masked position -> confidence of its draft; not empty. Sub-blocks count from 0.
        budget: k >= 1; read by static, dynamic and sequential.
        parameter: τ of dynamic, b of entropy, f of factor, t of frechet.
        entropy: masked position -> entropy in nats, of the rule entropy.
        sub_block: its size; None: the whole block takes part.

    Example:
        >>> c = {4: 0.2, 5: 0.9, 6: 0.6}
        >>> select("static", c, budget=2), select("sequential", c, budget=2)
        ([5, 6], [4, 5])
        >>> select("dynamic", c, parameter=0.5), select("dynamic", c, parameter=0.95)
        ([5, 6], [5])
    """
    if rule not in RULES:
        raise ConfigError(explain("rule", repr(rule), f"one of {RULES}", clause="SS-8"))
    if parameter is None and rule in WITH_PARAMETER:
        raise ConfigError(explain("parameter", None, f"a number for the rule {rule}", clause="SS-8"))
    if budget < 1:
        raise ConfigError(explain("budget", budget, "k >= 1", clause="SS-8"))
    if not confidence:
        raise ShapeError(explain("confidence", "no position", "a masked one", clause="SS-8"))
    if sub_block is not None:
        confidence = leftmost_sub_block(confidence, sub_block)
    best = ranked(confidence, descending=True)
    doubt = [1 - confidence[position] for position in best]  # ascending
    if rule == "static":
        return sorted(best[:budget])
    if rule == "sequential":
        return sorted(confidence)[:budget]
    if rule == "dynamic":
        above = [position for position in best if confidence[position] > parameter]
        return sorted(above if len(above) >= budget else best[:budget])
    if rule == "entropy":
        known = {position: (entropy or {})[position] for position in confidence}
        calm = ranked(known, descending=False)
        n = longest(len(calm), lambda n: bool(sum(known[position] for position in calm[:n]) <= parameter))
        return sorted(calm[:n])
    if rule == "factor":
        return sorted(best[: longest(len(best), lambda n: bool((n + 1) * doubt[n - 1] < parameter))])
    return sorted(best[: longest(len(best), lambda n: bool(1 - sum(doubt[:n]) >= parameter))])

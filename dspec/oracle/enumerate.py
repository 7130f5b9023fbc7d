"""Exact laws of samplers: every path of their decisions, with its probability as a `Fraction`.

A uniform is an interval, at first [0, 1). Asking `u < t` inside the interval splits it; the sampler is
replayed for each answer. Intervals are kept, so a uniform that is (wrongly) used twice stays exact.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from dspec.errors import SpecViolation, explain

ZERO, ONE = Fraction(0), Fraction(1)


@dataclass
class Path:
    """One replay of a sampler: the answers it got so far and their probability."""

    forced: tuple[bool, ...] = ()
    answers: list[bool] = field(default_factory=list)
    free: list[int] = field(default_factory=list)
    chance: Fraction = Fraction(1)

    def branch(self, chance: Fraction) -> bool:
        """Return the answer to a question that is true with this chance, 0 < chance < 1."""
        step = len(self.answers)
        answer = self.forced[step] if step < len(self.forced) else True
        if step >= len(self.forced):
            self.free.append(step)
        self.answers.append(answer)
        self.chance *= chance if answer else 1 - chance
        return answer


class Symbol:
    """A uniform on [low, high): comparisons split it, scaling by a number >= 0 keeps it exact."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.low, self.high = ZERO, ONE

    def below(self, threshold: Any) -> bool:
        """Return whether the uniform lies below the threshold, and remember it."""
        if threshold <= self.low:
            return False
        if threshold >= self.high:
            return True
        if type(threshold) is not Fraction:
            threshold = Fraction(threshold)
        # Most uniforms are asked once or from below: the general quotient costs three times as much.
        chance = threshold if self.low is ZERO else threshold - self.low
        if self.high is not ONE or self.low is not ZERO:
            chance /= self.high - self.low
        answer = self.path.branch(chance)
        if answer:
            self.high = threshold
        else:
            self.low = threshold
        return answer

    def __lt__(self, threshold: Any) -> bool:
        return self.below(threshold)

    def __mul__(self, scale: Any) -> "_Scaled":
        return _Scaled(self, scale)

    __rmul__ = __mul__


@dataclass(frozen=True)
class _Scaled:
    symbol: Symbol
    scale: Any

    def __lt__(self, threshold: Any) -> bool:
        if self.scale == 0:
            return bool(threshold > 0)
        return self.symbol.below(threshold if self.scale == 1 else threshold / Fraction(self.scale))


class Source:
    """Symbolic uniforms by key; a key asked for twice is an error unless `once` is False.

    Spec: RN-2.

    Args:
        path: the replay that they branch.
        once: refuse a second use of a key. False returns the same symbol again (for mutants).
    """

    def __init__(self, path: Path, *, once: bool = True) -> None:
        self.path, self.once = path, once
        self.symbols: dict[Hashable, Symbol] = {}

    def __call__(self, *key: Hashable) -> Symbol:
        """Return the uniform of a key."""
        if key in self.symbols and self.once:
            raise SpecViolation(explain("key of a uniform", f"{key} twice", "each key once", clause="RN-2"))
        return self.symbols.setdefault(key, Symbol(self.path))


def enumerate_law(
    sampler: Callable[[Source], Hashable], *, max_paths: int = 100_000, once: bool = True
) -> dict[Any, Fraction]:
    """Return the exact law of what a sampler returns.

    Spec: RS-1.

    Args:
        sampler: called with a `Source`; may only compare its uniforms (times numbers) with `<`.
        max_paths: give up beyond this many replays.
        once: see `Source`.

    Returns:
        Outcome -> probability; the probabilities sum to 1.

    Raises:
        SpecViolation: too many paths, or a key used twice.

    Example:
        >>> from dspec.oracle.rejection import draw
        >>> law = [Fraction(1, 3), Fraction(2, 3)]
        >>> enumerate_law(lambda source: draw(law, source("u")) + draw(law, source("v")))
        {0: Fraction(1, 9), 1: Fraction(4, 9), 2: Fraction(4, 9)}
    """
    law: dict[Any, Fraction] = {}
    waiting: list[tuple[bool, ...]] = [()]
    paths = 0
    while waiting:
        path = Path(waiting.pop())
        outcome = sampler(Source(path, once=once))
        law[outcome] = law.get(outcome, Fraction(0)) + path.chance
        waiting += [(*path.answers[:step], False) for step in path.free]
        paths += 1
        if paths > max_paths:
            raise SpecViolation(explain("sampler", f"more than {max_paths} paths", "a smaller world"))
    if sum(law.values()) != 1:
        raise SpecViolation(explain("law", f"sum {sum(law.values())}", "sum 1"))
    return law

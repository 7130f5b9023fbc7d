"""Passes of decoding along a written text, read slowly: every pattern of flags, with its probability.

A *flag* says that a slot's draft stands. Chances may be numbers of any kind; `Fraction`s stay exact.
"""

from collections.abc import Sequence
from typing import Any

Chances = Sequence[Sequence[Any]]
"""Of anchor t (t-th emitted token, from 0) and slot j: the chance that the slot's draft stands."""


def exactly(chances: Sequence[Any], n: int) -> Any:
    """Return the chance that exactly the first `n` drafts of a block stand before one falls.

    Spec: DL-10.

    Example:
        >>> from fractions import Fraction as F
        >>> [exactly([F(1, 2), F(1, 3)], n) for n in range(3)]
        [Fraction(1, 2), Fraction(1, 3), Fraction(1, 6)]
    """
    chance = 1
    for slot in range(n):
        chance = chance * chances[slot]
    return chance * (1 - chances[n]) if n < len(chances) else chance


def replay_law(chances: Chances, length: int) -> dict[tuple[int, ...], Any]:
    """Return the law of what the passes along a text count, by following every pattern of acceptances.

    Spec: DL-2, DL-10.

    Args:
        chances: see `Chances`; read for the anchors 0..length - 2.
        length: emitted tokens of the text after the cut, the prefill's among them.

    Returns:
        (n_emitted of each pass, uncut) -> probability, without impossible ones.

    Example:
        >>> from fractions import Fraction as F
        >>> replay_law([[F(1, 2)], [F(1, 2)]], 3)
        {(1, 1): Fraction(1, 4), (1, 2): Fraction(1, 4), (2,): Fraction(1, 2)}
    """
    law: dict[tuple[int, ...], Any] = {}

    def follow(anchor: int, counts: tuple[int, ...], chance: Any) -> None:
        if anchor >= length - 1:
            law[counts] = law.get(counts, 0) + chance
            return
        for n in range(len(chances[anchor]) + 1):
            mass = exactly(chances[anchor], n)
            if mass > 0:
                follow(anchor + n + 1, (*counts, n + 1), chance * mass)

    follow(0, (), 1)
    return law


def replay_means(chances: Chances, length: int) -> tuple[Any, Any]:
    """Return the expected verify passes and the expected tokens that they emit, uncut.

    Spec: DL-10.

    Example:
        >>> from fractions import Fraction as F
        >>> replay_means([[F(1, 2)], [F(1, 2)]], 3)
        (Fraction(3, 2), Fraction(9, 4))
    """
    law = replay_law(chances, length)
    passes = sum(len(counts) * chance for counts, chance in law.items())
    return passes, sum(sum(counts) * chance for counts, chance in law.items())


def stand_chance(target: Any, drafter: Any) -> Any:
    """Return min(1, q / p): the chance that a draft stands whose token the target wrote.

    Spec: DL-10.

    Args:
        target: p of the written token, > 0.
        drafter: q of it.

    Example:
        >>> stand_chance(0.5, 0.25), stand_chance(0.25, 0.5)
        (0.5, 1)
    """
    return 1 if drafter >= target else drafter / target

"""Slots with several drafts and the grids of uniforms that have all their thresholds, for `check_several`.

A fixed grid would admit next to nothing: what a rejection leaves is a quotient, and the next one a quotient
of that. So each sequence of drafts has a grid of its own, the smallest; slots with large ones are left out.
"""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property
from math import lcm, prod
from typing import Any

from dspec.oracle.rejection import Law, block_width, one_hot, residual
from dspec.oracle.several import without_replacement
from dspec.oracle.warp import normalised
from dspec.testing.checks.instances import UNIT, Row, drafter_rows

KINDS = ("alike", "apart", "one_hot")
ROWS = 50_000  # of a slot at most
SEQUENCES = 32  # of drafts drawn alike: three of a law of three tokens, two of one of five


@dataclass(frozen=True)
class Slot:
    """One slot: what the target and the drafter say of it, and how many drafts it gets.

    Args:
        target: V integers over 16.
        drafter: V integers over 16: the law of the first draft.
        count: k.
        kind: one of KINDS.
    """

    target: Row
    drafter: Row
    count: int
    kind: str

    def laws(self, drafted: Sequence[int]) -> list[Law]:
        """Return the law of each draft given those before it, as fractions.

        Spec: RS-22.

        Example:
            >>> Slot((4, 4, 8), (8, 4, 4), 2, "apart").laws([0, 2])[1]
            [Fraction(0, 1), Fraction(1, 2), Fraction(1, 2)]
        """
        return [self._next(drafted[:j]) for j in range(len(drafted))]

    def drafts(self) -> list[tuple[tuple[int, ...], Fraction]]:
        """Return the drafts that may come, and how likely they are."""
        if self.kind == "one_hot":
            return [(self._likeliest(), Fraction(1))]
        return list(self._draws((), Fraction(1)))

    def plain(self) -> dict[str, Any]:
        """Return the fields in JSON's types; `read_slot` reads them back.

        Example:
            >>> slot = Slot((4, 12), (8, 8), 1, "alike")
            >>> read_slot(slot.plain()) == slot
            True
        """
        return {**asdict(self), "target": list(self.target), "drafter": list(self.drafter)}

    @cached_property
    def paths(self) -> "list[Falling]":
        """Every sequence of drafts that may come, and what happens while they fall."""
        return [_falling(self, drafted, chance) for drafted, chance in self.drafts()]

    @property
    def rows(self) -> int:
        """Sequences of drafts with every combination of their uniforms."""
        return sum(prod(path.grid) for path in self.paths)

    def _next(self, taken: Sequence[int]) -> Law:
        law = [Fraction(mass, UNIT) for mass in self.drafter]
        if self.kind == "one_hot":
            return one_hot(self._likeliest()[len(taken)], len(law))
        return without_replacement(law, taken) if self.kind == "apart" else law

    def _likeliest(self) -> tuple[int, ...]:
        order = sorted(range(len(self.drafter)), key=lambda token: (-self.drafter[token], token))
        return tuple(order[: self.count])

    def _draws(self, taken: tuple[int, ...], chance: Fraction) -> Iterator[tuple[tuple[int, ...], Fraction]]:
        if len(taken) == self.count:
            yield taken, chance
            return
        for token, mass in enumerate(self._next(taken)):
            if mass:
                yield from self._draws((*taken, token), chance * Fraction(mass))


def make_slots(count: int, *, seed: int, kind: str) -> list[Slot]:
    """Return admitted slots: 1, 2 and 3 drafts in turn, V = 4 and V = 5 (a tail that fills no block).

    Args:
        count: how many.
        seed: of their laws.
        kind: one of KINDS.

    Example:
        >>> [slot.count for slot in make_slots(3, seed=0, kind="one_hot")]
        [1, 2, 3]
    """
    rng = random.Random(seed)
    sizes = [(4 + index % 2, 1 + index % 3) for index in range(count)]
    # Drafts that fell apart are owed nothing: a choice needs two tokens beside them.
    return [_slot(rng, vocab=max(vocab, drafts + 2), count=drafts, kind=kind) for vocab, drafts in sizes]


def _slot(rng: random.Random, *, vocab: int, count: int, kind: str) -> Slot:
    drafters = [row for row in drafter_rows(vocab) if _proposes(row, count, kind)]
    while True:
        slot = Slot(_composition(rng, vocab), rng.choice(drafters), count, kind)
        if _shows(slot):
            return slot


def _proposes(row: Row, count: int, kind: str) -> bool:
    """Return whether a drafter has a choice, to the last draft too, and not too many sequences of drafts."""
    tokens = sum(map(bool, row))
    return tokens > count if kind == "apart" else tokens > 1 and tokens**count <= SEQUENCES


def _composition(rng: random.Random, vocab: int) -> Row:
    """Return V integers >= 0 of sum 16."""
    edges = sorted(rng.randint(0, UNIT) for _ in range(vocab - 1))
    return tuple(b - a for a, b in zip([0, *edges], [*edges, UNIT]))


@dataclass(frozen=True)
class Falling:
    """One sequence of drafts, as far as each may fall.

    Args:
        drafted: k ids.
        chance: that just these are drafted.
        shares: of each draft that is reached, the chance to stand.
        owed: what is owed if all fall; empty if one stands for sure.
    """

    drafted: tuple[int, ...]
    chance: Fraction
    shares: tuple[Fraction, ...]
    owed: Law

    @cached_property
    def grid(self) -> tuple[int, ...]:
        """How many midpoints each of the k accept uniforms has, and then both of the closing token."""
        sizes = [share.denominator for share in self.shares] + [1] * (len(self.drafted) - len(self.shares))
        closing = [1, 1]
        for level, masses in _levels(self.owed):
            edges = [Fraction(edge) / sum(masses) for edge in itertools.accumulate(masses)]
            closing[level] = lcm(closing[level], *(edge.denominator for edge in edges))
        return (*sizes, *closing)


def _falling(slot: Slot, drafted: tuple[int, ...], chance: Fraction) -> Falling:
    owed: Any = [Fraction(mass, sum(slot.target)) for mass in slot.target]
    shares: list[Fraction] = []
    for token, law in zip(drafted, slot.laws(drafted)):
        shares.append(min(Fraction(1), Fraction(owed[token]) / law[token]))
        if shares[-1] == 1:
            return Falling(drafted, chance, tuple(shares), [])
        owed = normalised(residual(owed, law))
    return Falling(drafted, chance, tuple(shares), owed)


def _levels(owed: Law) -> Iterator[tuple[int, Sequence[Any]]]:
    """Yield the masses of both levels of the draw, 0 for the blocks and 1 for the tokens of one."""
    if not owed:
        return
    width = block_width(len(owed))
    blocks = [owed[start : start + width] for start in range(0, len(owed), width)]
    yield 0, [sum(block) for block in blocks]
    yield from ((1, block) for block in blocks if sum(block))


def _shows(slot: Slot) -> bool:
    """Return whether a slot is small enough, and its last draft may stand, may fall, and leaves a choice.

    Where the last draft stands or falls for sure, the law it is tried against does not matter.
    """
    last = [path.shares[-1] for path in slot.paths if len(path.shares) == slot.count]
    leaves = any(sum(mass > 0 for mass in path.owed) > 1 for path in slot.paths)
    doubt = any(0 < share < 1 for share in last)
    return leaves and doubt and slot.rows <= ROWS


def read_slot(given: Slot | Mapping[str, Any]) -> Slot:
    """Return the slot whose fields, as JSON has them, were given; a slot is returned as it is."""
    if isinstance(given, Slot):
        return given
    return Slot(tuple(given["target"]), tuple(given["drafter"]), given["count"], given["kind"])

"""Dyadic laws whose every threshold lies on a small grid of uniforms: what `check_lattice` counts on."""

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

from dspec.oracle.rejection import block_width, one_hot, residual

Row = tuple[int, ...]
UNIT = 16  # laws are integers over this
K = 2  # drafted slots of an instance
ACCEPT_GRID = 16
CLOSE_GRIDS = (8, 4)  # block level, inside level
MATCH_GRIDS = (4, 4)  # sample-match draws at every slot: a smaller grid, 4^6 rows
# What is left of a prefix (w of RS-21) for which rows with 0 < r < w and a chance to hold on the grid exist.
SHOWN = frozenset(Fraction(n, UNIT) for n in (7, 9, 10, 11, 12, 13, 14, 15))
SAMPLED_MODES = ("rejection", "block")  # those that read the drafter's law


@dataclass(frozen=True)
class Instance:
    """Dyadic laws: the row of slot k depends on the token before it.

    Args:
        target: [slot 0..K][token before; one entry at slot 0] -> V integers over 16.
        drafter: [slot 0..K-1][token before] -> V integers over 16, powers of two or 0.
        mode: "rejection", "block", "one_hot" or "match".
    """

    target: tuple[tuple[Row, ...], ...]
    drafter: tuple[tuple[Row, ...], ...]
    mode: str

    def row(self, rows: tuple[tuple[Row, ...], ...], slot: int, before: Sequence[int]) -> Row:
        """Return the row of a slot after the tokens of the slots before it."""
        return rows[slot][before[slot - 1] if slot else 0]


def make_instances(count: int, *, seed: int, mode: str = "rejection") -> list[Instance]:
    """Return admissible instances, of V = 4 and V = 5 in turn; no residual is one-hot.

    From a residual of one token every closing uniform draws the same: faults of that draw would not show.

    Example:
        >>> instance, = make_instances(1, seed=0)
        >>> {sum(row) for slot in instance.target for row in slot}
        {16}
    """
    rng = random.Random(seed)
    return [_instance(rng, vocab=4 + index % 2, mode=mode) for index in range(count)]


def _instance(rng: random.Random, *, vocab: int, mode: str) -> Instance:
    grids = MATCH_GRIDS if mode == "match" else CLOSE_GRIDS
    targets, drafters = admissible_rows(vocab, grids), drafter_rows(vocab)
    target, drafter = [], []
    for slot in range(K + 1):
        if mode != "block":
            pairs = [_pair(rng, targets, drafters, mode) for _ in range(vocab if slot else 1)]
        elif slot == 0:
            pairs = [_first_pair(rng, targets, drafters)]
        else:
            left = _left(target[0][0], drafter[0][0]) if slot < K else [Fraction(1)] * vocab
            pairs = [_joint_pair(rng, targets, drafters, share) for share in left]
        target.append(tuple(p for p, _ in pairs))
        if slot < K:
            drafter.append(tuple(q for _, q in pairs))
    return Instance(tuple(target), tuple(drafter), mode)


def _pair(rng: random.Random, targets: list[Row], drafters: list[Row], mode: str) -> tuple[Row, Row]:
    """Return one target row and one drafter row whose residuals are admissible."""
    while True:
        p, q = rng.choice(targets), rng.choice(drafters)
        if mode == "match" or _residuals_admissible(p, q, mode):
            return p, q


def _left(p: Row, q: Row) -> list[Fraction]:
    """Return w_1 of RS-21 by the first draft."""
    return [min(Fraction(1), Fraction(x, y)) if y else Fraction(1) for x, y in zip(p, q)]


def _first_pair(rng: random.Random, targets: list[Row], drafters: list[Row]) -> tuple[Row, Row]:
    """Return rows of the first slot after one draft of which a share is left that `_joint_pair` can show."""
    while True:
        p, q = _pair(rng, targets, drafters, "block")
        if SHOWN.intersection(_left(p, q)):
            return p, q


def _joint_pair(
    rng: random.Random, targets: list[Row], drafters: list[Row], left: Fraction
) -> tuple[Row, Row]:
    """Return rows after a prefix that has `left` left (w of RS-21), with every threshold on the grid.

    Where the grid allows, the prefix is neither sure to stand nor owed its own law alone: from such rows a
    verifier that forgets w in the closing law differs.
    """
    while True:
        p, q = rng.choice(targets), rng.choice(drafters)
        excess = tuple(max(left * x - y, Fraction(0)) for x, y in zip(p, q))
        mass = sum(excess, Fraction(0)) / UNIT
        if left in SHOWN and not 0 < mass < left:
            continue
        total = mass + 1 - left
        shares = [min(Fraction(1), left * x / y) for x, y in zip(p, q) if y] + [
            mass / total if total else mass
        ]
        on_grid = all((ACCEPT_GRID * share).denominator == 1 for share in shares)
        if on_grid and admissible(excess, CLOSE_GRIDS) and (not mass or sum(map(bool, excess)) > 1):
            return p, q


def _residuals_admissible(p: Row, q: Row, mode: str) -> bool:
    drafted = [q]
    if mode == "one_hot":
        drafted = [tuple(UNIT * x for x in one_hot(token, len(p))) for token in range(len(p)) if q[token]]
    return all(_shows(p, row) for row in drafted)


def _shows(p: Row, q: Row) -> bool:
    """Return whether the residual is on the grid and leaves a choice, or nothing is ever rejected."""
    left = tuple(residual(p, q))
    return admissible(left, CLOSE_GRIDS) and (p == q or sum(mass > 0 for mass in left) > 1)


def admissible(row: Sequence[int | Fraction], grids: tuple[int, int]) -> bool:
    """Return whether both levels of the two-level draw have all thresholds on the grid.

    Example:
        >>> admissible((4, 4, 8, 0), (2, 2)), admissible((8, 4, 2, 2), (16, 16))
        (True, False)
    """
    width = block_width(len(row))
    blocks = [row[start : start + width] for start in range(0, len(row), width)]
    levels = [(tuple(sum(block) for block in blocks), grids[0])] + [(block, grids[1]) for block in blocks]
    for masses, grid in levels:
        total = sum(masses)
        if total and any(edge * grid % total for edge in itertools.accumulate(masses)):
            return False
    return True


@cache
def _compositions(total: int, parts: int) -> list[Row]:
    if parts == 1:
        return [(total,)]
    return [(first, *rest) for first in range(total + 1) for rest in _compositions(total - first, parts - 1)]


@cache
def admissible_rows(vocab: int, grids: tuple[int, int]) -> list[Row]:
    """Return every law of V integers over 16 that is admissible."""
    return [row for row in _compositions(UNIT, vocab) if admissible(row, grids)]


@cache
def drafter_rows(vocab: int) -> list[Row]:
    """Return every law over 16 of powers of two and zeros: then p/q is a multiple of 1/16."""
    allowed = {0, 1, 2, 4, 8, 16}
    return [row for row in _compositions(UNIT, vocab) if allowed.issuperset(row)]


def read_instance(given: Instance | Mapping[str, Any]) -> Instance:
    """Return the instance whose fields, as JSON has them, were given; an instance is returned as it is."""
    if isinstance(given, Instance):
        return given
    tables = [
        tuple(tuple(tuple(row) for row in slot) for slot in given[name]) for name in ("target", "drafter")
    ]
    return Instance(tables[0], tables[1], given["mode"])

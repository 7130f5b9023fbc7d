"""A block-diffusion model of two layers whose states are digests: who saw what is written into its laws.

A slot's first level is its position and token; its second level adds the first levels of all that it
saw; its law is drawn from a digest of the second levels of all that it saw. So a wrong mask, a wrong
position, a wrong token or a cache entry of another pass gives another law, exactly and not nearly.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

from numpy.typing import NDArray

from dspec.errors import ConfigError, ShapeError, explain
from dspec.oracle.self_speculation import without_mask
from dspec.oracle.warp import normalised

LARGEST_WEIGHT = 32


class Slot(NamedTuple):
    """One slot of a pass: what it holds, where it stands, what it sees (itself only if it says so)."""

    token: int
    position: int
    cached: Sequence[int]
    slots: Sequence[int]


class Entry(NamedTuple):
    """What a slot leaves for others, as computed in its own pass: the "keys and values" of both layers."""

    level1: tuple[int, int]
    level2: str


@dataclass(frozen=True)
class Reading:
    """What one pass gives.

    Args:
        entries: one a slot, to be cached under its position.
        weights: one row of V positive integers a slot; MASK, the last id, has weight too.
    """

    entries: list[Entry]
    weights: list[list[int]]

    def law(self, slot: int) -> list[Fraction]:
        """Return the law of a slot, MASK included (SS-7 is for the caller)."""
        return normalised(self.weights[slot])


def slots_of(
    tokens: Sequence[int], positions: Sequence[int], sees: NDArray[Any], cached: Sequence[int] = ()
) -> list[Slot]:
    """Return the slots of a pass whose mask is a matrix of `dspec.oracle.slots`.

    Example:
        >>> from dspec.oracle.slots import causal
        >>> slots_of([7, 8], [4, 5], causal(2), cached=range(4))[1]
        Slot(token=8, position=5, cached=(0, 1, 2, 3), slots=(0, 1))
    """
    seen = [tuple(j for j, yes in enumerate(row) if yes) for row in sees]
    return [Slot(*slot) for slot in zip(tokens, positions, [tuple(cached)] * len(tokens), seen, strict=True)]


def digest(value: Any, size: int = 16) -> bytes:
    """Return bytes that differ when the text of a value differs, the same in every process."""
    return hashlib.shake_256(repr(value).encode()).digest(size)


@dataclass(frozen=True)
class HashedModel:
    """The model: a pure function of slots and cache entries.

    Args:
        vocab_size: V >= 2 ids; the last one is MASK.
        seed: another seed, another model.
        shifted: the row of position i - 1 is the law of token i (SS-1); False: that of a mask slot at i.
        eos: end tokens, for loops that read them here; the laws do not depend on them.

    Example:
        >>> model = HashedModel(vocab_size=3, seed=0, shifted=False)
        >>> model.law((0, 1)) == model.law((1, 0)), model.law((0, 1))[model.mask], sum(model.law((0, 1)))
        (False, Fraction(0, 1), Fraction(1, 1))
    """

    vocab_size: int
    seed: int
    shifted: bool
    eos: tuple[int, ...] = ()
    laws: dict[tuple[int, ...], list[Fraction]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.vocab_size < 2 or self.mask in self.eos:
            got = f"{self.vocab_size}, eos {self.eos}"
            raise ConfigError(explain("vocab_size", got, "at least 2, MASK not in eos", clause="SS-7"))

    @property
    def mask(self) -> int:
        """The mask token."""
        return self.vocab_size - 1

    def read(self, slots: Sequence[Slot], cache: Mapping[int, Entry]) -> Reading:
        """Return the entries and weights of one pass.

        Spec: SS-1, SS-3.

        Args:
            slots: (token, position, visible cached positions, visible slots of this pass).
            cache: position -> entry kept from an earlier pass.

        Example:
            >>> model = HashedModel(vocab_size=3, seed=0, shifted=True)
            >>> alone = model.read([Slot(1, 0, (), (0,))], {})
            >>> both = model.read([Slot(1, 0, (), (0,)), Slot(2, 1, (), (0, 1))], {})
            >>> next_one = model.read([Slot(2, 1, (0,), (0,))], {0: alone.entries[0]})
            >>> both.weights[1] == next_one.weights[0]
            True
        """
        slots = [Slot(*slot) for slot in slots]
        level1 = [(slot.position, slot.token) for slot in slots]
        entries = []
        for slot, own in zip(slots, level1, strict=True):
            # A list, not a set: two mask slots at one position weigh more than one.
            seen = sorted([cache[i].level1 for i in slot.cached] + [level1[j] for j in slot.slots])
            entries.append(Entry(own, digest((own, seen)).hex()))
        weights = []
        for slot, own in zip(slots, level1, strict=True):
            seen2 = sorted([cache[i].level2 for i in slot.cached] + [entries[j].level2 for j in slot.slots])
            drawn = digest((own, seen2, self.seed), self.vocab_size)
            weights.append([1 + byte % LARGEST_WEIGHT for byte in drawn])
        return Reading(entries, weights)

    def known(self, context: Sequence[int]) -> tuple[dict[int, Entry], Reading | None]:
        """Return the causal cache of a context and the last reading, by one pass a token.

        Spec: SS-2, SS-5.
        """
        cache: dict[int, Entry] = {}
        reading = None
        for position, token in enumerate(context):
            reading = self.read([Slot(token, position, tuple(cache), (0,))], cache)
            cache[position] = reading.entries[0]
        return cache, reading

    def law(self, context: Sequence[int]) -> list[Fraction]:
        """Return the law of the next token at block size one, without MASK.

        Spec: SS-2, SS-7.

        Raises:
            ShapeError: a shifted model has no law of position 0.
        """
        key = tuple(context)
        if key not in self.laws:
            cache, reading = self.known(key)
            if not self.shifted:
                reading = self.read([Slot(self.mask, len(key), tuple(cache), (0,))], cache)
            if reading is None:
                raise ShapeError(
                    explain("context", "no token", "one, as the model is shifted", clause="SS-1")
                )
            self.laws[key] = without_mask(reading.law(0), self.mask)
        return list(self.laws[key])

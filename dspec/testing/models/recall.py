"""Models that remember everything: logits are a function of every token read, in their order, exactly.

A table looks at one token, so a cache that kept or lost another would not show. Here every position
counts: one stale row, one lost row or one row of another request gives other logits, and equal histories
give equal bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from dspec.backends.numpy import NumpyOps
from dspec.core.types import Array, Draft, Scores
from dspec.engine import Engine

STATES = 4093  # two histories share a state with chance 1/4093


@cache
def _logits(vocab_size: int, seed: int, levels: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    table = rng.standard_normal((STATES, vocab_size))
    if levels:
        table = rng.integers(0, levels, table.shape).astype(np.float64)
    table.setflags(write=False)
    return table


def fold(values: Sequence[int], state: int = 1) -> list[int]:
    """Return the state after each value.

    Example:
        >>> fold([0, 1]) != fold([1, 0]), fold([5, 6])[1:] == fold([6], fold([5])[0])
        (True, True)
    """
    states = []
    for value in values:
        state = (state * 31 + value + 1) % STATES
        states.append(state)
    return states


@dataclass(frozen=True)
class RecallTarget:
    """A target whose logits are drawn for each history.

    Args:
        vocab_size: V.
        seed: of the logits.
        levels: logits are 0..levels - 1, so that they tie; 0: normal deviates.
        eos_ids: ids that end an output.
    """

    vocab_size: int = 8
    seed: int = 0
    levels: int = 0
    eos_ids: frozenset[int] = frozenset()
    tokenizer: None = None
    max_positions: None = None

    def session(self, *, layer_ids: Sequence[int] = (), capacity: int = 0) -> "RecallTargetSession":
        """Return an empty session; its features are the states of the positions."""
        return RecallTargetSession(_logits(self.vocab_size, self.seed, self.levels))


class RecallTargetSession:
    """`TargetSession` of a `RecallTarget`; its cache is the list of states."""

    def __init__(self, table: Any) -> None:
        self._table, self._states = table, [1]

    @property
    def length(self) -> int:
        """Committed positions."""
        return len(self._states) - 1

    def prefill(self, tokens: Sequence[int]) -> Scores:
        """Read tokens after those read before."""
        return self._read(tokens, last=1)

    def score(self, anchor: int, draft_tokens: Array) -> Scores:
        """Read anchor and drafts."""
        return self._read([anchor, *draft_tokens[0].tolist()], last=draft_tokens.shape[1] + 1)

    def rewind(self, length: int) -> None:
        """Forget every position >= length."""
        del self._states[length + 1 :]

    def _read(self, tokens: Sequence[int], *, last: int) -> Scores:
        states = fold(tokens, self._states[-1])
        self._states += states
        return Scores(self._table[states[-last:]][None], np.asarray(states)[None, :, None])


@dataclass(frozen=True)
class RecallDrafter:
    """A drafter whose logits depend on every row of features it was given, in their order.

    Args:
        num_drafts: K.
        vocab_size: V.
        seed: of the logits.
    """

    num_drafts: int = 3
    vocab_size: int = 8
    seed: int = 1
    layer_ids: tuple[int, ...] = ()

    @property
    def block_size(self) -> int:
        """1 + K."""
        return self.num_drafts + 1

    def session(self, target: Any, *, capacity: int = 0) -> "RecallDrafterSession":
        """Return an empty session."""
        return RecallDrafterSession(self)


class RecallDrafterSession:
    """`DrafterSession` of a `RecallDrafter`; its cache is the list of rows."""

    def __init__(self, drafter: RecallDrafter) -> None:
        self._drafter = drafter
        self._rows: list[int] = []

    @property
    def length(self) -> int:
        """Committed context positions."""
        return len(self._rows)

    def propose(
        self, anchor: int, position: int, features: Any, rule: Any, n_slots: int | None = None
    ) -> Draft:
        """Take in features up to the anchor, then draft."""
        self._rows = (self._rows + features[0, :, 0].tolist())[:position]
        state = fold([*self._rows, anchor])[-1]
        table = _logits(self._drafter.vocab_size, self._drafter.seed)
        slots = range(self._drafter.num_drafts)[:n_slots]
        return rule(table[fold(slots, state)][None])  # type: ignore[no-any-return]

    def rewind(self, length: int) -> None:
        """Forget every position >= length."""
        del self._rows[length:]


def recall_engine(
    *, vocab_size: int = 8, num_drafts: int = 3, eos: Sequence[int] = (), levels: int = 0
) -> Engine:
    """Return an engine of models that remember everything.

    Args:
        vocab_size: V.
        num_drafts: K; 0 for no drafter.
        eos: end tokens.
        levels: of the target's logits; 0: they never tie.

    Returns:
        The engine, on numpy.

    Example:
        >>> recall_engine().generate([1, 2], max_new_tokens=3).finish
        'length'
    """
    drafter = RecallDrafter(num_drafts, vocab_size) if num_drafts else None
    return Engine(RecallTarget(vocab_size, levels=levels, eos_ids=frozenset(eos)), drafter, NumpyOps())

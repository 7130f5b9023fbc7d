"""Models whose logits depend on the place in the output alone, on any backend's arrays.

A script (certain at every place) or independent tokens (the same law at every place): what an engine's
loop does with them is known beforehand.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dspec.core.types import Array, Draft, Scores

Row = Callable[..., Any]


@dataclass(frozen=True)
class PlaceTarget:
    """A target with logits row(place), place 0 being that of the first token after the prompt.

    Args:
        row: place -> (V,) float32 logits.
        ops: array operations of the backend.
        vocab_size: V.
        eos_ids: ids that end an output.
        tokenizer: for text; None: there is none.
    """

    row: Row
    ops: Any
    vocab_size: int
    eos_ids: frozenset[int] = frozenset()
    tokenizer: Any = None
    max_positions: None = None

    def session(self, *, layer_ids: Sequence[int] = (), capacity: int = 0) -> "PlaceSession":
        """Return an empty session."""
        return PlaceSession(self)


class PlaceSession:
    """`TargetSession` of a `PlaceTarget`: it keeps two lengths."""

    def __init__(self, target: PlaceTarget) -> None:
        self._target, self.length, self._prompt = target, 0, 0

    def prefill(self, tokens: Sequence[int]) -> Scores:
        """Read the prompt."""
        self.length = self._prompt = len(tokens)
        return self._rows([0], len(tokens))

    def score(self, anchor: int, draft_tokens: Array) -> Scores:
        """Read anchor and drafts."""
        first, count = self.length - self._prompt + 1, draft_tokens.shape[1] + 1
        self.length += count
        return self._rows(range(first, first + count), count)

    def rewind(self, length: int) -> None:
        """Forget every position >= length."""
        self.length = min(self.length, length)

    def _rows(self, places: Sequence[int], read: int) -> Scores:
        ops = self._target.ops
        logits = np.stack([self._target.row(place) for place in places]).astype(np.float32)
        features = np.full((1, read, 1), self._prompt, np.float32)
        return Scores(ops.from_host(logits[None]), ops.from_host(features))


@dataclass(frozen=True)
class PlaceDrafter:
    """A drafter with logits row(place, slot), slots counted from 0.

    Args:
        row: (place, slot) -> (V,) float32 logits.
        ops: array operations of the backend.
        num_drafts: K.
        prompt: tokens of every prompt it is used with.
    """

    row: Row
    ops: Any
    num_drafts: int
    prompt: int
    layer_ids: tuple[int, ...] = ()

    @property
    def block_size(self) -> int:
        """1 + K."""
        return self.num_drafts + 1

    def session(self, target: Any, *, capacity: int = 0) -> "PlaceDrafterSession":
        """Return an empty session."""
        return PlaceDrafterSession(self)


class PlaceDrafterSession:
    """`DrafterSession` of a `PlaceDrafter`."""

    def __init__(self, drafter: PlaceDrafter) -> None:
        self._drafter, self.length = drafter, 0

    def propose(
        self, anchor: int, position: int, features: Any, rule: Any, n_slots: int | None = None
    ) -> Draft:
        """Draft for the places after the anchor's."""
        drafter, self.length = self._drafter, position
        place = position - drafter.prompt + 1
        rows = [drafter.row(place + slot, slot) for slot in range(drafter.num_drafts)[:n_slots]]
        return rule(drafter.ops.from_host(np.stack(rows).astype(np.float32)[None]))  # type: ignore[no-any-return]

    def rewind(self, length: int) -> None:
        """Forget every position >= length."""
        self.length = min(self.length, length)


def certain(token: int, size: int) -> Any:
    """Return (V,) float32 logits of a law that is sure of a token.

    Example:
        >>> certain(1, 3).tolist()
        [-inf, 0.0, -inf]
    """
    logits = np.full(size, -np.inf, np.float32)
    logits[token] = 0
    return logits

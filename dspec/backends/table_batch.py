"""Tables of several requests side by side: what `backends.numpy`'s sessions do, a row a request."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dspec.backends.batch_checks import check_prompt_row, check_rewind_rows
from dspec.core.types import Array, Draft, Scores


class TableTargetBatch:
    """`TargetBatch` over a table: of the past it needs lengths alone.

    Spec: DL-4, DL-12, RS-9.

    Args:
        table: (P, V, V) laws, as `TableTarget` has them.
        rows: B.
    """

    def __init__(self, table: NDArray[np.floating[Any]], rows: int) -> None:
        self._table = table
        self.lengths = [0] * rows

    def prefill(self, row: int, tokens: Sequence[int]) -> Scores:
        """Read the prompt of a row; the law after its last token."""
        check_prompt_row(row, self.lengths)
        ids = np.asarray(tokens)
        self.lengths[row] = len(ids)
        return Scores(self._laws(np.array([len(ids) - 1]), ids[-1:])[None], ids[None, :, None])

    def score(self, anchors: Sequence[int], draft_tokens: Array, *, first: int = 0) -> Scores:
        """Read [anchor, drafts] of the rows from `first` on; the law after each."""
        ids = np.concatenate([np.asarray(anchors)[:, None], draft_tokens], axis=1)
        rows = slice(first, first + len(ids))
        positions = np.array(self.lengths[rows])[:, None] + np.arange(ids.shape[1])
        self.lengths[rows] = [length + ids.shape[1] for length in self.lengths[rows]]
        return Scores(self._laws(positions, ids), ids[..., None])

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget every row's positions from `lengths[r]` on."""
        self.lengths = check_rewind_rows(lengths, self.lengths)

    def clear(self, row: int) -> None:
        """Forget a row."""
        self.lengths[row] = 0

    def _laws(self, positions: NDArray[Any], ids: NDArray[Any]) -> NDArray[np.floating[Any]]:
        with np.errstate(divide="ignore"):  # log 0 = -inf is what a table's zero means
            logits: NDArray[np.floating[Any]] = np.log(self._table[positions % len(self._table), ids])
        return logits


class TableDrafterBatch:
    """`DrafterBatch` over a table.

    Spec: DL-5, DL-12.

    Args:
        table: (K, V, V) laws, as `TableDrafter` has them.
        rows: B.
        autoregressive: whether slots see the drafted token before them.
    """

    def __init__(self, table: NDArray[np.floating[Any]], rows: int, *, autoregressive: bool) -> None:
        self._table, self._autoregressive = table, autoregressive
        self.lengths = [0] * rows

    def prefill(self, row: int, features: Array) -> None:
        """Take in the features of a prompt: a table reads none."""
        self.lengths[row] = features.shape[1]

    def propose(
        self,
        anchors: Sequence[int],
        positions: Sequence[int],
        features: Any,
        rule: Any,
        *,
        first: int = 0,
        n_slots: int | None = None,
    ) -> Draft:
        """Return K drafts after the anchor of each row from `first` on, or the first of them."""
        self.lengths[first : first + len(positions)] = positions
        if n_slots == 0:
            return Draft(np.zeros((len(anchors), 0), dtype=np.int32))
        with np.errstate(divide="ignore"):
            logits = np.log(self._table[:n_slots])
        token = np.asarray(anchors)
        if not self._autoregressive:
            drawn: Draft = rule(np.ascontiguousarray(np.swapaxes(logits[:, token], 0, 1)))
            return drawn
        drafts = []
        for slot in range(len(logits)):
            drafts.append(rule(logits[slot, token][:, None], slot))
            token = drafts[-1].tokens[:, 0]
        probs = None if drafts[0].probs is None else np.concatenate([d.probs for d in drafts], axis=1)
        return Draft(np.concatenate([d.tokens for d in drafts], axis=1), probs)

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget every row's positions from `lengths[r]` on."""
        self.lengths = check_rewind_rows(lengths, self.lengths)

    def clear(self, row: int) -> None:
        """Forget a row."""
        self.lengths[row] = 0

"""Several requests' target passes: prefill a row, score all rows, rewind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from dspec.backends.batch_checks import (
    check_batch_rows,
    check_prompt_row,
    check_rewind_rows,
    check_room,
    check_score_rows,
    check_window,
)
from dspec.backends.layer_ids import check_layer_ids
from dspec.backends.mlx.ops import MlxOps, exact_inference
from dspec.backends.mlx.row_cache import Places, RowCache
from dspec.backends.mlx.taps import Body, tapped
from dspec.backends.mlx.target_session import PREFILL_CHUNK, TIDY
from dspec.backends.session_checks import check_prefill
from dspec.core.types import Scores

if TYPE_CHECKING:
    from dspec.backends.mlx.target import Target


class TargetBatch:
    """The target and its cache, for several requests; implements `protocol.TargetBatch`.

    A prompt is read as `TargetSession` reads it, into its own row. A pass over all rows writes at each
    row's own positions and sees, by a mask made once a pass, what that row holds. Nothing waits for the
    device but prompts, between their chunks.

    Spec: DL-4, DL-6, DL-8, DL-12, NU-6.

    Args:
        target: one that `shared_windows` knows the masks of.
        rows: B.
        layer_ids: tapped layers; () gives no features.
        capacity: most positions of a row.
        chunk: tokens of a prefill pass.

    Raises:
        ConfigError: an id that is no layer, no rows, or no capacity.
    """

    def __init__(
        self,
        target: Target,
        *,
        rows: int,
        layer_ids: Sequence[int],
        capacity: int,
        chunk: int = PREFILL_CHUNK,
    ) -> None:
        self._target, self._capacity, self._chunk = target, capacity, chunk
        self._layer_ids = check_layer_ids(layer_ids, len(target.body.layers))
        self.lengths = [0] * check_batch_rows(rows)
        self._cache = RowCache(len(target.body.layers), rows=rows, capacity=capacity)
        self._ops = MlxOps()
        self._read_since = 0  # positions, since MLX last gave back what it keeps
        self._features: mx.array | None = None  # of the last pass, until its verdict is read

    def prefill(self, row: int, tokens: Sequence[int]) -> Scores:
        """Read the prompt of an empty row.

        Args:
            row: its number.
            tokens: at least one id in [0, V).

        Returns:
            Logits (1, 1, V) after the last of them, features (1, len(tokens), F) of all, or None.

        Raises:
            ShapeError: no tokens, an id outside the vocabulary, or a row that holds a request.
            ConfigError: more positions than the capacity.
        """
        check_prefill(tokens, vocab_size=self._target.vocab_size)
        check_prompt_row(row, self.lengths)
        check_room(len(tokens), self._capacity)
        ids = mx.array(list(tokens), dtype=mx.int32)[None]
        features = []
        with exact_inference():
            for start in range(0, ids.shape[1], self._chunk):
                # Unevaluated, the passes of all chunks and rows would be in memory together.
                mx.eval(features, self._cache.arrays)
                part = ids[:, start : start + self._chunk]
                places = Places(end=start + part.shape[1], row=row, start=start)
                hidden, tapped_states = self._read(part, places)
                features.append(tapped_states)
            logits = self._target.logits(hidden[:, -1:])
            self.lengths[row] = ids.shape[1]  # not before: a failing call leaves no half of a prompt
            joined = mx.concatenate(features, axis=1) if self._layer_ids else None
            mx.async_eval(logits, joined)
            return Scores(logits, joined)

    def score(self, anchors: Sequence[int], draft_tokens: mx.array, *, first: int = 0) -> Scores:
        """Read the anchors of some rows and the drafts after them.

        Args:
            anchors: an id in [0, V) a row.
            draft_tokens: (B, K) integer ids; K may be 0.
            first: of the B rows.

        Returns:
            Logits (B, K + 1, V), features (B, K + 1, F) or None.

        Raises:
            ShapeError: rows that are not there or do not fit, or an anchor outside the vocabulary.
            ConfigError: more positions than the capacity.
        """
        rows = check_window(first, len(anchors), len(self.lengths))
        lengths, limits = self.lengths[rows], {"capacity": self._capacity}
        check_score_rows(anchors, draft_tokens, lengths, vocab_size=self._target.vocab_size, **limits)
        count = draft_tokens.shape[1] + 1
        with exact_inference():
            sent = self._ops.from_host(np.array([anchors, lengths], dtype=np.int32))
            ids = mx.concatenate([sent[0, :, None], draft_tokens.astype(mx.int32)], axis=1)
            positions = sent[1, :, None] + mx.arange(count, dtype=mx.int32)
            places = Places(end=max(lengths) + count, first=first, positions=positions)
            hidden, features = self._read(ids, places, masks=self._masks(positions, places.end))
            self.lengths[rows] = [length + count for length in lengths]
            self._features, self._read_since = features, self._read_since + count
            return Scores(self._target.logits(hidden), features)

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget every row's positions from `lengths[r]` on; nothing is copied."""
        self.lengths = check_rewind_rows(lengths, self.lengths)
        # Begin what outlives a pass and its verdict does not read: MLX ties what is lazy to its thread.
        mx.async_eval(self._features)
        self._features = None
        if self._read_since >= TIDY:
            mx.clear_cache()
            self._read_since = 0

    def clear(self, row: int) -> None:
        """Forget a row and what its memory holds."""
        self.lengths[row] = 0
        self._cache.clear(row)

    def _masks(self, positions: mx.array, end: int) -> dict[int | None, mx.array]:
        """Return who sees what, (B, 1, n, end), by window."""
        asks, columns = positions[:, None, :, None], mx.arange(end)
        seen = columns <= asks
        windows = set(self._target.body.windows)
        return {w: seen if w is None else seen & (columns > asks - w) for w in windows}

    def _read(
        self, ids: mx.array, places: Places, *, masks: Mapping[int | None, mx.array] | None = None
    ) -> tuple[mx.array, mx.array | None]:
        """Run the body over new positions of a row, or of all; lengths are the caller's affair."""
        self._cache.places = places
        body = self._target.body
        hidden, caught = tapped(body, ids, self._layer_ids, cache=self._cache, stop=False, masks=masks)
        features = mx.concatenate([caught[i] for i in self._layer_ids], axis=-1) if self._layer_ids else None
        return hidden, features


def shared_windows(body: Body) -> tuple[int | None, ...] | None:
    """Return every layer's window; None: rows of this model cannot share a pass.

    They cannot where layers hold a state in place of keys and values, or take no mask of several rows
    (Gemma 2's, whose scores have an axis more).

    Spec: DL-12.

    Args:
        body: the model's layers.
    """
    return None if body.recurrent or body.array_masks else body.windows

"""Several requests' drafting: context written by position and row, one block pass a proposal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from dspec.backends.batch_checks import (
    check_batch_rows,
    check_features,
    check_prompt_row,
    check_proposal_rows,
    check_rewind_rows,
    check_room,
    check_window,
)
from dspec.backends.draft_window import first_seen
from dspec.backends.extent import check_capacity
from dspec.backends.mlx.ops import MlxOps, exact_inference
from dspec.backends.mlx.rotary import Rotation
from dspec.backends.mlx.row_cache import Places, RowStore
from dspec.backends.protocol import DraftRule
from dspec.backends.session_checks import check_beside
from dspec.core.types import Draft

if TYPE_CHECKING:
    from dspec.backends.mlx.drafter import Drafter
    from dspec.backends.mlx.target import Target


class DrafterBatch:
    """The drafter and its cache, for several requests; implements `protocol.DrafterBatch`.

    What `DrafterSession` does, row by row in one pass: context, then the block over it as scratch. Nothing
    waits for the device.

    Spec: BD-6, BD-8, DL-4, DL-5, DL-6, DL-12, NU-6.

    Args:
        drafter: the model.
        target: whose embedding and head it uses.
        rows: B.
        capacity: most positions of a row, the block's slots included.

    Raises:
        CheckpointError: the drafter was made for another target.
        ConfigError: no rows, no capacity, or another device.
    """

    def __init__(self, drafter: Drafter, target: Target, *, rows: int, capacity: int) -> None:
        config = drafter.config
        check_beside(drafter, target)
        self.lengths = [0] * check_batch_rows(rows)
        self.window: int | None = None  # context positions that a block sees; None: all
        self._fed = slice(0, rows)  # rows of the last proposal, whose features the next one takes in
        self._drafter, self._target, self._capacity = drafter, target, check_capacity(capacity)
        self._ops = MlxOps()
        with exact_inference():
            like = mx.zeros((1, config.num_key_value_heads, 1, config.head_dim), dtype=drafter.dtype)
            self._stores = [RowStore(like, like, rows=rows, capacity=capacity) for _ in drafter.layers]
            self._columns = mx.arange(capacity)
            cos, sin = drafter.rotary(self._columns[None], drafter.dtype)
            self._tables = cos[0, 0], sin[0, 0]  # (capacity, head_dim)
            mask_id = mx.full((rows, config.num_slots), config.mask_token_id, dtype=mx.int32)
            self._mask_embeds = target.embed(mask_id).astype(drafter.dtype)
            # Made once: left lazy, every proposal's graph would make them again.
            mx.async_eval(self._columns, *self._tables, self._mask_embeds)

    def prefill(self, row: int, features: mx.array) -> None:
        """Take in the features of one row's prompt.

        Args:
            row: its number; it holds nothing.
            features: (1, S, F) of the positions 0..S - 1.

        Raises:
            ShapeError: features of another width, or a row that holds a request.
            ConfigError: more positions than the capacity.
        """
        check_prompt_row(row, self.lengths)
        count = features.shape[1]
        check_room(count, self._capacity)
        with exact_inference():
            cos, sin = self._tables
            self._write(features, (cos[None, None, :count], sin[None, None, :count]), Places(count, row))
        # Begun here: MLX ties what is lazy to its thread, and the proposal may be another's.
        mx.async_eval([store.arrays for store in self._stores])
        self.lengths[row] = count

    def propose(
        self,
        anchors: Sequence[int],
        positions: Sequence[int],
        features: mx.array | None,
        rule: DraftRule,
        *,
        first: int = 0,
        n_slots: int | None = None,
    ) -> Draft:
        """Take in features, then draft K tokens after the anchors of some rows.

        `features` are those of the last proposal's rows: row r's stand for the positions lengths[r],
        lengths[r] + 1, ... What is past the anchor, or of a row taken since, is overwritten by the block
        before anything reads it.

        Args:
            anchors: the last emitted token of each row, an id in [0, V).
            positions: the anchors'; the rows' `lengths` afterwards.
            features: (rows of the last proposal, R, F), R at most the block size; None: no new ones.
            rule: turns logits (B, K, V) into a draft.
            first: of the B rows.
            n_slots: the first k of the K drafts alone: the head and the rule see no others; 0: features are
                taken in and nothing is drafted; None: all.

        Returns:
            What the rule made.

        Raises:
            ShapeError: rows that are not there, features of another shape or width, a gap before an
                anchor, or an anchor outside the vocabulary.
            ConfigError: more positions than the capacity.
        """
        size = self._drafter.block_size
        rows = check_window(first, len(anchors), len(self.lengths))
        added = check_features(features, self._fed.stop - self._fed.start, size)
        reach = [
            added if self._fed.start <= row < self._fed.stop else 0 for row in range(rows.start, rows.stop)
        ]
        sizes = {"capacity": self._capacity, "vocab_size": self._target.vocab_size}
        check_proposal_rows(anchors, positions, self.lengths[rows], reach, block_size=size, **sizes)
        with exact_inference():
            numbers = [*anchors, *positions, *self.lengths[self._fed]]
            sent, count = self._ops.from_host(np.array(numbers, dtype=np.int32)), len(anchors)
            end = max(positions) + size
            if features is not None:
                new = sent[2 * count :, None] + self._columns[:added]
                self._write(features, self._turn(new), Places(end, first=self._fed.start, positions=new))
            if n_slots == 0:
                draft = Draft(mx.zeros((count, 0), dtype=mx.int32))
                # Left lazy, what is written pass after pass would be one graph, with every pass's features.
                mx.async_eval([store.arrays for store in self._stores])
            else:
                embeds = self._target.embed(sent[:count, None]).astype(self._drafter.dtype)
                embeds = mx.concatenate([embeds, self._mask_embeds[:count]], axis=1)
                block = sent[count : 2 * count, None] + self._columns[:size]
                places = Places(end, first=first, positions=block, begin=first_seen(positions, self.window))
                hidden = self._read_block(embeds, places)
                draft = rule(self._target.logits(hidden[:, 1:][:, :n_slots]))
                # The device starts on the block while the host builds the target's pass.
                mx.async_eval(draft.tokens)
        self.lengths[rows], self._fed = positions, rows
        return draft

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget every row's context positions from `lengths[r]` on."""
        self.lengths = check_rewind_rows(lengths, self.lengths)

    def clear(self, row: int) -> None:
        """Forget a row and what its memory holds."""
        self.lengths[row] = 0
        for store in self._stores:
            store.clear(row)

    def _write(self, features: mx.array, rotation: Rotation, places: Places) -> None:
        """Write keys and values of new context rows; the same rows serve every layer."""
        context = self._drafter.fuse(features.astype(self._drafter.dtype))
        for store, layer in zip(self._stores, self._drafter.layers):
            store.write(places, *layer.self_attn.keys_values(context, rotation))

    def _read_block(self, hidden: mx.array, places: Places) -> mx.array:
        """Run the blocks' slots over each row's context (its last `window` positions) and block."""
        starts, size = places.positions[:, :1], hidden.shape[1]
        columns, rotation = self._columns[places.begin : places.end], self._turn(places.positions)
        # One mask for all slots of a row: (B, 1, 1, end - begin).
        mask = columns < starts + size
        if self.window is not None:
            mask = mask & (columns >= starts - self.window)
        mask = mask[:, None, None]
        for store, layer in zip(self._stores, self._drafter.layers):
            hidden = layer(hidden, rotation, partial(store.write, places), mask)
        return self._drafter.norm(hidden)

    def _turn(self, positions: mx.array) -> Rotation:
        cos, sin = self._tables
        return cos[positions][:, None], sin[positions][:, None]

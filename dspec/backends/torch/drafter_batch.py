"""Several requests' drafting: context written by position and row, one block pass a proposal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dspec.backends.batch_checks import (
    check_batch_rows,
    check_prompt_row,
    check_proposal_rows,
    check_rewind_rows,
    check_room,
)
from dspec.backends.extent import check_capacity
from dspec.backends.protocol import DraftRule
from dspec.backends.session_checks import check_beside
from dspec.backends.torch.ops import TorchOps, exact_inference
from dspec.backends.torch.rotary import Rotation
from dspec.backends.torch.row_cache import Places, RowStore
from dspec.core.types import Draft

if TYPE_CHECKING:
    from dspec.backends.torch.drafter import Drafter
    from dspec.backends.torch.target import Target


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
        self._drafter, self._target, self._capacity = drafter, target, check_capacity(capacity)
        self._ops = TorchOps(drafter.device)
        with exact_inference():
            like = torch.empty(1, config.num_key_value_heads, 1, config.head_dim, device=drafter.device)
            like = like.to(drafter.dtype)
            self._stores = [RowStore(like, like, rows=rows, capacity=capacity) for _ in drafter.layers]
            self._columns = torch.arange(capacity, device=drafter.device)
            cos, sin = drafter.rotary(self._columns[None], drafter.dtype)
            self._tables = cos[0, 0], sin[0, 0]  # (capacity, head_dim)
            mask_id = torch.full((1, config.num_slots), config.mask_token_id, device=drafter.device)
            self._mask_embeds = target.embed(mask_id).to(drafter.dtype).expand(rows, -1, -1)

    def prefill(self, row: int, features: Tensor) -> None:
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
        self.lengths[row] = count

    def propose(
        self, anchors: Sequence[int], positions: Sequence[int], features: Tensor | None, rule: DraftRule
    ) -> Draft:
        """Take in features, then draft K tokens after every row's anchor.

        Row r of `features` stands for the positions lengths[r], lengths[r] + 1, ...; those at or after
        `positions[r]` are overwritten by the block before anything reads them.

        Args:
            anchors: the last emitted token of each row, an id in [0, V).
            positions: the anchors'; `lengths` afterwards.
            features: (B, R, F), R at most the block size; None: there are no new ones.
            rule: turns logits (B, K, V) into a draft.

        Returns:
            What the rule made.

        Raises:
            ShapeError: features of another shape or width, a gap before an anchor, or an anchor outside
                the vocabulary.
            ConfigError: more positions than the capacity.
        """
        size = self._drafter.block_size
        check_proposal_rows(
            anchors,
            positions,
            features,
            self.lengths,
            capacity=self._capacity,
            block_size=size,
            vocab_size=self._target.vocab_size,
        )
        with exact_inference():
            sent = self._ops.from_host(np.array([anchors, positions, self.lengths], dtype=np.int64))
            end = max(positions) + size
            if features is not None:
                new = sent[2, :, None] + self._columns[: features.shape[1]]
                self._write(features, self._turn(new), Places(end, positions=new))
            first = self._target.embed(sent[0, :, None]).to(self._drafter.dtype)
            hidden = self._read_block(torch.cat([first, self._mask_embeds], dim=1), sent[1], end)
            draft = rule(self._target.logits(hidden[:, 1:]))
        self.lengths = list(positions)
        return draft

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget every row's context positions from `lengths[r]` on."""
        self.lengths = check_rewind_rows(lengths, self.lengths)

    def clear(self, row: int) -> None:
        """Forget a row and what its memory holds."""
        self.lengths[row] = 0
        with exact_inference():
            for store in self._stores:
                store.clear(row)

    def _write(self, features: Tensor, rotation: Rotation, places: Places) -> None:
        """Write keys and values of new context rows; the same rows serve every layer."""
        context = self._drafter.fuse(features.to(self._drafter.dtype))
        for store, layer in zip(self._stores, self._drafter.layers):
            store.write(places, *layer.self_attn.keys_values(context, rotation))

    def _read_block(self, hidden: Tensor, starts: Tensor, end: int) -> Tensor:
        """Run the blocks' slots over each row's context and block, all of which they may see."""
        size = hidden.shape[1]
        places = Places(end, positions=starts[:, None] + self._columns[:size])
        rotation = self._turn(starts[:, None] + self._columns[:size])
        # One mask for all slots of a row: (B, 1, 1, end).
        mask = (self._columns[:end] < starts[:, None] + size)[:, None, None]
        for store, layer in zip(self._stores, self._drafter.layers):
            hidden = layer(hidden, rotation, partial(store.write, places), mask)
        return self._drafter.norm(hidden)

    def _turn(self, positions: Tensor) -> Rotation:
        cos, sin = self._tables
        return cos[positions][:, None], sin[positions][:, None]

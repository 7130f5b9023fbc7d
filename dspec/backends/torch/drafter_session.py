"""One request's drafting: context written by position, one block pass a proposal."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dspec.backends.extent import at_least_zero
from dspec.backends.protocol import DraftRule
from dspec.backends.session_checks import check_beside, check_proposal
from dspec.backends.torch.cache import ContextCache
from dspec.backends.torch.ops import exact_inference
from dspec.backends.torch.rotary import Rotation
from dspec.core.types import Draft

if TYPE_CHECKING:
    from dspec.backends.torch.drafter import Drafter
    from dspec.backends.torch.target import Target


class DrafterSession:
    """The drafter and its cache, for one request; implements `protocol.DrafterSession`.

    Between two proposals the cache holds keys and values of positions 0..length - 1 in every layer.
    The block's own keys and values are scratch after them, overwritten by the next features, so that
    attention reads one view and nothing is joined. Nothing inside waits for the device.

    Spec: BD-6, BD-8, DL-4, DL-5, DL-6, NU-6.

    Args:
        drafter: the model.
        target: whose embedding and head it uses.
        capacity: most positions held, the block's slots included.

    Raises:
        CheckpointError: the drafter was made for another target.
        ConfigError: no capacity, or another device.
    """

    def __init__(self, drafter: Drafter, target: Target, *, capacity: int) -> None:
        config = drafter.config
        check_beside(drafter, target)
        self.length = 0
        self.window: int | None = None  # context positions that a block sees; None: all
        self._drafter, self._target, self._capacity = drafter, target, capacity
        self._cache = ContextCache(
            n_layers=config.num_hidden_layers,
            n_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            capacity=capacity,
            dtype=drafter.dtype,
            device=drafter.device,
        )
        with exact_inference():
            everywhere = torch.arange(capacity, device=drafter.device)[None]
            self._rotation = drafter.rotary(everywhere, drafter.dtype)
            mask_id = torch.full((1, config.num_slots), config.mask_token_id, device=drafter.device)
            self._mask_embeds = target.embed(mask_id).to(drafter.dtype)

    def propose(
        self, anchor: int, position: int, features: Tensor, rule: DraftRule, n_slots: int | None = None
    ) -> Draft:
        """Take in features, then draft K tokens after the anchor.

        Rows of `features` stand for the positions length, length + 1, ...; those at or after
        `position` belong to rejected drafts and are overwritten by the block before anything reads them.

        Args:
            anchor: the last emitted token, id in [0, V).
            position: the anchor's; `length` afterwards.
            features: (1, R, F) with length + R >= position.
            rule: turns logits (1, K, V) into a draft.
            n_slots: the first k >= 1 of the K drafts alone: the head and the rule see no others; None: all.

        Returns:
            What the rule made.

        Raises:
            ShapeError: features of another width, a gap before the anchor, or an anchor outside the
                vocabulary.
            ConfigError: more positions than the capacity.
        """
        check_proposal(
            anchor,
            position,
            features,
            length=self.length,
            capacity=self._capacity,
            block_size=self._drafter.block_size,
            vocab_size=self._target.vocab_size,
        )
        with exact_inference():
            self._write_context(self._drafter.fuse(features.to(self._drafter.dtype)))
            first = torch.full((1, 1), anchor, device=self._drafter.device)
            embeds = torch.cat([self._target.embed(first).to(self._drafter.dtype), self._mask_embeds], dim=1)
            hidden = self._read_block(embeds, position)
            draft = rule(self._target.logits(hidden[:, 1:][:, :n_slots]))
        self.length = position
        return draft

    def rewind(self, length: int) -> None:
        """Forget every context position >= length."""
        self.length = min(self.length, at_least_zero(length))

    def _write_context(self, context: Tensor) -> None:
        """Write keys and values of new context rows; the same rows serve every layer."""
        rotation = self._turn(self.length, context.shape[1])
        for i, layer in enumerate(self._drafter.layers):
            self._cache.write(i, self.length, *layer.self_attn.keys_values(context, rotation))

    def _read_block(self, hidden: Tensor, position: int) -> Tensor:
        """Run the block's slots over context (its last `window` positions) and block, which they all see."""
        rotation = self._turn(position, hidden.shape[1])
        first = 0 if self.window is None else max(0, position - self.window)
        for i, layer in enumerate(self._drafter.layers):
            hidden = layer(hidden, rotation, partial(self._cache.write, i, position, first=first), None)
        return self._drafter.norm(hidden)

    def _turn(self, start: int, count: int) -> Rotation:
        cos, sin = self._rotation
        return cos[:, :, start : start + count], sin[:, :, start : start + count]

"""Several requests' passes over a block-diffusion model: read, logits, commit, rewind."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dspec.backends.block_checks import check_commit, check_read, check_rewind, check_rows, check_slots
from dspec.backends.block_pass import Pass, make_pass
from dspec.backends.torch.block_cache import BlockCache
from dspec.backends.torch.block_layers import fold
from dspec.backends.torch.ops import TorchOps, exact_inference
from dspec.core.layouts import Layout, visible

if TYPE_CHECKING:
    from dspec.backends.torch.block_diffusion import BlockDiffusionModel


class BlockSession:
    """A block-diffusion model and its cache, for several requests; implements `protocol.BlockSession`.

    Letters: R rows, P slots of the longest row, N positions that a pass meets, D width, V vocabulary.

    Spec: SS-3, SS-5, SS-22, NU-6.

    Args:
        model: the model.
        rows: requests.
        capacity: most positions of a row, slots that are not kept included.

    Raises:
        ConfigError: no rows, or no capacity.
    """

    def __init__(self, model: BlockDiffusionModel, *, rows: int, capacity: int) -> None:
        config = model.config
        self._model, self._capacity, self._ops = model, capacity, TorchOps(model.device)
        self._lengths, self._pending = [0] * check_rows(rows), [0] * rows
        self._cache = BlockCache(
            n_layers=config.num_hidden_layers,
            rows=rows,
            n_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            capacity=capacity,
            dtype=model.dtype,
            device=model.device,
        )
        with exact_inference():
            self._columns = torch.arange(capacity, device=model.device)
            cos, sin = model.rotary(self._columns[None], model.dtype)
            self._tables = cos[0, 0], sin[0, 0]  # (capacity, rotary width)

    @property
    def lengths(self) -> list[int]:
        """Committed positions of each row."""
        return list(self._lengths)

    def read(self, layouts: Sequence[Layout | None], drafts: Tensor | None = None) -> Tensor:
        """Run one forward pass over the slots of every row.

        Keys and values are written after each row's committed positions, where the next pass overwrites
        them unless `commit` is called. A pass that fails leaves the lengths as they were.

        Spec: SS-3, SS-5, SS-22.

        Args:
            layouts: one a row; None: the row takes no part.
            drafts: (R, K) integer ids on the device, what `drafted(k)` stands for.

        Returns:
            Hidden states (R, P, D), for `logits`; those past a row's own slots mean nothing.

        Raises:
            ShapeError: rows, layouts, ids or drafts that do not fit.
            ConfigError: more positions than the capacity.
        """
        check_read(
            layouts,
            self._lengths,
            capacity=self._capacity,
            vocab_size=self._model.vocab_size,
            drafts=None if drafts is None else tuple(drafts.shape),
        )
        plan = make_pass(layouts, self._lengths, capacity=self._capacity)
        self._pending = [0] * len(self._pending)
        with exact_inference():
            hidden = self._run(plan, drafts)
        self._pending = list(plan.sizes)
        return hidden

    def logits(self, hidden: Tensor, slots: Sequence[Sequence[int]]) -> Tensor:
        """Return the logits of some slots of the last pass; the head runs on those alone.

        Args:
            hidden: what `read` returned.
            slots: W slots of every row.

        Returns:
            (R, W, V) in the model's dtype.

        Raises:
            ShapeError: rows of uneven length, or a slot that the pass has not.
        """
        count = check_slots(slots, rows=len(self._lengths), width=hidden.shape[1])
        first = slots[0][0] if count else 0
        alike = all(list(row) == list(range(first, first + count)) for row in slots)
        with exact_inference():
            if alike:
                return self._model.head(hidden[:, first : first + count])
            index = self._ops.from_host(np.array(slots, dtype=np.int64))
            return self._model.head(hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[2])))

    def commit(self, counts: Sequence[int]) -> None:
        """Keep the keys and values of each row's first `counts[r]` slots of the last pass.

        Raises:
            ShapeError: a count that the last pass has not, or that was committed already.
        """
        check_commit(counts, self._pending)
        self._lengths = [length + count for length, count in zip(self._lengths, counts)]
        self._pending = [0] * len(counts)

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget every row's positions from `lengths[r]` on; nothing is copied.

        Raises:
            ShapeError: another number of rows, or a length below 0.
        """
        check_rewind(lengths, len(self._lengths))
        kept = [min(old, new) for old, new in zip(self._lengths, lengths)]
        # The slots of the last pass lie after the old length: they cannot be kept after another one.
        self._pending = [n if old == new else 0 for n, old, new in zip(self._pending, self._lengths, kept)]
        self._lengths = kept

    def _run(self, plan: Pass, drafts: Tensor | None) -> Tensor:
        """Upload the plan and run the layers over it."""
        tokens, positions, *sight, seen, places = self._ops.from_host(plan.integers).unbind(1)
        if plan.drafted and drafts is not None:
            mine = (-1 - tokens).clamp(min=0)
            tokens = torch.where(tokens < 0, drafts.to(tokens.dtype).gather(1, mine), tokens)
        hidden = self._model.embed(tokens)
        rotation = tuple(table[positions][:, None] for table in self._tables)
        mask = None if plan.everything else self._mask(plan, sight, seen, places)
        for i, layer in enumerate(self._model.layers):
            hidden = layer(hidden, rotation, partial(self._cache.write, i, plan, places), mask)
        return self._model.norm(hidden)

    def _mask(self, plan: Pass, sight: list[Tensor], seen: Tensor, places: Tensor) -> Tensor:
        """Return who sees what of the N positions, folded for the attention."""
        among = visible(*sight, xp=self._ops.xp)
        columns = self._columns[: plan.end]
        cached = columns < seen[..., None]
        if plan.start is not None:
            mask = torch.cat([cached[..., : plan.start], among], dim=-1)
        else:
            slot = (columns - places[:, :1])[:, None]  # which slot of its row stands in a column
            inside = (slot >= 0) & (slot < plan.width)
            at = slot.clamp(0, plan.width - 1).expand(-1, plan.width, -1)
            mask = cached | (among.gather(2, at) & inside)
        config = self._model.config
        return fold(mask, config.num_attention_heads // config.num_key_value_heads)

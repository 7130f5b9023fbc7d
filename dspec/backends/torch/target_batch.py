"""Several requests' target passes: prefill a row, score all rows, rewind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dspec.backends.batch_checks import (
    check_batch_rows,
    check_prompt_row,
    check_rewind_rows,
    check_room,
    check_score_rows,
    check_window,
)
from dspec.backends.layer_ids import check_layer_ids
from dspec.backends.session_checks import check_prefill
from dspec.backends.torch.ops import TorchOps, exact_inference
from dspec.backends.torch.pretrained import GROUPED
from dspec.backends.torch.row_cache import Places, RowCache
from dspec.backends.torch.taps import read_body
from dspec.backends.torch.target_session import PREFILL_CHUNK
from dspec.core.types import Scores

if TYPE_CHECKING:
    from dspec.backends.torch.target import Target

# Attention of transformers that takes a mask of dspec's own; flash and flex attention take other forms.
MASKED = ("sdpa", GROUPED, "eager")
FULL, SLIDING = "full_attention", "sliding_attention"


class TargetBatch:
    """The target and its cache, for several requests; implements `protocol.TargetBatch`.

    A prompt is read as `TargetSession` reads it, into its own row. A pass over all rows writes at each
    row's own positions and sees, by a mask made once a pass, what that row holds. Nothing waits for the
    device.

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
        self._body = target.model.get_decoder()
        self._layer_ids = check_layer_ids(layer_ids, len(self._body.layers))
        self._windows = shared_windows(self._body.config) or {FULL: None}
        self.lengths = [0] * check_batch_rows(rows)
        self._cache = RowCache(len(self._body.layers), rows=rows, capacity=capacity)
        self._ops = TorchOps(target.device)
        with exact_inference():
            self._columns = torch.arange(capacity, device=target.device)

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
        ids = torch.tensor(list(tokens), dtype=torch.int64, device=self._target.device)[None]
        start, features = 0, []
        with exact_inference():
            for part in ids.split(self._chunk, dim=1):
                end = start + part.shape[1]
                hidden, tapped_states = self._read(part, Places(end=end, row=row, start=start))
                features.append(tapped_states)
                start = end
            logits = self._target.logits(hidden[:, -1:])
            self.lengths[row] = start  # not before: a failing call leaves no half of a prompt
            return Scores(logits, torch.cat(features, dim=1) if self._layer_ids else None)

    def score(self, anchors: Sequence[int], draft_tokens: Tensor, *, first: int = 0) -> Scores:
        """Read the anchors of some rows and the drafts after them.

        Args:
            anchors: an id in [0, V) a row.
            draft_tokens: (B, K) integer ids on the target's device; K may be 0.
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
            sent = self._ops.from_host(np.array([anchors, lengths], dtype=np.int64))
            ids = torch.cat([sent[0, :, None], draft_tokens.to(torch.int64)], dim=1)
            positions = sent[1, :, None] + self._columns[:count]
            places = Places(end=max(lengths) + count, first=first, positions=positions)
            hidden, features = self._read(
                ids, places, attention_mask=self._masks(places), position_ids=positions
            )
            self.lengths[rows] = [length + count for length in lengths]
            return Scores(self._target.logits(hidden), features)

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget every row's positions from `lengths[r]` on; nothing is copied."""
        self.lengths = check_rewind_rows(lengths, self.lengths)

    def clear(self, row: int) -> None:
        """Forget a row and what its memory holds."""
        self.lengths[row] = 0
        with exact_inference():
            self._cache.clear(row)

    def _masks(self, places: Places) -> Any:
        """Return who sees what, (B, 1, n, end): one mask, or one a kind of layer."""
        assert places.positions is not None
        asks, columns = places.positions[:, None, :, None], self._columns[: places.end]
        seen = columns <= asks
        masks = {}
        for kind, window in self._windows.items():
            mask = seen if window is None else seen & (columns > asks - window)
            masks[kind] = self._added(mask) if self._body.config._attn_implementation == "eager" else mask
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _added(self, mask: Tensor) -> Tensor:
        """Return the mask as eager attention takes it: added to the scores."""
        hidden = torch.finfo(self._target.dtype).min
        return torch.zeros_like(mask, dtype=self._target.dtype).masked_fill(~mask, hidden)

    def _read(self, ids: Tensor, places: Places, **masked: Any) -> tuple[Tensor, Tensor | None]:
        """Run the body over new positions of a row, or of all; lengths are the caller's affair."""
        self._cache.places = places
        plain = self._target.plain
        hidden, caught = read_body(self._body, ids, self._cache, self._layer_ids, plain=plain, **masked)
        features = torch.cat([caught[i] for i in self._layer_ids], dim=-1) if self._layer_ids else None
        return hidden, features


def shared_windows(config: Any) -> dict[str, int | None] | None:
    """Return the kinds of attention of a model and their windows; None: its rows cannot share a pass.

    They cannot where attention takes no mask from outside, where it is not causal, or where rotary angles
    change with the longest row of a pass.

    Spec: DL-12.

    Args:
        config: of the decoder.

    Returns:
        Kind of layer -> window, the asking position included, or None: all before it.
    """
    if config._attn_implementation not in MASKED or not getattr(config, "is_causal", True):
        return None
    ropes = getattr(config, "rope_parameters", None) or {}
    own = [one for one in ropes.values() if isinstance(one, dict)] or [ropes]
    if getattr(config, "use_bidirectional_attention", None) or any(
        "dynamic" in str(rope.get("rope_type")) or rope.get("rope_type") == "longrope" for rope in own
    ):
        return None
    window = getattr(config, "sliding_window", None)
    # A model without kinds of layers has its window, if any, in all of them.
    kinds = getattr(config, "layer_types", None) or [FULL if window is None else SLIDING]
    return {kind: window if kind == SLIDING else None for kind in dict.fromkeys(kinds)}

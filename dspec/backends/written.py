"""Texts that a target wrote, side by side, and a block on every token of them that a pass may begin at."""

from collections.abc import Iterator
from dataclasses import dataclass

import array_api_compat.numpy as xp
import numpy as np
from numpy.typing import NDArray

from dspec.core.blocks import block_labels, block_positions
from dspec.supervision import Supervision


@dataclass(frozen=True)
class Written:
    """Texts of one batch.

    Letters: B texts, S positions. Anchor t of a text is its t-th emitted token, counted from 0.

    Spec: DL-10.

    Args:
        tokens: (B, S) int64: prompt, emitted tokens, then what the target would have written after the
            cut, which the last pass may look at; padded on the right.
        prompt_lengths: (B,) tokens of each prompt, >= 1.
        lengths: (B,) emitted tokens up to the cut, >= 1.

    Example:
        >>> texts = Written(np.array([[7, 8, 9, 5]]), np.array([1]), np.array([3]))
        >>> blocks = next(texts.blocks(block_size=2, mask_token_id=0, anchors=8))
        >>> blocks.inputs.tolist(), blocks.labels.tolist(), texts.before(1).tolist()
        ([[[8, 0], [9, 0]]], [[[9], [5]]], [1, 2])
    """

    tokens: NDArray[np.int64]
    prompt_lengths: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @property
    def n_anchors(self) -> int:
        """T, passes of the longest text if no draft ever stood: every token but the last begins one."""
        return int(self.lengths.max()) - 1

    def blocks(self, *, block_size: int, mask_token_id: int, anchors: int) -> Iterator[Supervision]:
        """Yield the blocks of all anchors, `anchors` consecutive ones of every text at a time.

        Args:
            block_size: 1 + K.
            mask_token_id: what drafted slots hold.
            anchors: of each text, >= 1; it bounds memory.

        Yields:
            Blocks of the anchors 0.., anchors.., ...; where a text has fewer, they are dropped (BD-3).
        """
        tokens = self.tokens.astype(np.int64)
        everywhere = np.ones(tokens.shape, dtype=bool)
        for first in range(0, self.n_anchors, anchors):
            index = np.arange(first, min(first + anchors, self.n_anchors))
            keep = index[None] < self.lengths[:, None] - 1
            chosen = np.where(keep, self.prompt_lengths[:, None] + index, 0).astype(np.int32)
            labels, mask = block_labels(tokens, everywhere, chosen, keep, block_size, xp=xp)
            inputs = np.full((*chosen.shape, block_size), mask_token_id, dtype=np.int64)
            inputs[:, :, 0] = np.take_along_axis(tokens, chosen.astype(np.int64), axis=1)
            positions = block_positions(chosen, block_size, xp=xp)
            yield Supervision(tokens, chosen, keep, inputs, positions, labels, mask)

    def before(self, n_slots: int) -> NDArray[np.int64]:
        """Return the places, among the B * S, right before a token that some slot may draft.

        Args:
            n_slots: K.

        Returns:
            (R,) increasing; at S the texts end.
        """
        place = np.arange(self.tokens.shape[1] - 1)[None]
        begin = self.prompt_lengths[:, None]
        inside = (place >= begin) & (place < begin + self.lengths[:, None] - 2 + n_slots)
        row, column = np.nonzero(inside & (self.lengths[:, None] > 1))
        found: NDArray[np.int64] = row * self.tokens.shape[1] + column
        return found

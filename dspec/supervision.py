"""One step's blocks, cut from a batch of texts on the host: the same numbers for every backend."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Self

import array_api_compat.numpy as xp
import numpy as np
from numpy.typing import NDArray

from dspec.core.blocks import block_labels, block_positions, sample_anchors


@dataclass(frozen=True)
class Layout:
    """The blocks of B sequences side by side, as a drafter reads them: what goes to the device.

    Letters: B sequences, S positions, Q = A * block_size slots a sequence, N = B * A blocks,
    K drafted slots, R supervised slots.

    Args:
        positions: (B, Q) int64.
        context_positions: (B, S) int64, 0 to S - 1.
        supervised: (N, K) bool.
        slots: (R,) int64, the supervised ones of the N * K drafted slots.
        rows: (R,) int64, the same slots among the B * Q rows of the drafter's output.
        labels: (R,) int64, their gold tokens.
        before: (R,) int64, the position before each label among the B * S of the texts: where the
            target's own law of that token stands.
    """

    positions: NDArray[np.int64]
    context_positions: NDArray[np.int64]
    supervised: NDArray[np.bool_]
    slots: NDArray[np.int64]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    before: NDArray[np.int64]

    def runs(self, most: int) -> tuple[tuple[int, int], ...]:
        """Cut the supervised slots into runs of whole blocks, each of about `most` rows at most.

        Args:
            most: rows a run, unless one block has more; >= 1.

        Returns:
            The end of each run: (row, block).

        Example:
            >>> mask, none = np.array([[1, 1], [1, 0], [1, 1]], dtype=bool), np.zeros(0, dtype=np.int64)
            >>> Layout(none, none, mask, none, none, none, none).runs(3)
            ((3, 2), (5, 3))
        """
        ends = np.cumsum(self.supervised.sum(axis=1))
        found, row = [], 0
        while row < (ends[-1] if len(ends) else 0):
            # Blocks without rows go with those before them; a block longer than a run is a run.
            block = max(
                np.searchsorted(ends, row + most, side="right"), np.searchsorted(ends, row, "right") + 1
            )
            row = int(ends[block - 1])
            found.append((row, int(block)))
        return tuple(found)


@dataclass(frozen=True)
class Supervision:
    """The blocks of B sequences and what each slot is to predict.

    Letters: B sequences, S positions, A anchors a sequence, K drafted slots (block_size - 1).

    Spec: BD-1, BD-3, BD-4.

    Args:
        tokens: (B, S) int64, the texts, padded on the right.
        anchors: (B, A) int32, position of each block's slot 0.
        keep: (B, A) bool; false where a text has fewer than A valid anchors.
        inputs: (B, A, 1 + K) int64: the anchor's token, then mask tokens.
        positions: (B, A, 1 + K) int32, the slot's place in the text.
        labels: (B, A, K) int64, gold tokens, 0 beyond S.
        mask: (B, A, K) bool, the slot is supervised.
    """

    tokens: NDArray[np.int64]
    anchors: NDArray[np.int32]
    keep: NDArray[np.bool_]
    inputs: NDArray[np.int64]
    positions: NDArray[np.int32]
    labels: NDArray[np.int64]
    mask: NDArray[np.bool_]

    @classmethod
    def cut(
        cls,
        tokens: NDArray[Any],
        loss_mask: NDArray[np.bool_],
        uniforms: NDArray[Any],
        *,
        anchors: int,
        block_size: int,
        mask_token_id: int,
    ) -> Self:
        """Choose anchors by the uniforms and lay out their blocks.

        Args:
            tokens: (B, S) integer ids.
            loss_mask: (B, S) bool, the token is one to learn from.
            uniforms: (B, S) in [0, 1).
            anchors: A >= 1.
            block_size: 1 + K.
            mask_token_id: what drafted slots hold.

        Returns:
            The blocks.

        Example:
            >>> text, yes = np.array([[5, 6, 7]]), np.ones((1, 3), dtype=bool)
            >>> blocks = Supervision.cut(text, yes, np.array([[0.9, 0.1, 0.5]]), anchors=1, block_size=3,
            ...                          mask_token_id=9)
            >>> blocks.inputs.tolist(), blocks.labels.tolist(), blocks.mask.tolist()
            ([[[6, 9, 9]]], [[[7, 0]]], [[[True, False]]])
        """
        tokens = tokens.astype(np.int64)
        chosen, keep = sample_anchors(loss_mask, uniforms, anchors, xp=xp)
        labels, mask = block_labels(tokens, loss_mask, chosen, keep, block_size, xp=xp)
        inputs = np.full((*chosen.shape, block_size), mask_token_id, dtype=np.int64)
        inputs[:, :, 0] = np.take_along_axis(tokens, chosen.astype(np.int64), axis=1)
        positions = block_positions(chosen, block_size, xp=xp)
        return cls(tokens, chosen, keep, inputs, positions, labels, mask)

    def split(self, parts: int) -> Iterator[Self]:
        """Yield `parts` equal runs of sequences, the micro-batches of a step; `parts` divides B."""
        size = self.tokens.shape[0] // parts
        for start in range(0, size * parts, size):
            rows = slice(start, start + size)
            yield type(self)(*(getattr(self, f.name)[rows] for f in fields(self)))

    def layout(self) -> Layout:
        """Return the blocks side by side, with the places of the supervised slots.

        They are counted here, on the host, so that no device need be waited for.

        Example:
            >>> text, yes = np.array([[5, 6, 7]]), np.ones((1, 3), dtype=bool)
            >>> blocks = Supervision.cut(text, yes, np.array([[0.9, 0.1, 0.5]]), anchors=1, block_size=3,
            ...                          mask_token_id=9)
            >>> layout = blocks.layout()
            >>> layout.positions.tolist(), layout.slots.tolist(), layout.rows.tolist(), layout.before.tolist()
            ([[1, 2, 3]], [0], [1], [1])
        """
        rows, _, block_size = self.inputs.shape
        length = self.tokens.shape[1]
        slots = np.flatnonzero(self.mask)
        block, slot = np.divmod(slots, block_size - 1)
        text = block // self.anchors.shape[1]
        return Layout(
            positions=self.positions.reshape(rows, -1).astype(np.int64),
            context_positions=np.tile(np.arange(length, dtype=np.int64), (rows, 1)),
            supervised=self.mask.reshape(-1, block_size - 1),
            slots=slots,
            rows=block * block_size + slot + 1,  # slot 0, the anchor, predicts nothing
            labels=self.labels.reshape(-1)[slots],
            before=text * length + self.anchors.reshape(-1)[block].astype(np.int64) + slot,
        )

"""One micro-batch on the device: what every learner of a run shares, made once."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dspec.backends.torch.attention_mask import attention_mask
from dspec.supervision import Supervision


@dataclass(frozen=True)
class MicroBatch:
    """Blocks of B sequences, ready for a drafter, with the target's features for them.

    Letters: B sequences, S positions, Q = A * block_size slots a sequence, N = B * A blocks,
    K drafted slots, R supervised slots.

    Args:
        embeds: (B, Q, D), the target's embeddings of [anchor token, mask tokens] of each block.
        positions: (B, Q) int64.
        context_positions: (B, S) int64, 0 to S - 1.
        features: (B, S, number of taps * D), from the frozen target.
        mask: who sees whom; a dense (B, 1, Q, S + Q) bool or a flex attention BlockMask.
        supervised: (N, K) bool.
        slots: (R,) int64, the supervised ones of the N * K drafted slots.
        rows: (R,) int64, the same slots among the B * Q rows of the drafter's output.
        labels: (R,) int64, their gold tokens.
    """

    embeds: Tensor
    positions: Tensor
    context_positions: Tensor
    features: Tensor
    mask: Any
    supervised: Tensor
    slots: Tensor
    rows: Tensor
    labels: Tensor

    @classmethod
    def read(cls, target: Any, blocks: Supervision, layer_ids: tuple[int, ...]) -> "MicroBatch":
        """Run the target over the texts, once, and lay out the blocks beside its features.

        Args:
            target: with `tap`, `embed` and `device`.
            blocks: on the host.
            layer_ids: tapped layers.

        Returns:
            The micro-batch, on the target's device.
        """

        def put(array: Any) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(target.device)

        rows, _, block_size = blocks.inputs.shape
        slots = np.flatnonzero(blocks.mask)  # here, so that the device need not be waited for
        with torch.no_grad():
            features = target.tap(put(blocks.tokens), layer_ids)
            embeds = target.embed(put(blocks.inputs.reshape(rows, -1)))
        length = blocks.tokens.shape[1]
        mask = attention_mask(put(blocks.anchors), put(blocks.keep), seq_len=length, block_size=block_size)
        block, slot = np.divmod(slots, block_size - 1)
        return cls(
            embeds=embeds,
            positions=put(blocks.positions.reshape(rows, -1).astype(np.int64)),
            context_positions=torch.arange(length, device=target.device).expand(rows, -1),
            features=features,
            mask=mask,
            supervised=put(blocks.mask.reshape(-1, block_size - 1)),
            slots=put(slots),
            rows=put(block * block_size + slot + 1),  # slot 0, the anchor, predicts nothing
            labels=put(blocks.labels.reshape(-1)[slots]),
        )

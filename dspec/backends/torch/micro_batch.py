"""One micro-batch on the device: what every learner of a run shares, made once."""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dspec.backends.torch.attention_mask import attention_mask
from dspec.backends.torch.gold import CHUNK
from dspec.supervision import Layout, Supervision


@dataclass(frozen=True)
class MicroBatch:
    """Blocks of B sequences, ready for a drafter, with the target's features for them.

    Letters, and what is not named here: see `dspec.supervision.Layout`.

    Args:
        embeds: (B, Q, D), the target's embeddings of [anchor token, mask tokens] of each block.
        features: (B, S, number of taps * D), from the frozen target.
        states: (R, D), the target's final states before each label; None where no objective asks for
            the target's law.
        mask: who sees whom; a dense (B, 1, Q, S + Q) bool or a flex attention BlockMask.
        layout: what this was made of, on the host.
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
    states: Tensor | None
    layout: Layout

    @cached_property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """The ends (row, block) of runs of whole blocks of about a chunk of rows; only `skip` asks."""
        return self.layout.runs(CHUNK)

    @classmethod
    def read(
        cls, target: Any, blocks: Supervision, layer_ids: tuple[int, ...], *, law: bool = False
    ) -> "MicroBatch":
        """Run the target over the texts, once, and lay out the blocks beside its features.

        Args:
            target: with `tap`, `read`, `embed` and `device`.
            blocks: on the host.
            layer_ids: tapped layers.
            law: whether the target's own law of each label is wanted: then all its layers run.

        Returns:
            The micro-batch, on the target's device.
        """

        def put(array: Any) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(target.device)

        layout = blocks.layout()
        rows, _, block_size = blocks.inputs.shape
        states = None
        with torch.no_grad():
            if law:
                features, final = target.read(put(blocks.tokens), layer_ids)
                states = final.flatten(0, 1)[put(layout.before)]
            else:
                features = target.tap(put(blocks.tokens), layer_ids)
            embeds = target.embed(put(blocks.inputs.reshape(rows, -1)))
        sizes = {"seq_len": blocks.tokens.shape[1], "block_size": block_size}
        mask = attention_mask(put(blocks.anchors), put(blocks.keep), **sizes)
        rest = (field.name for field in fields(layout) if field.name != "before")  # read above
        placed = {name: put(getattr(layout, name)) for name in rest}
        return cls(embeds=embeds, features=features, mask=mask, states=states, layout=layout, **placed)

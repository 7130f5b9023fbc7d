"""One micro-batch on the device: what every learner of a run shares, made once."""

from dataclasses import dataclass, fields
from typing import Any

import mlx.core as mx
import numpy as np

from dspec.backends.mlx.attention_mask import attention_mask
from dspec.errors import DataError, explain
from dspec.supervision import Supervision


@dataclass(frozen=True)
class MicroBatch:
    """Blocks of B sequences, ready for a drafter, with the target's features for them.

    Letters, and what is not named here: see `dspec.supervision.Layout`.

    Args:
        embeds: (B, Q, D), the target's embeddings of [anchor token, mask tokens] of each block.
        features: (B, S, number of taps * D), from the frozen target.
        states: (R, D), the target's final states before each label; None where no objective asks for
            the target's law.
        mask: who sees whom; a dense (B, 1, Q, S + Q) bool.
    """

    embeds: mx.array
    positions: mx.array
    context_positions: mx.array
    features: mx.array
    mask: mx.array
    supervised: mx.array
    slots: mx.array
    rows: mx.array
    labels: mx.array
    states: mx.array | None

    @classmethod
    def read(
        cls, target: Any, blocks: Supervision, layer_ids: tuple[int, ...], *, law: bool = False
    ) -> "MicroBatch":
        """Run the target over the texts, once, and lay out the blocks beside its features.

        Args:
            target: with `tap`, `read`, `embed` and `vocab_size`.
            blocks: on the host.
            layer_ids: tapped layers.
            law: whether the target's own law of each label is wanted: then all its layers run.

        Returns:
            The micro-batch, evaluated: nothing of the target's pass is kept.

        Raises:
            DataError: a token is not in the target's vocabulary; MLX would read beyond its arrays.
        """

        def put(array: Any) -> mx.array:
            return mx.array(np.ascontiguousarray(array))

        _check_tokens(blocks, target.vocab_size)
        layout = blocks.layout()
        rows, _, block_size = blocks.inputs.shape
        states = None
        if law:
            features, final = target.read(put(blocks.tokens), layer_ids)
            states = final.flatten(0, 1)[put(layout.before)]
            mx.eval(states)
        else:
            features = target.tap(put(blocks.tokens), layer_ids)
        embeds = target.embed(put(blocks.inputs.reshape(rows, -1)))
        sizes = {"seq_len": blocks.tokens.shape[1], "block_size": block_size}
        mask = attention_mask(put(blocks.anchors), put(blocks.keep), **sizes)
        mx.eval(features, embeds, mask)
        rest = (field.name for field in fields(layout) if field.name != "before")  # read above
        placed = {name: put(getattr(layout, name)) for name in rest}
        return cls(embeds=embeds, features=features, mask=mask, states=states, **placed)


def _check_tokens(blocks: Supervision, vocab_size: int) -> None:
    for name, ids in (("tokens", blocks.tokens), ("block inputs", blocks.inputs)):
        if ids.size and not (ids.min() >= 0 and ids.max() < vocab_size):
            raise DataError(explain(name, f"ids {ids.min()} to {ids.max()}", f"ids in [0, {vocab_size})"))

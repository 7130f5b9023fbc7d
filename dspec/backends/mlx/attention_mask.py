"""Who sees whom in a training pass, as MLX's attention takes it: a dense boolean mask.

There is no form by predicate here as torch has on CUDA: at 512 anchors of 16 slots on 3,072 tokens the
mask is 92 MB a sequence, and MLX's attention keeps scores of that size for its gradient anyway.
"""

import mlx.core as mx

from dspec.backends.mlx.ops import namespace
from dspec.core import blocks


def attention_mask(anchors: mx.array, keep: mx.array, *, seq_len: int, block_size: int) -> mx.array:
    """Return the mask of a training pass over A blocks a sequence.

    Spec: BD-2, BD-3.

    Args:
        anchors: (B, A) int32 in [0, S).
        keep: (B, A) bool; a dropped block sees only itself.
        seq_len: S, context positions.
        block_size: slots a block.

    Returns:
        (B, 1, A * block_size, S + A * block_size) bool; the 1 stands for all heads.

    Example:
        >>> mask = attention_mask(mx.array([[1]]), mx.array([[True]]), seq_len=2, block_size=2)
        >>> mask.astype(mx.int32).tolist()
        [[[[1, 0, 1, 1], [1, 0, 1, 1]]]]
    """
    return blocks.attention_mask(anchors, keep, seq_len, block_size, xp=namespace)[:, None]

"""Who sees whom in a training pass, in the form each device's attention kernel wants.

A dense boolean mask for `scaled_dot_product_attention`, and for large passes on CUDA a flex attention
`BlockMask` built from the same predicate, so that no (slots, keys) array exists.
"""

from typing import Any

import array_api_compat.torch as xp
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from dspec.core import blocks

# Entries up to which a dense mask (one byte each) is taken on CUDA too. Measured on one H200, mask plus
# attention forward and backward (benchmarks/results/objective_cuda.json): 7.3 M entries (16 texts, 32 blocks
# of 16 on 384 tokens) dense 0.34 + 1.02 ms, flex 3.76 + 1.07 ms after 7.6 s to compile; 92 M (512 blocks of
# 16 on 3,072 tokens) dense 2.9 + 9.1 ms and 1.85 GB, flex 4.7 + 3.6 ms and 0.92 GB. Straight
# lines through these sums cross near 49 M (not measured there; the two shapes differ). 34 M is below that: at
# most 0.7 GB by the same lines, and small batches, whose lengths change, do not wait for a compiler.
DENSE = 2**25


def attention_mask(
    anchors: Tensor, keep: Tensor, *, seq_len: int, block_size: int, flex: bool | None = None
) -> Tensor | BlockMask:
    """Return the mask of a training pass over A blocks a sequence.

    Spec: BD-2, BD-3.

    Args:
        anchors: (B, A) int32 in [0, S), on the drafter's device.
        keep: (B, A) bool; a dropped block sees only itself.
        seq_len: S, context positions.
        block_size: slots a block.
        flex: which form; None: flex attention for large passes on CUDA, dense elsewhere.

    Returns:
        (B, 1, A * block_size, S + A * block_size) bool (the 1 stands for all heads), or a BlockMask
        of those sizes.

    Example:
        >>> mask = attention_mask(torch.tensor([[1]]), torch.tensor([[True]]), seq_len=2, block_size=2)
        >>> mask.int().tolist()
        [[[[1, 0, 1, 1], [1, 0, 1, 1]]]]
    """
    if flex is None:
        flex = _takes_flex(anchors.device.type, *anchors.shape, seq_len=seq_len, block_size=block_size)
    if flex:
        return _block_mask(anchors, keep, seq_len, block_size)
    dense: Tensor = blocks.attention_mask(anchors, keep, seq_len, block_size, xp=xp)[:, None]
    return dense


def _takes_flex(device: str, rows: int, anchors: int, *, seq_len: int, block_size: int) -> bool:
    """Whether a pass over some blocks of so many sequences gets flex attention's form of the mask."""
    slots = anchors * block_size
    return device == "cuda" and rows * slots * (seq_len + slots) > DENSE


def _block_mask(anchors: Tensor, keep: Tensor, seq_len: int, block_size: int) -> BlockMask:
    rows, n_anchors = anchors.shape
    slots = n_anchors * block_size
    reach = torch.where(keep, anchors, torch.zeros_like(anchors))  # anchor 0 sees no context

    def mask_mod(row: Any, head: Any, query: Any, kv: Any) -> Any:
        block = query // block_size
        return blocks.may_attend(reach[row, block], block, kv, seq_len=seq_len, block_size=block_size)

    return create_block_mask(mask_mod, rows, None, slots, seq_len + slots, device=anchors.device)

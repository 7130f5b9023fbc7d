"""Training blocks of a drafter: anchors, positions, labels and the attention mask, by plain loops.

All functions take one sequence (no batch axis). S sequence length, A anchors, K = block_size - 1.
"""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dspec.errors import ConfigError, ShapeError, explain


def valid_anchors(loss_mask: Sequence[Any]) -> list[int]:
    """Return the positions t at which a block may start: t and t + 1 are both in the loss.

    Spec: BD-3.

    Args:
        loss_mask: S flags; whether the token at t counts in the loss.

    Returns:
        Ascending positions in [0, S - 1).

    Example:
        >>> valid_anchors([False, True, True, True, False, True])
        [1, 2]
    """
    return [t for t in range(len(loss_mask) - 1) if loss_mask[t] and loss_mask[t + 1]]


def sample_anchors(
    loss_mask: Sequence[Any], uniforms: Sequence[float], n_anchors: int
) -> tuple[list[int], list[bool]]:
    """Return the n_anchors valid positions of smallest uniform, ascending, padded by keep = False.

    Spec: BD-3.

    Args:
        loss_mask: S flags.
        uniforms: S numbers in [0, 1), one a position.
        n_anchors: A >= 1, the length of the result.

    Returns:
        Positions (A,), 0 where padded, and keep (A,).

    Raises:
        ShapeError: not one uniform a position.

    Example:
        >>> sample_anchors([True, True, True, True], [0.5, 0.9, 0.1, 0.0], 2)
        ([0, 2], [True, True])
        >>> sample_anchors([False, True, True, False], [0.5, 0.9, 0.1, 0.0], 2)
        ([1, 0], [True, False])
    """
    if len(uniforms) != len(loss_mask):
        raise ShapeError(explain("uniforms", len(uniforms), f"S = {len(loss_mask)} numbers", clause="BD-3"))
    ranked = sorted(valid_anchors(loss_mask), key=lambda t: (uniforms[t], t))
    chosen = sorted(ranked[:n_anchors])
    missing = n_anchors - len(chosen)
    return chosen + [0] * missing, [True] * len(chosen) + [False] * missing


def block_tokens(anchor_token: int, block_size: int, mask_token: int) -> list[int]:
    """Return what the drafter reads: the anchor's token, then K mask tokens.

    Spec: BD-1.

    Example:
        >>> block_tokens(7, 4, 99)
        [7, 99, 99, 99]
    """
    return [anchor_token if slot == 0 else mask_token for slot in range(block_size)]


def block_positions(anchor: int, block_size: int) -> list[int]:
    """Return the sequence position of every slot: anchor + slot.

    Spec: BD-1.

    Example:
        >>> block_positions(3, 4)
        [3, 4, 5, 6]
    """
    return [anchor + slot for slot in range(block_size)]


def block_labels(
    tokens: Sequence[int], loss_mask: Sequence[Any], anchor: int, block_size: int, *, keep: bool = True
) -> tuple[list[int], list[bool]]:
    """Return gold token and supervision of the drafted slots k = 1..K of one block.

    Slot k is labelled by the token at its own position anchor + k.

    Spec: BD-4.

    Args:
        tokens: S ids.
        loss_mask: S flags.
        anchor: position of slot 0.
        block_size: 1 + K.
        keep: False for a padded anchor, which supervises nothing.

    Returns:
        Labels (K,), 0 beyond the end, and mask (K,).

    Raises:
        ShapeError: tokens and loss_mask differ in length.

    Example:
        >>> block_labels([10, 11, 12, 13], [True, True, False, True], 1, 4)
        ([12, 13, 0], [False, True, False])
    """
    if len(tokens) != len(loss_mask):
        raise ShapeError(explain("loss_mask", len(loss_mask), f"S = {len(tokens)} flags", clause="NT-4"))
    labels, mask = [], []
    for position in block_positions(anchor, block_size)[1:]:
        inside = position < len(tokens)
        labels.append(int(tokens[position]) if inside else 0)
        mask.append(bool(keep and inside and loss_mask[position]))
    return labels, mask


def attention_mask(
    anchors: Sequence[int], keep: Sequence[Any], seq_len: int, block_size: int
) -> NDArray[np.bool_]:
    """Return which keys each block slot sees in training.

    Rows are the slots of the blocks in order; columns are the S context positions, then the same
    slots. A slot sees the context strictly before its anchor and all slots of its own block. A
    padded block sees itself only, so that no row is empty.

    Spec: BD-2.

    Returns:
        (A * block_size, S + A * block_size) bool.

    Example:
        >>> attention_mask([1], [True], 3, 2).astype(int).tolist()
        [[1, 0, 0, 1, 1], [1, 0, 0, 1, 1]]
    """
    slots = len(anchors) * block_size
    mask = np.zeros((slots, seq_len + slots), dtype=bool)
    for block in range(len(anchors)):
        for slot in range(block_size):
            for key in range(seq_len + slots):
                if key < seq_len:
                    sees = keep[block] and key < anchors[block]
                else:
                    sees = (key - seq_len) // block_size == block
                mask[block * block_size + slot, key] = bool(sees)
    return mask


def default_target_layers(num_target_layers: int, num_draft_layers: int) -> tuple[int, ...]:
    """Return the tapped layer ids of a checkpoint that names none, one a draft layer.

    [L // 2] for n = 1, else round(1 + i (L - 4) / (n - 1)), i = 0..n - 1, halves to even.

    Spec: BD-5.

    Args:
        num_target_layers: L, decoder layers of the target.
        num_draft_layers: n >= 1, layers of the drafter.

    Returns:
        Ascending 0-based ids of decoder layers.

    Raises:
        ConfigError: the rule gives repeated ids or ids outside [0, L).

    Example:
        >>> default_target_layers(36, 5), default_target_layers(9, 3), default_target_layers(9, 1)
        ((1, 9, 17, 25, 33), (1, 4, 6), (4,))
    """
    length, n = num_target_layers, num_draft_layers
    # round() of a Fraction is exact and takes halves to even, as Python's round of a float does.
    steps = [Fraction(i * (length - 4), n - 1) for i in range(n)] if n > 1 else []
    ids = tuple(round(1 + step) for step in steps) or (length // 2,)
    ascending = all(a < b for a, b in pairwise(ids))
    if n < 1 or not ascending or not 0 <= ids[0] <= ids[-1] < length:
        got, needed = f"{n} layers of {length}: {ids}", "distinct ids in range"
        raise ConfigError(explain("target_layer_ids", got, needed, remedy="name them", clause="BD-5"))
    return ids

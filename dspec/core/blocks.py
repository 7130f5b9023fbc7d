"""The geometry of block-diffusion training: anchors, positions, labels, who may attend to whom.

A sequence of S tokens gets A blocks of `block_size` slots in one pass. Slot 0 is the anchor token,
slots 1..K are masked, and slot i stands at position anchor + i and is to predict the token there.
The keys of the drafter's attention are the S context positions, then the A * block_size slots.

Letters: B sequences, S positions, A anchors a sequence, K drafted slots (block_size - 1).
"""

from itertools import pairwise
from typing import Any

from dspec.core.numerics import indices_like
from dspec.core.types import Array
from dspec.errors import ConfigError, ShapeError, explain


def sample_anchors(loss_mask: Array, uniforms: Array, n_anchors: int, *, xp: Any) -> tuple[Array, Array]:
    """Choose anchors without replacement, all subsets of the valid positions equally likely.

    Position t is valid iff the loss mask holds at t and t + 1: the anchor and its first label. The
    valid positions with the smallest uniforms are taken, then sorted.

    Spec: BD-3, RN-5.

    Args:
        loss_mask: (B, S) bool; the token is one to learn from.
        uniforms: (B, S) floating in [0, 1).
        n_anchors: A >= 1.
        xp: their array namespace.

    Returns:
        anchors (B, A) int32, increasing where kept and 0 where not; keep (B, A) bool, false where a
        row has fewer than A valid positions.

    Raises:
        ConfigError: n_anchors < 1.
        ShapeError: the arrays do not agree.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> mask = np.array([[False, True, True, True, False]])
        >>> anchors, keep = sample_anchors(mask, np.full((1, 5), 0.5), 3, xp=xp)
        >>> anchors.tolist(), keep.tolist()
        ([[1, 2, 0]], [[True, True, False]])

    Source: DFlash (arXiv 2602.06036).
    """
    if n_anchors < 1:
        raise ConfigError(explain("n_anchors", n_anchors, "an integer >= 1", clause="BD-3"))
    _check_pair("loss_mask, uniforms", loss_mask, uniforms)
    length = loss_mask.shape[1]
    valid = _valid_anchors(loss_mask, xp=xp)
    # 2 lies beyond every uniform, and `length` beyond every position: what is not valid sorts last.
    key = xp.where(valid, uniforms, xp.full_like(uniforms, 2.0))
    chosen = xp.argsort(key, axis=-1)[:, : min(n_anchors, length)]
    beyond = xp.full_like(chosen, length)
    chosen = xp.sort(xp.where(xp.take_along_axis(valid, chosen, axis=-1), chosen, beyond), axis=-1)
    if n_anchors > length:
        spare = xp.broadcast_to(beyond[:, :1], (chosen.shape[0], n_anchors - length))
        chosen = xp.concat([chosen, spare], axis=-1)
    keep = chosen < length
    return xp.astype(xp.where(keep, chosen, xp.zeros_like(chosen)), xp.int32), keep


def block_positions(anchors: Array, block_size: int, *, xp: Any) -> Array:
    """Position of every slot: that of its anchor plus the slot's index.

    Spec: BD-1.

    Args:
        anchors: (B, A) integer.
        block_size: slots a block, >= 2.
        xp: its array namespace.

    Returns:
        (B, A, block_size) int32; may run past the end of the sequence.

    Raises:
        ConfigError: block_size < 2.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> block_positions(np.array([[5]]), 3, xp=xp).tolist()
        [[[5, 6, 7]]]
    """
    _check_block_size(block_size)
    shape = (*anchors.shape, block_size)
    spread = xp.broadcast_to(xp.expand_dims(xp.astype(anchors, xp.int32), axis=-1), shape)
    return spread + indices_like(spread, xp=xp)


def block_labels(
    tokens: Array, loss_mask: Array, anchors: Array, keep: Array, block_size: int, *, xp: Any
) -> tuple[Array, Array]:
    """Gold token of every drafted slot, the one at the slot's own position, and which are supervised.

    Spec: BD-4.

    Args:
        tokens: (B, S) integer ids.
        loss_mask: (B, S) bool; the token is one to learn from.
        anchors: (B, A) integer in [0, S).
        keep: (B, A) bool; false drops the block.
        block_size: slots a block, >= 2.
        xp: their array namespace.

    Returns:
        labels (B, A, K), dtype of tokens, 0 beyond the end; mask (B, A, K) bool, true where the
        block is kept, the position exists and the loss mask holds there.

    Raises:
        ConfigError: block_size < 2.
        ShapeError: the arrays do not agree.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> yes = np.ones((1, 3), dtype=bool)
        >>> labels, mask = block_labels(np.array([[7, 8, 9]]), yes, np.array([[1]]), yes[:, :1], 3, xp=xp)
        >>> labels.tolist(), mask.tolist()
        ([[[9, 0]]], [[[True, False]]])

    Source: DFlash (arXiv 2602.06036).
    """
    _check_pair("tokens, loss_mask", tokens, loss_mask)
    _check_pair("anchors, keep", anchors, keep)
    length = tokens.shape[1]
    position = block_positions(anchors, block_size, xp=xp)[:, :, 1:]
    inside = position < length
    index = xp.where(inside, position, xp.full_like(position, length - 1))
    flat = xp.reshape(xp.astype(index, xp.int64), (tokens.shape[0], -1))
    labels = xp.reshape(xp.take_along_axis(tokens, flat, axis=-1), position.shape)
    labels = xp.where(inside, labels, xp.zeros_like(labels))
    learned = xp.reshape(xp.take_along_axis(loss_mask, flat, axis=-1), position.shape)
    return labels, learned & inside & xp.expand_dims(keep, axis=-1)


def may_attend(anchor: Any, block: Any, kv: Any, *, seq_len: int, block_size: int) -> Any:
    """Whether a slot sees a key: context strictly before its anchor, and every slot of its own block.

    The anchor's own features do not exist yet when the drafter runs in decoding, hence "strictly".
    Elementwise, in comparisons and integer division only, so that it also serves as a mask function.

    Spec: BD-2.

    Args:
        anchor: anchor position of the querying slot; 0 sees no context. Integer or integer array.
        block: index of the querying slot's block among the A of its sequence.
        kv: index of the key in [0, S + A * block_size).
        seq_len: S, number of context keys.
        block_size: slots a block.

    Returns:
        Boolean, in the broadcast shape.

    Example:
        >>> [may_attend(2, 1, kv, seq_len=3, block_size=2) for kv in range(7)]
        [True, True, False, False, False, True, True]

    Source: DFlash (arXiv 2602.06036).
    """
    context = (kv < seq_len) & (kv < anchor)
    return context | ((kv >= seq_len) & ((kv - seq_len) // block_size == block))


def attention_mask(anchors: Array, keep: Array, seq_len: int, block_size: int, *, xp: Any) -> Array:
    """Who sees whom in the drafter's training pass, written out.

    A dropped block sees itself only, so that no row is empty and no softmax is 0 / 0.

    Spec: BD-2, BD-3.

    Args:
        anchors: (B, A) integer in [0, S).
        keep: (B, A) bool; false drops the block.
        seq_len: S, number of context keys.
        block_size: slots a block, >= 2.
        xp: their array namespace.

    Returns:
        (B, A * block_size, S + A * block_size) bool; rows are slots, columns are keys.

    Raises:
        ConfigError: block_size < 2.
        ShapeError: the arrays do not agree.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> attention_mask(np.array([[1]]), np.array([[True]]), 2, 2, xp=xp).astype(int).tolist()
        [[[1, 0, 1, 1], [1, 0, 1, 1]]]
    """
    _check_block_size(block_size)
    _check_pair("anchors, keep", anchors, keep)
    rows, n_anchors = anchors.shape
    n_slots = n_anchors * block_size
    anchors = xp.where(keep, anchors, xp.zeros_like(anchors))
    spread = xp.broadcast_to(anchors[:, :, None], (rows, n_anchors, block_size))
    anchor = xp.reshape(spread, (rows, n_slots, 1))
    shape = (rows, n_slots, seq_len + n_slots)
    kv = indices_like(xp.broadcast_to(anchor, shape), xp=xp)
    block = indices_like(anchor[:, :, 0], xp=xp)[:, :, None] // block_size
    return may_attend(anchor, block, kv, seq_len=seq_len, block_size=block_size)


def default_target_layers(num_target_layers: int, num_draft_layers: int) -> tuple[int, ...]:
    """Layers of the target to tap when a config names none: evenly spread, as many as draft layers.

    Spec: BD-5.

    Args:
        num_target_layers: decoder layers L of the target.
        num_draft_layers: layers n of the drafter, >= 1.

    Returns:
        n increasing 0-based layer ids: L // 2 alone, else round(1 + i (L - 4) / (n - 1)).

    Raises:
        ConfigError: the target has too few layers for n different ones.

    Example:
        >>> default_target_layers(36, 5)
        (1, 9, 17, 25, 33)

    Source: DFlash (arXiv 2602.06036), as in its published checkpoints.
    """
    if num_draft_layers < 1 or num_target_layers < 1:
        got = f"{num_draft_layers} on {num_target_layers}"
        raise ConfigError(explain("draft layers on target layers", got, "at least 1 of each", clause="BD-5"))
    if num_draft_layers == 1:
        return (num_target_layers // 2,)
    step = (num_target_layers - 4) / (num_draft_layers - 1)
    layers = tuple(round(1 + i * step) for i in range(num_draft_layers))
    if any(a >= b for a, b in pairwise(layers)):
        got = f"{num_draft_layers} default taps on {num_target_layers} target layers, {list(layers)}"
        remedy = "name the layers or take fewer draft layers"
        raise ConfigError(explain("target_layer_ids", got, "different layers", remedy=remedy, clause="BD-5"))
    return layers


def _valid_anchors(loss_mask: Array, *, xp: Any) -> Array:
    """Return (B, S) bool: the loss mask holds here and at the next position."""
    never = xp.zeros_like(loss_mask[:, :1])
    return xp.concat([loss_mask[:, :-1] & loss_mask[:, 1:], never], axis=-1)


def _check_block_size(block_size: int) -> None:
    if block_size < 2:
        raise ConfigError(explain("block_size", block_size, "an integer >= 2", clause="BD-1"))


def _check_pair(names: str, first: Array, second: Array) -> None:
    if len(first.shape) != 2 or first.shape != second.shape:
        got = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise ShapeError(explain(names, got, "one shape of two axes", clause="NT-4"))

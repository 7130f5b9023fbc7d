"""What the fused operations share: rows against a head, chunk by chunk, in little memory.

MLX starts work well before it needs it, and writes over a buffer only when no unfinished work reads it.
So each chunk waits for the one before (`mx.depends`), which bounds memory at some eight chunks however
many there are, and a caller who evaluates the *stages* one by one has one chunk. They are evaluated
after the gradient is traced: while it is, MLX keeps all that it evaluates.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any

import mlx.core as mx

from dspec.backends.mlx.head import Head

CHUNK = 256
Arrays = tuple[mx.array, ...]
Stages = list[Arrays] | None


@dataclass(frozen=True)
class Dense:
    """A weight (V, D) with the products of a `Head`."""

    weight: mx.array

    @property
    def dtype(self) -> mx.Dtype:
        """Of the products."""
        return self.weight.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """(V, D)."""
        return self.weight.shape

    def logits(self, hidden: mx.array) -> mx.array:
        """Return hidden @ W.T: (R, V) of (R, D)."""
        return hidden @ self.weight.T

    def back(self, weights: mx.array) -> mx.array:
        """Return weights @ W: (R, D) of (R, V)."""
        return weights @ self.weight


def weight_of(head: Any) -> mx.array | None:
    """Return a dense head's matrix, through which a gradient could flow; None of a quantised one."""
    if isinstance(head, Head) and not head.quantised:
        return head.weight
    return head if isinstance(head, mx.array) else None


def wide_of(dtype: mx.Dtype) -> mx.Dtype:
    """Return the dtype of statistics: float64 for float64, else float32."""
    return mx.float64 if dtype == mx.float64 else mx.float32


def parts(rows: Sequence[mx.array], chunk: int) -> Iterator[Arrays]:
    """Yield chunks of the rows of all arrays."""
    for start in range(0, rows[0].shape[0], chunk):
        yield tuple(array[start : start + chunk] for array in rows)


def by_chunks(
    one_chunk: Callable[..., Arrays], rows: Sequence[mx.array], *, chunk: int, stages: Stages
) -> Arrays:
    """Return the columns that `one_chunk(*rows)` makes of each chunk of rows, put together.

    Args:
        one_chunk: a chunk of each array to a tuple of arrays of as many rows.
        rows: arrays of equal length >= 1; each chunk waits for what was made of the one before.
        chunk: rows a chunk, >= 1.
        stages: gets what was made of each chunk, unless None.

    Returns:
        The tuple for all rows.
    """
    made: list[Arrays] = []
    for part in parts(rows, chunk):
        made.append(one_chunk(*(mx.depends(list(part), list(made[-1])) if made else part)))
        stage(stages, *made[-1])
    return tuple(mx.concatenate(list(column)) for column in zip(*made))


def wide_logits(
    hidden: mx.array, head: Any, softcap: float | None, *, slope: bool, stages: Stages
) -> tuple[mx.array, mx.array | None]:
    """Return (rows, V) logits in the wide dtype, and how they move with the head's product if capped.

    Args:
        hidden: (rows, D).
        head: a `Head` or `Dense`.
        softcap: see the operations.
        slope: whether the latter is wanted.
        stages: get the slope, unless None.

    Returns:
        The logits; the slope (rows, V), or None.
    """
    logits = head.logits(hidden.astype(head.dtype)).astype(wide_of(head.dtype))
    if softcap is None:
        return logits, None
    logits = mx.tanh(logits / softcap)
    if not slope:
        return logits * softcap, None
    slopes = 1 - logits * logits
    stage(stages, slopes)
    return logits * softcap, slopes


def gold_and_top(logits: mx.array, labels: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """Return each row's logit at its label, its largest one, and whether the two are the same token.

    Args:
        logits: (rows, V).
        labels: (rows, 1).

    Returns:
        All (rows, 1).
    """
    best = mx.argmax(logits, axis=1, keepdims=True).astype(mx.int64)  # the first of equals (NU-5)
    pair = mx.concatenate([labels.astype(mx.int64), best], axis=1)
    found = mx.take_along_axis(logits, pair, axis=1)
    return found[:, :1], found[:, 1:], best == labels


def row_sums(x: mx.array) -> mx.array:
    """Return (rows, 1) sums, in two steps: on a CPU MLX adds one by one, which is 9e-5 off at V = 152k."""
    size = x.shape[1]
    width = gcd(size, 1024)
    if width >= 32:  # the vocabularies of the models driven here are multiples of 64
        return x.reshape(x.shape[0], -1, width).sum(axis=2).sum(axis=1, keepdims=True)
    parts = [x[:, start : start + 1024].sum(axis=1, keepdims=True) for start in range(0, size, 1024)]
    return mx.concatenate(parts, axis=1).sum(axis=1, keepdims=True)


def stage(stages: Stages, *arrays: mx.array) -> None:
    """Note what is to be evaluated next; nothing if None notes it, as noted arrays are kept."""
    if stages is not None:
        stages.append(arrays)


def run_stages(stages: list[Arrays]) -> None:
    """Evaluate and drop the stages of a fused operation, in order: one chunk of logits at a time."""
    while stages:
        mx.eval(*stages.pop(0))

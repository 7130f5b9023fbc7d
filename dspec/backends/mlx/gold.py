"""Gold log-probabilities without the logits: unit gradients, chunk by chunk.

Every objective reads the drafter only through the log-probability of the gold token, so the
gradient of one row's cross-entropy with respect to its hidden state, the *unit gradient*, is all
that a backward pass needs: it is made in the forward, while the chunk's logits are at hand, and
the backward multiplies it by a number a row. Two matrix products, no logits kept, nothing redone.

MLX starts work well before it needs it, and writes over a buffer only when no unfinished work reads it.
So each chunk waits for the one before (`mx.depends`), which bounds memory at some eight chunks however
many there are, and a caller who evaluates the `stages` one by one has one chunk. They are evaluated
after the gradient is traced: while it is, MLX keeps all that it evaluates.
"""

from dataclasses import dataclass
from math import gcd
from typing import Any

import mlx.core as mx

from dspec.backends.mlx.ops import namespace
from dspec.core.gold import check_gold

CHUNK = 256


def gold_log_probs(
    hidden: mx.array,
    head: Any,
    labels: mx.array,
    *,
    softcap: float | None = None,
    xp: Any = None,
    chunk: int = CHUNK,
    gradient: bool = True,
    stages: list[tuple[mx.array, ...]] | None = None,
) -> tuple[mx.array, mx.array]:
    """Return each row's log-probability of its gold token, and whether the argmax is that token.

    Same values and gradient as `dspec.core.gold.gold_log_probs`; with its `stages` evaluated, memory is
    one chunk of logits (two with a softcap or a 16-bit head) plus float32 copies of `hidden`, whatever
    the number of rows.

    Spec: OB-1, OB-10, NU-2, NU-5.

    Args:
        hidden: (R, D) floating, the drafter's last hidden states; the gradient flows here. Of the
            head's dtype, or float32 over a 16-bit head: then the gradient is float32 too.
        head: (V, D), the target's output weight, or a `Head`, of which a quantised one is multiplied
            as it is; frozen. Products run in its dtype, statistics in float32 (float64 for float64).
            MLX cannot tell who wants a gradient: an array's is NaN here.
        labels: (R,) integer ids in [0, V). MLX reads outside an array unchecked: whoever made the
            labels has checked them (the data path does, on the host).
        softcap: logits become softcap * tanh(logits / softcap); None leaves them.
        xp: MLX's namespace; here because every override has its operation's signature.
        chunk: rows a chunk, >= 1.
        gradient: False where none will be taken: half the products.
        stages: a list that gets what to hand to `run_stages`, before the results are evaluated.

    Returns:
        log_prob (R,) float32 or float64 (differentiable once), hit (R,) bool; among equal
        logits the lowest index is the argmax.

    Raises:
        ShapeError: shapes or dtypes do not agree.

    Example:
        >>> head, labels = mx.array([[1.0, 0.0], [0.0, 1.0]]), mx.array([1])
        >>> mx.grad(lambda h: gold_log_probs(h, head, labels)[0].sum())(mx.zeros((1, 2))).tolist()
        [[-0.5, 0.5]]

    Source: this library's own scheme; measured against others in benchmarks/objective.py.
    """
    dense = isinstance(head, mx.array)
    # Never evaluated: the check reads shapes and dtypes alone.
    check_gold(hidden, head if dense else mx.zeros(head.shape, head.dtype), labels, xp=xp or namespace)
    make = _Rows(softcap, chunk, gradient, [] if stages is None else stages)
    if not gradient:
        return make(hidden, _Dense(head) if dense else head, labels)[:2]
    return _differentiable(make, head, labels)(hidden, head if dense else mx.zeros(()))[:2]


def run_stages(stages: list[tuple[mx.array, ...]]) -> None:
    """Evaluate and drop the stages of `gold_log_probs`, in order: one chunk of logits at a time."""
    while stages:
        mx.eval(*stages.pop(0))


@dataclass(frozen=True)
class _Dense:
    """A weight (V, D) with the products of a `Head`."""

    weight: mx.array

    @property
    def dtype(self) -> mx.Dtype:
        return self.weight.dtype

    def logits(self, hidden: mx.array) -> mx.array:
        return hidden @ self.weight.T

    def back(self, weights: mx.array) -> mx.array:
        return weights @ self.weight


@dataclass(frozen=True)
class _Rows:
    """From hidden states, head and labels to log-probabilities, hits and, if wanted, unit gradients."""

    softcap: float | None
    chunk: int
    gradient: bool
    stages: list[tuple[mx.array, ...]]

    def __call__(self, hidden: mx.array, head: Any, labels: mx.array) -> tuple[mx.array, ...]:
        wide = mx.float64 if head.dtype == mx.float64 else mx.float32
        if not hidden.shape[0]:
            return mx.zeros((0,), dtype=wide), mx.zeros((0,), dtype=mx.bool_), hidden.astype(wide)
        columns: list[tuple[mx.array, ...]] = []
        for start in range(0, hidden.shape[0], self.chunk):
            rows = hidden[start : start + self.chunk]
            if columns:
                (rows,) = mx.depends([rows], list(columns[-1]))
            columns.append(self._one_chunk(rows, head, labels[start : start + self.chunk, None], wide))
            self.stages.append(columns[-1])
        return tuple(mx.concatenate(list(column)) for column in zip(*columns))

    def _one_chunk(
        self, hidden: mx.array, head: Any, labels: mx.array, wide: mx.Dtype
    ) -> tuple[mx.array, ...]:
        """Return the same of one chunk; `labels` (rows, 1). Each stage frees a buffer to write over."""
        logits, slope = self._logits(hidden, head, wide)
        best = mx.argmax(logits, axis=1, keepdims=True).astype(mx.int64)  # the first of equals (NU-5)
        pair = mx.concatenate([labels.astype(mx.int64), best], axis=1)
        gold_top = mx.take_along_axis(logits, pair, axis=1)
        self.stages.append((gold_top,))
        gold = gold_top[:, :1] - gold_top[:, 1:]
        weights = mx.exp(logits - gold_top[:, 1:])
        z = _row_sums(weights)
        # Never logsumexp minus gold: its error is that of the large number (1e-6 against 6e-7).
        log_prob, hit = (gold - mx.log(z))[:, 0], (best == labels)[:, 0]
        if not self.gradient:
            return log_prob, hit
        self.stages.append((log_prob, hit))
        weights = mx.put_along_axis(weights, labels, mx.exp(gold) - z, axis=1)
        return log_prob, hit, _unit_gradient(weights if slope is None else weights * slope, z, head, wide)

    def _logits(self, hidden: mx.array, head: Any, wide: mx.Dtype) -> tuple[mx.array, mx.array | None]:
        """Return the logits in the wide dtype, and how they move with the head's product if capped."""
        logits = head.logits(hidden.astype(head.dtype)).astype(wide)
        if self.softcap is None:
            return logits, None
        logits = mx.tanh(logits / self.softcap)
        if not self.gradient:
            return logits * self.softcap, None
        slope = 1 - logits * logits
        self.stages.append((slope,))
        return logits * self.softcap, slope


def _differentiable(make: _Rows, head: Any, labels: mx.array) -> Any:
    """Return hidden, weight -> log-probabilities, hits, unit gradients; the last for its own vjp."""

    @mx.custom_function
    def function(hidden: mx.array, weight: mx.array) -> tuple[mx.array, ...]:
        return make(hidden, _Dense(weight) if isinstance(head, mx.array) else head, labels)

    @function.vjp
    def vjp(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, mx.array]:
        hidden, weight = primals
        # The unit gradient is d(-log_prob)/d hidden; the product is wide and cast at the end.
        grad = (-cotangents[0][:, None] * outputs[2]).astype(hidden.dtype)
        return grad, mx.full(weight.shape, mx.nan, dtype=weight.dtype)

    return function


def _row_sums(x: mx.array) -> mx.array:
    """Return (rows, 1) sums, in two steps: on a CPU MLX adds one by one, which is 9e-5 off at V = 152k."""
    size = x.shape[1]
    width = gcd(size, 1024)
    if width >= 32:  # the vocabularies of the models driven here are multiples of 64
        return x.reshape(x.shape[0], -1, width).sum(axis=2).sum(axis=1, keepdims=True)
    parts = [x[:, start : start + 1024].sum(axis=1, keepdims=True) for start in range(0, size, 1024)]
    return mx.concatenate(parts, axis=1).sum(axis=1, keepdims=True)


def _unit_gradient(weights: mx.array, z: mx.array, head: Any, wide: mx.Dtype) -> mx.array:
    """Return (softmax - onehot) @ head for weights of z times that."""
    if head.dtype == wide:
        # Dividing R x D numbers after the product is cheaper than R x V before it ...
        return head.back(weights) / z
    # ... but a 16-bit product needs entries of at most 1, or float16 overflows.
    return head.back((weights / z).astype(head.dtype))

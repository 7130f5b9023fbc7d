"""Gold log-probabilities without the logits: unit gradients, chunk by chunk.

Every objective reads the drafter only through the log-probability of the gold token, so the
gradient of one row's cross-entropy with respect to its hidden state, the *unit gradient*, is all
that a backward pass needs: it is made in the forward, while the chunk's logits are at hand, and
the backward multiplies it by a number a row. Two matrix products, no logits kept, nothing redone.

The gradient of the head has no such short form: it is asked for by name, and its backward makes
each chunk's logits again.
"""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from dspec.backends.mlx.ops import namespace
from dspec.backends.mlx.workspace import (
    CHUNK,
    Dense,
    Stages,
    by_chunks,
    gold_and_top,
    parts,
    row_sums,
    run_stages,
    stage,
    weight_of,
    wide_logits,
    wide_of,
)
from dspec.core.gold import check_gold
from dspec.errors import ConfigError, explain

__all__ = ["CHUNK", "gold_log_probs", "run_stages"]


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
    head_gradient: bool = False,
) -> tuple[mx.array, mx.array]:
    """Return each row's log-probability of its gold token, and whether the argmax is that token.

    Same values and gradient as `dspec.core.gold.gold_log_probs`; with its `stages` evaluated, memory is
    one chunk of logits (two with a softcap or a 16-bit head) plus float32 copies of `hidden`, whatever
    the number of rows. A gradient of the head adds two float32 copies of it, and a third product.

    Spec: OB-1, OB-10, NU-2, NU-5.

    Args:
        hidden: (R, D) floating, the drafter's last hidden states; the gradient flows here. Of the
            head's dtype, or float32 over a 16-bit head: then the gradient is float32 too.
        head: (V, D), the target's output weight, or a `Head`, of which a quantised one is multiplied
            as it is. Products run in its dtype, statistics in float32 (float64 for float64).
        labels: (R,) integer ids in [0, V). MLX reads outside an array unchecked: whoever made the
            labels has checked them (the data path does, on the host).
        softcap: logits become softcap * tanh(logits / softcap); None leaves them.
        xp: MLX's namespace; here because every override has its operation's signature.
        chunk: rows a chunk, >= 1.
        gradient: False where none will be taken: half the products.
        stages: a list that gets what to hand to `run_stages`, before the results are evaluated.
        head_gradient: whether the gradient of a dense head will be taken too. MLX cannot tell; where it
            was not said, that gradient is NaN: one that was not made must not look like a number.

    Returns:
        log_prob (R,) float32 or float64 (differentiable once), hit (R,) bool; among equal
        logits the lowest index is the argmax.

    Raises:
        ShapeError: shapes or dtypes do not agree.
        ConfigError: `head_gradient` of a quantised head, or without `gradient`.

    Example:
        >>> head, labels = mx.array([[1.0, 0.0], [0.0, 1.0]]), mx.array([1])
        >>> mx.grad(lambda h: gold_log_probs(h, head, labels)[0].sum())(mx.zeros((1, 2))).tolist()
        [[-0.5, 0.5]]

    Source: this library's own scheme; measured against others in benchmarks/objective.py.
    """
    weight = weight_of(head)
    if head_gradient and (weight is None or not gradient):
        got = "that of a quantised head" if weight is None else "asked for with gradient=False"
        raise ConfigError(explain("head_gradient", got, "a dense head and gradient=True", clause="OB-1"))
    # Never evaluated: the check reads shapes and dtypes alone.
    like = mx.zeros(head.shape, head.dtype) if weight is None else weight
    check_gold(hidden, like, labels, xp=xp or namespace)
    make = _Rows(softcap, chunk, gradient, head_gradient, stages)
    if gradient:
        made = _differentiable(make, head, labels)(hidden, mx.zeros(()) if weight is None else weight)
    else:
        made = make(hidden, head if weight is None else Dense(weight), labels)
    return made[0], made[1]


@dataclass(frozen=True)
class _Rows:
    """From hidden states, head and labels to log-probabilities, hits and, if wanted, unit gradients."""

    softcap: float | None
    chunk: int
    gradient: bool
    head_gradient: bool
    stages: Stages

    def __call__(self, hidden: mx.array, head: Any, labels: mx.array) -> tuple[mx.array, ...]:
        wide = wide_of(head.dtype)
        if not hidden.shape[0]:
            return mx.zeros((0,), dtype=wide), mx.zeros((0,), dtype=mx.bool_), hidden.astype(wide)

        def one_chunk(rows: mx.array, labels: mx.array) -> tuple[mx.array, ...]:
            log_prob, hit, weights, z = self._one_chunk(rows, head, labels)
            if weights is None:
                return log_prob, hit
            return log_prob, hit, _unit_gradient(weights, z, head)

        return by_chunks(one_chunk, (hidden, labels[:, None]), chunk=self.chunk, stages=self.stages)

    def of_head(self, hidden: mx.array, head: Dense, labels: mx.array, weights: mx.array) -> mx.array:
        """Return (V, D): the gradient of the sum of weights * -log_prob with respect to the head."""
        wide = wide_of(head.dtype)
        total = mx.zeros(head.shape, dtype=wide)
        rows = (hidden, labels[:, None], weights[:, None])
        for part, its_labels, factor in parts(rows, self.chunk):
            (part,) = mx.depends([part], [total])
            _, _, softmax, z = self._one_chunk(part, head, its_labels)
            # Wide: a sum over all rows of a step, and a 16-bit one stops growing after 2^8 of a size.
            total = total + (softmax * (factor / z)).T @ part.astype(head.dtype).astype(wide)
            stage(self.stages, total)
        return total.astype(head.dtype)

    def _one_chunk(self, hidden: mx.array, head: Any, labels: mx.array) -> tuple[Any, ...]:
        """Return log-probabilities, hits, z * (softmax - onehot) * slope or None, z.

        Here `labels` are (rows, 1). Each stage frees a buffer to write over.
        """
        logits, slope = wide_logits(hidden, head, self.softcap, slope=self.gradient, stages=self.stages)
        gold, top, hit = gold_and_top(logits, labels)
        stage(self.stages, gold, top)
        gold, weights = gold - top, mx.exp(logits - top)
        z = row_sums(weights)
        # Never logsumexp minus gold: its error is that of the large number (1e-6 against 6e-7).
        log_prob, hit = (gold - mx.log(z))[:, 0], hit[:, 0]
        if not self.gradient:
            return log_prob, hit, None, z
        stage(self.stages, log_prob, hit)
        weights = mx.put_along_axis(weights, labels, mx.exp(gold) - z, axis=1)
        return log_prob, hit, weights if slope is None else weights * slope, z


def _differentiable(make: _Rows, head: Any, labels: mx.array) -> Any:
    """Return hidden, weight -> log-probabilities, hits, unit gradients; the last for its own vjp."""
    dense = weight_of(head) is not None

    @mx.custom_function
    def function(hidden: mx.array, weight: mx.array) -> tuple[mx.array, ...]:
        return make(hidden, Dense(weight) if dense else head, labels)

    @function.vjp
    def vjp(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, mx.array]:
        hidden, weight = primals
        # The unit gradient is d(-log_prob)/d hidden; the product is wide and cast at the end.
        grad = (-cotangents[0][:, None] * outputs[2]).astype(hidden.dtype)
        if make.head_gradient:
            return grad, make.of_head(hidden, Dense(weight), labels, -cotangents[0])
        return grad, mx.full(weight.shape, mx.nan, dtype=weight.dtype)

    return function


def _unit_gradient(weights: mx.array, z: mx.array, head: Any) -> mx.array:
    """Return (softmax - onehot) @ head for weights of z times that."""
    if head.dtype == weights.dtype:
        # Dividing R x D numbers after the product is cheaper than R x V before it ...
        product: mx.array = head.back(weights)
        return product / z
    # ... but a 16-bit product needs entries of at most 1, or float16 overflows.
    narrow: mx.array = head.back((weights / z).astype(head.dtype))
    return narrow

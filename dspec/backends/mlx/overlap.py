"""Gold log-probability, overlap and divergence without the logits: unit gradients, chunk by chunk.

As in `gold`: an objective reads the drafter through a few numbers a row, its *signals*, and the gradient
of each with respect to the row's hidden state is made in the forward, while drafter's and target's laws
are at hand. Two matrix products, and one for each signal whose gradient is wanted; nothing redone. lk's mix
of two of them depends on its row's overlap alone, known before the product: one signal, one product.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx

from dspec.backends.mlx.ops import namespace
from dspec.backends.mlx.workspace import (
    CHUNK,
    Arrays,
    Dense,
    Stages,
    by_chunks,
    gold_and_top,
    row_sums,
    stage,
    weight_of,
    wide_logits,
    wide_of,
)
from dspec.core.overlap import RowStatistics, check_overlap, divergence_share, mixed_loss
from dspec.core.signals import SIGNALS, check_signals


def overlap_statistics(
    hidden: mx.array,
    head: Any,
    target_hidden: mx.array,
    labels: mx.array,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    eta: float = 0.0,
    xp: Any = None,
    stop_gradient: Any = None,
    chunk: int = CHUNK,
    signals: Sequence[str] = SIGNALS,
    gradient: bool = True,
    stages: list[tuple[mx.array, ...]] | None = None,
) -> RowStatistics:
    """Return each row's gold log-probability and hit, and how its law lies beside the target's.

    Same values and gradient as `dspec.core.overlap.overlap_statistics`; with its `stages` evaluated,
    memory is three chunks of logits (one more with a softcap, half a one with a 16-bit head) plus a
    float32 copy of `hidden` a signal, whatever the number of rows.

    Spec: OB-1, OB-10, OB-12, OB-16, NU-2, NU-5.

    Args:
        hidden: (R, D) floating, the drafter's last hidden states; the gradient flows here. Of the
            head's dtype, or float32 over a 16-bit head: then the gradient is float32 too.
        head: (V, D), the target's output weight, or a `Head`, of which a quantised one is multiplied
            as it is; frozen: a dense one's gradient is NaN, for it must not look like a number. Products
            run in its dtype, statistics in float32 (float64 for float64).
        target_hidden: (R, D) floating, likewise; the target's own state after its final norm, at the
            position before the label. No gradient flows here.
        labels: (R,) integer ids in [0, V), checked by whoever made them, as in `gold_log_probs`.
        temperature: of the target's law alone; > 0.
        softcap: logits of both become softcap * tanh(logits / softcap); None leaves them.
        eta: of `mixed` alone; finite, >= 0; at 0 it is the divergence.
        xp: MLX's namespace; here because every override has its operation's signature.
        stop_gradient: likewise.
        chunk: rows a chunk, >= 1.
        signals: which statistics carry a gradient, of `SIGNALS`; that of the others is 0.
        gradient: False where none will be taken: two products, whatever the signals; one taken is NaN.
        stages: a list that gets what to hand to `gold.run_stages`, before the results are evaluated.

    Returns:
        The statistics, float32 or float64, differentiable once; among equal logits the lowest index is
        the argmax.

    Raises:
        ShapeError: shapes or dtypes do not agree.
        ConfigError: the temperature is not a positive number, eta out of its range, or a signal unknown.

    Example:
        >>> head, labels = mx.array([[1.0, 0.0], [0.0, 1.0]]), mx.array([1])
        >>> drafter, target = mx.array([[0.0, 0.0]]), mx.array([[0.0, 1.0]])
        >>> found = mx.grad(lambda h: overlap_statistics(h, head, target, labels).overlap.sum())(drafter)
        >>> found.tolist(), round(overlap_statistics(drafter, head, target, labels).overlap.item(), 3)
        ([[-0.25, 0.25]], 0.769)

    Source: LK (arXiv 2602.23881) for the overlap as a loss; the scheme is this library's own, measured
    in benchmarks/objective_mlx.py.
    """
    asked = check_signals(signals)
    weight = weight_of(head)
    # Never evaluated: the check reads shapes and dtypes alone.
    like = mx.zeros(head.shape, head.dtype) if weight is None else weight
    check_overlap(hidden, like, target_hidden, labels, temperature, eta, xp=xp or namespace)
    wanted = asked if gradient else None
    make = _Rows(temperature, softcap, eta, chunk, wanted, stages)
    # Without a gradient too: through plain operations MLX would make one, and keep every logit for it.
    function = _differentiable(make, head, target_hidden, labels)
    return RowStatistics(*function(hidden, mx.zeros(()) if weight is None else weight)[:5])


@dataclass(frozen=True)
class _Rows:
    """From both hidden states, head and labels to the five statistics and the wanted unit gradients."""

    temperature: float
    softcap: float | None
    eta: float
    chunk: int
    signals: tuple[str, ...] | None  # None: no gradient, so that one would be NaN
    stages: Stages

    def __call__(self, hidden: mx.array, head: Any, target_hidden: mx.array, labels: mx.array) -> Arrays:
        if not hidden.shape[0]:
            wide = wide_of(head.dtype)
            none, unit = mx.zeros((0,), dtype=wide), hidden.astype(wide)
            return none, none.astype(mx.bool_), none, none, none, *(unit for _ in self.signals or ())
        one_chunk, rows = partial(self._one_chunk, head), (hidden, target_hidden, labels[:, None])
        return by_chunks(one_chunk, rows, chunk=self.chunk, stages=self.stages)

    def _one_chunk(self, head: Any, hidden: mx.array, target_hidden: mx.array, labels: mx.array) -> Arrays:
        """Return the same of one chunk; `labels` (rows, 1). Each stage frees a buffer to write over."""
        logits, slope = wide_logits(hidden, head, self.softcap, slope=bool(self.signals), stages=self.stages)
        gold, top, hit = gold_and_top(logits, labels)
        stage(self.stages, gold, top, hit)
        logits = logits - top
        stage(self.stages, logits)
        target, _ = wide_logits(target_hidden, head, self.softcap, slope=False, stages=None)
        target = target / self.temperature
        target = target - mx.max(target, axis=1, keepdims=True)
        stage(self.stages, target)
        q, p, z, divergence = self._laws(logits, target)
        # Never logsumexp minus gold: its error is that of the large number (1e-6 against 6e-7).
        log_prob = gold - top - mx.log(z)
        overlap = row_sums(mx.minimum(p, q))
        share = divergence_share(overlap, self.eta, xp=mx)
        mixed = mixed_loss(overlap, divergence, share)
        columns = tuple(x[:, 0] for x in (log_prob, hit, overlap, divergence, mixed))
        stage(self.stages, *columns, share)
        return *columns, *self._units(q, p, slope, head, labels, share)

    def _laws(self, logits: mx.array, target: mx.array) -> Arrays:
        """Return q, p, the row sums z of the former before it was divided, and KL(p || q)."""
        difference = target - logits
        stage(self.stages, difference)
        q, p = mx.exp(logits), mx.exp(target)
        stage(self.stages, q, p)
        z, z_p = row_sums(q), row_sums(p)
        divergence = row_sums(p * difference) / z_p + (mx.log(z) - mx.log(z_p))
        stage(self.stages, z, z_p, divergence)
        q, p = q / z, p / z_p
        stage(self.stages, q, p)
        return q, p, z, divergence

    def _units(
        self, q: mx.array, p: mx.array, slope: mx.array | None, head: Any, labels: mx.array, share: mx.array
    ) -> Arrays:
        """Return for each wanted signal its loss's derivative, (rows, D), in the hidden state."""
        units: dict[str, mx.array] = {}
        # In this order one further (rows, V) array is enough: the last writes over p.
        for name in ("overlap", "gold", "divergence", "mixed"):
            if name not in (self.signals or ()):
                continue
            by_logit = self._by_logit(name, q, p, labels, share)
            # Differences first, then the narrow product: after it, 2^-9 of the head would remain.
            by_logit = by_logit if slope is None else by_logit * slope
            units[name] = head.back(by_logit.astype(head.dtype))
            stage(self.stages, units[name])
        return tuple(units[name] for name in self.signals or ())

    def _by_logit(self, name: str, q: mx.array, p: mx.array, labels: mx.array, part: mx.array) -> mx.array:
        """Return (rows, V): the derivative of -log_prob, -overlap, divergence or their mix, of it a part."""
        if name == "gold":
            gold = mx.take_along_axis(q, labels, axis=1)
            return mx.put_along_axis(q, labels, gold - 1, axis=1)
        if name == "divergence":
            return q - p
        below = q < p  # a tie is not below: the minimum is then p, which does not move
        share = row_sums(mx.where(below, q, 0))
        stage(self.stages, share)
        by_logit = q * (share - below)
        return by_logit if name == "overlap" else part * (q - p) + (1 - part) * by_logit


def _differentiable(make: _Rows, head: Any, target_hidden: mx.array, labels: mx.array) -> Any:
    """Return hidden, weight -> statistics and unit gradients; the latter for its own vjp.

    What the function takes from outside, as the target's states, gets no gradient.
    """
    dense = weight_of(head) is not None

    @mx.custom_function
    def function(hidden: mx.array, weight: mx.array) -> Arrays:
        return make(hidden, Dense(weight) if dense else head, target_hidden, labels)

    @function.vjp
    def vjp(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, mx.array]:
        hidden, weight = primals
        _, _, _, divergence, mixed = cotangents[:5]
        by_signal = {"gold": -cotangents[0], "overlap": -cotangents[2]}
        by_signal |= {"divergence": divergence, "mixed": mixed}
        grad = mx.full(hidden.shape, mx.nan if make.signals is None else 0.0, dtype=outputs[0].dtype)
        for name, unit in zip(make.signals or (), outputs[5:], strict=True):
            grad = grad + by_signal[name][:, None] * unit
        return grad.astype(hidden.dtype), mx.full(weight.shape, mx.nan, dtype=weight.dtype)

    return function

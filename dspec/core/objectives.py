"""Training objectives: sums of terms over a few numbers that each drafted slot has.

A batch may be cut in any way (chunks, micro-batches, ranks): `sums` of the parts add up, and `weights`
takes the added sums, so that every partition gives the same gradient. The backward pass of any
objective is a weighted sum of slot losses under fixed weights: cross-entropy, and where the target's
law is asked for, 1 - overlap, the divergence and lk's mix of both.

Letters: N blocks, K drafted slots (block_size - 1), T terms.
"""

from typing import Any

from dspec.core.credit_terms import Chain, Dpace
from dspec.core.numerics import widen
from dspec.core.objective import Objective
from dspec.core.objective_text import PRESETS
from dspec.core.prefixes import accepted_prefix, wasted_hits
from dspec.core.schedules import Progress
from dspec.core.slots import Blocks, Law
from dspec.core.terms import Decay, FirstError, StopGradient, Term
from dspec.core.types import Array
from dspec.errors import ConfigError, ShapeError, explain

__all__ = [
    "PRESETS",
    "Chain",
    "Decay",
    "Dpace",
    "FirstError",
    "Law",
    "Objective",
    "Progress",
    "accepted_prefix",
    "keep_rows",
    "sums",
    "value",
    "wasted_hits",
    "weights",
    "weights_by_signal",
]


def sums(
    objective: Objective,
    log_prob: Array,
    hit: Array,
    mask: Array,
    *,
    law: Law | None = None,
    xp: Any,
    stop_gradient: StopGradient = lambda x: x,
) -> Array:
    """Numerator and denominator of each term, additive over any partition of the blocks.

    Spec: OB-1, OB-7, OB-9, OB-10.

    Args:
        objective: with T terms.
        log_prob: (N, K) floating, nats, in [-inf, 0]; the drafter's log-probability of the gold token.
        hit: (N, K) bool; the drafter's argmax is the gold token.
        mask: (N, K) bool; the slot is supervised. Values elsewhere are never looked at.
        law: what the objective reads of the target, (N, K) each; None: nothing.
        xp: their array namespace.
        stop_gradient: the namespace's detach; only needed to differentiate `value` by autograd.

    Returns:
        (T, 2), at least float32.

    Raises:
        ShapeError: the arrays do not agree, or a flag is not boolean.
        ConfigError: the objective has a schedule, or reads what `law` lacks.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> yes = np.ones((1, 2), dtype=bool)
        >>> sums(Objective.parse("chain"), np.log([[0.5, 0.5]]), yes, yes, xp=xp).tolist()
        [[0.375, 1.0]]

    Source: LTR (arXiv 2606.11552), equation 13.
    """
    blocks = Blocks.view(log_prob, hit, mask, law, xp=xp)
    pairs = [
        xp.stack([term.numerator(blocks, stop_gradient), term.denominator(blocks, objective.reduction)])
        for term in _fixed(objective)
    ]
    return xp.stack(pairs)


def value(objective: Objective, sums: Array, *, xp: Any) -> Array:
    """The objective's value: the signed, weighted sum of its terms' quotients.

    Spec: OB-6, OB-7.

    Args:
        objective: with T terms.
        sums: (T, 2) of all parts of the batch, added.
        xp: its array namespace.

    Returns:
        0-d, to be minimised; a term whose denominator is 0 adds 0.

    Raises:
        ShapeError: `sums` is not (T, 2).

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> value(Objective.parse("chain(40)"), np.array([[0.375, 1.0]]), xp=xp).item()
        -15.0
    """
    scales = [term.sign * scale for term, scale in _scales(objective, sums, xp=xp)]
    return xp.sum(xp.stack(scales) * sums[:, 0])


def weights(
    objective: Objective,
    log_prob: Array,
    hit: Array,
    mask: Array,
    sums: Array,
    *,
    law: Law | None = None,
    xp: Any,
) -> Array:
    """Stop-gradient weights c of cross-entropy: those of the signal "gold" of `weights_by_signal`.

    Where the objective has no other signal, grad(value) = grad(sum_k c_k * -log_prob_k).

    Spec: OB-8, OB-9, OB-10.

    Args:
        objective: with T terms.
        log_prob: (N, K) floating, nats, in [-inf, 0].
        hit: (N, K) bool.
        mask: (N, K) bool.
        sums: (T, 2), those of the whole batch: all parts, micro-batches and ranks added.
        law: see `sums`.
        xp: their array namespace.

    Returns:
        (N, K) >= 0, at least float32; 0 where not supervised.

    Raises:
        ShapeError: the arrays do not agree.
        ConfigError: see `sums`.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> yes = np.ones((1, 2), dtype=bool)
        >>> batch = (np.log([[0.5, 0.5]]), yes, yes)
        >>> total = sums(Objective.parse("uniform+chain(40)"), *batch, xp=xp)
        >>> weights(Objective.parse("uniform+chain(40)"), *batch, total, xp=xp).round(6).tolist()
        [[16.0, 6.0]]

    Source: derived; D-PACE (arXiv 2605.18810) is the same identity for the chain alone.
    """
    found = weights_by_signal(objective, log_prob, hit, mask, sums, law=law, xp=xp).get("gold")
    return xp.zeros_like(widen(log_prob, xp=xp)) if found is None else found


def weights_by_signal(
    objective: Objective,
    log_prob: Array,
    hit: Array,
    mask: Array,
    sums: Array,
    *,
    law: Law | None = None,
    xp: Any,
) -> dict[str, Array]:
    """Stop-gradient weights of each signal's loss, whose sum has the gradient of the objective.

    grad(value) = grad(sum_k gold_k * -log_prob_k + overlap_k * -overlap_k + divergence_k * divergence_k
    + mixed_k * mixed_k); mixed is lambda * divergence + (1 - lambda) * (1 - overlap), lambda held (OB-16).

    Spec: OB-8, OB-9, OB-10, OB-12, OB-16.

    Args:
        objective: with T terms.
        log_prob: see `weights`.
        hit: likewise.
        mask: likewise.
        sums: likewise.
        law: see `sums`.
        xp: their array namespace.

    Returns:
        By each of `objective.signals` (N, K) >= 0, at least float32; 0 where not supervised.

    Raises:
        ShapeError: the arrays do not agree.
        ConfigError: see `sums`.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> yes, law = np.ones((1, 2), dtype=bool), Law(overlap=np.array([[0.5, 0.5]]))
        >>> batch, tv = (np.zeros((1, 2)), yes, yes), Objective.parse("uniform+tv")
        >>> total = sums(tv, *batch, law=law, xp=xp)
        >>> {s: c.tolist() for s, c in weights_by_signal(tv, *batch, total, law=law, xp=xp).items()}
        {'gold': [[1.0, 1.0]], 'overlap': [[1.0, 1.0]]}

    Source: derived from LTR (arXiv 2606.11552) and LK (arXiv 2602.23881).
    """
    blocks = Blocks.view(log_prob, hit, mask, law, xp=xp)
    total = {signal: xp.zeros_like(blocks.log_prob) for signal in objective.signals}
    for term, scale in _scales(objective, sums, xp=xp):
        slope = term.coefficients(blocks)
        total[term.signal] = total[term.signal] + xp.astype(scale, slope.dtype) * slope
    return total


def keep_rows(
    objective: Objective, log_prob: Array, hit: Array, mask: Array, skip: float, *, xp: Any
) -> Array:
    """Which slots of a run of whole blocks have a weight worth a row of the second product.

    Spec: OB-21.

    Args:
        objective: without terms that read the target's law.
        log_prob: (N, K) floating, nats, in [-inf, 0].
        hit: (N, K) bool.
        mask: (N, K) bool.
        skip: share of the largest weight below which a row is left out; in [0, 1).
        xp: their array namespace.

    Returns:
        (N, K) bool; false where not supervised.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> yes, chances = np.ones((1, 3), dtype=bool), np.array([[0.5, 0.01, 0.5]])
        >>> keep_rows(Objective.parse("chain"), np.log(chances), yes, yes, 0.01, xp=xp).tolist()
        [[True, True, False]]
    """
    blocks = Blocks.view(log_prob, hit, mask, None, xp=xp)
    weight, always = xp.zeros_like(blocks.log_prob), mask & ~mask
    for term in _fixed(objective):
        slope = term.coefficients(blocks)
        if term.waits(objective.reduction):
            always = always | (slope > 0)
        else:
            total = term.denominator(blocks, objective.reduction)
            weight = weight + term.weight * slope / xp.where(total > 0, total, xp.ones_like(total))
    return mask & (always | ((weight > 0) & (weight >= skip * xp.max(weight))))


def _fixed(objective: Objective) -> tuple[Term, ...]:
    """Return the terms of an objective whose arguments are all numbers."""
    if objective.scheduled:
        needed, remedy = "numbers", "take the objective of a step: objective.at(Progress(step, steps))"
        raise ConfigError(explain("objective", str(objective), needed, remedy=remedy, clause="OB-18"))
    return objective.resolved()


def _scales(objective: Objective, sums: Array, *, xp: Any) -> list[tuple[Term, Array]]:
    """Return each term with weight / denominator, 0 where the denominator is 0."""
    terms = _fixed(objective)
    if tuple(sums.shape) != (len(terms), 2):
        needed = f"({len(terms)}, 2), a row for each term of {objective}"
        raise ShapeError(explain("sums", tuple(sums.shape), needed, clause="OB-7"))
    scales = []
    for term, total in zip(terms, (sums[t, 1] for t in range(len(terms)))):
        divisor = xp.where(total > 0, total + term.epsilon, xp.ones_like(total))
        scales.append((term, xp.where(total > 0, term.weight / divisor, xp.zeros_like(total))))
    return scales

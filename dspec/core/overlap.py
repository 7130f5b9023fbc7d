"""What an objective sees of drafter and target together: gold log-probability, overlap, divergence, mix.

`overlap_statistics` is the named operation that backends override: this reference keeps R x V arrays.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from dspec.core.gold import check_gold, gold_log_probs
from dspec.core.numerics import widen
from dspec.core.types import Array
from dspec.errors import ConfigError, ShapeError, explain


class RowStatistics(NamedTuple):
    """One number a row each.

    Args:
        log_prob: (R,) the drafter's log-probability of the gold token, nats.
        hit: (R,) bool, its argmax is that token.
        overlap: (R,) sum_v min(p(v), q(v)), in [0, 1] up to rounding.
        divergence: (R,) KL(p || q), nats, >= 0 up to rounding.
        mixed: (R,) lambda * divergence + (1 - lambda) * (1 - overlap) with lambda = exp(-eta * overlap), a
            constant to the gradient; what lk loses.
    """

    log_prob: Array
    hit: Array
    overlap: Array
    divergence: Array
    mixed: Array


def overlap_statistics(
    hidden: Array,
    head: Array,
    target_hidden: Array,
    labels: Array,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    eta: float = 0.0,
    xp: Any,
    stop_gradient: Callable[[Array], Array] = lambda x: x,
) -> RowStatistics:
    """Each row's gold log-probability and hit, and how its law lies beside the target's.

    q is the softmax of the drafter's logits, p that of the target's divided by the temperature.

    Spec: OB-1, OB-10, OB-12, OB-16, NU-2, NU-5.

    Args:
        hidden: (R, D) floating, of the head's dtype or that widened to float32; the drafter's output
            after its final norm.
        head: (V, D); the target's unembedding. The products run in its dtype.
        target_hidden: (R, D) floating, likewise; the target's own state after its final norm, at the
            position before the label. It gets no gradient in overrides.
        labels: (R,) integer in [0, V).
        temperature: of p alone; > 0.
        softcap: c > 0 replaces a logit l of either by c * tanh(l / c) (Gemma); None leaves it.
        eta: of `mixed` alone; finite, >= 0; at 0 it is the divergence.
        xp: their array namespace.
        stop_gradient: the namespace's detach; only needed to differentiate `mixed` by autograd.

    Returns:
        The statistics, at least float32.

    Raises:
        ShapeError: the arrays do not fit each other.
        ConfigError: the temperature is not a positive number, or eta out of its range.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> rows = overlap_statistics(np.eye(2), np.eye(2), np.eye(2)[::-1], np.array([0, 1]), xp=xp)
        >>> rows.overlap.round(3).tolist(), rows.divergence.round(3).tolist()
        ([0.538, 0.538], [0.462, 0.462])

    Source: LK (arXiv 2602.23881).
    """
    check_overlap(hidden, head, target_hidden, labels, temperature, eta, xp=xp)
    log_prob, hit = gold_log_probs(hidden, head, labels, softcap=softcap, xp=xp)
    log_q = _log_law(hidden, head, 1.0, softcap, xp=xp)
    log_p = _log_law(target_hidden, head, temperature, softcap, xp=xp)
    p, q = xp.exp(log_p), xp.exp(log_q)
    overlap = xp.sum(xp.where(q < p, q, p), axis=-1)
    divergence = xp.sum(p * (log_p - log_q), axis=-1)
    mixed = mixed_loss(overlap, divergence, stop_gradient(divergence_share(overlap, eta, xp=xp)))
    return RowStatistics(log_prob, hit, overlap, divergence, mixed)


def divergence_share(overlap: Array, eta: float, *, xp: Any) -> Array:
    """Return exp(-eta * overlap): the share of the divergence in lk, that of 1 - overlap being the rest.

    Spec: OB-16.

    Args:
        overlap: any shape, floating, in [0, 1].
        eta: finite, >= 0.
        xp: its array namespace.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> divergence_share(np.array([0.0, 1.0]), np.log(4.0), xp=xp).round(9).tolist()
        [1.0, 0.25]

    Source: LK (arXiv 2602.23881), the adaptive mix.
    """
    return xp.exp(-eta * overlap)


def mixed_loss(overlap: Array, divergence: Array, share: Array) -> Array:
    """Return share * divergence + (1 - share) * (1 - overlap), of one shape, as all arguments.

    Spec: OB-16.

    Example:
        >>> mixed_loss(0.75, 2.0, 0.5)
        1.125
    """
    return share * divergence + (1 - share) * (1 - overlap)


def check_overlap(
    hidden: Array,
    head: Array,
    target_hidden: Array,
    labels: Array,
    temperature: float,
    eta: float,
    *,
    xp: Any,
) -> None:
    """Check what every `overlap_statistics` takes; here so that overrides refuse alike.

    Args:
        hidden: see `overlap_statistics`.
        head: likewise.
        target_hidden: likewise.
        labels: likewise.
        temperature: likewise.
        eta: likewise.
        xp: their array namespace.

    Raises:
        ShapeError: the arrays do not fit each other.
        ConfigError: the temperature is not a positive number, or eta out of its range.
    """
    check_gold(hidden, head, labels, xp=xp)
    if hidden.shape != target_hidden.shape:
        got = f"{tuple(hidden.shape)} and {tuple(target_hidden.shape)}"
        raise ShapeError(explain("hidden, target_hidden", got, "one shape", clause="OB-12"))
    check_gold(target_hidden, head, labels, xp=xp)  # its dtype
    if not 0 < temperature < float("inf"):
        raise ConfigError(explain("temperature", temperature, "a finite number > 0", clause="OB-12"))
    if not 0 <= eta < float("inf"):
        raise ConfigError(explain("eta", eta, "a finite number >= 0", clause="OB-16"))


def _log_law(hidden: Array, head: Array, temperature: float, softcap: float | None, *, xp: Any) -> Array:
    """Return (R, V) log-probabilities, at least float32."""
    narrow = hidden if hidden.dtype == head.dtype else xp.astype(hidden, head.dtype)
    logits = widen(xp.matmul(narrow, xp.matrix_transpose(head)), xp=xp)
    if softcap is not None:
        logits = softcap * xp.tanh(logits / softcap)
    logits = logits / temperature
    logits = logits - xp.max(logits, axis=-1)[:, None]
    return logits - xp.log(xp.sum(xp.exp(logits), axis=-1))[:, None]

"""One row of logits of the drafter and one of the target: what an objective sees of the two laws.

p is the target's law, q the drafter's, l_v the drafter's logit of token v; all in float64, in nats.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from dspec.errors import ConfigError, ShapeError, explain

Logits = Sequence[Any]  # V numbers; -inf allowed, not a whole row


class RowLaw(NamedTuple):
    """Signals of one slot, the derivatives of two of them by each drafter logit, and log f."""

    overlap: float
    divergence: float
    overlap_slope: list[float]
    divergence_slope: list[float]
    confidence: float | None


def log_law(logits: Logits) -> list[float]:
    """Return the log-probabilities of logits, less the largest first, so that nothing overflows.

    Example:
        >>> [round(math.exp(x), 3) for x in log_law([math.log(3.0) + 1000, 1000.0, -math.inf])]
        [0.75, 0.25, 0.0]
    """
    top = max(float(x) for x in logits)
    norm = top + math.log(math.fsum(math.exp(x - top) for x in logits))
    return [float(x) - norm for x in logits]


def row(
    drafter_logits: Logits, target_logits: Logits, gold: int | None = None, *, temperature: float = 1.0
) -> RowLaw:
    """Return overlap, divergence, their derivatives and, with a gold token, log of the confidence.

    The temperature divides the target's logits for overlap and divergence; the confidence is that of
    temperature 1. Tokens with q = p do not count as q < p, which leaves their corner without a slope.

    The derivatives, from dq(u)/dl_v = q(u) ([u = v] - q(v)):
    1. D = sum_u p(u) (log p(u) - log q(u)), and d log q(u)/dl_v = [u = v] - q(v). So
       dD/dl_v = -p(v) + q(v) sum_u p(u) = q(v) - p(v).
    2. min(p(u), q(u)) is q(u) where q(u) < p(u), else a constant. So da/dl_v is the sum over the tokens u
       with q(u) < p(u) of q(u) ([u = v] - q(v)), which is q(v) ([q(v) < p(v)] - sum of these q(u)).

    Spec: OB-12.

    Args:
        drafter_logits: V numbers.
        target_logits: V numbers, before the temperature.
        gold: index of the gold token, for the confidence.
        temperature: of the target's law, in (0, inf).

    Returns:
        RowLaw; the slopes have V numbers, confidence is log f in nats or None.

    Raises:
        ConfigError: the temperature is out of range.
        ShapeError: the rows have different lengths.

    Example:
        >>> said = row([math.log(0.5), math.log(0.5)], [math.log(0.25), math.log(0.75)], 1)
        >>> said.overlap, [round(x, 9) for x in said.overlap_slope], round(math.exp(said.confidence), 9)
        (0.75, [-0.25, 0.25], 0.75)

    Source: LK (arXiv 2602.23881); the derivatives are derived above.
    """
    if not 0 < temperature < math.inf:
        raise ConfigError(explain("temperature", temperature, "a number in (0, inf)", clause="OB-12"))
    if len(drafter_logits) != len(target_logits):
        lengths = len(drafter_logits), len(target_logits)
        raise ShapeError(explain("drafter_logits, target_logits", lengths, "one length V", clause="NT-4"))
    log_q, log_p = log_law(drafter_logits), log_law([x / temperature for x in target_logits])
    q, p = [math.exp(x) for x in log_q], [math.exp(x) for x in log_p]
    below = [q_v < p_v for q_v, p_v in zip(q, p)]
    mass_below = math.fsum(q_v for q_v, low in zip(q, below) if low)
    return RowLaw(
        overlap=math.fsum(min(pair) for pair in zip(p, q)),
        divergence=math.fsum(p_v * (lp - lq) for p_v, lp, lq in zip(p, log_p, log_q) if p_v > 0),
        overlap_slope=[q_v * (low - mass_below) for q_v, low in zip(q, below)],
        divergence_slope=[q_v - p_v for q_v, p_v in zip(q, p)],
        confidence=None if gold is None else log_law(target_logits)[gold],
    )

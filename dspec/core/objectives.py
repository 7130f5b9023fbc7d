"""Training objectives: sums of terms over the drafter's log-probability of each gold token.

A batch may be cut in any way (chunks, micro-batches, ranks): `sums` of the parts add up, and `weights`
takes the added sums, so that every partition gives the same gradient. The backward pass of any
objective is one weighted cross-entropy, sum_k c_k CE_k, with c = `weights`.

Letters: N blocks, K drafted slots (block_size - 1), T terms.
"""

from dataclasses import dataclass, replace
from typing import Any

from dspec.core.numerics import leading, widen
from dspec.core.objective_text import PRESETS, parse_terms, term_text, unknown
from dspec.core.terms import (
    REDUCTIONS,
    TERMS,
    Blocks,
    Chain,
    Decay,
    Dpace,
    FirstError,
    StopGradient,
    Term,
)
from dspec.core.types import Array
from dspec.errors import ConfigError, ShapeError, explain

__all__ = [
    "PRESETS",
    "Chain",
    "Decay",
    "Dpace",
    "FirstError",
    "Objective",
    "accepted_prefix",
    "sums",
    "value",
    "wasted_hits",
    "weights",
]


@dataclass(frozen=True)
class Objective:
    """A sum of terms and how its cross-entropy is reduced; `str` gives its text form.

    Spec: OB-6, OB-7.

    Args:
        terms: at least one of Decay, FirstError, Chain, Dpace.
        reduction: "block_sum" divides a term by its number of blocks, as the papers' equations do;
            "weighted_mean" divides decay by the sum of its weights.

    Raises:
        ConfigError: no terms, an unknown reduction, or a first_error that does not know which of
            several decays it follows.

    Example:
        >>> str(Objective((Decay(10), Chain())))
        'decay(10)+chain(40)'
    """

    terms: tuple[Term, ...]
    reduction: str = "block_sum"

    def __post_init__(self) -> None:
        if not self.terms:
            raise ConfigError(explain("objective", "no terms", f"one of {', '.join(TERMS)}", clause="OB-6"))
        if self.reduction not in REDUCTIONS:
            raise unknown("reduction", self.reduction, list(REDUCTIONS))
        self.resolved()

    @classmethod
    def parse(cls, text: str, *, reduction: str = "block_sum") -> "Objective":
        """Return the objective of a text form: terms and presets joined by "+".

        Spec: OB-6.

        Args:
            text: such as "ltr", "decay(10)+chain(40)" or "uniform+chain(weight=40)".
            reduction: "block_sum" or "weighted_mean".

        Returns:
            The objective; `str` of it parses back to it.

        Raises:
            ConfigError: bad grammar, an unknown name, or a value out of range.

        Example:
            >>> str(Objective.parse("uniform + chain(weight=5)"))
            'decay(inf)+chain(5)'
        """
        return cls(parse_terms(text), reduction)

    def __str__(self) -> str:
        return "+".join(term_text(term) for term in self.terms)

    def resolved(self) -> tuple[Term, ...]:
        """Return the terms with every first_error's gamma filled in from the decay beside it."""
        gammas = {term.gamma for term in self.terms if isinstance(term, Decay)} or {float("inf")}
        open_gamma = [term for term in self.terms if isinstance(term, FirstError) and term.gamma is None]
        if open_gamma and len(gammas) > 1:
            needed = "its own gamma, since the decay terms differ"
            remedy = "write first_error(0.3, gamma=10)"
            raise ConfigError(explain("first_error", str(self), needed, remedy=remedy, clause="OB-3"))
        gamma = next(iter(gammas))
        return tuple(
            replace(term, gamma=gamma) if isinstance(term, FirstError) and term.gamma is None else term
            for term in self.terms
        )


def sums(
    objective: Objective,
    log_prob: Array,
    hit: Array,
    mask: Array,
    *,
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
        xp: their array namespace.
        stop_gradient: the namespace's detach; only needed to differentiate `value` by autograd.

    Returns:
        (T, 2), at least float32.

    Raises:
        ShapeError: the three arrays do not agree, or a flag is not boolean.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> yes = np.ones((1, 2), dtype=bool)
        >>> sums(Objective.parse("chain"), np.log([[0.5, 0.5]]), yes, yes, xp=xp).tolist()
        [[0.375, 1.0]]

    Source: LTR (arXiv 2606.11552), equation 13.
    """
    blocks = _blocks(log_prob, hit, mask, xp=xp)
    pairs = [
        xp.stack([term.numerator(blocks, stop_gradient), term.denominator(blocks, objective.reduction)])
        for term in objective.resolved()
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


def weights(objective: Objective, log_prob: Array, hit: Array, mask: Array, sums: Array, *, xp: Any) -> Array:
    """Stop-gradient weights c with grad(value) = grad(sum_k c_k * -log_prob_k).

    Spec: OB-8, OB-9, OB-10.

    Args:
        objective: with T terms.
        log_prob: (N, K) floating, nats, in [-inf, 0].
        hit: (N, K) bool.
        mask: (N, K) bool.
        sums: (T, 2), those of the whole batch: all parts, micro-batches and ranks added.
        xp: their array namespace.

    Returns:
        (N, K) >= 0, at least float32; 0 where not supervised.

    Raises:
        ShapeError: the arrays do not agree.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> yes = np.ones((1, 2), dtype=bool)
        >>> batch = (np.log([[0.5, 0.5]]), yes, yes)
        >>> total = sums(Objective.parse("uniform+chain(40)"), *batch, xp=xp)
        >>> weights(Objective.parse("uniform+chain(40)"), *batch, total, xp=xp).round(6).tolist()
        [[16.0, 6.0]]

    Source: derived; D-PACE (arXiv 2605.18810) is the same identity for the chain alone.
    """
    blocks = _blocks(log_prob, hit, mask, xp=xp)
    total = xp.zeros_like(blocks.log_prob)
    for term, scale in _scales(objective, sums, xp=xp):
        total = total + xp.astype(scale, total.dtype) * term.coefficients(blocks)
    return total


def accepted_prefix(hit: Array, mask: Array, *, xp: Any) -> Array:
    """How many drafted tokens greedy verification against the gold text would accept.

    A slot that is not supervised ends the block: nothing is known beyond it.

    Spec: OB-11.

    Args:
        hit: (N, K) bool; the drafter's argmax is the gold token.
        mask: (N, K) bool; the slot is supervised.
        xp: their array namespace.

    Returns:
        (N,) int32 in 0..K.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> hit, mask = np.array([[True, False, True]]), np.ones((1, 3), dtype=bool)
        >>> accepted_prefix(hit, mask, xp=xp).tolist()
        [1]
    """
    return leading(hit & mask, xp=xp)


def wasted_hits(hit: Array, mask: Array, *, xp: Any) -> Array:
    """How many right tokens come after a block's first error, where no verifier can use them.

    Spec: OB-11.

    Args:
        hit: (N, K) bool; the drafter's argmax is the gold token.
        mask: (N, K) bool; the slot is supervised.
        xp: their array namespace.

    Returns:
        (N,) int32 in 0..K - 1.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> hit, mask = np.array([[True, False, True]]), np.ones((1, 3), dtype=bool)
        >>> wasted_hits(hit, mask, xp=xp).tolist()
        [1]

    Source: LTR (arXiv 2606.11552), table 1.
    """
    misses = xp.cumulative_sum(xp.astype(mask & ~hit, xp.int32), axis=-1)
    late = hit & mask & (misses > 0)
    return xp.astype(xp.sum(xp.astype(late, xp.int32), axis=-1), xp.int32)


def _blocks(log_prob: Array, hit: Array, mask: Array, *, xp: Any) -> Blocks:
    """Return the checked view that terms work on: float32 or wider, 0 at unsupervised slots."""
    if len(log_prob.shape) != 2 or not log_prob.shape == hit.shape == mask.shape:
        got = ", ".join(str(tuple(x.shape)) for x in (log_prob, hit, mask))
        raise ShapeError(explain("log_prob, hit, mask", got, "one shape (N, K)", clause="OB-1"))
    for name, flag in (("hit", hit), ("mask", mask)):
        if not xp.isdtype(flag.dtype, "bool"):
            raise ShapeError(explain(name, flag.dtype, "booleans", clause="OB-1"))
    log_prob = widen(log_prob, xp=xp)
    return Blocks(xp.where(mask, log_prob, xp.zeros_like(log_prob)), hit, mask, xp)


def _scales(objective: Objective, sums: Array, *, xp: Any) -> list[tuple[Term, Array]]:
    """Return each term with weight / denominator, 0 where the denominator is 0."""
    terms = objective.resolved()
    if tuple(sums.shape) != (len(terms), 2):
        needed = f"({len(terms)}, 2), a row for each term of {objective}"
        raise ShapeError(explain("sums", tuple(sums.shape), needed, clause="OB-7"))
    scales = []
    for term, total in zip(terms, (sums[t, 1] for t in range(len(terms)))):
        divisor = xp.where(total > 0, total + term.epsilon, xp.ones_like(total))
        scales.append((term, xp.where(total > 0, term.weight / divisor, xp.zeros_like(total))))
    return scales

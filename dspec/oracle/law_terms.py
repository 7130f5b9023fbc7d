"""One block of each training term that sees the target's law, written slot by slot.

Of each supervised slot a_k is the overlap, D_k the divergence and f_k the confidence, whose logarithm
`confidence` holds. Unsupervised slots are never read. Slopes are those of the signals a_k and D_k.
"""

import math
from collections.abc import Callable, Sequence

from dspec.oracle.terms import (
    Block,
    BlockTerm,
    Params,
    Row,
    position_weights,
    sums_behind,
    valid,
    weighted,
)

OVERLAP_EPS = 1e-6  # added to the overlap under the logarithm (OB-16)
SMALLEST = 1e-30  # what a smaller overlap counts as in a prefix product (OB-17)
READS: dict[str, tuple[str, ...]] = {
    "cat": ("confidence",),
    "kl": ("divergence",),
    "tv": ("overlap",),
    "log_overlap": ("overlap",),
    "lk": ("overlap", "divergence"),
    "overlap_chain": ("overlap",),
    "reach": ("overlap", "divergence"),
}


def reads(name: str, params: Params) -> tuple[str, ...]:
    """Return what a term reads of the law; reach reads the confidence where it follows it.

    Spec: OB-12, OB-19.

    Example:
        >>> reads("reach", {"follow": 0.5}), reads("decay", {})
        (('overlap', 'divergence', 'confidence'), ())
    """
    follows = name == "reach" and params["follow"] > 0
    return (*READS.get(name, ()), *(("confidence",) if follows else ()))


def reach_before(confidence: Row, mask: Row, power: float = 1.0) -> list[float]:
    """Return m_k (prod_{j < k, supervised} f_j) ** power; `confidence` holds log f_j.

    Spec: OB-15, OB-19.

    Example:
        >>> reach_before([math.log(0.25), math.nan, 0.0], [True, False, True], 0.5)
        [1.0, 0.0, 0.5]
    """
    chances, log_chance = [], 0.0
    for log_f, supervised in zip(confidence, mask, strict=True):
        chances.append(math.exp(log_chance) if supervised else 0.0)
        log_chance += power * float(log_f) if supervised else 0.0
    return chances


def smoothed_products(values: Row, mask: Row, alpha: float = 0.0) -> list[float]:
    """Return prod_{i <= k, supervised} ((1 - alpha) a_i + alpha) for every slot; a_i is at least 1e-30.

    Spec: OB-17, OB-19.

    Example:
        >>> smoothed_products([0.5, math.nan, 0.5], [True, False, True])
        [0.5, 0.5, 0.25]
    """
    products, product = [], 1.0
    for value, supervised in zip(values, mask, strict=True):
        if supervised:
            product *= (1 - alpha) * max(float(value), SMALLEST) + alpha
        products.append(product)
    return products


def products_without(values: Row, mask: Row, left_out: int) -> list[float]:
    """Return the prefix products with the factor of one slot (an index from 0) left out.

    Spec: OB-17.

    Example:
        >>> products_without([0.5, 0.0, 0.25], [True, True, True], 1)
        [0.5, 0.5, 0.125]
    """
    others = [bool(m) and j != left_out for j, m in enumerate(mask)]
    return smoothed_products(values, others)


def _cat(params: Params, block: Block) -> BlockTerm:
    """Sum of -c_k log p_k, c_k the product of f_j over supervised j < k, a constant: slope -c_k."""
    slopes = [-c for c in reach_before(_row(block.confidence), block.mask)]
    return BlockTerm(weighted(slopes, block.log_prob), valid(block.mask), {"gold": slopes})


def _kl(params: Params, block: Block) -> BlockTerm:
    """Sum of w_k D_k: slope w_k in D_k."""
    weights = position_weights(params, block.mask)
    numerator = weighted(weights, _row(block.divergence))
    return BlockTerm(numerator, _denominator(params, weights, block), {"divergence": weights})


def _tv(params: Params, block: Block) -> BlockTerm:
    """Sum of w_k (1 - a_k): slope -w_k in a_k."""
    weights = position_weights(params, block.mask)
    numerator = weighted(weights, [1 - a for a in _row(block.overlap)])
    return BlockTerm(numerator, _denominator(params, weights, block), {"overlap": [-w for w in weights]})


def _log_overlap(params: Params, block: Block) -> BlockTerm:
    """Sum of -w_k log(a_k + 1e-6): slope -w_k / (a_k + 1e-6) in a_k."""
    weights = position_weights(params, block.mask)
    shifted = [float(a) + OVERLAP_EPS if m else 1.0 for a, m in zip(_row(block.overlap), block.mask)]
    numerator = weighted(weights, [-math.log(x) for x in shifted])
    slopes = [-w / x for w, x in zip(weights, shifted)]
    return BlockTerm(numerator, _denominator(params, weights, block), {"overlap": slopes})


def _lk(params: Params, block: Block) -> BlockTerm:
    """Sum of w_k (lam_k D_k + (1 - lam_k)(1 - a_k)), lam_k constant: slopes w lam and -w (1 - lam)."""
    weights = position_weights(params, block.mask)
    overlaps, divergences = _row(block.overlap), _row(block.divergence)
    lam = [math.exp(-params["eta"] * a) if m else 1.0 for a, m in zip(overlaps, block.mask)]
    near = [w * x for w, x in zip(weights, lam)]
    far = [w * (1 - x) for w, x in zip(weights, lam)]
    numerator = weighted(near, divergences) + weighted(far, [1 - a for a in overlaps])
    slopes = {"divergence": near, "overlap": [-x for x in far]}
    return BlockTerm(numerator, _denominator(params, weights, block), slopes)


def _overlap_chain(params: Params, block: Block) -> BlockTerm:
    """R of the overlaps; a prefix product that holds a_k has, as slope in it, itself without that factor.

    So d R / d a_k is the sum over supervised j >= k of prod_{i <= j, i != k} a_i, over K: the quotient of
    the clause, without its division, hence also at a_k = 0.
    """
    overlaps, mask = _row(block.overlap), block.mask
    size = len(mask)
    products = smoothed_products(overlaps, mask)
    slopes = [
        sum(x for x, m in zip(products_without(overlaps, mask, k)[k:], mask[k:]) if m) / size
        if mask[k]
        else 0.0
        for k in range(size)
    ]
    reward = sum(x for x, m in zip(products, mask) if m) / size
    return BlockTerm(reward, valid(mask), {"overlap": slopes})


def _reach(params: Params, block: Block) -> BlockTerm:
    """Sum of c_k D_k with c_k, the credit of the overlaps times the chance to get there: slope c_k in D_k."""
    products = smoothed_products(_row(block.overlap), block.mask, params["alpha"])
    constants = sums_behind(products, block.mask)
    if params["follow"] > 0:
        chances = reach_before(_row(block.confidence), block.mask, params["follow"])
        constants = [c * chance for c, chance in zip(constants, chances, strict=True)]
    numerator = weighted(constants, _row(block.divergence))
    return BlockTerm(numerator, valid(block.mask), {"divergence": constants})


LAW_TERMS: dict[str, Callable[[Params, Block], BlockTerm]] = {
    "cat": _cat,
    "kl": _kl,
    "tv": _tv,
    "log_overlap": _log_overlap,
    "lk": _lk,
    "overlap_chain": _overlap_chain,
    "reach": _reach,
}


def _denominator(params: Params, weights: Sequence[float], block: Block) -> float:
    """Return what the block adds to Z, or to the sum of weights under weighted_mean."""
    return valid(block.mask) if params["reduction"] == "block_sum" else sum(weights)


def _row(values: Row | None) -> Row:
    """Return a row of the law, which `oracle.objectives` has checked to be there."""
    assert values is not None
    return values

"""One block of each training term: numerator, denominator and slopes, written slot by slot.

K = block_size - 1 drafted slots are numbered k = 1..K as in the clauses (column k - 1 here).
`log_prob` is the drafter's log-probability of the gold token, `hit` whether its argmax is the gold
token, `mask` whether the slot is supervised. Unsupervised slots are never read. Terms that see the
target's law stand in `oracle.law_terms`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Row = Sequence[Any]  # the K slots of one block
Params = dict[str, Any]


class Block(NamedTuple):
    """One block: K slots of each array; those of the law are None where no term reads them (OB-12)."""

    log_prob: Row
    hit: Row
    mask: Row
    overlap: Row | None = None
    divergence: Row | None = None
    confidence: Row | None = None


class BlockTerm(NamedTuple):
    """A term on one block: numerator, denominator, and per signal d numerator / d signal, K numbers."""

    numerator: float
    denominator: float
    slopes: dict[str, list[float]]


def position_weight(k: int, gamma: float) -> float:
    """Return exp(-(k - 1) / gamma), the weight of slot k = 1..K; 1 everywhere when gamma is inf.

    Spec: OB-2.

    Example:
        >>> position_weight(1, 7.0), position_weight(5, math.inf)
        (1.0, 1.0)
    """
    return math.exp(-(k - 1) / gamma)


def first_error_slot(hit: Row, mask: Row) -> int | None:
    """Return k*, the first supervised slot (from 1) whose argmax is wrong; None without one.

    Spec: OB-3.

    Example:
        >>> first_error_slot([True, False, False], [True, False, True])
        3
    """
    return next((k for k, (h, m) in enumerate(zip(hit, mask, strict=True), 1) if m and not h), None)


def prefix_products(log_prob: Row, mask: Row, alpha: float = 0.0) -> list[float]:
    """Return prod_{i <= k} ((1 - alpha) p_i + alpha) for every slot; unsupervised slots are factors 1.

    Spec: OB-4, OB-5, OB-9.

    Example:
        >>> prefix_products([math.log(0.5), 0.0, math.log(0.5)], [True, False, True])
        [0.5, 0.5, 0.25]
    """
    products, product = [], 1.0
    for value, supervised in zip(log_prob, mask, strict=True):
        if supervised:
            product *= (1 - alpha) * math.exp(value) + alpha
        products.append(product)
    return products


def credit(log_prob: Row, mask: Row, alpha: float = 0.0) -> list[float]:
    """Return c_k = mask_k * sum_{j >= k, supervised} of the prefix product at j.

    With alpha = 0 this is S_k of the chain, with alpha > 0 the weight of D-PACE.

    Spec: OB-4, OB-5.

    Example:
        >>> credit([math.log(0.5), math.log(0.5)], [True, True])
        [0.75, 0.25]
    """
    return sums_behind(prefix_products(log_prob, mask, alpha), mask)


def hit_prefix(hit: Row, mask: Row) -> list[float]:
    """Return e_k: 1 if slot k is supervised and no supervised slot before it is a miss, else 0.

    The first miss itself still counts.

    Spec: OB-13.

    Example:
        >>> hit_prefix([True, False, False, True], [True, False, True, True])
        [1.0, 0.0, 1.0, 0.0]
    """
    kept, alive = [], True
    for h, supervised in zip(hit, mask, strict=True):
        kept.append(1.0 if supervised and alive else 0.0)
        alive = alive and bool(h or not supervised)
    return kept


def continuation(log_prob: Row, mask: Row, alpha: float = 0.0) -> list[float]:
    """Return mask_k * sum_{j >= k, supervised} of prod_{k < i <= j} ((1 - alpha) p_i + alpha).

    The products start afresh behind slot k, so that one of them is empty: j = k gives 1.

    Spec: OB-14.

    Example:
        >>> continuation([math.log(0.5), math.log(0.5), math.log(0.5)], [True, True, True])
        [1.75, 1.5, 1.0]
    """
    sums = []
    for k, supervised in enumerate(mask):
        behind = prefix_products(log_prob[k + 1 :], mask[k + 1 :], alpha)
        sums.append(1.0 + sum(x for x, m in zip(behind, mask[k + 1 :]) if m) if supervised else 0.0)
    return sums


def revived_credit(log_prob: Row, mask: Row, alpha: float) -> list[float]:
    """Return mask_k * sum_{j >= k, supervised} of prod_{i <= j} r_i, where dead prefixes are smoothed.

    r_i = p_i + alpha (1 - rho_i) (1 - p_i), rho_i being the product of the p of supervised slots up to i,
    its own among them.

    Spec: OB-20.

    Example:
        >>> revived_credit([math.log(0.5), math.log(0.5)], [True, True], 1.0)  # r = 3/4 and 7/8
        [1.40625, 0.65625]
    """
    products, product, rho = [], 1.0, 1.0
    for value, supervised in zip(log_prob, mask, strict=True):
        if supervised:
            p = math.exp(value)
            rho *= p
            product *= p + alpha * (1 - rho) * (1 - p)
        products.append(product)
    return sums_behind(products, mask)


def sums_behind(products: Sequence[float], mask: Row) -> list[float]:
    """Return mask_k * sum_{j >= k, supervised} of products_j.

    Example:
        >>> sums_behind([4.0, 2.0, 1.0], [True, False, True])
        [5.0, 0.0, 1.0]
    """
    slots = range(len(products))
    return [sum(products[j] for j in slots[k:] if mask[j]) if mask[k] else 0.0 for k in slots]


def _decay(params: Params, block: Block) -> BlockTerm:
    """Sum of -w_k log p_k over supervised k; each slope is -w_k."""
    weights = position_weights(params, block.mask)
    return _cross_entropy(weights, block, by_weight=params["reduction"] == "weighted_mean")


def _first_error(params: Params, block: Block) -> BlockTerm:
    """-w_k* log p_k* over w_k*; slope -w_k* at k*, 0 elsewhere, for k* itself is detached."""
    k_star = first_error_slot(block.hit, block.mask)
    slots = range(1, len(block.mask) + 1)
    weights = [position_weight(k, params["gamma"]) if k == k_star else 0.0 for k in slots]
    return _cross_entropy(weights, block, by_weight=True)


def _chain(params: Params, block: Block) -> BlockTerm:
    """R, the mean of rho_k; d rho_j / d log p_k is rho_j for k <= j, else 0: the slope is S_k / K."""
    products = prefix_products(block.log_prob, block.mask)
    size = len(block.mask)
    reward = sum(rho for rho, m in zip(products, block.mask) if m) / size
    slopes = [s / size for s in credit(block.log_prob, block.mask)]
    return BlockTerm(reward, valid(block.mask), {"gold": slopes})


def _dpace(params: Params, block: Block) -> BlockTerm:
    """Sum of -c_k log p_k with c_k held constant: each slope is -c_k."""
    return _cross_entropy(credit(block.log_prob, block.mask, params["alpha"]), block)


def _auf(params: Params, block: Block) -> BlockTerm:
    """Sum of -e_k log p_k; e_k depends on hits alone and is detached: each slope is -e_k."""
    kept = hit_prefix(block.hit, block.mask)
    return _cross_entropy(kept, block, by_weight=params["reduction"] == "weighted_mean")


def _dpace_cumulative(params: Params, block: Block) -> BlockTerm:
    """Sum of -c_k log p_k with c_k, the prefix product up to k itself, held constant."""
    products = prefix_products(block.log_prob, block.mask, params["alpha"])
    return _cross_entropy([c if m else 0.0 for c, m in zip(products, block.mask)], block)


def _dpace_continuation(params: Params, block: Block) -> BlockTerm:
    """Sum of -c_k log p_k with c_k, the sum of products that start behind k, held constant."""
    return _cross_entropy(continuation(block.log_prob, block.mask, params["alpha"]), block)


def _revive(params: Params, block: Block) -> BlockTerm:
    """Sum of -c_k log p_k with c_k held constant."""
    return _cross_entropy(revived_credit(block.log_prob, block.mask, params["alpha"]), block)


BLOCK_TERMS: dict[str, Callable[[Params, Block], BlockTerm]] = {
    "decay": _decay,
    "first_error": _first_error,
    "chain": _chain,
    "dpace": _dpace,
    "auf": _auf,
    "dpace_cumulative": _dpace_cumulative,
    "dpace_continuation": _dpace_continuation,
    "revive": _revive,
}


def position_weights(params: Params, mask: Row) -> list[float]:
    """Return m_k w_k of every slot.

    Spec: OB-2.

    Example:
        >>> position_weights({"gamma": math.inf}, [True, False])
        [1.0, 0.0]
    """
    return [position_weight(k, params["gamma"]) if m else 0.0 for k, m in enumerate(mask, 1)]


def weighted(weights: Row, losses: Row) -> float:
    """Return the sum of weight times loss; slots of weight 0 are not read.

    Example:
        >>> weighted([2.0, 0.0], [3.0, math.nan])
        6.0
    """
    return math.fsum(w * float(loss) for w, loss in zip(weights, losses, strict=True) if w)


def valid(mask: Row) -> float:
    """Return what a block adds to Z: 1 if one of its slots is supervised, else 0.

    Example:
        >>> valid([False, True]), valid([False, False])
        (1.0, 0.0)
    """
    return 1.0 if any(mask) else 0.0


def _cross_entropy(weights: list[float], block: Block, *, by_weight: bool = False) -> BlockTerm:
    """Return the sum of -w_k log p_k, over Z or over the sum of w, with the weights held constant."""
    slopes = [-w for w in weights]
    denominator = sum(weights) if by_weight else valid(block.mask)
    return BlockTerm(weighted(slopes, block.log_prob), denominator, {"gold": slopes})

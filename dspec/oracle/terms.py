"""One block of each training term: numerator, denominator and slopes, written slot by slot.

K = block_size - 1 drafted slots are numbered k = 1..K as in the clauses (column k - 1 here).
`log_prob` is the drafter's log-probability of the gold token, `hit` whether its argmax is the gold
token, `mask` whether the slot is supervised. Unsupervised slots are never read.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

Row = Sequence[Any]  # the K slots of one block
Params = dict[str, Any]
BlockTerm = tuple[float, float, list[float]]  # numerator, denominator, d numerator / d log_prob


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
    products = prefix_products(log_prob, mask, alpha)
    return [
        sum(products[j] for j in range(k, len(products)) if mask[j]) if mask[k] else 0.0
        for k in range(len(products))
    ]


def _decay(params: Params, log_prob: Row, hit: Row, mask: Row) -> BlockTerm:
    """Sum of -w_k log p_k over supervised k; each slope is -w_k."""
    weights = [position_weight(k, params["gamma"]) if m else 0.0 for k, m in enumerate(mask, 1)]
    block_sum = params["reduction"] == "block_sum"
    return _weighted(weights, log_prob), _valid(mask) if block_sum else sum(weights), [-w for w in weights]


def _first_error(params: Params, log_prob: Row, hit: Row, mask: Row) -> BlockTerm:
    """-w_k* log p_k* over w_k*; slope -w_k* at k*, 0 elsewhere, for k* itself is detached."""
    k_star = first_error_slot(hit, mask)
    slots = range(1, len(mask) + 1)
    weights = [position_weight(k, params["gamma"]) if k == k_star else 0.0 for k in slots]
    return _weighted(weights, log_prob), sum(weights), [-w for w in weights]


def _chain(params: Params, log_prob: Row, hit: Row, mask: Row) -> BlockTerm:
    """R, the mean of rho_k; d rho_j / d log p_k is rho_j for k <= j, else 0: the slope is S_k / K."""
    products = prefix_products(log_prob, mask)
    reward = sum(rho for rho, m in zip(products, mask) if m) / len(mask)
    return reward, _valid(mask), [s / len(mask) for s in credit(log_prob, mask)]


def _dpace(params: Params, log_prob: Row, hit: Row, mask: Row) -> BlockTerm:
    """Sum of -c_k log p_k with c_k held constant: each slope is -c_k."""
    constants = credit(log_prob, mask, params["alpha"])
    return _weighted(constants, log_prob), _valid(mask), [-c for c in constants]


BLOCK_TERMS: dict[str, Callable[..., BlockTerm]] = {
    "decay": _decay,
    "first_error": _first_error,
    "chain": _chain,
    "dpace": _dpace,
}


def _weighted(weights: Row, log_prob: Row) -> float:
    """Return the cross-entropy -log p_k summed with weights; slots of weight 0 are not read."""
    return math.fsum(-w * float(value) for w, value in zip(weights, log_prob, strict=True) if w)


def _valid(mask: Row) -> float:
    return 1.0 if any(mask) else 0.0

"""Training objectives of block drafters in float64: sums of terms over blocks, one division a term.

Letters: N blocks, K = block_size - 1 drafted slots; the terms themselves are in `oracle.terms`.
An objective is a list of (name, params) pairs, as in [("decay", {"gamma": 10.0}), ("chain", {})].
A law is (overlap, divergence, log of the confidence), each (N, K), None for what no term reads (OB-12).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dspec.errors import ConfigError, ShapeError, explain
from dspec.oracle.law_terms import LAW_TERMS, reads
from dspec.oracle.terms import BLOCK_TERMS, Block, Params, first_error_slot

Rows = Any  # (N, K): nested sequences or an array
Law = tuple[Rows, Rows, Rows]  # overlap, divergence, log confidence
Part = tuple[Rows, ...]  # log_prob, hit, mask of one part of a batch, and its law as a fourth
Terms = Sequence[tuple[str, dict[str, Any]]]

FIRST_ERROR_EPS = 1e-6  # added once to the first-error denominator (OB-3)
REDUCTIONS = ("block_sum", "weighted_mean")
SIGNALS = ("gold", "overlap", "divergence")  # what carries gradient: log p_k, a_k and D_k (OB-12)
SUBTRACTED = ("chain", "overlap_chain")
TERMS = {**BLOCK_TERMS, **LAW_TERMS}
_POSITIONED: Params = {"gamma": math.inf, "weight": 1.0, "temperature": 1.0}
DEFAULTS: dict[str, Params] = {
    "decay": {"gamma": math.inf, "weight": 1.0},
    "first_error": {"weight": 0.3, "gamma": None},
    "chain": {"weight": 40.0},
    "dpace": {"alpha": 0.5, "weight": 1.0},
    "auf": {"weight": 1.0},
    "dpace_cumulative": {"alpha": 0.5, "weight": 1.0},
    "dpace_continuation": {"alpha": 0.5, "weight": 1.0},
    "cat": {"weight": 1.0},
    "kl": _POSITIONED,
    "tv": _POSITIONED,
    "log_overlap": _POSITIONED,
    "lk": {"eta": 3.0, **_POSITIONED},
    "overlap_chain": {"weight": 40.0, "temperature": 1.0},
    "reach": {"alpha": 0.5, "weight": 1.0, "follow": 0.0, "temperature": 1.0},
    "revive": {"alpha": 0.5, "weight": 1.0},
}


def accepted_prefix(hit: Rows, mask: Rows) -> list[int]:
    """Return, per block, how many slots from k = 1 on are supervised hits without a gap.

    Spec: OB-11.

    Example:
        >>> accepted_prefix([[True, True, False, True]], [[True, True, True, True]])
        [2]
    """
    counts = []
    for h, m in zip(hit, mask, strict=True):
        stops = [j for j in range(len(h)) if not (h[j] and m[j])]
        counts.append(stops[0] if stops else len(h))
    return counts


def wasted_hits(hit: Rows, mask: Rows) -> list[int]:
    """Return, per block, how many supervised hits come after the first supervised error.

    Spec: OB-11.

    Example:
        >>> wasted_hits([[True, False, True, True]], [[True, True, True, False]])
        [1]
    """
    counts = []
    for h, m in zip(hit, mask, strict=True):
        k_star = first_error_slot(h, m)
        counts.append(0 if k_star is None else sum(bool(h[j] and m[j]) for j in range(k_star, len(h))))
    return counts


def term_value(
    term_name: str,
    log_prob: Rows,
    hit: Rows,
    mask: Rows,
    *,
    reduction: str = "block_sum",
    law: Law | None = None,
    **params: Any,
) -> tuple[float, float]:
    """Return numerator and denominator of one term, each a plain sum over the blocks.

    The term's `weight` and the sign of chain enter in `objective_value`, not here.

    Spec: OB-2, OB-3, OB-4, OB-5, OB-7, OB-13..OB-17, OB-19, OB-20.

    Example:
        >>> term_value("decay", [[-1.0, -2.0]], [[True, True]], [[True, True]], gamma=math.inf)
        (3.0, 1.0)
    """
    return part_sums([(term_name, params)], [(log_prob, hit, mask, law)], reduction)[0]


def part_sums(terms: Terms, parts: Sequence[Part], reduction: str = "block_sum") -> list[tuple[float, float]]:
    """Return the global (numerator, denominator) of each term: the sums over all blocks of all parts.

    A part is (log_prob, hit, mask) or (log_prob, hit, mask, law).

    Spec: OB-7, OB-12.
    """
    totals = []
    for name, params in _resolve(terms, reduction):
        blocks = [TERMS[name](params, block) for part in parts for block in _blocks(name, params, part)]
        totals.append((math.fsum(b.numerator for b in blocks), math.fsum(b.denominator for b in blocks)))
    return totals


def parts_value(terms: Terms, parts: Sequence[Part], reduction: str = "block_sum") -> float:
    """Return the objective of a batch given in parts: sums first, one division a term at the end.

    Spec: OB-6, OB-7.
    """
    sums = part_sums(terms, parts, reduction)
    resolved = _resolve(terms, reduction)
    return math.fsum(_divided(name, params, num, den) for (name, params), (num, den) in zip(resolved, sums))


def parts_gradients(
    terms: Terms, parts: Sequence[Part], reduction: str = "block_sum"
) -> list[dict[str, NDArray[np.float64]]]:
    """Return, per part and signal, d value / d signal (N, K), where value is that of all parts together.

    Spec: OB-7, OB-8, OB-12.
    """
    sums = part_sums(terms, parts, reduction)
    gradients = [{signal: np.zeros(np.shape(part[0])) for signal in SIGNALS} for part in parts]
    for (name, params), (_, den) in zip(_resolve(terms, reduction), sums):
        for gradient, part in zip(gradients, parts, strict=True):
            for n, block in enumerate(_blocks(name, params, part)):
                for signal, slopes in TERMS[name](params, block).slopes.items():
                    gradient[signal][n] += [_divided(name, params, slope, den) for slope in slopes]
    return gradients


def parts_gradient(
    terms: Terms, parts: Sequence[Part], reduction: str = "block_sum"
) -> list[NDArray[np.float64]]:
    """Return, per part, d value / d log_prob (N, K), where value is that of all parts together.

    Spec: OB-7, OB-8.
    """
    return [gradients["gold"] for gradients in parts_gradients(terms, parts, reduction)]


def objective_value(
    terms: Terms,
    log_prob: Rows,
    hit: Rows,
    mask: Rows,
    reduction: str = "block_sum",
    *,
    law: Law | None = None,
) -> float:
    """Return sum over the terms of sign * weight * numerator / denominator.

    Spec: OB-6.

    Example:
        >>> half = [[math.log(0.5), math.log(0.5)]]
        >>> objective_value([("chain", {"weight": 8.0})], half, [[True, True]], [[True, True]])
        -3.0
    """
    return parts_value(terms, [(log_prob, hit, mask, law)], reduction)


def objective_gradient(
    terms: Terms,
    log_prob: Rows,
    hit: Rows,
    mask: Rows,
    reduction: str = "block_sum",
    *,
    law: Law | None = None,
) -> NDArray[np.float64]:
    """Return d value / d log_prob, (N, K); credits count as constants. Minus it is c (OB-8).

    Spec: OB-8.

    Example:
        >>> half = [[math.log(0.5), math.log(0.5)]]
        >>> objective_gradient([("chain", {"weight": 8.0})], half, [[True, True]], [[True, True]]).tolist()
        [[-3.0, -1.0]]
    """
    return objective_gradients(terms, log_prob, hit, mask, reduction, law=law)["gold"]


def objective_gradients(
    terms: Terms,
    log_prob: Rows,
    hit: Rows,
    mask: Rows,
    reduction: str = "block_sum",
    *,
    law: Law | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Return d value / d signal, (N, K) each: gold is log p_k, overlap a_k, divergence D_k.

    First errors, credits, the confidence and the lambda of lk count as constants. A signal that no term
    uses has zeros.

    Spec: OB-8, OB-12..OB-17, OB-19, OB-20.

    Example:
        >>> block = [[-1.0, -1.0]], [[True, True]], [[True, True]]
        >>> law = [[0.5, 0.5]], [[1.0, 1.0]], None
        >>> slopes = objective_gradients([("overlap_chain", {"weight": 8.0})], *block, law=law)
        >>> {signal: slope.tolist() for signal, slope in slopes.items()}
        {'gold': [[0.0, 0.0]], 'overlap': [[-6.0, -2.0]], 'divergence': [[0.0, 0.0]]}
    """
    return parts_gradients(terms, [(log_prob, hit, mask, law)], reduction)[0]


def _divided(name: str, params: Params, numerator: float, denominator: float) -> float:
    """Return sign * weight * numerator / denominator, 0 where the denominator is 0."""
    if denominator == 0:
        return 0.0
    sign = -1.0 if name in SUBTRACTED else 1.0
    eps = FIRST_ERROR_EPS if name == "first_error" else 0.0
    return sign * float(params["weight"]) * numerator / (denominator + eps)


def _resolve(terms: Terms, reduction: str) -> list[tuple[str, Params]]:
    """Return the terms with every parameter filled in and checked, the reduction among them."""
    if reduction not in REDUCTIONS:
        raise ConfigError(explain("reduction", reduction, " or ".join(REDUCTIONS), clause="OB-7"))
    for name, params in terms:
        if not set(params) <= set(DEFAULTS.get(name, {"": None})) or name not in DEFAULTS:
            raise ConfigError(explain("term", (name, params), f"one of {DEFAULTS}", clause="OB-6"))
    resolved = [(name, {**DEFAULTS[name], **params, "reduction": reduction}) for name, params in terms]
    decays = [params["gamma"] for name, params in resolved if name == "decay"]
    for _, params in resolved:
        if params.get("gamma", 1.0) is None:
            params["gamma"] = decays[0] if decays else math.inf
        _check_numbers(params)
    for key, clause in (("temperature", "OB-12"), ("eta", "OB-16")):
        given = {params[key] for _, params in resolved if key in params}
        if len(given) > 1:
            raise ConfigError(explain(key, sorted(given), "one for all terms", clause=clause))
    return resolved


def _check_numbers(params: Params) -> None:
    """Raise ConfigError for a number out of its range."""
    checks = (
        ("gamma", params.get("gamma", 1.0) > 0, "a number > 0, inf for uniform", "OB-2"),
        ("alpha", 0 <= params.get("alpha", 0.0) <= 1, "a number in [0, 1]", "OB-5"),
        ("weight", 0 <= params["weight"] < math.inf, "a finite number >= 0", "OB-6"),
        ("eta", 0 <= params.get("eta", 0.0) < math.inf, "a finite number >= 0", "OB-16"),
        ("follow", 0 <= params.get("follow", 0.0) < math.inf, "a finite number >= 0", "OB-19"),
        ("temperature", 0 < params.get("temperature", 1.0) < math.inf, "in (0, inf)", "OB-12"),
    )
    for key, ok, needed, clause in checks:
        if not ok:
            raise ConfigError(explain(key, params[key], needed, clause=clause))


def _blocks(term_name: str, params: Params, part: Part) -> list[Block]:
    """Return the blocks of a part, with what the term reads of the law; the rest of it stays None."""
    log_prob, hit, mask, law = part if len(part) == 4 else (*part, None)
    given = dict(zip(("overlap", "divergence", "confidence"), law or (None,) * 3, strict=True))
    read = {signal: given[signal] for signal in reads(term_name, params)}
    missing = [signal for signal, rows in read.items() if rows is None]
    if missing:
        raise ConfigError(explain(f"{term_name}: law", f"no {missing}", "the target's law", clause="OB-12"))
    arrays = {"log_prob": log_prob, "hit": hit, "mask": mask, **read}
    shapes = {np.shape(array) for array in arrays.values()}
    if len(shapes) != 1 or len(np.shape(log_prob)) != 2:
        raise ShapeError(explain(", ".join(arrays), sorted(shapes), "one shape (N, K)", clause="NT-4"))
    return [Block(**dict(zip(arrays, rows))) for rows in zip(*arrays.values(), strict=True)]

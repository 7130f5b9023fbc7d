"""The hand gradient of the witness against finite differences, closed form and chain = D-PACE(0)."""

import math

import numpy as np
import pytest

from dspec.oracle.objectives import SIGNALS, objective_gradient, objective_gradients, objective_value
from dspec.oracle.terms import first_error_slot
from tests.oracle_cases import LTR, K, N, blocks, every_objective, every_reduction, every_seed, laws
from tests.tolerances import FLOAT64, GRADIENT_F64

STEP = 1e-6  # central differences: error about STEP^2 + eps / STEP, well under GRADIENT_F64


def reach(factors, mask, first, last):
    """The product of the factors of supervised slots first..last (indices from 0), written out."""
    return math.prod(factors[i] for i in range(first, last + 1) if mask[i])


def constants(name, params, log_prob, overlap, confidence, mask):
    """What a term holds constant, of one block, straight from the sums of its clause."""
    p, alpha = np.exp(np.where(mask, log_prob, 0.0)), params.get("alpha", 0.5)
    if name == "lk":
        return np.exp(-params.get("eta", 3.0) * overlap)
    if name == "revive":
        rho = [reach(p, mask, 0, i) for i in range(K)]
        factors = [p[i] + alpha * (1 - rho[i]) * (1 - p[i]) for i in range(K)]
    else:
        factors = (1 - alpha) * (overlap if name == "reach" else p) + alpha
    start = {"dpace_continuation": lambda k: k + 1}.get(name, lambda k: 0)
    last = {"dpace_cumulative": lambda k: k + 1}.get(name, lambda k: K)
    there = [reach(np.exp(confidence), mask, 0, k - 1) ** params.get("follow", 0.0) for k in range(K)]
    return np.array(
        [
            there[k] * sum(reach(factors, mask, start(k), j) for j in range(k, last(k)) if mask[j])
            for k in range(K)
        ]
    )


def held(terms, log_prob, mask, law):
    """The constants of each term that has some, at these values: sg[...] of OB-5 and OB-14 to OB-20."""
    names = ("dpace", "dpace_cumulative", "dpace_continuation", "revive", "reach", "lk")
    return {
        name: np.array([constants(name, params, *rows) for rows in zip(log_prob, law[0], law[2], mask)])
        for name, params in terms
        if name in names
    }


def held_value(terms, log_prob, hit, mask, reduction, law, c):
    """The objective with its constants held, at other signals than those they were taken at."""
    overlap, divergence, _ = law
    free = [term for term in terms if term[0] not in c]
    total = objective_value(free, log_prob, hit, mask, reduction, law=law)
    for name, params in terms:
        if name in c:
            denominator, weights = mask.any(axis=1).sum(), np.where(mask, c[name], 0.0)
            loss = divergence if name == "reach" else -log_prob
            if name == "lk":
                weights = mask * np.exp(-np.arange(K) / params.get("gamma", math.inf))
                denominator = weights.sum() if reduction == "weighted_mean" else denominator
                loss = c[name] * divergence + (1 - c[name]) * (1 - overlap)
            total += params.get("weight", 1.0) * (weights * loss).sum() / denominator
    return total


@pytest.mark.clause("OB-8", "OB-12", "OB-13", "OB-14", "OB-15", "OB-16", "OB-17", "OB-19", "OB-20")
@every_seed
@every_reduction
@every_objective
def test_hand_gradient_is_the_finite_difference_of_the_value(terms, reduction, seed):
    log_prob, hit, mask = blocks(seed)
    overlap, divergence, confidence = laws(seed)
    c = held(terms, log_prob, mask, laws(seed))
    assert math.isclose(
        held_value(terms, log_prob, hit, mask, reduction, laws(seed), c),
        objective_value(terms, log_prob, hit, mask, reduction, law=laws(seed)),
        rel_tol=FLOAT64,
    )
    gradients = objective_gradients(terms, log_prob, hit, mask, reduction, law=laws(seed))
    for signal in SIGNALS:
        for index in zip(*np.nonzero(mask)):
            ends = []
            for step in (STEP, -STEP):
                moved = {"gold": log_prob.copy(), "overlap": overlap.copy(), "divergence": divergence.copy()}
                moved[signal][index] += step
                law = moved["overlap"], moved["divergence"], confidence
                ends.append(held_value(terms, moved["gold"], hit, mask, reduction, law, c))
            slope = (ends[0] - ends[1]) / (2 * STEP)
            assert gradients[signal][index] == pytest.approx(slope, rel=GRADIENT_F64, abs=GRADIENT_F64)


@pytest.mark.clause("OB-8", "OB-12")
@every_seed
@every_reduction
@every_objective
def test_weights_are_never_negative(terms, reduction, seed):
    gradients = objective_gradients(terms, *blocks(seed), reduction, law=laws(seed))
    assert (-gradients["gold"] >= 0).all()
    assert (-gradients["overlap"] >= 0).all()
    assert (gradients["divergence"] >= 0).all()
    assert any((slopes != 0).any() for slopes in gradients.values())


@pytest.mark.clause("OB-8")
@every_seed
def test_weights_have_the_closed_form_of_the_clause(seed):
    log_prob, hit, mask = blocks(seed)
    gradient = objective_gradient([*LTR, ("dpace", {"alpha": 0.25, "weight": 2.0})], log_prob, hit, mask)
    valid = mask.any(axis=1).sum()
    stars = [first_error_slot(h, m) for h, m in zip(hit, mask)]
    z_fe = sum(math.exp(-(k - 1) / 10) for k in stars if k) + 1e-6
    for n, k in np.ndindex(N, K):
        w = math.exp(-k / 10)  # column k is slot k + 1
        expected = w / valid + 0.3 * w * (stars[n] == k + 1) / z_fe
        for alpha, scale in ((0.0, 40 / K), (0.25, 2.0)):
            reach = [
                np.prod(((1 - alpha) * np.exp(log_prob[n]) + alpha)[: j + 1][mask[n, : j + 1]])
                for j in range(K)
            ]
            expected += scale * sum(reach[j] for j in range(k, K) if mask[n, j]) / valid
        assert -gradient[n, k] == pytest.approx(expected * mask[n, k], rel=FLOAT64)


@pytest.mark.clause("OB-4")
@every_seed
@every_reduction
def test_gradient_of_chain_is_that_of_dpace_0_scaled(reduction, seed):
    chain = objective_gradient([("chain", {"weight": 40.0})], *blocks(seed), reduction)
    dpace = objective_gradient([("dpace", {"alpha": 0.0})], *blocks(seed), reduction)
    assert chain == pytest.approx(40.0 / K * dpace, rel=FLOAT64)
    assert (chain < 0).any()

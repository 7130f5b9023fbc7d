"""The hand gradient of the witness against finite differences, closed form and chain = D-PACE(0)."""

import math

import numpy as np
import pytest

from dspec.oracle.objectives import objective_gradient, objective_value
from dspec.oracle.terms import credit, first_error_slot
from tests.oracle_cases import LTR, K, N, blocks, every_objective, every_reduction, every_seed
from tests.tolerances import FLOAT64, GRADIENT_F64

STEP = 1e-6  # central differences: error about STEP^2 + eps / STEP, well under GRADIENT_F64


def frozen_value(terms, log_prob, hit, mask, reduction, credits):
    """The objective with the credits of dpace held: OB-5's stop-gradient, spelled out."""
    total = objective_value([t for t in terms if t[0] != "dpace"], log_prob, hit, mask, reduction)
    for name, params in terms:
        if name == "dpace":
            inner = sum(-c * lp for c, lp in zip(credits.ravel(), log_prob.ravel()))
            total += params.get("weight", 1.0) * inner / max(int(mask.any(axis=1).sum()), 1)
    return total


@pytest.mark.clause("OB-8")
@every_seed
@every_reduction
@every_objective
def test_hand_gradient_is_the_finite_difference_of_the_value(terms, reduction, seed):
    log_prob, hit, mask = blocks(seed)
    alpha = next((p["alpha"] for name, p in terms if name == "dpace"), 0.0)
    credits = np.array([credit(lp, m, alpha) for lp, m in zip(log_prob, mask)])
    assert math.isclose(
        frozen_value(terms, log_prob, hit, mask, reduction, credits),
        objective_value(terms, log_prob, hit, mask, reduction),
        rel_tol=FLOAT64,
    )
    gradient = objective_gradient(terms, log_prob, hit, mask, reduction)
    for index in np.ndindex(N, K):
        up, down = log_prob.copy(), log_prob.copy()
        up[index] += STEP
        down[index] -= STEP
        rise = frozen_value(terms, up, hit, mask, reduction, credits)
        rise -= frozen_value(terms, down, hit, mask, reduction, credits)
        assert gradient[index] == pytest.approx(rise / (2 * STEP), rel=GRADIENT_F64, abs=GRADIENT_F64)


@pytest.mark.clause("OB-8")
@every_seed
@every_reduction
@every_objective
def test_weights_are_never_negative(terms, reduction, seed):
    assert (-objective_gradient(terms, *blocks(seed), reduction) >= 0).all()


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

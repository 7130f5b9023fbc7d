"""The witness's credits of OB-13, OB-14 and OB-20 against hand examples and limits."""

import math

import pytest

from dspec.oracle.objectives import objective_gradient, term_value
from dspec.oracle.terms import continuation, credit, hit_prefix, revived_credit
from tests.tolerances import FLOAT64

LN2 = math.log(2.0)


@pytest.mark.clause("OB-13")
def test_auf_by_hand():
    # Kept: slots 1 and 2 (the first miss), slot 3 of the block whose misses before it are unsupervised.
    log_prob, hit = [[-1.0, -2.0, -4.0], [-8.0, -8.0, -3.0]], [[1, 0, 0], [0, 0, 1]]
    mask = [[1, 1, 1], [0, 0, 1]]
    assert hit_prefix(hit[0], mask[0]) == [1, 1, 0]
    assert hit_prefix([1, 1, 1], [1, 1, 1]) == [1, 1, 1]
    assert term_value("auf", log_prob, hit, mask) == (6.0, 2.0)
    assert term_value("auf", log_prob, hit, mask, reduction="weighted_mean") == (6.0, 3.0)
    gradient = objective_gradient([("auf", {"weight": 2.0})], log_prob, hit, mask)
    assert gradient.tolist() == [[-1, -1, 0], [0, 0, -1]]


@pytest.mark.clause("OB-14")
def test_the_halves_of_dpace_by_hand_and_their_product():
    # p = 1/2, 1/4, skip, 1/2 and alpha = 1/2: r = 3/4, 5/8, 1, 3/4.
    log_prob, mask = [-LN2, -2 * LN2, -9.0, -LN2], [1, 1, 0, 1]
    cumulative = [3 / 4, 15 / 32, 0, 45 / 128]
    behind = [1 + 5 / 8 + 15 / 32, 1 + 3 / 4, 0, 1]
    assert continuation(log_prob, mask, 0.5) == pytest.approx(behind, rel=FLOAT64)
    block = [log_prob], [[1] * 4], [mask]
    for name, c in (("dpace_cumulative", cumulative), ("dpace_continuation", behind)):
        assert -objective_gradient([(name, {})], *block)[0] == pytest.approx(c, rel=FLOAT64)
        value = LN2 * (c[0] + 2 * c[1] + c[3])
        assert term_value(name, *block) == pytest.approx((value, 1.0), rel=FLOAT64)
    product = [x * y for x, y in zip(cumulative, behind)]
    assert credit(log_prob, mask, 0.5) == pytest.approx(product, rel=FLOAT64)


@pytest.mark.clause("OB-20")
def test_revive_by_hand_and_at_its_ends():
    # p = 1/2, skip, 1/4, 1/2 and alpha = 1/2: rho = 1/2, -, 1/8, 1/16, so r = 5/8, -, 37/64, 47/64.
    log_prob, mask = [-LN2, -9.0, -2 * LN2, -LN2], [1, 0, 1, 1]
    reach = [5 / 8, 185 / 512, 8695 / 32768]
    expected = [sum(reach), 0, sum(reach[1:]), reach[2]]
    assert revived_credit(log_prob, mask, 0.5) == pytest.approx(expected, rel=FLOAT64)
    block = [log_prob], [[1] * 4], [mask]
    assert -objective_gradient([("revive", {})], *block)[0] == pytest.approx(expected, rel=FLOAT64)
    value = LN2 * (expected[0] + 2 * expected[2] + expected[3])
    assert term_value("revive", *block) == pytest.approx((value, 1.0), rel=FLOAT64)
    assert revived_credit(log_prob, mask, 0.0) == pytest.approx(credit(log_prob, mask), rel=FLOAT64)
    # A prefix dead from its first slot on is smoothed as by dpace, at that slot too.
    dead = [-700.0, -LN2, -2 * LN2]
    assert revived_credit(dead, [1] * 3, 0.5) == pytest.approx(credit(dead, [1] * 3, 0.5), rel=FLOAT64)

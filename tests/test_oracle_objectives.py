"""The witness of objectives against hand examples, limits and invariances."""

import math

import numpy as np
import pytest

from dspec.errors import ConfigError, ShapeError
from dspec.oracle.objectives import (
    REDUCTIONS,
    accepted_prefix,
    objective_gradient,
    objective_gradients,
    objective_value,
    part_sums,
    parts_gradients,
    parts_value,
    term_value,
    wasted_hits,
)
from dspec.oracle.terms import credit, first_error_slot, position_weight
from tests.oracle_cases import LTR, OBJECTIVES, K, N, blocks, every_objective, every_reduction, laws
from tests.tolerances import FLOAT64

LN2 = math.log(2.0)


@pytest.mark.clause("OB-1", "OB-13")
@every_objective
def test_a_hit_matters_only_through_the_first_error(terms):
    log_prob, hit, mask = blocks(0)
    flipped = hit.copy()
    for n in range(N):
        k_star = first_error_slot(hit[n], mask[n])
        if k_star is not None:
            flipped[n, k_star:] = ~flipped[n, k_star:]
    assert (flipped != hit).any()
    value = objective_value(terms, log_prob, hit, mask, law=laws(0))
    assert objective_value(terms, log_prob, flipped, mask, law=laws(0)) == value


@pytest.mark.clause("OB-2", "NT-1")
def test_decay_by_hand():
    # Slots 1 and 3 of one block: (0 * 1 + 2 * 1/e) and a second block with slot 1 alone.
    log_prob, mask = [[0.0, -9.0, -2.0], [-1.0, -9.0, -9.0]], [[1, 0, 1], [1, 0, 0]]
    sums = term_value("decay", log_prob, mask, mask, gamma=2.0)
    assert sums == pytest.approx((1 + 2 / math.e, 2.0), rel=FLOAT64)
    sums = term_value("decay", log_prob, mask, mask, gamma=2.0, reduction="weighted_mean")
    assert sums == pytest.approx((1 + 2 / math.e, 2 + 1 / math.e), rel=FLOAT64)


@pytest.mark.clause("OB-2")
@every_reduction
def test_a_large_gamma_is_uniform_and_a_small_one_keeps_slot_1(reduction):
    log_prob, hit, mask = blocks(0)
    mask[:, 0] = True
    uniform = objective_value([("decay", {})], log_prob, hit, mask, reduction)
    expected = -log_prob[mask].sum() / (N if reduction == "block_sum" else mask.sum())
    assert uniform == pytest.approx(expected, rel=FLOAT64)
    flat = objective_value([("decay", {"gamma": 1e12})], log_prob, hit, mask, reduction)
    assert flat == pytest.approx(uniform, rel=FLOAT64 * K)
    first = objective_value([("decay", {"gamma": 1e-3})], log_prob, hit, mask, reduction)
    assert first == pytest.approx(-log_prob[:, 0].mean(), rel=FLOAT64)


@pytest.mark.clause("OB-3")
def test_first_error_by_hand():
    hit = [[1, 0, 0], [1, 1, 1], [0, 0, 1]]
    log_prob = [[-9.0, -LN2, -9.0], [-9.0, -9.0, -9.0], [-9.0, -9.0, -3.0]]
    mask = [[1, 1, 1], [1, 1, 1], [0, 0, 1]]  # the errors of the third block are not supervised
    numerator, denominator = term_value("first_error", log_prob, hit, mask, gamma=1.0)
    assert (numerator, denominator) == pytest.approx((LN2 / math.e, 1 / math.e), rel=FLOAT64)
    value = objective_value([("first_error", {"weight": 0.5, "gamma": 1.0})], log_prob, hit, mask)
    assert value == pytest.approx(0.5 * (LN2 / math.e) / (1 / math.e + 1e-6), rel=FLOAT64)


@pytest.mark.clause("OB-3")
def test_first_error_takes_the_gamma_of_the_decay_term():
    # Two errors at different slots: with one block the position weight would cancel out.
    block = [[-1.0, -2.0, -3.0]] * 2, [[0, 1, 1], [1, 1, 0]], [[1, 1, 1]] * 2

    def focal(*before, **params):
        both = objective_value([*before, ("first_error", params)], *block)
        return both - (objective_value([*before], *block) if before else 0.0)

    decay = ("decay", {"gamma": 2.0})
    assert focal(decay) == pytest.approx(focal(gamma=2.0), rel=FLOAT64)
    assert focal(decay, gamma=9.0) == pytest.approx(focal(gamma=9.0), rel=FLOAT64)
    assert focal() == pytest.approx(focal(gamma=math.inf), rel=FLOAT64)
    assert abs(focal(gamma=2.0) - focal(gamma=9.0)) > 0.01


@pytest.mark.clause("OB-3")
def test_all_correct_blocks_give_no_first_error_term():
    log_prob, _, mask = blocks(1)
    hit = np.ones((N, K), bool)
    with_term = objective_value([("decay", {"gamma": 10.0}), ("first_error", {})], log_prob, hit, mask)
    assert with_term == objective_value([("decay", {"gamma": 10.0})], log_prob, hit, mask)
    assert (objective_gradient([("first_error", {})], log_prob, hit, mask) == 0).all()


@pytest.mark.clause("OB-4", "OB-9")
def test_chain_by_hand_with_a_gap():
    # rho = 1/2, skip, 1/8: R = (1/2 + 1/8) / 3; the factor 1/K stays although two slots count.
    log_prob = [[-LN2, -5.0, -2 * LN2]]
    numerator, denominator = term_value("chain", log_prob, [[1, 1, 1]], [[1, 0, 1]])
    assert (numerator, denominator) == pytest.approx((0.625 / 3, 1.0), rel=FLOAT64)
    value = objective_value([("chain", {"weight": 6.0})], log_prob, [[1, 1, 1]], [[1, 0, 1]])
    assert value == pytest.approx(-1.25, rel=FLOAT64)


@pytest.mark.clause("OB-5")
def test_dpace_by_hand():
    # qt = (1 - 1/2) p + 1/2 = 3/4, 5/8 at p = 1/2, 1/4: c_1 = 3/4 + 15/32, c_2 = 15/32.
    log_prob = [[-LN2, -2 * LN2, -4.0]]
    assert credit(log_prob[0], [1, 1, 0], 0.5) == pytest.approx([39 / 32, 15 / 32, 0.0], rel=FLOAT64)
    numerator, denominator = term_value("dpace", log_prob, [[1, 1, 1]], [[1, 1, 0]], alpha=0.5)
    assert (numerator, denominator) == pytest.approx((39 / 32 * LN2 + 15 / 32 * 2 * LN2, 1.0), rel=FLOAT64)
    # alpha = 1 makes each factor 1: the credit counts the supervised slots from k on.
    assert credit([-3.0, -1.0, -2.0], [1, 0, 1], 1.0) == [2.0, 0.0, 1.0]


@pytest.mark.clause("OB-6")
def test_a_sum_of_terms_is_the_sum_of_their_values():
    block = blocks(2)
    apart = sum(objective_value([term], *block) for term in LTR if term[0] != "first_error")
    apart += objective_value([("first_error", {"weight": 0.3, "gamma": 10.0})], *block)
    assert objective_value(LTR, *block) == pytest.approx(apart, rel=FLOAT64)


@pytest.mark.clause("OB-6")
@pytest.mark.parametrize(
    "term",
    [
        ("chian", {}),
        ("chain", {"gamma": 1.0}),
        ("chain", {"weight": -1.0}),
        ("chain", {"weight": math.inf}),
        ("decay", {"gamma": 0.0}),
        ("decay", {"gamma": math.nan}),
        ("first_error", {"gamma": -1.0}),
        ("dpace", {"alpha": 1.5}),
        ("dpace", {"alpha": -0.5}),
        ("auf", {"alpha": 0.5}),
        ("revive", {"alpha": 1.5}),
        ("dpace_continuation", {"alpha": -0.1}),
    ],
)
def test_unknown_terms_and_values_raise(term):
    with pytest.raises(ConfigError, match=r"\[OB-[256]\]"):
        objective_value([term], [[-1.0]], [[True]], [[True]])


@pytest.mark.clause("OB-7", "NT-4")
def test_unknown_reductions_and_odd_shapes_raise():
    with pytest.raises(ConfigError, match="block_sum or weighted_mean"):
        objective_value(LTR, [[-1.0]], [[True]], [[True]], "mean")
    with pytest.raises(ShapeError, match=r"one shape \(N, K\)"):
        objective_value(LTR, [[-1.0]], [[True]], [[True, True]])
    with pytest.raises(ShapeError, match=r"one shape \(N, K\)"):
        objective_value(LTR, [-1.0], [True], [True])


@pytest.mark.clause("OB-7")
@every_objective
@every_reduction
@pytest.mark.parametrize("cuts", [[1], [3], [1, 2, 3, 4], [2, 2], [0, 5]])
def test_splitting_into_parts_changes_nothing(cuts, reduction, terms):
    whole = blocks(0)  # block 2 is not supervised: some parts have no valid block at all
    law = zip(*(np.split(array, cuts) for array in laws(0)))
    parts = [(*part, its) for *part, its in zip(*(np.split(array, cuts) for array in whole), law)]
    value = objective_value(terms, *whole, reduction, law=laws(0))
    assert parts_value(terms, parts, reduction) == pytest.approx(value, rel=FLOAT64)
    found = parts_gradients(terms, parts, reduction)
    for signal, slopes in objective_gradients(terms, *whole, reduction, law=laws(0)).items():
        apart = np.concatenate([part[signal] for part in found])
        assert apart == pytest.approx(slopes, rel=FLOAT64), signal


@pytest.mark.clause("OB-7")
def test_a_mean_of_means_is_another_number():
    whole = blocks(0)
    parts = list(zip(*(np.split(array, [1]) for array in whole)))
    for reduction in REDUCTIONS:
        apart = np.mean([objective_value(LTR, *part, reduction) for part in parts])
        assert abs(apart - objective_value(LTR, *whole, reduction)) > 0.01


@pytest.mark.clause("OB-2", "OB-7", "OB-13", "OB-16")
def test_weighted_mean_changes_the_terms_that_say_so():
    whole = *blocks(0), laws(0)
    for name, terms in OBJECTIVES.items():
        sums, means = (part_sums(terms, [whole], reduction) for reduction in REDUCTIONS)
        for (term, _), pair, mean in zip(terms, sums, means):
            assert (pair == mean) is (term not in ("decay", "auf", "kl", "tv", "log_overlap", "lk")), name


@pytest.mark.clause("OB-9", "OB-12")
@every_objective
@every_reduction
@pytest.mark.parametrize("odd", [-3.0, -math.inf, math.nan])
def test_unsupervised_slots_are_never_read(terms, reduction, odd):
    log_prob, hit, mask = blocks(0)
    value = objective_value(terms, log_prob, hit, mask, reduction, law=laws(0))
    gradients = objective_gradients(terms, log_prob, hit, mask, reduction, law=laws(0))
    other, flipped = np.where(mask, log_prob, odd), np.where(mask, hit, ~hit)
    law = [np.where(mask, array, odd) for array in laws(0)]
    assert objective_value(terms, other, flipped, mask, reduction, law=law) == value
    found = objective_gradients(terms, other, flipped, mask, reduction, law=law)
    for signal, slopes in gradients.items():
        assert (found[signal] == slopes).all()
        assert (slopes[~mask] == 0).all()


@pytest.mark.clause("OB-9")
@every_objective
@every_reduction
def test_a_block_without_supervised_slots_changes_nothing(terms, reduction):
    log_prob, hit, mask = blocks(0)
    kept = mask.any(axis=1)
    assert not kept.all()
    law = [array[kept] for array in laws(0)]
    without = log_prob[kept], hit[kept], mask[kept]
    value = objective_value(terms, log_prob, hit, mask, reduction, law=laws(0))
    assert objective_value(terms, *without, reduction, law=law) == pytest.approx(value, rel=FLOAT64)
    found = objective_gradients(terms, *without, reduction, law=law)
    for signal, slopes in objective_gradients(terms, log_prob, hit, mask, reduction, law=laws(0)).items():
        assert found[signal] == pytest.approx(slopes[kept], rel=FLOAT64)


@pytest.mark.clause("OB-9")
@every_objective
@every_reduction
def test_no_supervised_slot_at_all_gives_zero(terms, reduction):
    log_prob, hit, mask = blocks(0)
    none = np.zeros_like(mask)
    assert objective_value(terms, log_prob, hit, none, reduction, law=laws(0)) == 0
    for slopes in objective_gradients(terms, log_prob, hit, none, reduction, law=laws(0)).values():
        assert (slopes == 0).all()


@pytest.mark.clause("OB-10")
@every_objective
def test_underflow_is_zero_and_nothing_is_nan(terms):
    log_prob, hit, mask = blocks(0)
    log_prob[:] = -1e4
    law = np.zeros((N, K)), np.full((N, K), 1e4), np.full((N, K), -1e4)  # laws that share no token
    assert math.isfinite(objective_value(terms, log_prob, hit, mask, law=law))
    for slopes in objective_gradients(terms, log_prob, hit, mask, law=law).values():
        assert np.isfinite(slopes).all()
    assert term_value("chain", log_prob, hit, mask)[0] == 0.0


@pytest.mark.clause("OB-11")
def test_accepted_prefix_and_waste_by_hand():
    hit = [[1, 1, 0, 1], [1, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1], [1, 0, 1, 0]]
    mask = [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 1], [1, 0, 1, 1], [1, 0, 1, 1]]
    assert accepted_prefix(hit, mask) == [2, 4, 0, 1, 1]
    assert wasted_hits(hit, mask) == [1, 0, 2, 0, 0]


@pytest.mark.clause("OB-2")
def test_position_weight_starts_at_one():
    assert [position_weight(k, 2.0) for k in (1, 3)] == pytest.approx([1.0, 1 / math.e], rel=FLOAT64)

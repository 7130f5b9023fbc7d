"""The witness of the target's law: rows of logits, and the terms that read what comes of them, by hand."""

import math

import numpy as np
import pytest

from dspec.errors import ConfigError, ShapeError
from dspec.oracle.law import log_law, row
from dspec.oracle.objectives import objective_gradients, objective_value, parts_value, term_value
from dspec.oracle.rejection import accepts
from tests.oracle_cases import every_seed, laws
from tests.tolerances import FLOAT64, GRADIENT_F64

STEP = 1e-6  # central differences: error about STEP^2 + eps / STEP, well under GRADIENT_F64
LN2 = math.log(2.0)
BLOCK = [[-1.0, -9.0, -2.0, -4.0]], [[1, 1, 1, 1]], [[1, 0, 1, 1]]
LAW = [[0.5, 0.125, 0.25, 1.0]], [[2.0, 7.0, 1.0, 0.0]], np.log([[0.5, 0.1, 0.75, 0.25]])
READERS = ("cat", "kl", "tv", "log_overlap", "lk", "overlap_chain", "reach")


def logits(seed, size=9):
    return np.random.default_rng(seed).normal(size=(2, size), scale=1.5)


@pytest.mark.clause("OB-12")
def test_a_row_by_hand():
    # q = 1/2, 1/4, 1/4 and p = 1/4, 1/4, 1/2: q < p at the third token alone, the tie counts as neither.
    said = row(np.log([2.0, 1.0, 1.0]), np.log([1.0, 1.0, 2.0]), 2)
    assert said.overlap == pytest.approx(0.75, rel=FLOAT64)
    assert said.divergence == pytest.approx(0.25 * LN2, rel=FLOAT64)
    assert said.overlap_slope == pytest.approx([-1 / 8, -1 / 16, 3 / 16], rel=FLOAT64)
    assert said.divergence_slope == pytest.approx([1 / 4, 0, -1 / 4], rel=FLOAT64, abs=FLOAT64)
    assert said.confidence == pytest.approx(-LN2, rel=FLOAT64)
    assert row([0.0], [0.0]).confidence is None


@pytest.mark.clause("OB-12")
@every_seed
@pytest.mark.parametrize("temperature", [1.0, 0.3, 2.5])
def test_slopes_of_a_row_are_finite_differences(seed, temperature):
    ours, theirs = logits(seed)
    said = row(ours, theirs, temperature=temperature)
    for v in range(len(ours)):
        shift = STEP * np.eye(len(ours))[v]
        ends = [row(moved, theirs, temperature=temperature) for moved in (ours + shift, ours - shift)]
        for name in ("overlap", "divergence"):
            rise = getattr(ends[0], name) - getattr(ends[1], name)
            found = getattr(said, f"{name}_slope")[v]
            assert found == pytest.approx(rise / (2 * STEP), rel=GRADIENT_F64, abs=GRADIENT_F64)
            assert abs(found) > 1e-4  # nothing to see at 0


@pytest.mark.clause("OB-12")
@every_seed
def test_the_slopes_of_a_row_sum_to_nothing(seed):
    """A constant added to all logits changes no law."""
    said = row(*logits(seed))
    assert math.fsum(said.overlap_slope) == pytest.approx(0, abs=FLOAT64)
    assert math.fsum(said.divergence_slope) == pytest.approx(0, abs=FLOAT64)


@pytest.mark.clause("OB-12")
@every_seed
def test_the_temperature_is_of_the_target_alone_and_not_of_the_confidence(seed):
    ours, theirs = logits(seed)
    said, plain = row(ours, theirs, 3, temperature=0.5), row(ours, theirs * 2, 3)
    assert said[:4] == plain[:4]  # to the bit, for a quotient by 1/2 is exact
    assert said.confidence == row(ours, theirs, 3).confidence != plain.confidence


@pytest.mark.clause("OB-12")
def test_equal_laws_overlap_wholly_and_have_no_slope():
    ours = logits(0)[0]
    said = row(ours, ours)
    assert (said.overlap, said.divergence) == pytest.approx((1, 0), rel=FLOAT64, abs=FLOAT64)
    assert set(said.overlap_slope) == set(said.divergence_slope) == {0.0}


@pytest.mark.clause("OB-12", "OB-16", "OB-17")
def test_a_target_sure_of_the_gold_token_gives_the_gold_probability():
    ours, gold = logits(1)[0], 4
    sure = [0.0 if v == gold else -math.inf for v in range(len(ours))]
    said, log_q = row(ours, sure, gold), log_law(ours)[gold]
    assert (said.overlap, said.divergence) == pytest.approx((math.exp(log_q), -log_q), rel=FLOAT64)
    assert said.confidence == 0
    # kl and log_overlap are cross-entropy then, but for 1e-6; overlap_chain is chain.
    block, law = ([[log_q]], [[1]], [[1]]), ([[said.overlap]], [[said.divergence]], [[0.0]])
    entropy = objective_value([("decay", {})], *block)
    assert objective_value([("kl", {})], *block, law=law) == pytest.approx(entropy, rel=FLOAT64)
    shifted = objective_value([("log_overlap", {})], *block, law=law)
    assert entropy - shifted == pytest.approx(math.log1p(1e-6 / said.overlap), rel=GRADIENT_F64)
    chain, overlap_chain = (
        objective_gradients([(n, {})], *block, law=law) for n in ("chain", "overlap_chain")
    )
    # d a / d log q(gold) = a.
    assert chain["gold"] == pytest.approx(overlap_chain["overlap"] * said.overlap, rel=FLOAT64)


@pytest.mark.clause("OB-12", "OB-17")
@every_seed
def test_the_overlap_is_the_chance_of_acceptance(seed):
    """Counted over drafts and a fine grid of uniforms with the rule of RS-4."""
    q, p = (np.exp(log_law(x)).tolist() for x in logits(seed))
    grid = 2000
    chance = sum(q[x] * accepts(p, q, x, (i + 0.5) / grid) for x in range(len(q)) for i in range(grid)) / grid
    assert row(*logits(seed)).overlap == pytest.approx(chance, abs=1 / grid)


@pytest.mark.clause("OB-12", "NT-4")
def test_rows_refuse_what_does_not_fit():
    for temperature in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match=r"temperature.*\[OB-12\]"):
            row([0.0], [0.0], temperature=temperature)
    with pytest.raises(ShapeError, match="one length"):
        row([0.0], [0.0, 0.0])


@pytest.mark.clause("OB-15")
def test_cat_by_hand():
    # c = 1, skip, 1/2, 1/2 * 3/4: its own confidence does not count, nor that of the skipped slot.
    assert term_value("cat", *BLOCK, law=LAW) == pytest.approx((1 + 2 / 2 + 4 * 3 / 8, 1), rel=FLOAT64)
    slopes = objective_gradients([("cat", {"weight": 2.0})], *BLOCK, law=LAW)
    assert slopes["gold"][0] == pytest.approx([-2, 0, -1, -0.75], rel=FLOAT64)


@pytest.mark.clause("OB-16")
def test_terms_of_one_slot_by_hand():
    w = [1, 0, math.exp(-1), math.exp(-1.5)]  # gamma 2, slot 2 unsupervised
    lam = [math.exp(-1), 0, math.exp(-0.5), math.exp(-2)]  # eta 2
    a, d = LAW[0][0], LAW[1][0]
    near, far = ([w[k] * x for k, x in enumerate(y)] for y in (lam, [1 - x for x in lam]))
    expected = {
        "kl": (2 * w[0] + w[2], [0] * 4, w),
        "tv": (0.5 * w[0] + 0.75 * w[2], [-x for x in w], [0] * 4),
        "log_overlap": (
            -w[0] * math.log(0.500001) - w[2] * math.log(0.250001) - w[3] * math.log(1.000001),
            [-w[k] / (a[k] + 1e-6) for k in range(4)],
            [0] * 4,
        ),
        "lk": (sum(near[k] * d[k] + far[k] * (1 - a[k]) for k in range(4)), [-x for x in far], near),
    }
    for name, (numerator, by_overlap, by_divergence) in expected.items():
        params = {"gamma": 2.0, **({"eta": 2.0} if name == "lk" else {})}
        for reduction, denominator in (("block_sum", 1), ("weighted_mean", sum(w))):
            found = term_value(name, *BLOCK, law=LAW, reduction=reduction, **params)
            assert found == pytest.approx((numerator, denominator), rel=FLOAT64), name
            slopes = objective_gradients([(name, params)], *BLOCK, reduction, law=LAW)
            assert slopes["overlap"][0] * denominator == pytest.approx(by_overlap, rel=FLOAT64)
            assert slopes["divergence"][0] * denominator == pytest.approx(by_divergence, rel=FLOAT64)
            assert not slopes["gold"].any()


@pytest.mark.clause("OB-16")
@pytest.mark.parametrize(("eta", "like"), [(0.0, "kl"), (1e6, "tv")])
def test_lk_begins_as_the_divergence_and_ends_as_total_variation(eta, like):
    found = objective_value([("lk", {"eta": eta})], *BLOCK, law=LAW)
    assert found == pytest.approx(objective_value([(like, {})], *BLOCK, law=LAW), rel=FLOAT64)


@pytest.mark.clause("OB-17")
def test_overlap_chain_by_hand():
    # Products 1/2, skip, 1/8, 1/8: 1/K stays; a slope leaves its own factor out.
    assert term_value("overlap_chain", *BLOCK, law=LAW) == pytest.approx((0.75 / 4, 1), rel=FLOAT64)
    assert objective_value([("overlap_chain", {})], *BLOCK, law=LAW) == pytest.approx(-7.5, rel=FLOAT64)
    slopes = objective_gradients([("overlap_chain", {"weight": 4.0})], *BLOCK, law=LAW)
    assert slopes["overlap"][0] == pytest.approx([-1.5, 0, -1, -1 / 8], rel=FLOAT64)
    # With a_1 = 0 all products are 0, yet slot 1 has what stands behind it to win.
    law = ([[0.0, 0.125, 0.25, 1.0]], *LAW[1:])
    slopes = objective_gradients([("overlap_chain", {"weight": 4.0})], *BLOCK, law=law)
    assert slopes["overlap"][0] == pytest.approx([-1.5, 0, 0, 0], rel=FLOAT64)


@pytest.mark.clause("OB-17")
@every_seed
def test_overlap_chain_has_the_value_and_slopes_of_chain_in_the_overlap(seed):
    a, mask = laws(seed)[0], np.random.default_rng(seed).random(laws(seed)[0].shape) < 0.8
    chain = [("chain", {"weight": 3.0})]
    block, law = (np.log(a), mask, mask), (a, None, None)
    value = objective_value([("overlap_chain", {"weight": 3.0})], *block, law=law)
    assert value == pytest.approx(objective_value(chain, *block), rel=FLOAT64)
    slopes = objective_gradients([("overlap_chain", {"weight": 3.0})], *block, law=law)["overlap"]
    assert slopes * a == pytest.approx(objective_gradients(chain, *block)["gold"], rel=FLOAT64)


@pytest.mark.clause("OB-19")
def test_reach_by_hand():
    # alpha 1/2: factors 3/4, skip, 5/8, 1; c = 3/4 + 15/32 + 15/32, skip, 15/16, 15/32.
    c = [27 / 16, 0, 15 / 16, 15 / 32]
    assert term_value("reach", *BLOCK, law=LAW) == pytest.approx((2 * c[0] + c[2], 1), rel=FLOAT64)
    slopes = objective_gradients([("reach", {"weight": 2.0})], *BLOCK, law=LAW)
    assert slopes["divergence"][0] == pytest.approx([2 * x for x in c], rel=FLOAT64)
    assert not slopes["overlap"].any()  # the credit is held


@pytest.mark.clause("OB-19")
def test_reach_follows_the_confidence_by_hand():
    # The credits above times cat's 1, skip, 1/2, 3/8: squared at follow 2, their root at 1/2.
    c, cat = [27 / 16, 0, 15 / 16, 15 / 32], [1, 0, 1 / 2, 3 / 8]
    for follow in (0.5, 1.0, 2.0):
        expected = [x * f**follow for x, f in zip(c, cat)]
        found = term_value("reach", *BLOCK, law=LAW, follow=follow)
        assert found == pytest.approx((2 * expected[0] + expected[2], 1), rel=FLOAT64)
        slopes = objective_gradients([("reach", {"follow": follow})], *BLOCK, law=LAW)
        assert slopes["divergence"][0] == pytest.approx(expected, rel=FLOAT64)
        assert not slopes["overlap"].any() and not slopes["gold"].any()
    # No factor at 0, not even for a target that never says the gold token; the confidence is not needed.
    never = np.full((1, 4), -math.inf)
    for confidence in (never, None):
        found = term_value("reach", *BLOCK, law=(*LAW[:2], confidence))
        assert found == term_value("reach", *BLOCK, law=LAW)
    assert term_value("reach", *BLOCK, law=(*LAW[:2], never), follow=0.5)[0] == pytest.approx(
        2 * c[0], rel=FLOAT64
    )
    with pytest.raises(ConfigError, match=r"reach: law.*confidence.*\[OB-12\]"):
        objective_value([("reach", {"follow": 0.5})], *BLOCK, law=(*LAW[:2], None))


@pytest.mark.clause("OB-17", "OB-19")
def test_an_overlap_of_nothing_counts_as_the_smallest():
    law = [[0.0, 0.125, 0.0, 1.0]], *LAW[1:]  # two zeros: the slope at one of them holds the other
    slopes = objective_gradients([("overlap_chain", {"weight": 4.0})], *BLOCK, law=law)["overlap"][0]
    assert slopes.tolist() == pytest.approx([-1, 0, -2e-30, -1e-60], rel=FLOAT64, abs=0)
    slopes = objective_gradients([("reach", {"alpha": 0.0})], *BLOCK, law=law)["divergence"][0]
    assert slopes.tolist() == pytest.approx([1e-30, 0, 2e-60, 1e-60], rel=FLOAT64, abs=0)


@pytest.mark.clause("OB-12")
@pytest.mark.parametrize("name", READERS)
def test_terms_that_see_the_law_need_it(name):
    with pytest.raises(ConfigError, match=rf"{name}: law.*\[OB-12\]"):
        objective_value([(name, {})], *BLOCK)
    with pytest.raises(ConfigError, match=rf"{name}: law.*\[OB-12\]"):
        parts_value([(name, {})], [BLOCK])
    with pytest.raises(ConfigError, match=rf"{name}: law.*\[OB-12\]"):
        objective_gradients([(name, {})], *BLOCK, law=(None, None, None))
    with pytest.raises(ShapeError, match=r"one shape \(N, K\)"):
        objective_value([(name, {})], *BLOCK, law=([[0.5]], [[0.5]], [[0.5]]))


@pytest.mark.clause("OB-12", "OB-16")
def test_a_sum_has_one_temperature_and_one_eta():
    cooled = {"temperature": 0.5}
    both = [("kl", cooled), ("overlap_chain", cooled), ("decay", {}), ("cat", {})]
    assert math.isfinite(objective_value(both, *BLOCK, law=LAW))
    with pytest.raises(ConfigError, match=r"temperature.*one for all terms.*\[OB-12\]"):
        objective_value([("kl", cooled), ("reach", {"temperature": 1.0})], *BLOCK, law=LAW)
    with pytest.raises(ConfigError, match=r"eta.*one for all terms.*\[OB-16\]"):
        objective_value([("lk", {}), ("lk", {"eta": 2.0})], *BLOCK, law=LAW)
    for key, odd in (("temperature", (0.0, math.inf, math.nan)), ("eta", (-1.0, math.inf))):
        for number in odd:
            with pytest.raises(ConfigError, match=rf"{key}: got.*\[OB-1[26]\]"):
                objective_value([("lk", {key: number})], *BLOCK, law=LAW)
    for number in (-0.5, math.inf, math.nan):
        with pytest.raises(ConfigError, match=r"follow: got.*\[OB-19\]"):
            objective_value([("reach", {"follow": number})], *BLOCK, law=LAW)

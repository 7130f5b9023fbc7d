"""The witness of self-speculation: cases by hand, properties, and numbers recorded from S2D2."""

import json
import math
from fractions import Fraction
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from dspec.errors import ConfigError, ShapeError
from dspec.oracle.rejection import accepts
from dspec.oracle.routes import Hysteresis, Ucb, by_cost, by_score, by_span, context_of, never
from dspec.oracle.selection import RULES, select
from dspec.oracle.self_speculation import (
    ESTIMATORS,
    accepts_tempered,
    dynamic_score,
    edits,
    estimate,
    expected_accepted,
    first_run,
    n_confident,
    schedule,
    settle,
    static_score,
    statistics,
    wino,
    without_mask,
)
from tests.tolerances import FLOAT64, ROUTING

FOLDER = Path(__file__).parent / "golden" / "sdar_tiny"
MASK = 299
# The names of the recorded numbers are those of the other implementation.
THEIRS = {
    "hard_margin_threshold": "margin",
    "hard_entropy_threshold": "entropy",
    "soft_confidence_power": "confidence",
    "soft_clipped_linear_margin": "clipped_margin",
    "soft_entropy_negexp": "entropy_exp",
    "soft_renyi_2_entropy": "renyi",
}
UNIT = st.integers(0, 16).map(lambda n: n / 16)  # sixteenths: sums and ties are exact
CONFIDENCES = st.dictionaries(st.integers(0, 11), UNIT, min_size=1)


def close(value):
    return pytest.approx(value, abs=FLOAT64)


@pytest.mark.clause("SS-7")
def test_the_mask_token_leaves_every_law():
    assert without_mask([Fraction(1, 2), Fraction(1, 3), Fraction(1, 6)], 1) == [
        Fraction(3, 4),
        0,
        Fraction(1, 4),
    ]
    assert without_mask([0.0, 0.25, 0.75], 2) == [0.0, 1.0, 0.0]


@pytest.mark.clause("SS-8")
@pytest.mark.parametrize(
    "rule, settings, expected",
    [
        ("static", dict(budget=1), [3]),
        ("static", dict(budget=2), [3, 5]),  # 5 and 7 tie: the left one
        ("static", dict(budget=9), [2, 3, 5, 7]),
        ("sequential", dict(budget=1), [2]),
        ("sequential", dict(budget=3), [2, 3, 5]),
        ("dynamic", dict(parameter=0.74), [3, 5, 7]),  # more than the budget
        ("dynamic", dict(parameter=0.75), [3]),  # strictly above
        ("dynamic", dict(parameter=0.75, budget=2), [3, 5]),  # fewer than the budget: the largest
        ("dynamic", dict(parameter=0.99), [3]),
        ("entropy", dict(parameter=0.0), [7]),  # at least one
        ("entropy", dict(parameter=0.29), [7]),
        ("entropy", dict(parameter=0.3125), [2, 7]),  # the sum may be the bound; 2 and 5 tie: the left one
        ("entropy", dict(parameter=0.5625), [2, 5, 7]),
        ("entropy", dict(parameter=9.0), [2, 3, 5, 7]),
        ("factor", dict(parameter=0.1), [3]),  # at least one
        ("factor", dict(parameter=0.75), [3]),  # 3 * 0.25 is not below 0.75
        ("factor", dict(parameter=0.76), [3, 5]),
        ("factor", dict(parameter=1.01), [3, 5, 7]),  # 4 * 0.25
        ("factor", dict(parameter=3.8), [2, 3, 5, 7]),  # 5 * 0.75
        ("frechet", dict(parameter=0.9), [3]),
        ("frechet", dict(parameter=0.625), [3, 5]),  # 1 - 0.125 - 0.25, reached
        ("frechet", dict(parameter=0.63), [3]),
        ("frechet", dict(parameter=0.375), [3, 5, 7]),
        ("frechet", dict(parameter=-1.0), [2, 3, 5, 7]),
    ],
)
def test_selection_by_hand(rule, settings, expected):
    confidence = {7: 0.75, 5: 0.75, 3: 0.875, 2: 0.25}
    entropy = {7: 0.0625, 5: 0.25, 3: 1.0, 2: 0.25}
    # The order in which positions come must not matter.
    assert select(rule, confidence, entropy=entropy, **settings) == expected
    assert select(rule, dict(sorted(confidence.items())), entropy=entropy, **settings) == expected


@pytest.mark.clause("SS-8")
@pytest.mark.parametrize("rule", RULES)
def test_only_the_leftmost_sub_block_with_a_mask_takes_part(rule):
    confidence = {5: 0.1, 7: 0.2, 8: 0.9, 9: 0.9}
    generous = {"dynamic": 0.0, "entropy": 9.0, "factor": 9.0, "frechet": -9.0}.get(rule)
    settings = dict(budget=4, parameter=generous, entropy=confidence)
    assert select(rule, confidence, sub_block=4, **settings) == [5, 7]
    assert select(rule, confidence, sub_block=2, **settings) == [5]
    assert select(rule, confidence, sub_block=8, **settings) == [5, 7]
    assert select(rule, confidence, **settings) == [5, 7, 8, 9]


@pytest.mark.clause("SS-8")
@given(CONFIDENCES, st.sampled_from(RULES), st.integers(1, 12), UNIT, st.sampled_from([None, 2, 4]))
def test_a_selection_is_never_empty_and_takes_the_best(confidence, rule, budget, parameter, sub_block):
    entropy = {position: 1 - value for position, value in confidence.items()}
    settings = dict(budget=budget, parameter=parameter, sub_block=sub_block, entropy=entropy)
    chosen = select(rule, confidence, **settings)
    first = min(confidence)
    part = [p for p in confidence if sub_block is None or p // sub_block == first // sub_block]
    assert chosen and chosen == sorted(set(chosen)) and set(chosen) <= set(part)
    if rule in ("static", "sequential"):
        assert len(chosen) == min(budget, len(part))
    if rule == "dynamic":
        assert len(chosen) >= min(budget, len(part))
    if rule != "sequential":
        left_out = set(part) - set(chosen)
        assert all((confidence[i], -i) > (confidence[j], -j) for i in chosen for j in left_out)


@pytest.mark.clause("SS-8")
def test_selections_that_mean_nothing_are_refused():
    with pytest.raises(ConfigError, match="SS-8"):
        select("best", {1: 0.5})
    with pytest.raises(ConfigError, match="SS-8"):
        select("dynamic", {1: 0.5})
    with pytest.raises(ConfigError, match="SS-8"):
        select("static", {1: 0.5}, budget=0)
    with pytest.raises(ShapeError, match="SS-8"):
        select("static", {})


@pytest.mark.clause("SS-9")
def test_a_schedule_fills_a_block_and_never_rises():
    assert schedule(8, 8) == [1] * 8
    assert schedule(8, 5) == [2, 2, 2, 1, 1]
    assert schedule(4, 1) == [4]
    for block_size in range(1, 20):
        for steps in range(1, block_size + 1):
            budgets = schedule(block_size, steps)
            assert sum(budgets) == block_size and len(budgets) == steps
            assert budgets == sorted(budgets, reverse=True) and budgets[0] - 1 <= budgets[-1] >= 1
    for steps in (0, 5):
        with pytest.raises(ConfigError, match="SS-9"):
            schedule(4, steps)


@pytest.mark.clause("SS-10")
def test_statistics_by_hand():
    w = [0.5, 0.25, 0.125, 0.125]
    logits = [math.log(mass) + 7 for mass in w]
    slot = statistics(logits, 1)
    assert slot.confidence == close(0.25)
    assert slot.margin == close(0.25)
    assert slot.entropy == close(1.75 * math.log(2))
    assert slot.relative_entropy == close(1.75 / 2)
    assert slot.collision == close(11 / 32)
    assert statistics(logits, 1, temperature=0) == slot
    # At half the temperature the weights are squared: 16, 4, 1, 1 of 22.
    assert statistics(logits, 0, temperature=0.5).confidence == close(16 / 22)


@pytest.mark.clause("SS-10")
def test_statistics_of_a_certain_and_of_a_flat_slot():
    certain = statistics([0.0, -math.inf, -math.inf], 0)
    assert (certain.confidence, certain.margin, certain.entropy, certain.collision) == (1.0, 1.0, 0.0, 1.0)
    flat = statistics([2.0] * 300, MASK)  # the mask token counts, and its confidence may be asked for
    assert flat.confidence == close(1 / 300)
    assert flat.margin == 0 and flat.relative_entropy == close(1.0)


@pytest.mark.clause("SS-11")
def test_the_first_run_of_masks():
    assert first_run(dict(enumerate([False, True, True, False, True]))) == [1, 2]
    assert first_run({9: True, 8: True, 7: False}) == [8, 9]
    assert first_run({4: False}) == []
    assert first_run(dict(enumerate([True] * 3))) == [0, 1, 2]


@pytest.mark.clause("SS-11")
def test_estimators_by_hand():
    slot = statistics([math.log(mass) for mass in (0.5, 0.25, 0.125, 0.125)], 1)  # margin 1/4, Hn 7/8
    cases = [
        ("margin", 0.24, 1),
        ("margin", 0.26, 0),
        ("margin", None, 1),
        ("entropy", 0.88, 1),
        ("entropy", 0.87, 0),
        ("entropy", None, 0),
        ("confidence", 2.0, 1 / 16),
        ("confidence", None, 0.25**0.8),
        ("clipped_margin", 2.0, 0.5),
        ("clipped_margin", 5.0, 1),
        ("clipped_margin", None, 0.25),
        ("entropy_exp", 2.0, math.exp(-1.75)),
        ("entropy_exp", None, math.exp(-0.875)),
        ("renyi", None, 11 / 32),
    ]
    for name, parameter, expected in cases:
        assert estimate(name, slot, parameter) == close(expected), (name, parameter)
    assert {name for name, *_ in cases} == set(ESTIMATORS)
    half = statistics([0.0, 0.0, -math.inf], 0)  # margin 0, and Hn = ln 2 / ln 3
    assert estimate("margin", half, 0.0) == 1  # at the threshold: accepted
    assert estimate("entropy", half, half.relative_entropy) == 0  # at the threshold: not
    with pytest.raises(ConfigError, match="SS-11"):
        estimate("random", slot)


@pytest.mark.clause("SS-11")
@given(st.lists(st.integers(0, 4).map(lambda n: Fraction(n, 4)), max_size=4))
def test_expected_accepted_is_the_mean_accepted_prefix(chances):
    mean = Fraction(0)
    for verdict in product([True, False], repeat=len(chances)):
        weight = math.prod(a if stands else 1 - a for a, stands in zip(chances, verdict, strict=True))
        mean += weight * (*verdict, False).index(False)
    assert expected_accepted(chances) == mean
    assert 0 <= mean <= len(chances)


@pytest.mark.clause("SS-12")
def test_scores_by_hand():
    confidence = {3: 0.9, 4: 0.86, 6: 0.85, 7: 0.1}
    assert n_confident(confidence, 0.85) == 2  # strictly above
    assert static_score(3.0, 2.0) == 1.0
    assert dynamic_score(3.0, 2.0, 2) == -1.0
    assert dynamic_score(3.0, 2.0, 0) == 3.0


@pytest.mark.clause("SS-13")
def test_routes_without_a_state_by_hand():
    assert [by_span(length, 2) for length in (1, 2, 3)] == [False, True, True]
    assert [by_score(score, 0.5) for score in (0.4, 0.5)] == [False, True]
    # The fallback commits one token even if none is confident.
    assert [by_cost(1.0, n, 2.0) for n in (0, 1, 2)] == [False, False, False]
    assert [by_cost(1.1, n, 2.0) for n in (0, 1, 2)] == [True, True, False]
    assert not never()
    with pytest.raises(ConfigError, match="SS-13"):
        by_span(3, 0)
    with pytest.raises(ConfigError, match="SS-13"):
        by_cost(3, 0, 0.5)


@pytest.mark.clause("SS-13")
@given(UNIT, st.integers(0, 5), st.integers(1, 8), st.integers(1, 8), st.integers(1, 6))
def test_cost_verifies_iff_tokens_per_second_rise(share, confident, draft_time, verify_time, length):
    expected = Fraction(share) * length
    faster = (expected + 1) / (draft_time + verify_time) > Fraction(max(1, confident), draft_time)
    assert by_cost(expected, confident, 1 + Fraction(verify_time, draft_time)) == faster


@pytest.mark.clause("SS-13")
def test_hysteresis_by_sequence():
    route = Hysteresis(on=1, off=-5)
    scores = [0.9, 1, 0, -5, -5.1, 0, 1.5, -6]
    assert [route.verify(score) for score in scores] == [0, 1, 1, 1, 0, 0, 1, 0]
    for off in (1, 2, math.nan):
        with pytest.raises(ConfigError, match="SS-13"):
            Hysteresis(on=1, off=off)


@pytest.mark.clause("SS-13")
@given(st.lists(st.integers(-4, 4)), st.integers(-2, 0), st.integers(1, 3))
def test_hysteresis_holds_its_last_decision_between_the_thresholds(scores, off, on):
    route, before = Hysteresis(on=on, off=off), False
    for score in scores:
        now = route.verify(score)
        assert now == (score >= on or (before and score >= off))
        before = now


@pytest.mark.clause("SS-13")
def test_contexts_of_the_bandit_are_halves():
    assert [context_of(length, 0, 4, [0.0])[0] for length in (1, 2, 3, 4)] == [False, False, True, True]
    assert [context_of(length, 0, 5, [0.0])[0] for length in (2, 3)] == [False, True]
    assert [context_of(1, decided, 5, [0.0])[1] for decided in (2, 3)] == [False, True]
    assert context_of(1, 2, 4, [0.0])[1]
    assert [context_of(2, 0, 4, list(row))[2] for row in ((0.25, 0.5), (0.25, 0.75))] == [False, True]


@pytest.mark.clause("SS-13")
def test_the_bandit_tries_verify_then_skip_in_each_context():
    route = Ucb(beta=1.0)
    for context in product([False, True], repeat=3):
        assert route.verify(context)
        route.learn(context, True, 100)
        assert not route.verify(context)
        route.learn(context, False, 1)
        assert route.verify(context)
    with pytest.raises(ConfigError, match="SS-13"):
        Ucb(beta=-0.1)


@pytest.mark.clause("SS-13")
def test_the_bandit_by_hand():
    here, there = (False, False, False), (True, True, True)
    greedy = Ucb(beta=0.0)
    for verified, n_committed in ((True, 4), (False, 2)):
        greedy.learn(here, verified, n_committed)
    assert greedy.verify(here)  # 4 tokens in two passes are 2 in one: verify among equals
    greedy.learn(here, False, 3)
    assert not greedy.verify(here)  # 2 against (2 + 3) / 2
    # Verify: mean 1, tried once. Skip: mean 2, tried three times. Then verify needs
    # beta * sqrt(ln t) * (1 - 1 / sqrt 3) >= 1: with beta = 1.95 not at t = 4 (0.970), but at t = 5 (1.045).
    for decisions, expected in ((3, False), (4, True)):
        route = Ucb(beta=1.95)
        for verified, n_committed in ((True, 2), (False, 1), (False, 2), (False, 3)):
            route.learn(here, verified, n_committed)
        for _ in range(decisions):
            route.verify(there)  # t counts the request's decisions, whatever their context
        assert route.verify(here) is expected


@pytest.mark.clause("SS-20")
@given(UNIT, UNIT, UNIT)
def test_exponent_one_is_the_rule_of_acceptance(p, q, u):
    assert accepts_tempered([p], [q], 0, u, 1) == accepts([p], [q], 0, u)


@pytest.mark.clause("SS-20")
def test_exponents_by_hand():
    p, q = [Fraction(1, 2), Fraction(1, 2)], [Fraction(1), Fraction(0)]
    chance = {g: sum(accepts_tempered(p, q, 0, Fraction(u, 16), g) for u in range(16)) for g in (1, 2, 3)}
    assert chance == {1: 8, 2: 4, 3: 2}  # sixteenths of (1/2) ** g
    p, q = [Fraction(1, 4), Fraction(3, 4)], [Fraction(1, 2), Fraction(1, 2)]  # the same ratio
    assert sum(accepts_tempered(p, q, 0, Fraction(u, 16), 2) for u in range(16)) == 4
    assert not accepts_tempered([0.0, 1.0], [1.0, 0.0], 0, 0.0, 2.0)


@pytest.mark.clause("SS-21")
def test_edits_by_hand():
    rows = {
        3: [math.log(0.6), math.log(0.3), math.log(0.1)],
        4: [math.log(0.1), math.log(0.3), math.log(0.6)],  # MASK leads: the best of the others has 0.3
        6: [math.log(0.2), math.log(0.7), math.log(0.1)],
    }
    assert edits({3: 1, 6: 0}, rows, threshold=0.5, mask_token=2) == {3: 0, 6: 1}
    assert edits({3: 1, 6: 0}, rows, threshold=0.65, mask_token=2) == {6: 1}
    assert edits({3: 0, 6: 1}, rows, threshold=0.0, mask_token=2) == {}  # they are what they would become
    assert edits({4: 0}, rows, threshold=0.29, mask_token=2) == {4: 1}
    assert edits({4: 0}, rows, threshold=0.31, mask_token=2) == {}  # confidence counts MASK in
    assert edits({6: 0}, rows, threshold=1.0, mask_token=2) == {}
    assert (
        edits({5: 0}, {5: [-math.inf, 0.0, -math.inf]}, threshold=1.0, mask_token=2) == {}
    )  # strictly above


@pytest.mark.clause("SS-21")
def test_editing_ends_when_a_pass_changes_nothing_or_at_the_limit():
    rising = lambda tokens: {4: tokens[4] + 1} if tokens[4] < 3 else {}  # noqa: E731
    given_tokens = {4: 0, 5: 9}
    assert settle(given_tokens, rising, max_passes=8) == ({4: 3, 5: 9}, 4)
    assert settle(given_tokens, rising, max_passes=2) == ({4: 2, 5: 9}, 2)
    assert settle(given_tokens, rising, max_passes=0) == (given_tokens, 0)
    assert given_tokens == {4: 0, 5: 9}


@pytest.mark.clause("SS-25")
@pytest.mark.parametrize(
    "confidence, review, expected",
    [
        ({4: 0.7, 6: 0.8}, {}, ([4, 6], [])),
        ({4: 0.6, 6: 0.5}, {}, ([4], [])),  # none above: the most confident one
        ({4: 0.6, 6: 0.6}, {}, ([4], [])),  # the left one among equals
        ({4: 0.7}, {2: 0.1}, ([4], [])),  # as many as it committed: refused
        ({4: 0.7, 6: 0.7}, {2: 0.8, 3: 0.1}, ([4, 6], [3])),  # the least likely one
        ({4: 0.7, 6: 0.7, 7: 0.7}, {1: 0.2, 2: 0.9, 3: 0.1}, ([4, 6, 7], [1, 3])),  # 0.9 is not below
        ({4: 0.7, 6: 0.7}, {2: 0.1, 3: 0.1}, ([4, 6], [2])),
    ],
)
def test_a_wino_step_by_hand(confidence, review, expected):
    assert wino(confidence, review, commit_above=0.6, remask_below=0.9) == expected


@pytest.mark.clause("SS-25")
@given(CONFIDENCES, CONFIDENCES)
def test_wino_always_gains_a_token(confidence, review):
    committed, again = wino(confidence, review, commit_above=0.5, remask_below=0.75)
    assert 0 <= len(again) < len(committed)
    assert all(review[position] < 0.75 for position in again)
    spared = set(review) - set(again)
    assert all(review[i] <= review[j] for i in again for j in spared)


@pytest.mark.clause("SS-10", "SS-11", "SS-12")
@pytest.mark.parametrize("case", range(4))
def test_numbers_recorded_from_s2d2(case):
    recorded = json.loads((FOLDER / "routing.json").read_text())[case]
    logits = load_file(FOLDER / "blocks.safetensors")[f"{case}.draft_logits"].tolist()
    slots = [statistics(row, token) for row, token in zip(logits, recorded["draft"], strict=True)]
    masked = {i: token == MASK for i, token in enumerate(recorded["block"])}
    confidence = {i: slots[i].confidence for i in masked if masked[i]}

    def near(value):
        return pytest.approx(value, abs=ROUTING)

    assert [slot.confidence for slot in slots] == near(recorded["confidence"])
    run = first_run(masked)
    assert run == recorded["span"]
    assert set(recorded["estimates"]) == set(THEIRS)
    expected = {}
    for theirs, found in recorded["estimates"].items():
        chances = [estimate(THEIRS[theirs], slots[i]) for i in run]
        assert chances == near(found["alpha"])
        expected[theirs] = expected_accepted(chances)
        assert expected[theirs] == near(found["expected_accepted"])
    assert len(recorded["scores"]) == 24
    for score in recorded["scores"]:
        value = expected[score["estimator"]]
        if score["type"] == "difference_static":
            ours = static_score(value, score["c"])
        else:
            ours = dynamic_score(value, score["c"], n_confident(confidence, score["threshold"]))
        assert ours == near(score["score"])

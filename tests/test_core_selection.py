"""Which positions a step commits: core equal to the oracle, on numbers that no namespace rounds."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dspec.core.canvas import Canvas, Filling
from dspec.core.decode import Limits
from dspec.core.selection import SELECTIONS, Selection, budget_of, select
from dspec.errors import ConfigError
from dspec.oracle import selection as oracle
from dspec.oracle.self_speculation import schedule
from tests.namespaces import NAMESPACES, place, to_numpy
from tests.rooms import of_rooms

everywhere = pytest.mark.parametrize("namespace", of_rooms(NAMESPACES))
every_rule = pytest.mark.parametrize("name", SELECTIONS)
# Sixteenths, so that ties abound, every sum is exact in float32 and thresholds are hit exactly.
UNIT = 16
LARGEST = {"dynamic": UNIT, "entropy": 6 * UNIT, "factor": 4 * UNIT, "frechet": UNIT}


@st.composite
def steps(draw, name):
    """Return (rule, confidence, entropy, masked, budget) of a few rows."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 9)))
    sixteenths = st.integers(0, UNIT).map(lambda k: k / UNIT)
    confidence = draw(hnp.arrays(np.float64, shape, elements=sixteenths))
    entropy = draw(hnp.arrays(np.float64, shape, elements=st.integers(0, 2 * UNIT).map(lambda k: k / UNIT)))
    masked = draw(hnp.arrays(np.bool_, shape))
    budget = draw(hnp.arrays(np.int32, shape[:1], elements=st.integers(1, shape[1] + 2)))
    number = draw(st.integers(0, LARGEST[name])) / UNIT if name in LARGEST else 0.0
    return Selection(name, number), confidence, entropy, masked, budget


def chosen(rule, confidence, entropy, masked, budget, *, xp):
    confidence, entropy = place([confidence, entropy], xp)
    found = select(rule, confidence, entropy, xp.asarray(masked), xp.asarray(budget), xp=xp)
    assert found.dtype == xp.bool
    return to_numpy(found)


def expected(rule, confidence, entropy, masked, budget):
    """What the oracle commits of one row; nothing of a row without a mask, which it does not take."""
    places = np.flatnonzero(masked).tolist()
    if not places:
        return []
    return oracle.select(
        rule.name,
        {i: confidence[i].item() for i in places},
        budget=int(budget),
        parameter=rule.number,
        entropy={i: entropy[i].item() for i in places},
    )


@pytest.mark.clause("SS-8")
@everywhere
@every_rule
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_selections_are_the_oracles(namespace, name, data):
    rule, *rows = data.draw(steps(name))
    found = chosen(rule, *rows, xp=NAMESPACES[namespace])
    assert not (found & ~rows[2]).any()
    for row, flags in zip(zip(*rows, strict=True), found, strict=True):
        assert np.flatnonzero(flags).tolist() == expected(rule, *row)
        assert flags.any() == row[2].any(), "a row with masks commits something"


# Positions 0..4 of which 4 holds no mask; what each rule commits, by hand. Equals are 1 and 2.
CONFIDENCE, ENTROPY = [0.5, 0.75, 0.75, 0.25, 1.0], [0.5, 0.25, 0.25, 0.75, 0.0]
BY_HAND = [
    ("static", 0.0, 1, [1]),
    ("static", 0.0, 3, [0, 1, 2]),
    ("static", 0.0, 9, [0, 1, 2, 3]),
    ("sequential", 0.0, 2, [0, 1]),
    ("dynamic", 0.5, 1, [1, 2]),  # above, not at, the threshold
    ("dynamic", 0.25, 1, [0, 1, 2]),
    ("dynamic", 0.75, 1, [1]),  # none above: the budget
    ("dynamic", 0.5, 3, [0, 1, 2]),  # fewer above than the budget
    ("entropy", 0.5, 1, [1, 2]),  # at the bound is within
    ("entropy", 0.0, 1, [1]),
    ("entropy", 1.0, 1, [0, 1, 2]),
    ("factor", 0.75, 1, [1]),  # 3 * (1 - 0.75) is not below 0.75
    ("factor", 1.0, 1, [1, 2]),
    ("factor", 0.0, 1, [1]),
    ("frechet", 0.5, 1, [1, 2]),  # 1 - (0.25 + 0.25) reaches 0.5
    ("frechet", 1.0, 1, [1]),
    ("frechet", 0.0, 1, [0, 1, 2]),
]


@pytest.mark.clause("SS-8")
@pytest.mark.parametrize(("name", "number", "budget", "positions"), BY_HAND)
def test_rules_by_hand(xp, name, number, budget, positions):
    masked = [True] * 4 + [False]
    rows = [np.array([x]) for x in (CONFIDENCE, ENTROPY, masked)]
    found = chosen(Selection(name, number), *rows, np.array([budget], np.int32), xp=xp)
    assert np.flatnonzero(found[0]).tolist() == positions


@pytest.mark.clause("SS-8", "SS-22")
@every_rule
def test_a_rows_selection_does_not_depend_on_the_rows_beside_it(xp, name):
    rng = np.random.default_rng(5)
    rows = [*np.round(UNIT * rng.random((2, 6, 8))) / UNIT, rng.random((6, 8)) < 0.6]
    budget = rng.integers(1, 4, 6).astype(np.int32)
    whole = chosen(Selection(name, 0.5), *rows, budget, xp=xp)
    alone = [
        chosen(Selection(name, 0.5), *(x[i : i + 1] for x in rows), budget[i : i + 1], xp=xp)[0]
        for i in range(6)
    ]
    assert np.array_equal(whole, np.stack(alone))


@pytest.mark.clause("SS-8")
def test_float64_confidences_are_ordered_in_float64():
    confidence = np.array([[0.5, 0.5 + 2.0**-40]])
    rows = [confidence, -confidence + 1, confidence > 0, np.array([1])]
    for name in ("static", "factor", "entropy"):
        found = select(Selection(name, 0.0), *rows, xp=NAMESPACES["numpy"])
        assert found.tolist() == [[False, True]], "a difference that float32 does not show"


@pytest.mark.clause("SS-8")
@given(
    tokens=st.lists(st.booleans(), min_size=8, max_size=8),
    prompt=st.integers(1, 11),
    sub_block=st.sampled_from([1, 2, 4, 8]),
)
def test_the_leftmost_sub_block_that_holds_a_mask_takes_part(tokens, prompt, sub_block):
    """In a block of 8 behind a prompt whose own mask tokens are no masks."""
    mask_id = 7
    plan = Filling(
        mask_id=mask_id,
        vocab_size=8,
        shifted=False,
        block_size=8,
        steps=8,
        selection=Selection("static"),
        sub_block=sub_block,
    )
    row = Canvas(0, [mask_id] * prompt, Limits(16, frozenset()), plan)
    row.fill_up()
    for position, known in enumerate(tokens, row.start):
        if known and position >= prompt:
            row.tokens[position] = 1
    open_ = {i: 0.5 for i, known in enumerate(tokens, row.start) if i >= prompt and not known}
    assert row.masked() == (list(oracle.leftmost_sub_block(open_, sub_block)) if open_ else [])


@pytest.mark.clause("SS-9")
@given(block_size=st.integers(1, 40), data=st.data())
def test_budgets_are_the_schedules(block_size, data):
    steps = data.draw(st.integers(1, block_size))
    needed = schedule(block_size, steps)
    assert [budget_of(step, steps, block_size) for step in range(steps)] == needed
    assert {budget_of(step, steps, block_size) for step in range(steps, steps + 3)} == {needed[-1]}


@pytest.mark.clause("SS-8")
def test_rules_are_read_from_text():
    assert Selection.parse("static") == Selection("static")
    assert Selection.parse(" entropy( 0.5 ) ") == Selection("entropy", 0.5)
    assert Selection.parse("dynamic", 0.7) == Selection("dynamic", 0.7)
    assert Selection.parse("dynamic(0.6)", 0.7) == Selection("dynamic", 0.6)
    assert Selection.parse("sequential", 0.7) == Selection("sequential")
    assert {name: Selection.parse(name).name for name in SELECTIONS} == {name: name for name in oracle.RULES}


WRONG = [
    ("best", None, "select: got 'best'; needs one of static, sequential, dynamic(threshold), entropy(bound)"),
    (None, None, "select: got None; needs one of static"),
    ("dynamic(0.5", None, "needs one of static"),
    ("dynamic(1.5)", None, "select: threshold of 'dynamic(1.5)': got 1.5; needs a number in [0, 1]"),
    ("dynamic", -0.1, "threshold of 'dynamic(-0.1)': got -0.1; needs a number in [0, 1]"),
    ("entropy(-1)", None, "bound of 'entropy(-1)': got -1; needs a number >= 0, nats"),
    ("factor(nan)", None, "factor of 'factor(nan)': got nan; needs a number >= 0"),
    ("frechet(high)", None, "bound of 'frechet(high)': got high; needs a number in [0, 1]"),
    ("static(2)", None, "select: got 'static(2)'; needs at most 0 numbers, as in static"),
    ("dynamic(0.5, 0.6)", None, "needs at most 1 numbers, as in dynamic(threshold)"),
    ("dynamic(,)", None, "needs at most 1 numbers"),
    ("entropy(0.5 0.6)", None, "bound of 'entropy(0.5 0.6)': got 0.5 0.6; needs a number >= 0"),
]


@pytest.mark.clause("SS-8", "SS-23")
@pytest.mark.parametrize(("text", "threshold", "message"), WRONG)
def test_wrong_rules_are_refused_with_what_is_needed(text, threshold, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        Selection.parse(text, threshold)
    assert "SS-8" in str(caught.value)

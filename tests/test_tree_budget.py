"""The budget of a request's trees, chosen from its earlier passes and what passes cost."""

import random

import numpy as np
import pytest

from dspec.core.tree_budget import FIRST_PASSES, TRY_PASSES, AutoBudget, TreeCosts
from dspec.errors import ConfigError

pytestmark = pytest.mark.clause("DL-14")
COSTS = TreeCosts(passes={0: 1.0, 4: 1.5, 8: 2.0, 16: 3.0})


def told(budget, paths, *, tree=16):
    """A budget that saw passes of one tree."""
    for path in paths:
        budget.observe(tree, path)
    return budget


def test_a_pass_shows_what_every_smaller_tree_would_have_given():
    budget = told(AutoBudget(COSTS, n_slots=5, memory=1.0), [(1, 3, 9, 16), (), (2, 5)])
    assert budget.emitted == pytest.approx({0: 1, 4: 1 + 3 / 3, 8: 1 + 4 / 3, 16: 1 + 6 / 3})
    budget.observe(4, (1, 2))
    assert budget.emitted[4] == pytest.approx(1 + 5 / 4) and budget.emitted[8] == pytest.approx(1 + 4 / 3), (
        "not shown, not known"
    )
    budget.observe(0, ())
    assert budget.emitted[0] == 1.0 and budget.emitted[4] == 1 + 5 / 4


def test_the_first_passes_have_the_largest_tree_that_could_pay():
    budget = AutoBudget(COSTS, n_slots=5)
    for _ in range(FIRST_PASSES):
        assert budget.choose() == 16
        budget.observe(16, ())
    assert budget.choose() == 0, "nothing stood"
    # A depth of 1 cannot give more than 2 tokens: only the tree at 1.5 is worth a look.
    assert AutoBudget(COSTS, n_slots=1).choose() == 4


def test_where_no_tree_can_pay_the_smallest_is_read_now_and_then():
    """Features wait for the drafter meanwhile: as many rows as passes between two trees."""
    budget, sizes = AutoBudget(TreeCosts(passes={0: 1.0, 4: 9.0, 8: 20.0}), n_slots=5), []
    for _ in range(3 * TRY_PASSES):
        sizes.append(budget.choose())
        budget.observe(sizes[-1], ())
    assert [i for i, size in enumerate(sizes) if size] == [TRY_PASSES, 2 * TRY_PASSES + 1]
    assert set(sizes) == {0, 4}


def test_the_choice_is_the_most_tokens_for_the_cost():
    dice = np.random.default_rng(3)
    for _ in range(200):
        passes = {0: 1.0, **{int(b): float(1 + dice.uniform(0, 3)) for b in (2, 4, 8)}}
        budget = AutoBudget(TreeCosts(passes=passes), n_slots=4, memory=1.0)
        paths = [sorted(random.Random(int(n)).sample(range(1, 9), 3)) for n in dice.integers(0, 99, 5)]
        told(budget, paths, tree=8)
        # By hand: a pass of budget b gives 1 and the nodes of its path up to b.
        rates = {b: 1 / cost for b, cost in passes.items() if b == 0}
        for b in (2, 4, 8):
            rates[b] = (1 + np.mean([sum(node <= b for node in path) for path in paths])) / passes[b]
        assert rates[budget.choose()] == pytest.approx(max(rates.values()))


def test_a_larger_tree_is_tried_now_and_then_and_kept_where_it_pays():
    budget = told(AutoBudget(COSTS, n_slots=5), [()] * FIRST_PASSES)
    sizes = []
    for _ in range(2 * TRY_PASSES + 2):
        sizes.append(budget.choose())
        budget.observe(sizes[-1], ())
    assert [i for i, size in enumerate(sizes) if size] == [TRY_PASSES, 2 * TRY_PASSES + 1]
    assert {size for size in sizes if size} == {16}
    # The text turns easy: from the next try on the tree that pays is taken.
    for _ in range(2 * TRY_PASSES):
        size = budget.choose()
        budget.observe(size, tuple(node for node in (1, 2, 3, 4, 5) if node <= size))
    assert budget.choose() in (4, 8)


def test_equal_rates_take_the_smaller_tree():
    costs = TreeCosts(passes={0: 1.0, 4: 2.0, 8: 2.0})
    assert told(AutoBudget(costs, n_slots=3), [(1,)] * 9, tree=8).choose() == 0
    assert told(AutoBudget(costs, n_slots=3), [(1, 2)] * 9, tree=8).choose() == 4


@pytest.mark.parametrize(
    ("passes", "words"),
    [
        ({}, "0 and at least one tree"),
        ({0: 1.0}, "at least one tree"),
        ({4: 1.0, 8: 2.0}, "0 and at least"),
        ([1.0, 2.0], "a mapping"),
        ({0: 1.0, 4: 0.0}, "finite numbers > 0"),
        ({0: 1.0, 4: float("inf")}, "finite numbers > 0"),
        ({0: 1.0, 4: float("nan")}, "finite numbers > 0"),
        ({0: 1.0, -4: 1.0}, "budgets >= 0"),
        ({0: 1.0, 4.5: 1.0}, "budgets >= 0"),
    ],
)
def test_costs_that_are_none_are_refused(passes, words):
    with pytest.raises(ConfigError, match=words) as error:
        TreeCosts(passes=passes)
    assert "DL-14" in str(error.value)

"""Draft trees: which prefixes they hold, and the joint law of what they emit, tolerance zero."""

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspec.core.tree import Tree, best_first, walk
from dspec.errors import ShapeError
from dspec.oracle import several as oracle
from dspec.oracle.decode import cut
from dspec.oracle.rejection import draw
from dspec.testing.checks.laws import check_exact_law
from dspec.testing.models.strategies import worlds
from dspec.testing.models.symbolic_trees import paths_of, raw_laws, tree_sampler
from dspec.testing.models.worlds import KINDS, make_worlds, mixed_worlds
from dspec.testing.specimens.trees import TREE_MUTANTS

pytestmark = pytest.mark.clause("RS-23")
SAMPLED = ("plain", "half", "third", "top_p", "top_k", "mixed")


class Keyed:
    """The uniforms of the nodes, asked for where the walk reads them."""

    def __init__(self, of_node):
        self.of_node = of_node

    def __getitem__(self, node):
        return self.of_node(node)


def oracle_sampler(budget):
    """The same by the oracle: its own heap and walk, no caches."""

    def run(world, source):
        emitted = [draw(world.target(world.prompt), source("close", len(world.prompt) - 1, 0))]
        while len(emitted) < world.max_new_tokens and world.eos not in emitted:
            context = (*world.prompt, *emitted)
            tokens, parents = oracle.best_first(raw_laws(world, context[-1]), budget)
            position = len(context) - 1
            close = Keyed(lambda node, position=position: source("close", position, node))
            emitted += oracle.walk_tree(
                lambda drafts, context=context: world.target((*context, *drafts)), tokens, parents, close
            )
        return cut(emitted, max_new_tokens=world.max_new_tokens, eos={world.eos})

    return run


@pytest.mark.clause("RS-1", "RS-3", "RS-8", "DL-11", "RN-2")
@pytest.mark.parametrize("budget", [1, 2, 3, 7])
@pytest.mark.parametrize("make", [tree_sampler, oracle_sampler])
def test_law_of_the_tree_loop_is_the_targets(make, budget):
    deep = make_worlds(3, seed=11, num_drafts=3, max_new_tokens=6, reach=2)
    report = check_exact_law(make(budget), [*mixed_worlds(seed=3, warps=SAMPLED, size=1), *deep])
    assert report.passed, report


@pytest.mark.clause("RS-11", "DL-7")
@pytest.mark.parametrize("budget", [1, 4])
def test_greedy_worlds_keep_their_output(budget):
    report = check_exact_law(tree_sampler(budget), mixed_worlds(seed=3, warps=("greedy", "ties")))
    assert report.passed, report


@pytest.mark.clause("RS-3")
@pytest.mark.parametrize("kind", KINDS)
def test_any_kind_of_drafter_keeps_the_law(kind):
    found = make_worlds(4, seed=9, kinds=(kind,), num_drafts=2, max_new_tokens=3)
    assert check_exact_law(tree_sampler(4), found).passed


@settings(deadline=None, max_examples=20, derandomize=True)
@given(world=worlds(), budget=st.integers(1, 9))
def test_law_holds_in_worlds_of_any_shape(world, budget):
    report = check_exact_law(tree_sampler(budget), [world])
    assert report.passed, report


@settings(deadline=None, max_examples=60, derandomize=True)
@given(data=st.data())
def test_core_and_oracle_agree_on_the_tree_and_on_its_order(data):
    """Powers of two make every log-probability a whole number of bits: ties are ties in both."""
    vocab = data.draw(st.integers(1, 4))
    row = st.lists(st.integers(0, 3), min_size=vocab, max_size=vocab)
    bits = data.draw(st.lists(row, min_size=1, max_size=3))
    budget = data.draw(st.integers(1, 30))
    tokens, parents = oracle.best_first([[Fraction(1, 2**b) for b in slot] for slot in bits], budget)
    ranks = [sorted(range(vocab), key=lambda i, slot=slot: (slot[i], i))[:budget] for slot in bits]
    random.Random(budget).shuffle(ranks[0])
    logs = [[-float(slot[i]) for i in row] for slot, row in zip(bits, ranks, strict=True)]
    tree = best_first(logs, ranks, budget)
    assert (tree.tokens, tree.parents) == (tuple(tokens), tuple(parents))
    assert tree.depths == tuple(map(len, paths_of(tree)))


def test_its_size_does_not_hang_on_the_laws():
    """Impossible tokens fill a tree too: shapes must not depend on values (DL-6)."""
    sure = [[0.0, -math.inf, -math.inf]] * 3
    assert len(best_first(sure, [[0, 1, 2]] * 3, 20).tokens) == 20
    assert len(best_first(sure[:1], [[0, 1, 2]], 20).tokens) == 3, "there are no more"
    assert best_first(sure, [[0, 1, 2]] * 3, 3) == Tree((0, 0, 0), (0, 1, 2)), (
        "a chain where nothing is in doubt"
    )


def test_the_search_does_not_make_all_prefixes():
    """15 slots of 64 tokens have 10^27 prefixes; 64 of them are found in a moment."""
    dice = random.Random(2)
    logs = [[-dice.random() for _ in range(64)] for _ in range(15)]
    tree = best_first(logs, [list(range(64))] * 15, 64)
    assert len(tree.tokens) == 64 and max(tree.depths) > 1


def test_the_walk_ends_where_no_child_has_the_token():
    tree = Tree(tokens=(5, 6, 5, 7), parents=(0, 0, 2, 2))
    assert walk(tree, [6, 9, 7, 9, 5]) == ((2, 4), 5)
    assert walk(tree, [5, 5, 9, 9, 9]) == ((1,), 5), "node 1 has no child: its own token closes"
    assert walk(tree, [1, 9, 9, 9, 9]) == ((), 1)


@pytest.mark.parametrize(
    ("tokens", "parents", "words"),
    [
        ((), (), "at least one"),
        ((1, 2), (0,), "1 parents"),
        ((1,), (1,), "node 1: got 1"),
        ((1, 2), (0, -1), "node 2: got -1"),
        ((1, 1), (0, 0), "same token"),
    ],
)
def test_what_is_no_tree_is_refused(tokens, parents, words):
    with pytest.raises(ShapeError, match=words):
        Tree(tokens, parents)
    with pytest.raises(ShapeError, match="at least one"):
        best_first([], [], 1)


@pytest.mark.parametrize("mutant", TREE_MUTANTS, ids=lambda mutant: mutant.name)
def test_wrong_tree_passes_are_noticed_in_other_worlds_too(mutant):
    found = make_worlds(6, seed=11, num_drafts=2, max_new_tokens=5, reach=2)
    assert check_exact_law(tree_sampler(3), found).passed
    assert not check_exact_law(mutant.sampler, found, once=False).passed

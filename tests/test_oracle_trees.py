"""Trees of drafts, as fractions: the law of the walk, the tree of the likeliest prefixes, wrong walks."""

import itertools
import random
from fractions import Fraction
from functools import partial

import pytest

from dspec.oracle.decode import cut, sequence_law
from dspec.oracle.enumerate import enumerate_law
from dspec.oracle.rejection import draw, one_hot
from dspec.oracle.several import best_first, is_tree, verify_several, walk_tree
from dspec.oracle.warp import normalised
from dspec.testing.checks.laws import check_exact_law, worst_outcome
from dspec.testing.models.worlds import mixed_worlds, random_row
from tests.test_oracle_several import random_law

V = 3


# ---- trees


def random_tree(rng, size=V, depth=3, most=7):
    tokens, parents, depths = [], [], [0]
    for _ in range(rng.randint(0, most)):
        parent, token = rng.randrange(len(depths)), rng.randrange(size)
        if depths[parent] < depth and (parent, token) not in zip(parents, tokens):
            tokens.append(token)
            parents.append(parent)
            depths.append(depths[parent] + 1)
    return tokens, parents


def random_target(seed):
    """Another law after every path."""
    return lambda path: random_law(random.Random(f"{seed} {path}"))


def walked(target, tree, source):
    """The pair of a walk: nodes that stand, tokens."""
    emitted = walk_tree(target, *tree, [source("close", node) for node in range(len(tree[0]) + 1)])
    return len(emitted) - 1, tuple(emitted)


def by_several(target, tree, source):
    """The same by RS-22: at each node its children are the drafts of one slot, one-hot."""
    tokens, parents = tree
    path, node = (), 0
    while True:
        children = [child for child, parent in enumerate(parents, 1) if parent == node]
        drafts = [tokens[child - 1] for child in children]
        accept = [source("accept", child) for child in children]
        index, token = verify_several(target(path), drafts, None, accept, source("close", node))
        path += (token,)
        if index is None:
            return len(path) - 1, path
        node = children[index]


def continued(law, target, length):
    """The law of `length` tokens, short outcomes continued by the target."""
    found = {}
    for (_, path), chance in law.items():
        rest = sequence_law(
            lambda more: target(more[1:]), prompt=(0, *path), max_new_tokens=length - len(path)
        )
        for more, mass in rest.items():
            found[path + more] = found.get(path + more, 0) + chance * mass
    return found


def needed_law(target, length):
    return sequence_law(lambda context: target(context[1:]), prompt=(0,), max_new_tokens=length)


TREES = [(random_target(seed), random_tree(random.Random(seed))) for seed in range(25)]


@pytest.mark.clause("RS-1", "RS-8", "RS-23")
def test_a_walk_over_any_tree_keeps_the_joint_law():
    deepest = 0
    for target, tree in TREES:
        assert is_tree(*tree)
        law = enumerate_law(partial(walked, target, tree))
        deepest = max([deepest, *(n for n, _ in law)])
        assert continued(law, target, 4) == needed_law(target, 4)
    assert deepest == 3


@pytest.mark.clause("RS-22", "RS-23", "RS-18")
def test_a_walk_is_several_one_hot_drafts_at_every_node():
    for target, tree in TREES:
        assert enumerate_law(partial(walked, target, tree)) == enumerate_law(
            partial(by_several, target, tree)
        )


@pytest.mark.clause("RS-18", "RS-23")
def test_a_chain_is_sample_match():
    for seed in range(6):
        target, rng = random_target(seed), random.Random(seed)
        drafts = [rng.randrange(V) for _ in range(3)]
        law = enumerate_law(partial(walked, target, (drafts, [0, 1, 2])))
        for (n, path), chance in law.items():
            product = Fraction(1)
            for k, token in enumerate(path):
                product *= target(path[:k])[token]
            assert chance == product and list(path[:n]) == drafts[:n]
            assert n == 3 or path[n] != drafts[n]


@pytest.mark.clause("RS-11", "RS-23")
def test_at_temperature_zero_the_walk_follows_the_argmaxes():
    following = {(): 2, (2,): 0, (2, 0): 1}

    def target(path):
        return one_hot(following[path], V)

    assert walk_tree(target, [1, 2, 0, 2], [0, 0, 2, 3], [0.9] * 5) == [2, 0, 1]
    assert walk_tree(target, [], [], [0.0]) == [2]


def tree_run(world, source, budget=4, walk=walk_tree):
    """A generation of several passes over trees of the drafter's rows."""
    tokens = [draw(world.target(world.prompt), source("close", len(world.prompt) - 1, 0))]
    while len(tokens) < world.max_new_tokens and world.eos not in tokens:
        context = world.prompt + tuple(tokens)
        rows = [world.drafter(context, (0,) * slot) for slot in range(world.num_drafts)]
        tree = best_first(rows, budget)
        close = [source("close", len(context) - 1, node) for node in range(len(tree[0]) + 1)]
        tokens += walk(lambda path, context=context: world.target(context + path), *tree, close)
    return cut(tokens, max_new_tokens=world.max_new_tokens, eos={world.eos})


@pytest.mark.clause("RS-1", "RS-14", "RS-23", "RN-2")
@pytest.mark.parametrize("budget", (1, 3, 6))
def test_law_of_generations_over_best_first_trees_is_the_targets(budget):
    found = [world for world in mixed_worlds(seed=21, size=2) if world.kind == "independent"]
    report = check_exact_law(partial(tree_run, budget=budget), found)
    assert report.passed and len(found) > 5, report


# ---- the tree of the likeliest prefixes


def every_prefix(rows):
    """(-probability, depth, path) of all non-empty prefixes of positive probability, by brute force."""
    found = []
    for depth in range(1, len(rows) + 1):
        for path in itertools.product(*(range(len(row)) for row in rows[:depth])):
            chance = Fraction(1)
            for row, token in zip(rows, path):
                chance *= row[token]
            found += [(-chance, depth, path)] if chance else []
    return sorted(found)


def paths_of(tokens, parents):
    paths = [()]
    for token, parent in zip(tokens, parents):
        paths.append((*paths[parent], token))
    return paths[1:]


@pytest.mark.clause("RS-23")
def test_best_first_is_the_sorted_list_of_all_prefixes():
    """Few weights, so that ties abound; rows of one token, so that a prefix ties with its extension."""
    rng = random.Random(5)
    for _ in range(60):
        rows = [normalised(list(random_row(rng, 3, top=2))) for _ in range(rng.randint(0, 3))]
        needed = [path for _, _, path in every_prefix(rows)]
        for budget in (0, 1, 4, 9, 100):
            tree = best_first(rows, budget)
            assert paths_of(*tree) == needed[:budget] and is_tree(*tree)


@pytest.mark.clause("RS-23")
def test_what_is_no_tree_is_known():
    assert is_tree([], []) and is_tree([1, 1, 0], [0, 1, 1])
    for tokens, parents in [([1], [1]), ([1, 1], [0, 0]), ([1], [-1]), ([1, 2], [0]), ([1, 2, 2], [0, 3, 1])]:
        assert not is_tree(tokens, parents)


def redraws(target, tree, source):
    """After a miss the closing token is drawn again."""
    n, path = walked(target, tree, source)
    return n, (*path[:-1], draw(target(path[:-1]), source("again")))


def redraws_once(target, tree, source):
    """A miss at the anchor is not taken: the walk begins again with fresh uniforms."""
    n, path = walked(target, tree, source)
    return (n, path) if n else walked(target, tree, lambda *key: source("again", *key))


def one_uniform(target, tree, source):
    uniform = source("close")
    emitted = walk_tree(target, *tree, [uniform] * (len(tree[0]) + 1))
    return len(emitted) - 1, tuple(emitted)


def law_of_the_anchor(target, tree, source):
    """Every node is judged by the row before its own."""
    return walked(lambda path: target(path[:-1]), tree, source)


def looks_ahead(target, tree, source):
    """The anchor has a child iff the uniform of that child will draw token 0 there."""
    close = [source("close", node) for node in range(2)]
    tree = ([0], [0]) if draw(target((0,)), close[1]) == 0 else ([], [])
    emitted = walk_tree(target, *tree, close)
    return len(emitted) - 1, tuple(emitted)


WALK_MUTANTS = {
    "redraws after a miss": redraws,
    "begins again after a miss": redraws_once,
    "one uniform for all nodes": one_uniform,
    "rows one late": law_of_the_anchor,
    "a tree of its own uniforms": looks_ahead,
}


@pytest.mark.clause("RS-1", "RS-8", "RS-23")
@pytest.mark.parametrize("name", WALK_MUTANTS)
def test_wrong_walks_change_the_joint_law(name):
    distances = []
    for target, tree in TREES[:12]:
        law = continued(enumerate_law(partial(WALK_MUTANTS[name], target, tree)), target, 4)
        distances.append(worst_outcome(law, needed_law(target, 4))["tv"])
    assert max(distances) > 0

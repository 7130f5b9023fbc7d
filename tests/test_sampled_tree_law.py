"""Sampled trees: their form, their draws, and the joint law of what they emit, tolerance zero."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspec.core.sampled_tree import (
    RANK_COSTS,
    FirstChildren,
    draw_children,
    families,
    fixed_form,
    judge_children,
)
from dspec.core.types import Sampling
from dspec.oracle import sampled_tree as oracle
from dspec.oracle.decode import cut
from dspec.oracle.rejection import draw, draw_two_level
from dspec.oracle.several import verify_several
from dspec.testing.checks.laws import check_exact_law
from dspec.testing.models.strategies import worlds
from dspec.testing.models.symbolic_sampled import SampledDrafter, sampled_tree_sampler
from dspec.testing.models.symbolic_trees import raw_laws
from dspec.testing.models.worlds import KINDS, make_worlds, mixed_worlds
from dspec.testing.specimens.sampled_trees import SAMPLED_TREE_MUTANTS
from tests.namespaces import to_numpy

pytestmark = pytest.mark.clause("RS-24")
SAMPLED = ("plain", "half", "third", "top_p", "top_k", "mixed")


def oracle_sampler(budget):
    """The same by the oracle: its own forms, counts and walk, no caches."""

    def run(world, source):
        emitted, first = [draw(world.target(world.prompt), source("close", len(world.prompt) - 1, 0))], []
        while len(emitted) < world.max_new_tokens and world.eos not in emitted:
            context = (*world.prompt, *emitted)
            at, raw = len(context) - 1, raw_laws(world, context[-1])
            rows = [world.warp.law(world.raw_drafter((0, context[-1]), (0,) * k)) for k in range(len(raw))]
            cost = oracle.rank_cost(sum(first), len(first))
            walk = oracle.walk_sampled_tree(
                lambda drafts, context=context: world.target((*context, *drafts)),
                rows,
                oracle.fixed_form(budget, len(rows), len(rows[0]), cost),
                lambda node, at=at: source("draft", at, node - 1),
                lambda node, at=at: source("accept", at, node - 1),
                lambda node, at=at: source("close", at, node),
                raw=raw,
            )
            emitted += walk.tokens
            first += walk.first
        return cut(emitted, max_new_tokens=world.max_new_tokens, eos={world.eos})

    return run


@pytest.mark.clause("RS-1", "RS-2", "RS-3", "RS-8", "RS-22", "DL-11", "RN-2")
@pytest.mark.parametrize("budget", [1, 2, 3, 5])
@pytest.mark.parametrize("make", [sampled_tree_sampler, oracle_sampler])
def test_law_of_the_tree_loop_is_the_targets(make, budget):
    # Five nodes of three slots and five tokens take 100,000 paths: up to three here.
    deep = make_worlds(2 if budget < 5 else 0, seed=11, num_drafts=3, max_new_tokens=5, reach=2)
    report = check_exact_law(make(budget), [*mixed_worlds(seed=3, warps=SAMPLED, size=1), *deep])
    assert report.passed, report


@pytest.mark.clause("RS-3")
@pytest.mark.parametrize("kind", KINDS)
def test_any_kind_of_drafter_keeps_the_law(kind):
    found = make_worlds(4, seed=9, kinds=(kind,), num_drafts=2, max_new_tokens=3)
    assert check_exact_law(sampled_tree_sampler(4), found).passed


@settings(deadline=None, max_examples=20, derandomize=True)
@given(world=worlds(), budget=st.integers(1, 6))
def test_law_holds_in_worlds_of_any_shape(world, budget):
    report = check_exact_law(sampled_tree_sampler(budget), [world])
    assert report.passed, report


@pytest.mark.parametrize("mutant", SAMPLED_TREE_MUTANTS, ids=lambda mutant: mutant.name)
def test_wrong_passes_are_noticed_in_other_worlds_too(mutant):
    """Four tokens: of three, a third child is all that is owed once two have fallen, and stands rightly."""
    size = 4 if "picked" in mutant.name else 3
    found = make_worlds(6, seed=11, num_drafts=2, max_new_tokens=3, vocab_size=size, warps=mutant.warps)
    assert check_exact_law(sampled_tree_sampler(4), found).passed
    assert not check_exact_law(mutant.sampler, found, once=False).passed


# ---- the form


@settings(deadline=None, max_examples=80, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 5), st.sampled_from([r for _, r in RANK_COSTS]))
def test_core_and_oracle_agree_on_the_form(budget, n_slots, vocab, cost):
    parents = fixed_form(budget, n_slots, vocab, cost)
    assert list(parents) == oracle.fixed_form(budget, n_slots, vocab, Fraction(cost))
    all_nodes = sum(vocab**depth for depth in range(1, n_slots + 1))
    assert len(parents) == min(budget, all_nodes), "its size hangs on budget, K and V alone"
    own = families(parents)
    assert sorted(node for nodes in own.rounds for node in nodes) == list(range(1, len(parents) + 1))
    assert all(tuple(nodes) == tuple(sorted(nodes)) for nodes in own.children)
    assert sorted((*own.owners, *own.leaves)) == list(range(len(parents) + 1))


@given(st.integers(0, 300), st.integers(0, 300))
def test_core_and_oracle_agree_on_the_cost_of_a_rank(stood, more):
    assert FirstChildren(stood, stood + more).rank_cost == oracle.rank_cost(stood, stood + more)


def test_the_form_follows_what_stood():
    poor, good = FirstChildren(0, 50), FirstChildren(48, 50)
    assert max(map(len, families(fixed_form(32, 15, 99, poor.rank_cost)).children)) > 8
    assert fixed_form(8, 15, 99, good.rank_cost) == tuple(range(8)), "a chain"
    costs = [FirstChildren(stood, 100).rank_cost for stood in range(101)]
    assert costs == sorted(costs) and len(set(costs)) == len(RANK_COSTS)


def test_a_walk_counts_the_nodes_with_children_that_it_came_to():
    own = families((0, 0, 1, 2, 2))  # 1 and 2 below the anchor; 3 below 1; 4 and 5 below 2
    seen = FirstChildren()
    for path in ((), (1,), (1, 3), (2, 5), (2, 4)):
        seen.note(own, path)
    # The anchor five times, node 1 twice, node 2 twice; first children 1, 1 and 3, and 4.
    assert (seen.stood, seen.reached) == (4, 9)


# ---- arrays


def grid(rng, *shape):
    return (rng.integers(0, 2**24, shape) * 2.0**-24).astype(np.float32)


def cases(seed, vocab=7, n_slots=3, budget=14, cost=0.5):
    """Laws of K slots, one of them used up soon, logits, a form and its uniforms."""
    rng = np.random.default_rng(seed)
    raw = rng.dirichlet(np.full(vocab, 0.6), n_slots).astype(np.float32)
    probs = np.where(raw >= np.sort(raw, axis=1)[:, -2:-1], raw, 0) if seed % 2 else raw
    probs = (probs / probs.sum(axis=1, keepdims=True)).astype(np.float32)
    parents = fixed_form(budget, n_slots, vocab, cost)
    depths = [0]
    for parent in parents:
        depths.append(depths[parent] + 1)
    return rng, np.log(raw), probs, parents, depths, families(parents)


@pytest.mark.clause("RS-2", "RS-10", "RS-22")
@pytest.mark.parametrize("seed", range(12))
def test_nodes_are_drawn_as_the_oracle_draws_them(xp, seed):
    """Seeds are fixed: none of them has a uniform next to an edge."""
    rng, logits, probs, parents, depths, own = cases(seed)
    uniforms = grid(rng, len(parents), 2)
    order = [node for nodes in own.rounds for node in nodes]
    slots = np.asarray([depths[owner] for owner in own.owners])
    widths = [len(nodes) for nodes in own.rounds]
    given_ = map(xp.asarray, (logits, probs, slots))
    found = draw_children(*given_, widths, xp.asarray(uniforms[np.asarray(order) - 1]), xp=xp)
    by_node = dict(zip(order, to_numpy(found).tolist(), strict=True))
    for owner, nodes in zip(own.owners, own.children, strict=True):
        law, raw = probs[depths[owner]].tolist(), np.exp(logits[depths[owner]]).tolist()
        mine = [uniforms[node - 1].tolist() for node in nodes]
        tokens, _ = oracle.draw_children(law, len(nodes), mine, raw=raw, draw=draw_two_level)
        assert [by_node[node] for node in nodes] == tokens


@pytest.mark.clause("RS-10", "RS-22")
@pytest.mark.parametrize("seed", range(12))
def test_nodes_are_judged_as_the_oracle_judges_them(xp, seed):
    rng, logits, probs, parents, depths, own = cases(seed)
    accept, close = grid(rng, len(parents), 1), grid(rng, len(parents) + 1, 2)
    target = rng.dirichlet(np.full(7, 0.6), len(parents) + 1).astype(np.float32)
    drafts = []
    for owner, nodes in zip(own.owners, own.children, strict=True):
        law, raw = probs[depths[owner]].tolist(), np.exp(logits[depths[owner]]).tolist()
        u = grid(rng, len(nodes), 2).tolist()
        drafts.append(oracle.draw_children(law, len(nodes), u, raw=raw, draw=draw_two_level))
    table = np.asarray(own.table)
    drafted = np.full(table.shape, -1, np.int32)
    for row, (tokens, _) in enumerate(drafts):
        drafted[row, : len(tokens)] = tokens
    places = [np.asarray(p) for p in (own.owners, [depths[n] for n in own.owners], own.leaves)]
    found = judge_children(
        xp.asarray(np.log(target)),
        Sampling(temperature=1.0),
        xp.asarray(probs),
        xp.asarray(drafted),
        tuple(map(xp.asarray, places)),
        xp.asarray(accept[table - 1, 0]),
        xp.asarray(close),
        xp=xp,
    )
    needed = []
    for owner, nodes, (tokens, laws) in zip(own.owners, own.children, drafts, strict=True):
        mine = [float(accept[node - 1, 0]) for node in nodes]
        at = close[owner].tolist()
        needed.append(verify_several(target[owner].tolist(), tokens, laws, mine, at, draw=draw_two_level)[1])
    needed += [draw_two_level(target[leaf].tolist(), close[leaf].tolist()) for leaf in own.leaves]
    assert to_numpy(found).tolist() == needed


def test_siblings_differ_whatever_the_law(xp):
    """All mass on one token, impossible ones at -inf: what is picked is none that was taken."""
    logits = np.asarray([[-np.inf, 0.0, -np.inf, -200.0, -np.inf]], np.float32)
    probs = np.asarray([[0, 1, 0, 0, 0]], np.float32)
    given_ = map(xp.asarray, (logits, probs, np.asarray([0])))
    found = draw_children(*given_, [1] * 5, xp.asarray(np.zeros((5, 2), np.float32)), xp=xp)
    assert to_numpy(found).tolist() == [1, 3, 0, 2, 4]


@pytest.mark.clause("RS-16")
def test_a_slot_without_a_law_is_marked(xp):
    logits = np.asarray([[0.0, 0.0], [np.nan, 0.0]], np.float32)
    probs = np.asarray([[0.5, 0.5], [np.nan, np.nan]], np.float32)
    given_ = map(xp.asarray, (logits, probs, np.asarray([0, 1])))
    found = draw_children(*given_, [2, 1], xp.asarray(np.zeros((3, 2), np.float32)), xp=xp)
    assert to_numpy(found).tolist() == [0, -1, 1]


def test_the_drafter_of_the_kit_gives_laws_under_the_settings():
    (world,) = make_worlds(1, seed=0, warps=("top_k",), vocab_size=4)
    laws, raw = SampledDrafter(world).propose(1, 5, None, lambda given_: given_)
    assert all(sum(mass > 0 for mass in law) <= 2 for law in laws) and any(0 not in row[:3] for row in raw)

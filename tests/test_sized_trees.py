"""Trees whose budget changes from pass to pass: the law, what a request emits, what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from dspec import pass_costs
from dspec.backends.judge import RequestJudge
from dspec.backends.numpy import NumpyOps
from dspec.backends.sampled_judge import tree_judge
from dspec.cli_decoders import build_decoder, parse_decoder
from dspec.core.decode import Limits, decode
from dspec.core.policies import GREEDY
from dspec.core.tree_budget import AutoBudget, TreeCosts
from dspec.core.tree_decode import SizedTreePass, read_tree
from dspec.core.types import Draft, Sampling
from dspec.decoders import Autoregressive, Speculative, Tree
from dspec.engine import Engine
from dspec.errors import ConfigError, ShapeError
from dspec.rng import Stream
from dspec.testing.checks.laws import check_exact_law
from dspec.testing.checks.requests import CountingOps, LoggedStream
from dspec.testing.models.symbolic_sampled import ExactSampledJudge, SampledDrafter, SampledTarget
from dspec.testing.models.symbolic_trees import ExactTreeJudge, TreeDrafter, TreeTarget
from dspec.testing.models.worlds import make_worlds, mixed_worlds
from tests import tiny_models
from tests.test_draft_length_law import ListArrays
from tests.test_tree_engine import PROMPT, Knowing, tables

pytestmark = pytest.mark.clause("DL-14", "DL-11")
FLAT = TreeCosts(passes={0: 1.0, 2: 1.05, 6: 1.1, 12: 1.15})
STEEP = TreeCosts(passes={0: 1.0, 2: 1.9, 6: 2.8, 12: 4.0})
SAMPLED = ("plain", "half", "third", "top_p", "top_k", "mixed")
KINDS = {
    "likeliest": (TreeTarget, TreeDrafter, ExactTreeJudge),
    "sampled": (SampledTarget, SampledDrafter, ExactSampledJudge),
}


class Scripted:
    """A budget that is a function of what stood before."""

    def __init__(self, function):
        self.function, self.history = function, []

    def choose(self):
        return self.function(self.history)

    def observe(self, budget, path):
        self.history.append((budget, len(path)))


SIZES = {
    "none": lambda: Scripted(lambda history: 0),
    "alternate": lambda: Scripted(lambda history: (3, 0, 1)[len(history) % 3]),
    "after_success": lambda: Scripted(lambda history: 1 + 2 * history[-1][1] if history else 1),
    "after_failure": lambda: Scripted(lambda history: 0 if history and history[-1][1] else 4),
    "auto": lambda: AutoBudget(
        TreeCosts(passes={0: 1.0, 1: 1.2, 3: 1.5}), n_slots=2, first_passes=1, try_passes=1
    ),
}


def sampler_of(kind, make, one_pass=SizedTreePass):
    target, drafter, judge = KINDS[kind]

    def sampler(world, source):
        parts = target(world), drafter(world), judge(source, 1)
        limits = Limits(world.max_new_tokens, frozenset({world.eos}))
        passes = decode(*parts, world.prompt, limits, one_pass=one_pass(make(), ListArrays()))
        return tuple(token for step in passes for token in step.tokens)

    return sampler


@pytest.mark.clause("RS-1", "RS-3", "RS-23", "RS-24")
@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_sizes_of_history_keep_the_law(kind, name):
    found = mixed_worlds(seed=3, warps=SAMPLED, size=1)[:5]
    found += make_worlds(2, seed=11, num_drafts=2, max_new_tokens=5, reach=2)
    report = check_exact_law(sampler_of(kind, SIZES[name]), found)
    assert report.passed, report


class Reused(SizedTreePass):
    """Wrong: a pass without a tree draws by the key of the pass before."""

    def __call__(self, target, drafter, judge, anchor, position, features):
        class Early:
            def __getattr__(self, name):
                return getattr(judge, name)

            def first(self, scores, position):
                return judge.first(scores, position - 1)

        return super().__call__(target, drafter, Early(), anchor, position, features)


def test_a_pass_without_a_tree_that_reads_another_key_is_noticed():
    found = make_worlds(4, seed=11, num_drafts=2, max_new_tokens=5, reach=2)
    assert not check_exact_law(sampler_of("likeliest", SIZES["none"], Reused), found, once=False).passed


@pytest.mark.clause("RS-23", "RS-24")
@pytest.mark.parametrize("drafts", ["likeliest", "sampled"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_pass_shows_what_smaller_trees_would_have_given(drafts, temperature):
    """The same pass with every budget, on the uniforms of the same keys."""
    target, drafter = tables()
    paths = {}
    for seed in range(20):
        for budget in (1, 2, 5, 9, 12):
            sampling = Sampling(temperature=temperature)
            request = RequestJudge(NumpyOps(), GREEDY, sampling, Stream(seed), drafter.block_size - 1)
            judge = tree_judge(request, budget, sampled=drafts == "sampled")
            session = target.session()
            session.prefill([0, 1, 2])
            _, paths[seed, budget] = read_tree(session, drafter.session(target), judge, seed % 6, 3, None)
        for budget in (1, 2, 5, 9):
            shown = tuple(node for node in paths[seed, 12] if node <= budget)
            assert paths[seed, budget] == shown
    assert len({len(path) for path in paths.values()}) > 2


@pytest.fixture
def engine():
    return Engine(*tables(), NumpyOps())


def auto(costs, **settings):
    return Tree(budget="auto", costs=costs, **settings)


@pytest.mark.clause("DL-7", "RS-11")
@pytest.mark.parametrize("costs", [FLAT, STEEP])
def test_greedy_output_is_that_of_plain_decoding(engine, costs):
    settings = {"max_new_tokens": 80, "ignore_eos": True}
    plain = engine.generate(PROMPT, decoder=Autoregressive(), **settings)
    out = engine.generate(PROMPT, decoder=auto(costs), **settings)
    assert out.tokens == plain.tokens
    assert (0 in out.stats.n_drafted[5:]) == (costs is STEEP), "where trees cost too much there is none"


@pytest.mark.clause("RS-10", "DL-6")
@pytest.mark.parametrize("drafts", ["likeliest", "sampled"])
def test_given_costs_tokens_are_a_function_of_the_key(engine, drafts):
    settings = {"max_new_tokens": 60, "temperature": 1.0, "ignore_eos": True}
    middle = TreeCosts(passes={0: 1.0, 2: 1.3, 6: 1.6, 12: 1.9})
    outs = [
        engine.generate(PROMPT, seed=3, decoder=auto(middle, drafts=drafts), **settings) for _ in range(2)
    ]
    assert outs[0].tokens == outs[1].tokens and outs[0].stats.n_drafted == outs[1].stats.n_drafted
    assert len(set(outs[0].stats.n_drafted)) > 1


@pytest.mark.clause("DL-6", "RN-2")
def test_waits_of_a_pass_and_keys():
    """A pass without a tree waits once, one with a tree twice; no key is read twice."""
    target, drafter = tables()
    ops, stream = CountingOps(NumpyOps()), LoggedStream(4)
    request = RequestJudge(ops, GREEDY, Sampling(temperature=1.0), stream, drafter.block_size - 1)
    size = Scripted(lambda history: (0, 4, 0, 0, 9)[len(history) % 5])
    parts = target.session(), drafter.session(target), tree_judge(request, 1, sampled=False)

    class Arrays:
        nothing = staticmethod(lambda: Draft(np.zeros((1, 0), dtype=np.int32)))
        join = staticmethod(lambda waiting: None)

    steps = list(decode(*parts, PROMPT, Limits(40), one_pass=SizedTreePass(size, Arrays())))
    trees = sum(step.n_drafted > 0 for step in steps)
    assert trees and ops.reads == len(steps) + trees
    assert len(set(stream.log)) == len(stream.log)


@pytest.mark.clause("DL-4", "DL-5", "DL-7")
def test_the_drafter_gets_the_features_of_passes_that_went_by_without_it(room):
    target = tiny_models.opened("qwen3", room)
    prompt = [5, 9, 17, 3, 30, 12, 8]
    settings = {"max_new_tokens": 60, "ignore_eos": True}
    plain = Engine(target, None, room.operations).generate(prompt, **settings)
    text = [*prompt, *plain.tokens]
    drafter = Knowing(room, text, wrong_every=3)
    engine = Engine(target, drafter, room.operations)
    # A tree does not pay unless all its depth stands, and is tried every 32 passes: as many features wait.
    out = engine.generate(prompt, decoder=auto(TreeCosts(passes={0: 1.0, 4: 4.9})), **settings)
    assert out.tokens == plain.tokens and {0} < set(out.stats.n_drafted)
    states = room.numpy(target.tap(room.array([text], "int64"), drafter.layer_ids))[0]
    # (first position, features) of every proposal: one after the other they are the text's, none left out.
    assert any(features.shape[1] > 30 for _, features in drafter.taken[1:]), "some waited"
    for start, features in drafter.taken:
        rows = features[0]
        np.testing.assert_allclose(rows, states[start : start + len(rows)], atol=1e-3, rtol=0)


def test_costs_are_measured_once_an_engine(engine, monkeypatch):
    measured, real = [], pass_costs.measure_tree_costs
    monkeypatch.setattr(pass_costs, "measure_tree_costs", lambda one: measured.append(1) or real(one))
    for _ in range(3):
        assert (
            len(
                engine.generate(
                    PROMPT, max_new_tokens=20, decoder=Tree(budget="auto"), ignore_eos=True
                ).tokens
            )
            == 20
        )
    assert len(measured) == 1
    costs = engine._costs.trees[4]
    assert costs.budgets == (0, *pass_costs.BUDGETS) and min(costs.passes.values()) > 0
    other = replace(engine)
    other.generate(PROMPT, max_new_tokens=5, decoder=Tree(budget="auto"))
    assert len(measured) == 2


@pytest.mark.parametrize("decoder", [Tree(budget="auto"), Speculative(block="auto")])
def test_nothing_is_measured_before_every_prompt_is_checked(engine, monkeypatch, decoder):
    for name in ("measure_costs", "measure_tree_costs"):
        monkeypatch.setattr(pass_costs, name, lambda one: pytest.fail("measured"))
    with pytest.raises(ShapeError, match=r"prompt\[1\]"):
        engine.generate([PROMPT, [99]], decoder=decoder)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Tree(budget="most"), r"budget: got 'most'; needs an integer in \[1, 4096\], or 'auto'"),
        (lambda: Tree(budget=0), "budget: got 0"),
        (lambda: Tree(costs=FLAT), "needs budget='auto'"),
        (lambda: Tree(budget="auto", costs={0: 1.0, 4: 2.0}), "needs dspec.decoders.TreeCosts"),
        (lambda: auto(TreeCosts(passes={0: 1.0, 5000: 2.0})), "budgets of at most 4096"),
    ],
)
def test_bad_sizes_are_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_the_command_line_knows_budgets():
    assert build_decoder("tree", {"budget": "auto"}) == Tree(budget="auto")
    assert build_decoder("tree", {"budget": "8"}) == Tree(budget=8)
    assert parse_decoder("tree(budget=auto, drafts=sampled)")[1] == Tree(budget="auto", drafts="sampled")
    with pytest.raises(ConfigError, match="budget: got 'many'"):
        build_decoder("tree", {"budget": "many"})

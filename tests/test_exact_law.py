"""Joint laws of whole generations, as fractions: the oracle's loop and the library's, tolerance zero."""

import pytest
from hypothesis import given, settings

from dspec.core.decode import Limits, decode
from dspec.errors import SpecViolation
from dspec.oracle.decode import generate
from dspec.oracle.enumerate import enumerate_law
from dspec.oracle.policies import POLICIES
from dspec.oracle.rejection import draw, draw_two_level, residual
from dspec.testing.checks.laws import check_exact_law
from dspec.testing.models.strategies import worlds
from dspec.testing.models.symbolic import ExactDrafter, ExactJudge, ExactTarget
from dspec.testing.models.worlds import KINDS, make_worlds, mixed_worlds

SAMPLED = ("plain", "half", "third", "top_p", "top_k", "mixed")


def oracle_sampler(policy):
    """The oracle's loop as a sampler."""

    def sampler(world, source):
        return generate(world.target, world.drafter, POLICIES[policy], source, **world.loop()).tokens

    return sampler


def core_sampler(policy, *, rewinds=True):
    """The library's decode loop as a sampler: exact sessions, oracle verdicts, symbolic uniforms."""

    def sampler(world, source):
        judge = ExactJudge(POLICIES[policy], source, world.num_drafts)
        sessions = ExactTarget(world, rewinds=rewinds), ExactDrafter(world)
        limits = Limits(world.max_new_tokens, frozenset({world.eos}))
        passes = decode(*sessions, judge, world.prompt, limits)
        return tuple(token for step in passes for token in step.tokens)

    return sampler


def worlds_of(policy):
    if policy == "greedy":
        return mixed_worlds(seed=3, warps=("greedy", "ties"))
    # Sampled drafts under sample-match double the paths: 9 worlds instead of 27.
    return mixed_worlds(seed=3, warps=SAMPLED, size=1 if policy == "sampled_match" else 3)


@pytest.mark.clause("RS-1", "RS-3", "RS-18", "DL-3", "RS-14")
@pytest.mark.parametrize("policy", POLICIES)
def test_law_of_the_oracles_generations_is_the_targets(policy):
    report = check_exact_law(oracle_sampler(policy), worlds_of(policy))
    assert report.passed, report


@pytest.mark.clause("RS-1", "RS-8", "DL-1", "DL-3", "DL-4", "RN-2")
@pytest.mark.parametrize("policy", POLICIES)
def test_law_of_the_decode_loop_is_the_targets(policy):
    report = check_exact_law(core_sampler(policy), worlds_of(policy))
    assert report.passed, report


@pytest.mark.clause("RS-3")
@pytest.mark.parametrize("kind", KINDS)
def test_any_kind_of_drafter_keeps_the_law(kind):
    found = make_worlds(4, seed=9, kinds=(kind,), num_drafts=1, max_new_tokens=3)
    assert check_exact_law(core_sampler("rejection"), found).passed


@pytest.mark.clause("RS-1", "RS-3", "RS-18")
@pytest.mark.parametrize("policy", ("rejection", "one_hot", "sample_match"))
@settings(deadline=None, max_examples=15, derandomize=True)
@given(world=worlds())
def test_law_holds_in_worlds_of_any_shape(policy, world):
    """V 2..3, K 1..2, any drafter and settings, found by Hypothesis and shrunk on failure."""
    report = check_exact_law(core_sampler(policy), [world])
    assert report.passed, report


@pytest.mark.clause("RS-1", "NU-1")
def test_two_level_draws_keep_the_law():
    def sampler(world, source):
        def pair(*key):
            return source(*key, 0), source(*key, 1)

        def uniforms(purpose, *key):
            return source(purpose, *key) if purpose == "accept" else pair(purpose, *key)

        loop = {"draw": draw_two_level, **world.loop()}
        return generate(world.target, world.drafter, POLICIES["rejection"], uniforms, **loop).tokens

    report = check_exact_law(sampler, make_worlds(3, seed=5, vocab_size=5, num_drafts=1, max_new_tokens=2))
    assert report.passed, report


@pytest.mark.clause("RS-15", "DL-4")
def test_a_target_that_cannot_rewind_changes_the_law():
    report = check_exact_law(core_sampler("one_hot", rewinds=False), worlds_of("one_hot"))
    assert not report.passed and "tv" in report.counterexample


@pytest.mark.clause("DL-4", "DL-5")
def test_caches_hold_what_lies_before_the_anchor():
    world = make_worlds(1, seed=2, max_new_tokens=12)[0]
    target, drafter = ExactTarget(world), ExactDrafter(world)
    judge = ExactJudge(POLICIES["rejection"], lambda *key: 0.5, world.num_drafts)
    position = len(world.prompt)
    steps = decode(target, drafter, judge, world.prompt, Limits(12))
    next(steps)
    for step in steps:
        assert drafter.seen[-1] == position  # the anchor's own position is not context
        position += step.n_accepted + 1
        assert target.length == position
        assert target.cache[position - step.n_accepted : position] == step.tokens[: step.n_accepted]
    assert len(drafter.seen) > 2


@pytest.mark.clause("DL-2", "DL-3")
def test_counts_are_uncut_and_tokens_are_cut():
    world = make_worlds(1, seed=2, num_drafts=2)[0]
    flat = ExactJudge(POLICIES["one_hot"], lambda *key: 0.0, 2)
    steps = list(decode(ExactTarget(world), ExactDrafter(world), flat, world.prompt, Limits(2)))
    assert [step.n_emitted for step in steps] == [None, *flat.counts]
    assert sum(len(step.tokens) for step in steps) == 2 and steps[-1].finish == "length"


@pytest.mark.clause("RN-2")
def test_a_key_used_twice_is_noticed():
    with pytest.raises(SpecViolation, match="twice"):
        enumerate_law(lambda source: (source("u") < 0.5, source("u") < 0.5))


@pytest.mark.clause("RS-1")
def test_reused_uniforms_stay_exact():
    law = enumerate_law(lambda source: (source("u") < 0.5, source("u") < 0.75), once=False)
    assert law == {(True, True): 0.5, (False, True): 0.25, (False, False): 0.25}


@pytest.mark.clause("RS-4")
def test_acceptance_is_one_minus_total_variation():
    """Of a draft from q, sum min(p, q) is accepted: the law's identity, by enumeration."""
    world = make_worlds(1, seed=4)[0]
    p, q = world.target((0,)), world.drafter((0,), ())
    law = enumerate_law(lambda source: source("a") * q[(x := draw(q, source("d")))] < p[x])
    assert law.get(True, 0) == sum(map(min, p, q)) == 1 - sum(residual(p, q))

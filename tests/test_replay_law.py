"""Passes along a written text: the law against decoding itself, enumerated, and the counts of core."""

import random
from fractions import Fraction

import array_api_compat.numpy as npx
import numpy as np
import pytest

from dspec.core.replay import replay_counts
from dspec.errors import ShapeError
from dspec.oracle.decode import generate, sequence_law
from dspec.oracle.enumerate import enumerate_law
from dspec.oracle.policies import POLICIES
from dspec.oracle.rejection import argmax, one_hot
from dspec.oracle.replay import exactly, replay_law, replay_means, stand_chance
from tests.namespaces import close, place

pytestmark = pytest.mark.clause("DL-2", "DL-10")
# name: number of worlds, tokens written, drafts a pass, stop tokens
SIZES = {"eos": (6, 3, 2, {1}), "limit": (4, 3, 3, ()), "one draft": (4, 4, 1, ())}
WRONG = {
    "q": lambda p, q: q,
    "min(1, p / q)": lambda p, q: Fraction(1) if q == 0 else min(Fraction(1), p / q),
    "min(p, q)": min,
}


def world(seed, *, vocab=3, num_drafts=2):
    """Laws by context as fractions: a target, and a drafter whose slots are drawn independently."""

    def law(*key):
        weights = [random.Random(repr((seed, key, token))).randrange(4) for token in range(vocab)]
        weights[seed % vocab] += 1
        return [Fraction(w, sum(weights)) for w in weights]

    def target(context):
        return law("target", context[-2:])

    def drafter(context, drafts):
        return law("drafter", context[-2:], len(drafts))

    return target, drafter


def decoded(target, drafter, policy, **settings):
    """The law of what decoding counts, by enumeration of all its uniforms."""
    run = POLICIES[policy]
    return enumerate_law(lambda u: generate(target, drafter, run, u, **settings).n_emitted)


def replayed(target, drafter, chance, *, prompt, num_drafts, max_new_tokens, eos=()):
    """The same law from texts: each weighs what the target says, its counts by the replay.

    Texts go on for num_drafts tokens after the cut, a stop included: the last pass may look at them.
    """
    whole = {}
    longest = max_new_tokens + num_drafts
    for text, weight in sequence_law(target, prompt=prompt, max_new_tokens=longest).items():
        stop = next((i + 1 for i, token in enumerate(text) if token in eos), longest)
        length = min(stop, max_new_tokens)
        chances = []
        for t in range(length - 1):
            context, row = prompt + text[: t + 1], []
            for slot in range(num_drafts):
                place_of = t + 1 + slot
                p = target(prompt + text[:place_of])[text[place_of]]
                row.append(chance(p, drafter(context, (0,) * slot), text[place_of]))
            chances.append(row)
        for counts, mass in replay_law(chances, length).items():
            whole[counts] = whole.get(counts, 0) + weight * mass
    return whole


def by_ratio(p, q, token):
    return stand_chance(p, q[token])


def by_match(p, q, token):
    return Fraction(argmax(q) == token)


CASES = [(size, seed) for size, (count, *_) in SIZES.items() for seed in range(count)]


@pytest.mark.parametrize(("size", "seed"), CASES)
@pytest.mark.parametrize(("policy", "chance"), [("rejection", by_ratio), ("one_hot", by_match)])
def test_the_counts_have_exactly_the_law_of_decoding(size, seed, policy, chance):
    _, length, num_drafts, eos = SIZES[size]
    if policy == "rejection" and num_drafts == 3:
        length = 2  # 10,000 paths a world; more would be minutes
    models = world(seed, vocab=3 if num_drafts < 3 else 2)
    settings = {"prompt": (0,), "num_drafts": num_drafts, "max_new_tokens": length, "eos": eos}
    assert replayed(*models, chance, **settings) == decoded(*models, policy, **settings)


def test_greedy_is_the_jump_from_anchor_to_anchor():
    """One text, chances 0 and 1: one pattern of counts, that of decoding."""

    def target(context):
        return one_hot((context[-1] * 2 + 1) % 5, 5)

    def drafter(context, drafts):
        return one_hot((context[-1] * 2 + 1) % 5 if not drafts else len(context) % 5, 5)

    settings = {"prompt": (2,), "num_drafts": 2, "max_new_tokens": 9}
    found = replayed(target, drafter, by_match, **settings)
    run = generate(target, drafter, POLICIES["greedy"], lambda *key: 0, **settings)
    assert found == {run.n_emitted: 1} and 2 in run.n_emitted


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_chance_gives_another_law(name):
    models, settings = world(0), {"prompt": (0,), "num_drafts": 2, "max_new_tokens": 3}

    def chance(p, q, token):
        return WRONG[name](p, q[token])

    assert replayed(*models, chance, **settings) != decoded(*models, "rejection", **settings)


def test_texts_must_go_on_after_the_cut():
    """Were the last pass cut at the text's end, emitted tokens would be too few."""
    models, settings = world(0), {"prompt": (0,), "num_drafts": 2, "max_new_tokens": 2}
    law = decoded(*models, "rejection", **settings)
    assert any(counts == (3,) for counts in law), "the only pass emits beyond the limit of two"


def chances_of(seed, *, texts=5, anchors=7, slots=3, certain=False):
    """Random chances as fractions of 8, some 0 and some 1; lengths from 1 to anchors + 1."""
    draw = random.Random(seed)
    steps = (0, 8) if certain else range(9)
    rows = [
        [[Fraction(draw.choice(steps), 8) for _ in range(slots)] for _ in range(anchors)]
        for _ in range(texts)
    ]
    return rows, [1, 2, anchors + 1, *(draw.randrange(1, anchors + 2) for _ in range(texts - 3))]


def as_arrays(rows, lengths, xp):
    stands = np.array([[[float(c) for c in row] for row in text] for text in rows])
    return *place([stands], xp), xp.asarray(np.array(lengths))


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_core_has_the_means_of_the_enumerated_law(xp, seed, slots):
    rows, lengths = chances_of(seed, slots=slots)
    found = replay_counts(*as_arrays(rows, lengths, xp), xp=xp)
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        passes, emitted = (float(x) for x in replay_means(row, length))
        np.testing.assert_allclose(float(found.passes[i]), passes, **close(xp))
        np.testing.assert_allclose(float(found.emitted[i]), emitted, **close(xp))


@pytest.mark.parametrize("seed", range(3))
def test_the_counts_of_each_slot_are_those_of_the_law(seed):
    rows, lengths = chances_of(seed)
    found = replay_counts(*as_arrays(rows, lengths, npx), xp=npx)
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        law = replay_law(row, length)
        for slot in range(3):
            for counts, least in ((found.reached, slot + 1), (found.accepted, slot + 2)):
                needed = sum(sum(n >= least for n in path) * chance for path, chance in law.items())
                np.testing.assert_allclose(counts[i, slot], float(needed), **close(npx))


@pytest.mark.parametrize("seed", range(3))
def test_where_nothing_is_in_doubt_the_counts_are_whole_and_follow_the_jumps(xp, seed):
    rows, lengths = chances_of(seed, anchors=12, certain=True)
    found = replay_counts(*as_arrays(rows, lengths, xp), xp=xp)
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        anchor = passes = emitted = 0
        while anchor < length - 1:
            n = (*row[anchor], Fraction(0)).index(Fraction(0))
            passes, emitted, anchor = passes + 1, emitted + n + 1, anchor + n + 1
        assert (float(found.passes[i]), float(found.emitted[i])) == (passes, emitted)


def test_texts_of_one_token_need_no_pass(xp):
    found = replay_counts(xp.ones((2, 0, 3)), xp.asarray(np.array([1, 1])), xp=xp)
    assert [float(x) for x in found.passes] == [float(x) for x in found.emitted] == [0.0, 0.0]


def test_no_slots_means_a_pass_for_every_token_but_the_first(xp):
    found = replay_counts(xp.zeros((2, 4, 0)), xp.asarray(np.array([5, 1])), xp=xp)
    assert [float(x) for x in found.passes] == [float(x) for x in found.emitted] == [4.0, 0.0]


def test_the_recursion_from_the_end_gives_the_same_passes():
    """E(t) = 1 + sum_n P(exactly n) E(t + n + 1), as DL-10 has it, beside the forward one of core."""
    rows, lengths = chances_of(5, anchors=10)
    found = replay_counts(*as_arrays(rows, lengths, npx), xp=npx)
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        expected = [Fraction(0)] * (length + 4)
        for t in reversed(range(length - 1)):
            expected[t] = 1 + sum(exactly(row[t], n) * expected[t + n + 1] for n in range(4))
        np.testing.assert_allclose(found.passes[i], float(expected[0]), **close(npx))


@pytest.mark.parametrize("shapes", [((2, 3), (2,)), ((2, 3, 1), (3,)), ((2, 3, 1), (2, 1))])
def test_shapes_that_disagree_raise(shapes):
    with pytest.raises(ShapeError, match="NT-4"):
        replay_counts(np.zeros(shapes[0]), np.ones(shapes[1], dtype=np.int64), xp=npx)

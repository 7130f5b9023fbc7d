"""Several drafts of a slot and trees of drafts, as fractions: the laws, and their wrong readings."""

import random
from fractions import Fraction

import pytest

from dspec.errors import ConfigError
from dspec.oracle.enumerate import enumerate_law
from dspec.oracle.rejection import accepts, draw, one_hot, residual
from dspec.oracle.several import verify_several, without_replacement
from dspec.oracle.warp import normalised
from dspec.testing.checks.laws import worst_outcome
from dspec.testing.models.worlds import random_row

V = 3


def random_law(rng, size=V, *, positive=False):
    row = [rng.randint(1, 6) for _ in range(size)] if positive else random_row(rng, size, top=6)
    return normalised(list(row))


def top(law, count):
    """The `count` likeliest tokens, the lowest ids among equals."""
    return sorted(range(len(law)), key=lambda token: (-law[token], token))[:count]


# ---- several drafts of a slot: (drafter's law, k, uniforms) -> tokens, laws


def alike(law, count, source):
    return [draw(law, source("draft", j)) for j in range(count)], [law] * count


def apart(law, count, source):
    tokens, laws = [], []
    for j in range(count):
        laws.append(without_replacement(law, tokens))
        tokens.append(draw(laws[-1], source("draft", j)))
    return tokens, laws


def dependent(law, count, source):
    """Each draft's law is another one, by the drafts before it: nothing but RS-22 holds of it."""
    tokens, laws = [], []
    for j in range(count):
        laws.append(random_law(random.Random(repr((law, tokens)))))
        tokens.append(draw(laws[-1], source("draft", j)))
    return tokens, laws


def likeliest(law, count, source):
    return top(law, count), None


DRAFTED = {"alike": alike, "apart": apart, "dependent": dependent, "likeliest": likeliest}


def slot_law(p, q, count, drafted, verify=verify_several):
    """The law of (which draft stands, token)."""

    def sampler(source):
        tokens, laws = drafted(q, count, source)
        accept = [source("accept", j) for j in range(count)]
        return verify(p, tokens, laws, accept, source("close"))

    return enumerate_law(sampler)


def tokens_of(law):
    found = {}
    for (_, token), chance in law.items():
        found[token] = found.get(token, 0) + chance
    return found


def slots(count=8, seed=0):
    """(p, q); q is positive everywhere, so that V drafts can be drawn without replacement."""
    rng = random.Random(seed)
    return [(random_law(rng), random_law(rng, positive=True)) for _ in range(count)]


def positive(law):
    return {token: mass for token, mass in enumerate(law) if mass}


@pytest.mark.clause("RS-1", "RS-3", "RS-22")
@pytest.mark.parametrize("count", (0, 1, 2, 3))
@pytest.mark.parametrize("drafted", DRAFTED)
def test_law_of_the_token_of_a_slot_is_the_targets(drafted, count):
    for p, q in slots():
        assert tokens_of(slot_law(p, q, count, DRAFTED[drafted])) == positive(p)


@pytest.mark.clause("RS-22")
@pytest.mark.parametrize("drafted", DRAFTED)
def test_more_drafts_stand_more_often(drafted):
    for p, q in slots():
        chances = []
        for count in range(4):
            law = slot_law(p, q, count, DRAFTED[drafted])
            chances.append(sum(chance for (index, _), chance in law.items() if index is not None))
        assert chances == sorted(chances)
        assert drafted != "likeliest" or chances[:2] == [0, p[top(q, 1)[0]]]
        assert chances[3] == 1 or drafted not in ("likeliest", "apart")  # all of V is drafted


@pytest.mark.clause("RS-4", "RS-5", "RS-22")
def test_one_draft_is_token_verification():
    for p, q in slots():
        law = slot_law(p, q, 1, alike)
        stood = sum(chance for (index, _), chance in law.items() if index == 0)
        assert stood == sum(map(min, p, q))
        for token, mass in enumerate(residual(p, q)):
            assert law.get((None, token), 0) == (mass if p != q else 0)


@pytest.mark.clause("RS-22")
def test_the_index_is_that_of_the_first_draft_that_stands():
    third = [Fraction(1, 3)] * 3
    assert verify_several(third, [2, 1, 0], None, [0.9, 0.9, 0.5], 0.0) == (2, 0)
    assert verify_several(third, [2, 1, 0], None, [0.2, 0.0, 0.0], 0.0) == (0, 2)
    assert verify_several(third, [2, 2], None, [0.9, 0.0], 0.9) == (None, 1)  # rejected once, owed no more
    assert verify_several(third, [], None, [], 0.9) == (None, 2)


@pytest.mark.clause("RS-5", "RS-22")
def test_an_empty_residual_leaves_the_law_before():
    """Rounding only leads there: the draft was rejected although the target's law lies under its law."""
    assert verify_several([0.5, 0.5], [0], [[0.5, 0.5]], [1.0], 0.75) == (None, 1)


@pytest.mark.clause("RS-22")
def test_without_replacement_renormalises_what_is_left():
    law = [Fraction(1, 2), Fraction(1, 3), Fraction(1, 6)]
    assert without_replacement(law, []) == law
    assert without_replacement(law, [1]) == [Fraction(3, 4), 0, Fraction(1, 4)]
    assert without_replacement(law, [0, 2]) == [0, 1, 0]
    with pytest.raises(ConfigError, match="RS-22"):
        without_replacement([0.0, 1.0], [1])


# ---- wrong readings


def wrong_several(owed_after):
    """RS-22 with another law after a rejection: (target, law so far, law of the draft) -> law."""

    def verify(p, tokens, laws, accept, close):
        owed = p
        for j, token in enumerate(tokens):
            drafter = one_hot(token, len(p)) if laws is None else laws[j]
            if accepts(owed, drafter, token, accept[j]):
                return j, token
            owed = owed_after(p, owed, drafter)
        return None, draw(owed, close)

    return verify


def not_updated(p, tokens, laws, accept, close):
    """Every draft is tried against p, and the residual is that of the last."""
    for j, token in enumerate(tokens):
        if accepts(p, laws[j], token, accept[j]):
            return j, token
    return None, draw(residual(p, laws[-1]), close)


def one_accept(p, tokens, laws, accept, close):
    return verify_several(p, tokens, laws, accept[:1] * len(tokens), close)


def unconditional(law, count, source):
    return apart(law, count, source)[0], [law] * count


def soft(law, count, source):
    return top(law, count), [law] * count


def ordered(law, count, source):
    """Drawn alike, then sorted by probability: the order tells what the others were."""
    tokens = [draw(law, source("draft", j)) for j in range(count)]
    return sorted(tokens, key=lambda token: -law[token]), [law] * count


SLOT_MUTANTS = {
    "residual not updated": (alike, not_updated),
    "residual of p alone": (alike, wrong_several(lambda p, owed, q: normalised(residual(p, q)))),
    "residual not normalised": (alike, wrong_several(lambda p, owed, q: residual(owed, q))),
    "law off the rejected": (alike, wrong_several(lambda p, owed, q: owed)),
    "one uniform for all drafts": (alike, one_accept),
    "without replacement, unconditional law": (unconditional, verify_several),
    "likeliest with the soft law": (soft, verify_several),
    "sorted by probability": (ordered, verify_several),
}


@pytest.mark.clause("RS-22")
@pytest.mark.parametrize("drafted", ("alike", "likeliest"))
def test_the_frame_of_the_wrong_readings_is_right(drafted):
    right = wrong_several(lambda p, owed, q: normalised(residual(owed, q)))
    for p, q in slots():
        assert tokens_of(slot_law(p, q, 3, DRAFTED[drafted], right)) == positive(p)


@pytest.mark.clause("RS-1", "RS-8", "RS-22")
@pytest.mark.parametrize("name", SLOT_MUTANTS)
@pytest.mark.parametrize("count", (2, 3))
def test_wrong_readings_of_several_drafts_change_the_law(name, count):
    drafted, verify = SLOT_MUTANTS[name]
    laws = [(tokens_of(slot_law(p, q, count, drafted, verify)), positive(p)) for p, q in slots()]
    assert max(worst_outcome(*pair)["tv"] for pair in laws) > 0

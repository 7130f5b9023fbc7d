"""The text form of objectives: what it means, what it refuses, and that str is its inverse."""

from math import inf

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dspec.core.credit_terms import DpaceContinuation, DpaceCumulative, Revive
from dspec.core.law_terms import Kl, Lk, LogOverlap, OverlapChain, Reach, Tv
from dspec.core.objectives import PRESETS, Chain, Decay, Dpace, FirstError, Objective
from dspec.core.schedules import SHAPES, Schedule
from dspec.core.term_table import TERMS
from dspec.core.terms import Auf, Cat
from dspec.errors import ConfigError

pytestmark = pytest.mark.clause("OB-6")

positive = st.floats(min_value=0, exclude_min=True) | st.integers(1, 100).map(float)
weight = st.floats(min_value=0, allow_infinity=False) | st.integers(0, 100).map(float)
weight |= st.builds(Schedule, st.floats(0, 99), st.floats(0, 99), st.sampled_from(SHAPES), st.floats(0.01, 1))
share = st.floats(0, 1)
laws = (Kl, Tv, LogOverlap)
terms = st.one_of(
    st.builds(Decay, positive, weight),
    st.builds(FirstError, weight, st.none() | positive),
    st.builds(Chain, weight),
    *(st.builds(kind, share, weight) for kind in (Dpace, DpaceCumulative, DpaceContinuation, Revive)),
    *(st.builds(kind, weight) for kind in (Auf, Cat)),
    *(st.builds(kind, positive, weight, st.just(0.5)) for kind in laws),
    st.builds(Lk, weight, positive, weight, st.just(0.5)),
    st.builds(OverlapChain, weight, st.just(0.5)),
    st.builds(Reach, share, weight, weight, st.just(0.5)),
)


def test_every_term_is_drawn():
    drawn = {Decay, FirstError, Chain, Dpace, DpaceCumulative, DpaceContinuation, Revive, Auf, Cat}
    assert drawn | {*laws, Lk, OverlapChain, Reach} == set(TERMS.values())


@given(st.lists(terms, min_size=1, max_size=4).map(tuple), st.sampled_from(["block_sum", "weighted_mean"]))
def test_str_parses_back_to_the_same_objective(chosen, reduction):
    try:
        objective = Objective(chosen, reduction)
    except ConfigError:
        assume(False)
    again = Objective.parse(str(objective), reduction=reduction)
    assert again == objective
    assert str(again) == str(objective)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("uniform", (Decay(inf),)),
        ("dflash", (Decay(7),)),
        ("ltr", (Decay(10), FirstError(0.3), Chain(40))),
        ("dpace", (Dpace(0.5),)),
        ("decay", (Decay(inf),)),
        ("decay(5, 2)", (Decay(5, 2),)),
        ("decay(weight=2, gamma=5)", (Decay(5, 2),)),
        ("first_error(gamma=3)", (FirstError(0.3, 3),)),
        (" uniform + chain ( weight = 1e+1 ) ", (Decay(inf), Chain(10))),
        ("dpace()+chain()", (Dpace(0.5), Chain(40))),
    ],
)
def test_text_means_these_terms(text, expected):
    assert Objective.parse(text).terms == expected


def test_the_text_of_each_preset_is_canonical():
    for name, text in PRESETS.items():
        assert str(Objective.parse(name)) == text


def test_reduction_is_block_sum_unless_asked_otherwise():
    assert Objective.parse("ltr").reduction == "block_sum"
    assert Objective.parse("ltr", reduction="weighted_mean").reduction == "weighted_mean"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chian(40)", r"'chian'.*decay, first_error, chain, .*\. did you mean 'chain'"),
        ("lrt", r"uniform, dflash, ltr, dflare\. did you mean 'ltr'"),
        ("ltr(3)", r"'ltr'; needs one of decay, first_error, chain, auf, cat, dpace, "),
        ("decay(gama=3)", r"argument of decay.*'gama'.*gamma, weight.*did you mean 'gamma'"),
        ("chain(name=3)", r"argument of chain.*'name'.*one of weight\."),
        ("chain(1, 2)", r"2 numbers; needs at most 1: weight"),
        ("decay(3, gamma=4)", "gamma twice"),
        ("decay(gamma=3, gamma=4)", "'gamma' twice"),
        ("decay(gamma=3, 4)", "'4' after a named argument"),
        ("decay(ten)", "'ten'"),
        ("decay(3,)", "''"),
        ("decay(10", r"unreadable from '\(10'"),
        ("decay(10)chain(4)", r"unreadable from 'chain\(4\)'"),
        ("decay(10)+", "unreadable from ''"),
        ("", "unreadable"),
        ("-chain(4)", "unreadable from '-chain"),
    ],
)
def test_unreadable_text_is_refused_with_the_place(text, message):
    with pytest.raises(ConfigError, match=message):
        Objective.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("decay(0)", "decay gamma: got 0"),
        ("decay(nan)", "decay gamma: got nan"),
        ("first_error(gamma=-1)", "first_error gamma"),
        ("chain(-1)", "chain weight: got -1"),
        ("chain(inf)", "chain weight: got inf"),
        ("dpace(1.5)", r"dpace alpha: got 1.5; needs a number in \[0, 1\]"),
    ],
)
def test_values_out_of_range_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        Objective.parse(text)


def test_an_empty_sum_and_an_unknown_reduction_are_refused():
    with pytest.raises(ConfigError, match="no terms"):
        Objective(())
    with pytest.raises(ConfigError, match="did you mean 'block_sum'"):
        Objective.parse("ltr", reduction="blocksum")


@pytest.mark.clause("OB-3")
@pytest.mark.parametrize(
    ("text", "gamma"),
    [
        ("decay(10)+first_error(0.3)", 10),
        ("first_error(0.3)+decay(10)", 10),
        ("first_error(0.3)", inf),
        ("decay(10)+first_error(0.3, gamma=4)", 4),
        ("decay(10)+decay(10, weight=2)+first_error", 10),
    ],
)
def test_first_error_follows_the_decay_beside_it(text, gamma):
    (found,) = (term.gamma for term in Objective.parse(text).resolved() if isinstance(term, FirstError))
    assert found == gamma


@pytest.mark.clause("OB-3")
def test_first_error_does_not_guess_between_two_decays():
    with pytest.raises(ConfigError, match="its own gamma"):
        Objective.parse("decay(10)+decay(7)+first_error(0.3)")

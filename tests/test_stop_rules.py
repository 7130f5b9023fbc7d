"""Where outputs end and what is counted: dspec's loop on every backend, and loops that get it wrong."""

from dataclasses import fields

import pytest

from dspec.backends.numpy import NumpyOps
from dspec.oracle.decode import cut
from dspec.testing.checks.stops import EOS, Case, Ended, check_stop_rules, expected, make_cases
from dspec.testing.models.subjects import scripted
from dspec.testing.specimens import faulty_loops
from tests.pipeline_cases import assert_killed, assert_passes, controls_of, mutants_of

pytestmark = pytest.mark.clause("RS-14", "DL-2", "DL-3", "DL-9")
SAMPLED = {"temperature": 1.0, "policy": "rejection"}


@pytest.mark.parametrize("mutant", mutants_of("stop_rules"))
def test_it_fails_every_loop_that_ends_or_counts_wrongly(mutant):
    report = assert_killed(mutant)
    again = check_stop_rules(mutant.subject, **report.replay["arguments"])
    assert again.counterexample == report.counterexample and again.tried["cases"] == 1


@pytest.mark.parametrize("control", controls_of("stop_rules"))
def test_it_passes_right_loops_that_look_wrong(control):
    assert_passes(control)


@pytest.mark.parametrize("settings", [{}, SAMPLED], ids=["greedy", "rejection"])
def test_an_engine_ends_and_counts_right_in_every_room(room, settings):
    report = check_stop_rules(scripted(room.operations, **settings), longest=5, slots=(0, 2))
    assert report.passed, report


def test_an_engine_of_tables_ends_and_counts_right_on_the_whole_grid():
    report = check_stop_rules(scripted(NumpyOps()))
    assert report.passed and report.tried["cases"] > 1500, report


def test_ignored_end_tokens_are_seen():
    report = check_stop_rules(scripted(NumpyOps(), ignore_eos=True))
    assert report.counterexample["eos_at"] == 0 and report.counterexample["needed"] == "eos"


def test_an_end_token_behind_a_complete_stop_string_does_not_count():
    def end_token_first(before, block, case):
        kept, finish = faulty_loops.cut(before, block, case)
        whole = (before + block)[: case.max_new_tokens]
        return (whole[: whole.index(EOS) + 1], "eos") if EOS in whole else (kept, finish)

    report = check_stop_rules(faulty_loops.StopLoop(cut=end_token_first))
    assert report.counterexample["stops"] and report.counterexample["eos_at"] is not None


def test_what_is_expected_agrees_with_the_reading_of_the_clauses():
    for case in make_cases(text=False, longest=7, slots=(0, 1, 3)):
        tokens = [case.token(place) for place in range(20)]
        right = expected(case)
        assert right.tokens == cut(tokens, max_new_tokens=case.max_new_tokens, eos={EOS})
        assert sum(len(part) for part in right.streamed) == right.n_tokens == len(right.tokens)
        assert len(right.streamed) == 1 + len(right.n_accepted)


def test_the_grid_has_every_corner():
    cases = list(make_cases(text=True, longest=4, slots=(0, 1, 2)))
    assert len(cases) == len(set(cases))
    finishes = {(expected(case).finish, case.accepted == case.num_drafts) for case in cases}
    assert finishes == {(why, full) for why in ("eos", "length", "stop") for full in (True, False)}
    assert any(
        EOS in [case.draft(1, slot) for slot in range(case.num_drafts)] and case.eos_at is None
        for case in cases
    )


@pytest.mark.parametrize("name", [field.name for field in fields(Ended) if field.name != "tokens"])
def test_what_a_subject_does_not_report_is_not_held_against_it(name):
    def silent(case):
        return Ended(**{**vars(expected(case)), name: None})

    assert check_stop_rules(silent, longest=2).passed


def test_of_two_stop_strings_the_one_that_is_complete_first_ends_the_output():
    right = expected(Case(num_drafts=0, accepted=0, max_new_tokens=5, stops=("cdef", "d")))
    assert (right.text, right.tokens, right.finish) == ("abc", (0, 1), "stop")

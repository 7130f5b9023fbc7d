"""Rollback: sessions after any rejections equal fresh ones, and the check sees those that do not."""

import numpy as np
import pytest

from dspec.backends.numpy import NumpyOps, TableDrafter, TableTarget
from dspec.engine import Engine
from dspec.testing.checks.rollback import Move, check_rollback, make_moves
from dspec.testing.models.recall import recall_engine
from dspec.testing.specimens import faulty_sessions
from tests import tiny_models
from tests.pipeline_cases import assert_killed, assert_passes, controls_of, mutants_of
from tests.rooms import ROOMS
from tests.tiny_drafters import config_for, fresh
from tests.tolerances import FLOAT64, FORWARD_F32

pytestmark = pytest.mark.clause("RS-15", "DL-4")


@pytest.mark.parametrize("mutant", mutants_of("rollback"))
def test_it_fails_every_session_that_keeps_or_loses_something(mutant):
    report = assert_killed(mutant)
    assert len(report.counterexample["moves"]) <= 3, "a counterexample is short"


@pytest.mark.parametrize("control", controls_of("rollback"))
def test_it_passes_right_sessions_that_look_wrong(control):
    assert_passes(control)


def table_engine(*, autoregressive):
    law = np.random.default_rng(2).dirichlet(np.full(5, 0.5), (3, 5))
    return Engine(TableTarget(law), TableDrafter(law, autoregressive), NumpyOps())


@pytest.mark.parametrize("autoregressive", [False, True])
def test_tables_are_rewound_bit_for_bit(autoregressive):
    report = check_rollback(lambda: table_engine(autoregressive=autoregressive), steps=60)
    assert report.passed and report.tried["moves"] == 62, report


def test_a_target_without_a_drafter_is_walked_too():
    assert check_rollback(lambda: recall_engine(num_drafts=0), steps=40).passed
    change = faulty_sessions.WRONG["rejected drafts stay in the cache"]
    assert not check_rollback(change(lambda: recall_engine(num_drafts=0)), steps=40).passed


@pytest.fixture(scope="module", params=["qwen3", "mistral_sliding"])
def tiny(request, room):
    target = tiny_models.opened(request.param, room)
    drafter = fresh(room, config_for(target))
    return lambda: Engine(target, drafter, room.operations)


def test_tiny_models_of_every_room_are_rewound(tiny):
    report = check_rollback(tiny, steps=30, distance=FORWARD_F32)
    assert report.passed, report


@pytest.mark.mlx
def test_recurrent_layers_are_rewound():
    target = tiny_models.opened("qwen3_5", ROOMS["mlx"])
    engine = Engine(target, fresh(ROOMS["mlx"], config_for(target)), ROOMS["mlx"].operations)
    report = check_rollback(lambda: engine, steps=12, distance=FORWARD_F32)
    assert report.passed, report


def test_float64_models_are_rewound_to_the_last_digits():
    room = ROOMS["torch"]
    target = room.target.Target(tiny_models.make("qwen3"))
    target.model.double()  # dspec opens none in float64: only here, where it shows the last digits
    drafter = fresh(room, config_for(target)).double()
    report = check_rollback(lambda: Engine(target, drafter, room.operations), steps=20, distance=FLOAT64)
    assert report.passed, report


@pytest.mark.parametrize("name", faulty_sessions.WRONG)
def test_it_fails_the_same_faults_around_tiny_models(name, tiny):
    """With the bound of float32, whose roundings must not hide a stale row."""
    report = check_rollback(faulty_sessions.WRONG[name](tiny), steps=16)
    assert not report.passed


def test_sixteen_bits_need_a_stated_distance():
    room = ROOMS["torch"]
    target = room.target.Target(tiny_models.make("qwen3").bfloat16())
    engine = Engine(target, None, room.operations)
    report = check_rollback(lambda: engine, steps=2)
    assert report.status == "not run here" and "16-bit models need a distance" in str(report)
    assert check_rollback(lambda: engine, steps=8, distance=2.0).status == "passed"
    change = faulty_sessions.WRONG["rejected drafts stay, but are not counted"]
    assert check_rollback(change(lambda: engine), steps=8, distance=2.0).status == "FAILED"


def test_a_failing_walk_can_be_walked_again():
    wrong = faulty_sessions.WRONG["rewinds to one position too many"](recall_engine)
    first = check_rollback(wrong, steps=40, seed=3)
    again = check_rollback(wrong, **first.replay["arguments"])
    assert again.counterexample == first.counterexample
    assert check_rollback(recall_engine, **first.replay["arguments"]).passed


def test_a_walk_visits_what_it_is_for():
    moves = list(make_moves(recall_engine(), steps=400, seed=0))
    kinds = {(move.request, move.kind) for move in moves}
    assert kinds == {(request, kind) for request in (0, 1) for kind in ("prompt", "more", "score")}
    assert {move.keep for move in moves if move.kind == "score"} == {0, 1, 2, 3}
    assert str(Move(0, "score", (1, 2, 3), 1)) == "request 0: score [1, 2, 3], keep 1 of 2 drafts"


def test_a_prompt_in_parts_is_walked_too():
    class Restarting(faulty_sessions.Wrapped):
        def prefill(self, tokens):
            self._inner.rewind(0)
            return self._inner.prefill(tokens)

    report = check_rollback(faulty_sessions.around(target=Restarting)(recall_engine), steps=40)
    assert report.counterexample["moves"][-1].startswith("request 0: more")


def test_nan_is_never_equal_enough():
    class Broken(faulty_sessions.Wrapped):
        def score(self, anchor, draft_tokens):
            scores = self._inner.score(anchor, draft_tokens)
            return type(scores)(scores.logits * np.nan, scores.features)

    report = check_rollback(faulty_sessions.around(target=Broken)(recall_engine), steps=10)
    assert not report.passed

"""Greedy decoding where logits tie, on every backend and dtype, and of real engines."""

import array_api_compat.numpy as npx
import numpy as np
import pytest

from dspec.backends.numpy import NumpyOps
from dspec.engine import Engine
from dspec.testing.checks.ties import check_greedy, check_greedy_outputs, make_batches
from dspec.testing.models.recall import recall_engine
from dspec.testing.models.subjects import greedy_rule
from dspec.testing.specimens import faulty_sessions
from tests import tiny_models
from tests.pipeline_cases import assert_killed, assert_passes, controls_of, mutants_of
from tests.tiny_drafters import config_for, fresh
from tests.tolerances import FORWARD_F32

pytestmark = pytest.mark.clause("RS-11", "NU-5")
PROMPTS = ((3, 4, 5), (9,), (8, 7))


@pytest.mark.parametrize("mutant", mutants_of("greedy"))
def test_it_fails_every_rule_that_breaks_ties_otherwise(mutant):
    report = assert_killed(mutant)
    again = check_greedy(mutant.subject, xp=npx, **report.replay["arguments"])
    assert str(again.counterexample) == str(report.counterexample) and again.tried["rows"] == 1


@pytest.mark.parametrize("control", controls_of("greedy"))
def test_it_passes_right_rules_that_look_wrong(control):
    assert_passes(control)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_ties_go_to_the_lowest_index_in_every_room(room, dtype):
    report = check_greedy(greedy_rule(room.operations, dtype=dtype), xp=npx, dtype=dtype16(dtype))
    assert report.passed and report.tried["rows"] == 576, report


def dtype16(name):
    """What the numbers are rounded to before the room sees them: float16 holds 0, 1, 2 as bfloat16 does."""
    return None if name == "float32" else npx.float16


def test_most_rows_tie():
    tied = [
        ((logits == logits.max(-1, keepdims=True)).sum(-1) > 1).mean()
        for logits, _ in make_batches(36, seed=0, wide=True)
    ]
    assert np.mean(tied) > 0.5
    hidden = [np.isinf(logits).any() for logits, _ in make_batches(36, seed=0, wide=True)]
    assert np.mean(hidden) > 0.8
    assert all(np.isfinite(logits.max(-1)).all() for logits, _ in make_batches(36, seed=0, wide=True))


@pytest.fixture(scope="module")
def tiny(room):
    target = tiny_models.opened("qwen3", room)
    return Engine(target, fresh(room, config_for(target)), room.operations)


@pytest.mark.clause("DL-7")
def test_greedy_outputs_of_every_room_are_the_targets_own(tiny):
    report = check_greedy_outputs(tiny, prompts=PROMPTS, distance=2 * FORWARD_F32)
    assert report.passed, report
    assert report.tried["tokens"] >= 3 and report.tried["near ties"] == 0


@pytest.mark.clause("DL-7")
def test_greedy_outputs_of_tables_are_exactly_the_targets_own():
    report = check_greedy_outputs(recall_engine(), prompts=((1, 2), (3,)), distance=0.0, max_new_tokens=30)
    assert report.passed and report.tried["tokens"] == 60


@pytest.mark.parametrize("name", ["rejected drafts stay, but are not counted", "scores remembered by anchor"])
def test_outputs_of_a_wrong_cache_are_not_the_targets_own(name):
    engine = faulty_sessions.WRONG[name](recall_engine)()

    report = check_greedy_outputs(engine, prompts=((1, 2), (3,)), distance=0.5)
    assert not report.passed
    assert report.counterexample["below it by"] > 0.5
    plain = recall_engine()
    assert check_greedy_outputs(plain, **report.replay["arguments"]).passed


class LastIndex:
    """numpy, with an argmax that takes the last of the largest."""

    def __getattr__(self, name):
        return getattr(npx, name)

    def argmax(self, x, axis=-1):
        return x.shape[axis] - 1 - np.argmax(np.flip(x, axis), axis=axis)


def test_an_engine_that_breaks_ties_otherwise_is_seen():
    """With distance 0, equal logits do not excuse a higher index."""
    engine = recall_engine(levels=3)
    assert check_greedy_outputs(engine, prompts=((1,), (2,)), distance=0.0).passed
    ops = type("Ops", (NumpyOps,), {"xp": LastIndex()})()
    report = check_greedy_outputs(
        Engine(engine.target, engine.drafter, ops), prompts=((1,), (2,)), distance=0.0
    )
    assert not report.passed and report.counterexample["below it by"] == 0

"""A request's output is its own: dspec's engines in any company, and batches where it is not."""

import pytest

from dspec.engine import Engine
from dspec.testing.checks.isolation import Asked, check_isolation, companies
from dspec.testing.models.recall import recall_engine
from dspec.testing.models.subjects import interleaved, listed
from dspec.testing.specimens.faulty_batches import Batches
from dspec.testing.specimens.faulty_sessions import WRONG
from tests import tiny_models
from tests.pipeline_cases import assert_killed, assert_passes, controls_of, mutants_of
from tests.tiny_drafters import config_for, fresh

pytestmark = pytest.mark.clause("RS-9", "RN-4", "RS-10")
SAMPLED = {"temperature": 1.5, "policy": "rejection"}


@pytest.mark.parametrize("mutant", mutants_of("isolation"))
def test_it_fails_every_batch_whose_rows_know_of_each_other(mutant):
    report = assert_killed(mutant)
    assert len(report.counterexample["beside"]) <= 1, "one neighbour is enough to show it"
    assert report.counterexample["alone"] != report.counterexample["in this batch"]


@pytest.mark.parametrize("control", controls_of("isolation"))
def test_it_passes_right_batches_that_look_wrong(control):
    assert_passes(control)


@pytest.mark.parametrize("company", [interleaved, listed])
@pytest.mark.parametrize("policy", ["one_hot", "rejection", "sample_match"])
def test_requests_of_an_engine_are_alone_in_any_company(company, policy):
    engine = recall_engine(eos=(5,))
    report = check_isolation(
        company(engine, temperature=1.0, policy=policy), prompts=((0,), (1, 2), (2, 1, 0))
    )
    assert report.passed, report


def test_streams_of_tiny_models_are_alone_in_any_company(room):
    """Bitwise: each stream has its own caches, so that its passes have the same shapes in any company."""
    target = tiny_models.opened("qwen3", room)
    engine = Engine(target, fresh(room, config_for(target)), room.operations)
    report = check_isolation(interleaved(engine, **SAMPLED), prompts=((5,), (6, 7), (8, 9, 10)))
    assert report.passed, report


def test_a_shared_session_is_seen_through_an_engine():
    engine = WRONG["one cache for all requests"](recall_engine)()
    report = check_isolation(interleaved(engine, **SAMPLED))
    assert not report.passed and len(report.counterexample["beside"]) == 1


def test_equal_prompts_that_share_an_output_are_seen():
    """Only a company of equal prompts, seeds and limits shows a cache that leaves out the number."""

    def once_a_prompt(asked):
        known = {(one.prompt, one.seed): one for one in reversed(asked)}
        return Batches()([known[one.prompt, one.seed] for one in asked])

    report = check_isolation(once_a_prompt)
    assert not report.passed and len(report.counterexample["beside"]) == 1


def test_a_failing_company_can_be_tried_again():
    mutant = mutants_of("isolation")[0].values[0]
    report = mutant.run()
    again = check_isolation(mutant.subject, **report.replay["arguments"])
    assert again.counterexample == report.counterexample


def test_an_output_that_is_missing_is_seen():
    assert not check_isolation(lambda asked: [one.prompt for one in asked][:3]).passed


def test_companies_have_every_kind_of_neighbour():
    batches = list(companies(((0,), (1, 2), (3,)), seed=0))
    first = batches[0][0]
    beside = [one for batch in batches if first in batch for one in batch if one is not first]
    assert any(one.seed == first.seed and one != first for one in beside), "of the same seed"
    assert any(not one.drafts for one in beside) and any(one.max_new_tokens > 9 for one in beside)
    assert any(batch.count(first) == 2 for batch in batches), "beside itself"
    assert any(batch[-1] is first and len(batch) > 1 for batch in batches), "behind the others"
    assert str(Asked(prompt=(1,), drafts=False)).endswith("6 tokens, no drafts")

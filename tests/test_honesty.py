"""Drafts are drawn from the law that is reported with them: dspec's rule on every backend, and liars."""

import array_api_compat.numpy as npx
import numpy as np
import pytest

from dspec.core.policies import ONE_HOT
from dspec.core.types import Draft, Sampling
from dspec.engine import Engine
from dspec.oracle.rejection import draw_two_level
from dspec.testing.checks.honesty import check_drafts, check_honesty, inverse
from dspec.testing.models.recall import recall_engine
from dspec.testing.models.subjects import proposer
from dspec.testing.models.wrapping import Wrapped, around
from tests import tiny_models
from tests.pipeline_cases import assert_killed, assert_passes, controls_of, mutants_of
from tests.tiny_drafters import config_for, fresh

pytestmark = pytest.mark.clause("RS-2")
SAMPLED = {"temperature": 1.0, "policy": "rejection", "max_new_tokens": 12}


@pytest.mark.parametrize("mutant", mutants_of("honesty"))
def test_it_fails_every_draft_of_another_law(mutant):
    report = assert_killed(mutant)
    again = check_honesty(mutant.subject, xp=npx, **report.replay["arguments"])
    assert str(again.counterexample) == str(report.counterexample)


@pytest.mark.parametrize("control", controls_of("honesty"))
def test_it_passes_honest_drafts_that_look_wrong(control):
    assert_passes(control)


@pytest.mark.clause("NU-1")
@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=1.0), Sampling(temperature=0.7, top_k=900, top_p=0.95)]
)
def test_the_rule_of_every_room_is_honest(room, sampling):
    report = check_honesty(proposer(room.operations, sampling), xp=npx)
    assert report.passed and report.tried["drafts"] == 512, report
    # A near edge has chance 2^-19 times the two or three thresholds around a draw.
    assert report.tried["near-edge drafts"] <= 1


def test_argmax_drafts_report_no_law(room):
    report = check_honesty(proposer(room.operations, Sampling(temperature=1.0), ONE_HOT), xp=npx, count=32)
    assert report.passed, report


def test_a_small_vocabulary_hides_a_draw_in_bfloat16():
    """Why V is large: 12 drafts of 3 tokens pass, 512 of 4096 do not (chance 3e-3 at 1.1 % a draft)."""
    wrong = next(m.values[0].subject for m in mutants_of("honesty") if m.values[0].number == 34)
    assert check_honesty(wrong, xp=npx, vocab=3, count=6).passed
    assert not check_honesty(wrong, xp=npx).passed


def test_the_vectorised_inverse_is_the_scalar_one():
    rng = np.random.default_rng(4)
    laws = rng.dirichlet(np.full(23, 0.3), 200) * (rng.random((200, 23)) < 0.7)
    laws[:, 5] += 1e-3
    uniforms = rng.random((200, 2))
    uniforms[:20] = 0.0
    needed = [draw_two_level(law.tolist(), u.tolist()) for law, u in zip(laws, uniforms)]
    assert inverse(laws, uniforms).tolist() == needed


@pytest.mark.parametrize("policy", ["rejection", "one_hot"])
def test_drafts_of_engines_are_their_rules_own(policy):
    report = check_drafts(
        recall_engine(vocab_size=300), prompts=[[1, 2], [3]], **{**SAMPLED, "policy": policy}
    )
    assert report.passed and report.tried["drafts"] >= 12, report


def test_drafts_of_tiny_models_are_their_rules_own(room):
    target = tiny_models.opened("qwen3", room)
    engine = Engine(target, fresh(room, config_for(target)), room.operations)
    report = check_drafts(engine, prompts=[[5, 6], [7]], **SAMPLED)
    assert report.passed and report.tried["drafts"] >= 6, report


class Changed(Wrapped):
    """A drafter session that changes what its rule made."""

    def __init__(self, inner, change):
        super().__init__(inner)
        self.change = change

    def propose(self, *arguments, **cut):
        return self.change(self._inner.propose(*arguments, **cut))


def sharper(law):
    power = law**1.1
    return power / power.sum(-1, keepdims=True)


CHANGES = {
    "tokens by argmax": lambda draft: Draft(draft.probs.argmax(-1), draft.probs),
    "law of the slot beside": lambda draft: Draft(draft.tokens, draft.probs[:, ::-1]),
    "law of another temperature": lambda draft: Draft(draft.tokens, sharper(draft.probs)),
    "law left out": lambda draft: Draft(draft.tokens),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_drafter_that_changes_its_draft_is_seen(name):
    engine = around(drafter=lambda inner: Changed(inner, CHANGES[name]))(
        lambda: recall_engine(vocab_size=3000)
    )()
    report = check_drafts(engine, prompts=[[1, 2], [3], [4]], **{**SAMPLED, "max_new_tokens": 30})
    assert not report.passed, report
    assert check_drafts(recall_engine(vocab_size=3000), **report.replay["arguments"]).passed

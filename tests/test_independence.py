"""Rows, requests, seeds and passes are independent, and no key is read twice.

Each run of `check_independence` fails a right subject with chance 1e-9 at most; a pair law that is further
from the product than its `delta` (0.52 at 150 pairs of 9 outcomes) passes with chance 1e-6 at most. Seeds
are fixed.
"""

import numpy as np
import pytest

from dspec.backends.numpy import NumpyOps
from dspec.rng import Purpose, Stream
from dspec.testing.checks.independence import check_independence, kinds_of, logged_keys
from dspec.testing.models.recall import recall_engine
from dspec.testing.models.subjects import PROMPT, independent_engine, keys_of, outputs_of
from tests.pipeline_cases import assert_killed, assert_passes, controls_of, mutants_of

pytestmark = pytest.mark.clause("RS-8", "RN-2", "RN-4")
LAW, DRAFT_LAW = (0.5, 0.3, 0.2), (0.2, 0.3, 0.5)
OUTCOMES = {(token,): chance for token, chance in enumerate(LAW)}
SEEN_BY = {
    "one uniform for all rows": "rows",
    "request numbers wrap at 50": "halves",
    "the seed and the number are added": "seeds",
    "the same uniforms in every pass": "positions",
}


@pytest.mark.parametrize("mutant", mutants_of("independence"))
def test_it_fails_every_sharing_of_uniforms(mutant):
    report = assert_killed(mutant)
    assert report.counterexample["kind"] == SEEN_BY.get(mutant.name, "keys")
    assert report.replay["arguments"]["only"] == report.counterexample["kind"]


@pytest.mark.parametrize("control", controls_of("independence"))
def test_it_passes_right_keys_that_look_wrong(control):
    report = assert_passes(control)
    assert (report.alpha, report.beta) == (1e-9, 1e-6) and 0 < report.delta < 0.6


def settings(policy):
    return {"temperature": 1.0, "policy": policy, "max_new_tokens": 4}


@pytest.mark.parametrize("policy", ["rejection", "one_hot", "sample_match"])
def test_requests_and_passes_of_an_engine_are_independent(policy):
    engine = independent_engine(NumpyOps(), LAW, DRAFT_LAW, num_drafts=1)
    kinds = kinds_of(outputs_of(engine, PROMPT, **settings(policy)), apart=2)
    keys = keys_of(engine, [PROMPT] * 3, **settings(policy))
    report = check_independence(kinds, OUTCOMES, n=120, keys=keys)
    assert report.passed, report
    assert report.tried["pairs"] == 480 and report.tried["keys"] > 60


def test_requests_and_passes_are_independent_in_every_room(room):
    engine = independent_engine(room.operations, LAW, DRAFT_LAW, num_drafts=1)
    kinds = kinds_of(outputs_of(engine, PROMPT, **settings("rejection")), apart=2)
    report = check_independence(kinds, OUTCOMES, n=60, seed=5)
    assert report.passed, report


@pytest.mark.parametrize("policy", ["rejection", "one_hot", "sample_match", "greedy"])
def test_no_key_is_read_twice_in_long_requests(policy):
    temperature = 0.0 if policy == "greedy" else 1.0
    keys = keys_of(recall_engine(), [[1], [2, 3]], max_new_tokens=40, temperature=temperature, policy=policy)
    report = check_independence({}, {}, keys=keys)
    assert report.passed and (report.tried["keys"] == 0) == (policy == "greedy"), report


def test_a_shared_cache_of_uniforms_is_seen_through_an_engine(monkeypatch):
    plain = Stream.uniforms
    monkeypatch.setattr(Stream, "uniforms", lambda self, *key: plain(Stream(self.seed, 0), *key))
    engine = independent_engine(NumpyOps(), LAW, DRAFT_LAW, num_drafts=1)
    kinds = kinds_of(outputs_of(engine, PROMPT, **settings("rejection")), apart=2)
    report = check_independence(kinds, OUTCOMES, n=60)
    assert report.counterexample["kind"] == "rows"


def test_a_failing_kind_can_be_looked_at_again():
    def twins(n, seed):
        return [(i % 2, i % 2) for i in range(n)]

    def product(n, seed):
        return [(i % 2, i // 2 % 2) for i in range(n)]

    kinds = {"twins": twins, "product": product}
    report = check_independence(kinds, {0: 0.5, 1: 0.5}, n=200)
    again = check_independence(kinds, **report.replay["arguments"])
    assert again.counterexample["pair"] == report.counterexample["pair"]
    assert check_independence(kinds, {0: 0.5, 1: 0.5}, n=200, only="product").passed


def test_a_pair_that_the_law_forbids_is_seen():
    report = check_independence(lambda n, seed: [(0, 7)] * n, {0: 1.0, 7: 0.0}, n=5)
    assert report.counterexample["forbidden pair"] == (0, 7)


def test_dependence_above_the_stated_discrepancy_is_always_seen():
    """A right subject passes 200 seeds (chance of a false alarm 2e-7), a shared uniform fails each."""

    def pairs(shared):
        def generate(n, seed):
            rng = np.random.default_rng(seed)
            first, second = rng.integers(0, 3, (2, n))
            return list(zip(first.tolist(), np.where(rng.random(n) < shared, first, second).tolist()))

        return generate

    law = {token: 1 / 3 for token in range(3)}
    assert all(check_independence(pairs(0.0), law, n=300, seed=seed).passed for seed in range(200))
    delta = check_independence(pairs(0.0), law, n=300).delta
    shared = 1.05 * delta / (2 / 3)  # the pair law is then 1.05 delta away from the product
    assert shared <= 1
    assert not any(check_independence(pairs(shared), law, n=300, seed=seed).passed for seed in range(50))


def test_keys_are_logged_as_often_as_they_are_read():
    stream = Stream(1, 2)
    plain = Stream.uniforms

    def run():
        stream.uniforms(Purpose.DRAFT, 9, (1, 2))
        stream.uniforms(Purpose.DRAFT, 9, (1,))

    assert logged_keys(run) == [(1, 2, 9, 0, 0), (1, 2, 9, 0, 1), (1, 2, 9, 0, 0)]
    with pytest.raises(ZeroDivisionError):
        logged_keys(lambda: 1 / 0)
    assert Stream.uniforms is plain, "also after an error"

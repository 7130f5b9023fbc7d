"""Each fact of a request, and each property of the uniforms, is seen to fail on a mutant made for it."""

import numpy as np
import pytest

from dspec.backends.judge import RequestJudge
from dspec.backends.numpy import NumpyOps
from dspec.core.rejection import verify_greedy
from dspec.rng import Purpose, Stream
from dspec.testing.checks.requests import FACTS, check_requests
from dspec.testing.checks.streams import check_streams


def one_key_for_all_accepts(patch):
    plain = RequestJudge._uniforms

    def shared(self, purpose, position, shape):
        return plain(self, purpose, 0 if purpose is Purpose.ACCEPT else position, shape)

    patch.setattr(RequestJudge, "_uniforms", shared)


def reads_twice(patch):
    plain = RequestJudge._read

    def twice(self, verdict, position):
        self.ops.to_host(verdict.tokens)
        return plain(self, verdict, position)

    patch.setattr(RequestJudge, "_read", twice)


def takes_the_least_likely(patch):
    patch.setattr(
        "dspec.core.policies.verify_greedy", lambda logits, draft, *, xp: verify_greedy(-logits, draft, xp=xp)
    )


def reads_nan_as_zero(patch):
    def kind(logits, draft, *, xp):
        return verify_greedy(xp.where(xp.isnan(logits), 0, logits), draft, xp=xp)

    patch.setattr("dspec.core.policies.verify_greedy", kind)


def shared_generator(patch):
    rng = np.random.default_rng(0)
    patch.setattr(Stream, "uniforms", lambda self, purpose, position, shape: rng.random(shape, np.float32))


MUTANTS = {
    "no key twice": one_key_for_all_accepts,
    "one read a pass": reads_twice,
    "counts": lambda patch: patch.setattr("dspec.core.stats.Stats.tau", 1.0),
    "anchors": lambda patch: patch.setattr(
        "dspec.backends.numpy.TableTargetSession.rewind", lambda self, length: None
    ),
    "greedy": takes_the_least_likely,
    "again": shared_generator,
    "failure": reads_nan_as_zero,
    "settings": lambda patch: patch.setattr("dspec.testing.checks.requests.UNKNOWN", ({"top_k": 3},)),
}


@pytest.mark.clause("DL-1", "DL-2", "DL-4", "DL-5", "DL-6", "DL-7", "DL-8")
@pytest.mark.clause("RN-2", "RN-4", "RS-8", "RS-10", "RS-13", "RS-16")
@pytest.mark.parametrize("fact", FACTS)
def test_each_fact_of_requests_can_fail_and_is_replayed_alone(fact, monkeypatch):
    assert check_requests(NumpyOps(), facts=[fact]).passed
    with monkeypatch.context() as patch:
        MUTANTS[fact](patch)
        report = check_requests(NumpyOps())
        assert not report.passed
        names = [fact] if report.counterexample["fact"] != fact else report.replay["arguments"]["facts"]
        assert names == [fact]
        assert not check_requests(NumpyOps(), facts=names).passed
    assert check_requests(NumpyOps(), **report.replay["arguments"]).passed


@pytest.mark.clause("DL-1", "DL-6", "DL-7", "RN-4", "RS-16")
def test_the_facts_hold_on_every_room(room):
    report = check_requests(room.operations)
    assert report.passed, report
    assert report.tried == {"facts": len(FACTS)}


@pytest.mark.clause("RN-1", "RN-3", "RN-4")
@pytest.mark.parametrize("fault", ["grid", "dtype", "stateful", "shape", "request"])
def test_wrong_uniforms_are_found_and_replayed(fault):
    class Wrong(Stream):
        drawn = 0

        def uniforms(self, purpose, position, shape):
            one = Stream(self.seed, 0 if fault == "request" else self.request)
            Wrong.drawn += 1
            at = position + (fault == "stateful" and Wrong.drawn % 3 == 0)
            at += shape[0] == 3 and shape[1] == 4 and fault == "shape"
            values = one.uniforms(purpose, at, shape)
            if fault == "grid":
                values = values + np.float32(2.0**-26) * (values < 0.2)
            return values.astype(np.float64) if fault == "dtype" else values

    report = check_streams(count=5, stream=Wrong)
    assert not report.passed and len(report.replay["arguments"]["keys"]) == 1
    Wrong.drawn = 0
    assert not check_streams(**report.replay["arguments"], stream=Wrong).passed
    assert check_streams(**report.replay["arguments"]).passed


@pytest.mark.clause("RN-2")
def test_purposes_are_numbered_for_ever(monkeypatch):
    monkeypatch.setattr("dspec.testing.checks.streams.PURPOSES", {"DRAFT": 1})
    assert not check_streams(count=1).passed

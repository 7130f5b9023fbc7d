"""A saved failure is tried again: the one instance, on the same subject, from text alone."""

import json
from dataclasses import replace

import array_api_compat.numpy as npx
import pytest

from dspec.errors import DataError
from dspec.testing import bench
from dspec.testing.adapters import from_callable
from dspec.testing.entries import CHECKS
from dspec.testing.levels import SMOKE
from dspec.testing.plan import Part, plan
from dspec.testing.replay import run
from dspec.testing.report import Report
from dspec.testing.run import check_subject, run_part, run_parts
from tests.verifiers import core_verify

TINY = replace(
    SMOKE,
    worlds=2,
    instances=3,
    coupled_rows=400,
    wide_rows=1,
    pair_rows=4000,
    draws=400,
    independent=200,
    steps=30,
    cases=16,
    longest=3,
)


def lenient(patch):
    """Accept tests at half of their uniforms."""
    plain = bench.verify_tokens

    def wrong(target, draft, uniforms, *, xp):
        return plain(target, draft, replace(uniforms, accept=uniforms.accept / 2), xp=xp)

    patch.setitem(bench.RULES, "rejection", wrong)
    patch.setattr("dspec.core.policies.verify_tokens", wrong)


def forgetful(patch):
    patch.setattr("dspec.testing.models.recall.RecallTargetSession.rewind", lambda self, length: None)


def one_more(patch):
    import dspec.core.decode as loop

    plain = loop.emit

    def wrong(tokens, n_accepted, n_drafted, left, limits):
        return plain(tokens, n_accepted, n_drafted, left + (left == 2), limits)

    patch.setattr(loop, "emit", wrong)


def last_of_ties(patch):
    def wrong(target, draft, *, xp):
        from dspec.core.rejection import verify_greedy

        verdict = verify_greedy(xp.flip(target, axis=-1), draft, xp=xp)
        return replace(verdict, tokens=target.shape[-1] - 1 - verdict.tokens)

    patch.setattr("dspec.testing.models.subjects.verify_greedy", wrong)


FAULTS = {
    "lattice": lenient,
    "boundaries": lenient,
    "coupling": lenient,
    "distribution": lenient,
    "rollback": forgetful,
    "stop_rules": one_more,
    "exact_law": one_more,
    "greedy": last_of_ties,
}


@pytest.mark.clause("RS-20")
@pytest.mark.parametrize("check", FAULTS)
def test_a_failure_is_replayed_from_its_text_and_passes_once_mended(check, monkeypatch):
    parts = [part for part in plan(TINY, ["numpy"]) if part.check == check and part.dtype != "bfloat16"]
    with monkeypatch.context() as patch:
        FAULTS[check](patch)
        found = run_parts(parts)
        assert found.status == "FAILED", found
        text = json.dumps({"level": "tiny", "report": json.loads(found.to_json())})
        again = run(text)
        assert again.status == "FAILED" and again.check == check
        first = next(leaf for leaf in found.leaves() if leaf.status == "FAILED")
        assert again.subject == first.subject
        assert sum(again.tried.values()) <= sum(first.tried.values()), "one instance, not all"
    assert run(text).status == "passed"


@pytest.mark.clause("RS-20")
def test_a_subject_of_ones_own_is_given_to_the_replay():
    right = core_verify(npx, "rejection")

    def wrong(target, drafts, laws, accept, close):
        return right(target, drafts, laws, 0 * accept, close)

    report = check_subject(wrong, level=TINY)
    assert report.status == "FAILED"
    assert run(report.to_json(), wrong).status == "FAILED"
    assert run(report.to_json(), from_callable(right, name="mended")).status == "passed"


def test_a_check_that_says_nothing_to_replay_is_run_again_whole(monkeypatch):
    def entry(bench, given, only):
        return Report("streams", False, {"keys": len(only)})

    monkeypatch.setitem(CHECKS, "streams", entry)
    report = run_part(Part("streams", "loop", "exact", "", {"count": 2, "seed": 0}))
    assert run(report.to_json()).status == "FAILED"


def test_what_a_subject_raises_is_a_failure_of_that_check_alone(tmp_path):
    def breaks(target, drafts, laws, accept, close):
        raise IndexError("row 7")

    report = check_subject(breaks, level=TINY)
    assert {leaf.status for leaf in report.leaves()} == {"FAILED"} and len(report.leaves()) > 2
    assert report.counterexample["raised"] == "IndexError: row 7"
    assert report.counterexample["at"].startswith("test_replay.py, line ")
    assert run(report.to_json(), breaks).status == "FAILED"


def saved(**changes):
    part = {"check": "streams", "backend": "loop", "dtype": "exact", "what": "", "arguments": {}}
    replay = {"check": "streams", "arguments": {}, "part": {**part, **changes.pop("part", {})}}
    return Report("streams", False, {}, replay={**replay, **changes}).to_json()


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "[]",
        Report("streams", True, {}).to_json(),
        Report("streams", False, {}).to_json(),
        saved(part={"check": "os.system"}),
        saved(part={"more": 1}),
        saved(part={"backend": 3}),
        saved(arguments=None),
    ],
    ids=range(8),
)
def test_what_cannot_be_replayed_is_refused(text):
    with pytest.raises(DataError):
        run(text)

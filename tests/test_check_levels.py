"""Levels: what they hold, that neither workers nor a stop change a report, and who can be checked."""

import json
from dataclasses import replace

import array_api_compat.numpy as npx
import numpy as np
import pytest

import dspec
from dspec.engine import Engine
from dspec.errors import ConfigError, DataError
from dspec.testing.adapters import from_callable
from dspec.testing.entries import CHECKS
from dspec.testing.kept import KeptParts
from dspec.testing.levels import FULL, LEVELS, NIGHTLY, SMOKE, level_named
from dspec.testing.models.table_engine import table_engine
from dspec.testing.models.worlds import make_worlds
from dspec.testing.plan import STATISTICAL, Part, plan
from dspec.testing.report import Report, merge
from dspec.testing.run import check_subject, run_part, run_parts
from tests.small_engines import small_engine
from tests.verifiers import core_verify

# As SMOKE, but seconds: what is tested here is how parts are put together.
TINY = replace(
    SMOKE, worlds=2, instances=1, coupled_rows=50, wide_rows=1, pair_rows=100, draws=50, independent=20,
    steps=5, cases=2, longest=2,
)  # fmt: skip
CHEAP = ("streams", "rollback", "greedy", "stop_rules")


def cheap_parts():
    return [part for part in plan(TINY, ["numpy"]) if part.check in CHEAP]


@pytest.mark.clause("RS-20")
def test_the_nightly_level_is_what_the_issue_asks_for_and_full_a_fifth():
    assert (NIGHTLY.worlds, NIGHTLY.instances, NIGHTLY.pair_rows) == (500, 1000, 10_000_000)
    for name in ("worlds", "instances", "pair_rows"):
        assert getattr(FULL, name) * 5 == getattr(NIGHTLY, name)
    for low, high in ((SMOKE, FULL), (FULL, NIGHTLY)):
        assert all(value < getattr(high, name) for name, value in vars(low).items() if name != "name")


@pytest.mark.clause("RS-20")
@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_chunks_make_up_the_level_and_no_two_try_the_same(level):
    parts = plan(level, ["numpy", "cpu", "mlx"])
    assert len({part.key for part in parts}) == len(parts)
    counts = {}
    for part in parts:
        kind = (part.check, part.subject)
        counts[kind] = counts.get(kind, 0) + part.arguments.get("rows", part.arguments.get("count", 0))
    trees = ("tree 2", "tree 5", "sampled tree 2", "sampled tree 5")
    for policy in ("greedy", "one_hot", "rejection", "sample_match", "sampled_match", *trees):
        assert counts["exact_law", f"loop exact {policy}"] == level.worlds
    for backend in ("numpy", "cpu", "mlx"):
        for dtype in ("float32", "bfloat16", "float16"):
            for mode in ("rejection", "one_hot", "match"):
                assert counts["lattice", f"{backend} {dtype} {mode}"] == level.instances
        for kind in ("alike", "apart", "one_hot"):
            assert counts["several", f"{backend} float32 {kind}"] == level.instances
            assert counts["several_coupling", f"{backend} float32 {kind}"] == level.coupled_rows // 4
        assert {("several", f"{backend} {dtype} alike") for dtype in ("bfloat16", "float16")} <= counts.keys()
    assert counts["coupled_arrays", "cpu float32 rejection"] == level.pair_rows
    assert ("coupled_arrays", "numpy float32 rejection") not in counts, "numpy against numpy shows nothing"


@pytest.mark.clause("RS-20")
@pytest.mark.parametrize("backends", [["numpy"], ["numpy", "cpu", "mlx"]])
def test_all_statistical_parts_together_fail_a_right_library_less_than_once_in_a_billion(backends):
    for level in LEVELS.values():
        parts = plan(level, backends)
        alphas = [part.arguments["alpha"] for part in parts if part.check in ("distribution", "independence")]
        assert len(alphas) == 16 * len(backends) and 8e-10 < sum(alphas) < 1e-9
        assert not any(
            "alpha" in p.arguments for p in parts if p.check not in ("distribution", "independence")
        )


def test_a_report_states_the_alpha_that_its_parts_were_given():
    parts = [part for part in plan(TINY, ["numpy"]) if part.check in STATISTICAL]
    report = run_parts(parts)
    assert report.passed, report
    assert report.alpha == pytest.approx(9e-10, rel=1e-9) and report.delta is not None


def test_the_number_of_workers_changes_nothing():
    parts = cheap_parts()
    seen = []
    alone = run_parts(parts)
    split = run_parts(parts, workers=2, watch=lambda part, report: seen.append(part))
    assert alone.passed and alone.to_json() == split.to_json()
    assert sorted(part.key for part in seen) == sorted(part.key for part in parts)


def test_a_run_that_was_stopped_goes_on_where_it_stopped(tmp_path, monkeypatch):
    parts = cheap_parts()
    ran = []

    def stopping(part, report):
        ran.append(part)
        if len(ran) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_parts(parts, folder=tmp_path, watch=stopping)
    calls = []
    monkeypatch.setattr("dspec.testing.run.run_part", lambda part: calls.append(part) or run_part(part))
    report = run_parts(parts, folder=tmp_path)
    assert calls == parts[3:], "three are done"
    assert report.to_json() == run_parts(parts, folder=tmp_path).to_json() and len(calls) == len(parts) - 3
    assert report.to_json() == run_parts(parts).to_json()


@pytest.mark.parametrize("fault", ["half a file", "other code", "no report", "a list"])
def test_what_a_folder_holds_is_not_believed_blindly(tmp_path, fault):
    part = cheap_parts()[0]
    kept = KeptParts(tmp_path)
    kept.write(part, Report("streams", True, {"keys": 1}))
    assert kept.read(part) == Report("streams", True, {"keys": 1})
    path = tmp_path / f"{part.key}.json"
    text = path.read_text()
    other = json.dumps({**json.loads(text), "code": "x"})
    bare = json.dumps({"code": json.loads(text)["code"], "report": {"check": 3}})
    path.write_text({"half a file": text[:40], "other code": other, "no report": bare, "a list": "[]"}[fault])
    assert kept.read(part) is None


def test_a_failure_in_any_chunk_fails_the_check_and_keeps_its_counterexample(monkeypatch):
    parts = [Part("lattice", "numpy", "float32", "match", {"n": n}) for n in range(3)]

    def entry(bench, given, only):
        bad = given["n"] == 1
        return Report("lattice", not bad, {"rows": 2}, counterexample={"n": 1} if bad else None)

    monkeypatch.setitem(CHECKS, "lattice", entry)
    report = run_parts(parts)
    (leaf,) = report.parts
    assert report.status == leaf.status == "FAILED" and leaf.tried == {"rows": 6}
    assert report.counterexample["n"] == 1 and report.counterexample["subject"] == "numpy float32 match"
    assert report.replay["part"]["arguments"] == {"n": 1}


def test_what_a_backend_lacks_is_not_run_and_never_counts_as_passed():
    part = Part("lattice", "numpy", "bfloat16", "match", {"mode": "match", "dtype": "bfloat16", "count": 1})
    report = run_part(part)
    assert report.status == "not run here" and "bfloat16" in str(report)
    assert merge("all", [report]).status == "not run here"
    assert merge("all", [report, Report("x", True, {})]).status == "passed"
    assert merge("all", [report, Report("x", False, {})]).status == "FAILED"
    assert merge("none", []).status == "not run here"


def test_levels_have_names():
    assert level_named("full") is FULL and level_named(TINY) is TINY
    with pytest.raises(ConfigError, match=r"level: got 'deep'; needs one of smoke, full, nightly"):
        level_named("deep")


def test_reports_survive_the_file():
    part = Report("a", False, {"rows": 3}, alpha=1e-9, beta=1e-6, delta=0.25, clauses=("RS-9", "RS-10"),
                  subject="numpy float32", counterexample={"law": [1, 2]}, replay={"check": "a"})  # fmt: skip
    whole = merge("both", [part, Report("b", True, {}, not_run="no such dtype")])
    again = Report.from_json(whole.to_json())
    assert again.to_json() == whole.to_json() and again.parts[0] == part
    assert again.clauses == ("RS-9", "RS-10")


NO_REPORTS = [
    "",
    "[]",
    "{}",
    '{"check": "a", "passed": 1, "tried": {}}',
    '{"check": "a", "passed": true, "tried": {"a": "b"}}',
    '{"check": "a", "passed": true, "tried": {}, "more": 1}',
    '{"check": "a", "passed": true, "tried": {}, "clauses": ["x"]}',
    "[" * 100_000,
]


@pytest.mark.parametrize("text", NO_REPORTS, ids=range(len(NO_REPORTS)))
def test_what_is_no_report_is_refused(text):
    with pytest.raises(DataError):
        Report.from_json(text)


@pytest.mark.clause("RS-20")
@pytest.mark.parametrize("mode", ["rejection", "one_hot"])
def test_a_verifier_function_passes_and_a_biased_one_fails(mode):
    right = core_verify(npx, mode)
    adapter = from_callable(right, name="mine", mode=mode)
    report = check_subject(adapter, level=TINY)
    assert report.status == "passed", report
    assert {leaf.subject.split()[0] for leaf in report.leaves()} == {"mine"}
    assert {"lattice", "boundaries", "coupling"} == {leaf.check for leaf in report.leaves()}

    def lenient(target, drafts, laws, accept, close):
        return right(target, drafts, laws, accept / 2, close)

    report = check_subject(from_callable(lenient, mode=mode), level=TINY)
    assert report.status == "FAILED" and report.replay is not None


def test_a_plain_function_is_a_verifier_and_a_thing_is_nothing():
    assert check_subject(core_verify(npx, "rejection"), level=TINY).passed
    with pytest.raises(ConfigError, match="subject: got a int"):
        dspec.check_exactness(3)


def test_a_generator_is_judged_by_the_law_it_should_have():
    def coin(weights):
        return lambda n, seed: np.random.default_rng(seed).choice(2, n, p=weights).tolist()

    level = replace(TINY, draws=4000)
    law = {0: 0.5, 1: 0.5}
    assert check_subject(from_callable(coin([0.5, 0.5]), law=law), level=level).passed
    report = check_subject(from_callable(coin([0.7, 0.3]), law=law), level=level)
    assert not report.passed and report.alpha < 1e-9


def test_an_engine_is_checked_by_its_own_sessions_and_outputs():
    engine = small_engine()
    report = check_subject(engine, level=TINY)
    assert report.status == "passed", report
    assert {"lattice", "honesty", "isolation", "rollback", "distribution"} <= {
        r.check for r in report.leaves()
    }

    class Forgets(type(engine.target)):
        def session(self, **options):
            session = super().session(**options)
            session.rewind = lambda length: None
            return session

    broken = Engine(Forgets(engine.target.table, engine.target.eos_ids), engine.drafter, engine.ops)
    report = check_subject(broken, level=replace(TINY, steps=30))
    assert "rollback" in {leaf.check for leaf in report.leaves() if leaf.status == "FAILED"}


def test_a_table_engine_refuses_a_world_that_no_table_holds():
    with pytest.raises(ConfigError, match=r"world\.reach: got 2"):
        table_engine(make_worlds(1, seed=0, reach=2)[0])

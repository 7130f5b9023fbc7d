"""Parts of a level on trees and batches: passed where they can run, failed by a fault of just these."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from dspec.backends import table_batch
from dspec.backends.batch_judge import BatchJudge
from dspec.backends.registry import open_ops
from dspec.core.types import Scores
from dspec.engine import Engine
from dspec.testing.levels import SMOKE
from dspec.testing.models.symbolic_sampled import ExactSampledJudge, sampled_tree_sampler
from dspec.testing.models.symbolic_trees import ExactTreeJudge, tree_sampler
from dspec.testing.models.table_engine import table_engine
from dspec.testing.models.worlds import make_worlds
from dspec.testing.plan import Part, plan, share_alpha
from dspec.testing.run import bench_of, run_part, subject_parts
from tests import tiny_models
from tests.rooms import DEVICES, ROOMS, of_rooms
from tests.small_engines import small_engine
from tests.tiny_drafters import config_for, fresh

TINY = replace(SMOKE, draws=50)


@pytest.mark.clause("RS-23", "RS-24")
@pytest.mark.parametrize("what", ["tree 5", "sampled tree 5"])
def test_trees_are_checked_where_they_can_be_and_not_run_elsewhere(what):
    """The first engine drafts token after token; the other one's target draws its nodes by a wrong law."""

    def trees(engine):
        bench = bench_of(engine)
        parts = share_alpha(list(subject_parts(bench, TINY, seed=0)))
        (part,) = [part for part in parts if part.what == what]
        return run_part(part, bench)

    chained = trees(small_engine())
    assert chained.status == "not run here" and "slot by slot" in chained.not_run
    world = make_worlds(1, seed=3)[0]
    plain = table_engine(world, open_ops("numpy"))
    assert trees(plain).status == "passed"

    class Shifted(type(plain.target)):
        def session(self, **options):
            session = super().session(**options)
            read = session.score_tree
            session.score_tree = lambda anchor, tree: Scores(np.roll(read(anchor, tree).logits, 1, axis=1))
            return session

    broken = Engine(Shifted(plain.target.inner, plain.ops), plain.drafter, plain.ops)
    assert trees(broken).status == "FAILED"


@pytest.mark.clause("RS-23", "DL-11")
def test_trees_of_every_framework_are_checked(room, monkeypatch):
    """They run there; a target that draws its nodes by a neighbour's law is seen."""
    target = tiny_models.opened("qwen3", room)
    bench = bench_of(Engine(target, fresh(room, config_for(target)), room.operations))
    parts = share_alpha(list(subject_parts(bench, TINY, seed=0)))
    (part,) = [part for part in parts if part.what == "tree 5"]
    assert run_part(part, bench).status == "passed"
    session = room.target_session.TargetSession
    read = session.score_tree

    def shifted(self, anchor, tree):
        logits = room.numpy(read(self, anchor, tree).logits)
        return replace(read(self, anchor, tree), logits=room.array(np.roll(logits, 1, axis=1)))

    monkeypatch.setattr(session, "score_tree", shifted)
    assert run_part(part, bench).status == "FAILED"


@pytest.mark.clause("RS-23")
@pytest.mark.parametrize("budget", [2, 5])
def test_the_part_of_trees_fails_a_wrong_pass(monkeypatch, budget):
    given = {"policy": f"tree {budget}", "count": 9, "seed": 1}
    part = Part("exact_law", "loop", "exact", f"tree {budget}", given)
    report = run_part(part)
    assert report.passed and "RS-23" in report.clauses and "RS-4" not in report.clauses
    monkeypatch.setattr(
        "dspec.testing.entries.tree_sampler", lambda budget: tree_sampler(budget, judge=NeighboursLaw)
    )
    report = run_part(part)
    assert not report.passed and not run_part(part, only=report.replay["arguments"]).passed


@pytest.mark.clause("RS-24")
@pytest.mark.parametrize("budget", [2, 5])
def test_the_part_of_sampled_trees_fails_a_wrong_pass(monkeypatch, budget):
    given = {"policy": f"sampled tree {budget}", "count": 9, "seed": 1}
    part = Part("exact_law", "loop", "exact", f"sampled tree {budget}", given)
    report = run_part(part)
    assert report.passed and {"RS-4", "RS-22", "RS-24"} <= set(report.clauses)
    monkeypatch.setattr(
        "dspec.testing.entries.sampled_tree_sampler",
        lambda budget: sampled_tree_sampler(budget, judge=FlatLaws),
    )
    report = run_part(part)
    assert not report.passed and not run_part(part, only=report.replay["arguments"]).passed


class FlatLaws(ExactSampledJudge):
    """Wrong: drafts are judged as if all tokens had been equally likely."""

    def children(self, law, raw, nodes, uniforms):
        tokens, laws = super().children(law, raw, nodes, uniforms)
        return tokens, [[Fraction(1, len(law))] * len(law) for _ in laws]


class NeighboursLaw(ExactTreeJudge):
    """Wrong: a node draws by the law after the node before it."""

    def drawn(self, scores, tree, position):
        return super().drawn(Scores([scores.logits[0], *scores.logits[:-1]]), tree, position)


@pytest.mark.clause("DL-12")
@pytest.mark.parametrize("form", ["batched", "side by side", "own lengths"])
@pytest.mark.parametrize("backend", of_rooms(["numpy", *ROOMS]))
def test_batches_are_held_against_requests_alone(monkeypatch, backend, form):
    """The fault is one of rows: requests one after another do not have it."""
    parts = plan(TINY, [DEVICES.get(backend, backend)])
    forms = {part.what: part for part in parts if part.check == "isolation"}
    report = run_part(forms[form])
    assert report.passed and "DL-12" in report.clauses, report
    plain = table_batch.TableTargetBatch.rewind
    monkeypatch.setattr(
        table_batch.TableTargetBatch, "rewind", lambda self, lengths: plain(self, list(lengths)[::-1])
    )
    assert not run_part(forms[form]).passed
    for other in ("listed", "interleaved"):
        assert run_part(forms[other]).passed, "one after another"


@pytest.mark.clause("DL-13", "DL-12")
def test_a_row_cut_to_its_neighbours_length_is_seen_by_own_lengths_alone(monkeypatch):
    forms = {part.what: part for part in plan(TINY, ["numpy"]) if part.check == "isolation"}
    plain = BatchJudge.opened
    monkeypatch.setattr(
        BatchJudge, "opened", lambda self, who, at, ks: plain(self, who, at, [*ks[1:], ks[0]])
    )
    seen = {form for form, part in forms.items() if not run_part(part).passed}
    assert "own lengths" in seen and not seen & {"listed", "interleaved"}

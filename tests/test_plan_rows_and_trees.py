"""Plans of batches and of trees: prediction on invented times, measurement, and the command line."""

import json
from dataclasses import replace
from itertools import count

import pytest
from matplotlib.image import imread

from dspec import cli_plan
from dspec.backends.numpy import NumpyOps, TableDrafter, TableTarget
from dspec.cli_plan_options import read_plan_options, read_sizes
from dspec.engine import Engine
from dspec.errors import ConfigError
from dspec.evaluation.batch_plan import BatchPlan
from dspec.evaluation.pass_times import decode_rate, measure_passes, measure_plan
from dspec.evaluation.plan_picture import draw_plan
from dspec.evaluation.roofline import PassTimes, make_plan
from dspec.evaluation.scripted import Scripted
from dspec.evaluation.suites import Suite
from dspec.evaluation.tree_plan import TreeTimes, plan_trees
from dspec.evaluation.tree_times import measure_tree_plan, measure_trees
from dspec.plan_display import describe_batches, describe_trees
from tests.test_cli import run
from tests.test_roofline import CYCLE, DRAFTER, TARGET, table_engine


def invented(rows, *, verify, draft=0.5):
    """Times of a machine that is bound by weights at one row, and by arithmetic at many."""
    rest = dict.fromkeys(verify, 0.0)
    return PassTimes(context=9, verify=verify, rest=rest, draft=draft, rows=rows)


ROWS = {
    1: invented(1, verify={1: 2.0, 2: 2.0, 4: 2.0, 8: 2.5}),
    4: invented(4, verify={1: 2.0, 2: 2.1, 4: 2.4, 8: 5.0}),
    16: invented(16, verify={1: 2.5, 2: 5.0, 4: 10.0, 8: 20.0}),
}
TREES = TreeTimes(
    context=9,
    verify={4: 2.0, 8: 2.2, 16: 4.0},
    draft=dict.fromkeys((4, 8, 16), 0.5),
    rest={4: 0, 8: 0, 16: 0.5},
)


def batch_plan(acceptance, sizes=tuple(ROWS)):
    return BatchPlan(plans=tuple(make_plan(ROWS[n], [acceptance], block_sizes=[2, 4, 8]) for n in sizes))


def test_a_rate_of_rows_is_that_of_all_of_them():
    plan = make_plan(ROWS[4], [0.5], block_sizes=[2, 4])
    assert plan.autoregressive == 4 / 2.0
    assert plan.forecasts[0].predicted == pytest.approx(4 * 1.5 / 2.6)
    assert plan.forecasts[1].predicted == pytest.approx(4 * 1.875 / 2.9)
    assert plan.break_even(4) == pytest.approx(2.9 / 2.0), "a tau of one row, whatever their number"
    assert make_plan(ROWS[4], [1.0], block_sizes=[4]).as_dict()["times"]["rows"] == 4


def test_as_batches_grow_the_best_block_shrinks_and_speculation_stops_to_pay():
    found = batch_plan(0.8)
    assert [plan.best.block_size for plan in found.plans] == [8, 4, 2]
    assert [plan.pays for plan in found.plans] == [True, True, False]
    assert found.stops_at == 16
    assert describe_batches(found) == "It pays with up to 4 requests side by side, and no more with 16."
    assert batch_plan(0.8, [1, 4]).stops_at is None
    assert describe_batches(batch_plan(0.8, [1, 4])).startswith("It still pays with 4 requests side by side")
    assert batch_plan(0.0).stops_at == 1, "not even alone"
    assert describe_batches(batch_plan(0.0)) == "It pays at no batch size planned."


def test_a_batch_size_that_does_not_pay_between_two_that_do_is_no_end():
    first, last = batch_plan(0.8, [1, 4]).plans
    middle = make_plan(replace(ROWS[4], rows=2, draft=9.0), [0.8], block_sizes=[4])
    assert not middle.pays and BatchPlan(plans=(first, middle, last)).stops_at is None
    assert BatchPlan(plans=(first, middle, *batch_plan(0.0, [4]).plans)).stops_at == 2


def test_a_trees_rate_is_its_tau_over_its_pass():
    trees = plan_trees(TREES, {16: 2.6, 4: 1.8, 8: 2.2}, measured={4: 1.0, 8: 2.0, 16: 3.0})
    assert [f.budget for f in trees.forecasts] == [4, 8, 16]
    assert [f.predicted for f in trees.forecasts] == pytest.approx([1.8 / 2.5, 2.2 / 2.7, 2.6 / 5.0])
    assert trees.best.budget == 8 and trees.best.measured == 2.0
    assert trees.as_dict()["best_budget"] == 8
    plan = make_plan(ROWS[1], [0.5], block_sizes=[4])  # 1.875 tokens in 2.5 s; without drafts one in 2 s
    said = "The best tree has 8 nodes: 1.09 x blocks of 4, 1.63 x one token a pass."
    assert describe_trees(trees, plan) == said


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(ROWS[1], rows=0), "rows: got 0"),
        (lambda: BatchPlan(plans=()), "batch sizes: got"),
        (lambda: batch_plan(0.5, [4, 1]), "batch sizes: got"),
        (lambda: plan_trees(TREES, {4: 2.0}), r"taus: got budgets \[4\]"),
        (lambda: plan_trees(TREES, {4: 0.5, 8: 2.0, 16: 2.0}), "taus: got"),
        (lambda: replace(TREES, rest={4: 0.0}), "verify, draft, rest: got"),
        (lambda: replace(TREES, draft={4: 0.0, 8: float("nan"), 16: 0.0}), "seconds: got nan"),
        (lambda: measure_trees(table_engine(drafter=False), [0], budgets=[4]), "trees: got no drafter"),
        (lambda: measure_trees(table_engine(), [0], budgets=[0]), "budget: got 0"),
        (lambda: measure_passes(table_engine(), [0], rows=0), "pass times: got"),
        (lambda: measure_passes(rowless(), [0], rows=2), "batch size: got 2"),
        (lambda: read_sizes("--budgets", "4;8"), "--budgets: got '4;8'"),
        (lambda: read_sizes("--budgets", "4,0"), "--budgets: got"),
        (lambda: read_sizes("--budgets", "5000"), "--budgets: got"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_options_of_a_plan_need_one():
    with pytest.raises(ConfigError, match="--batch-sizes: got '2'; needs --plan"):
        read_plan_options(False, acceptance=None, batch_sizes="2", budgets=None)


class Rowless:
    """A target whose method `batch` says that it has none."""

    def __init__(self):
        self._inside = TableTarget(CYCLE)

    def __getattr__(self, name):
        return getattr(self._inside, name)

    def batch(self, **_):
        return None


def rowless():
    return replace(table_engine(drafter=False), target=Rowless())


def test_times_of_rows_are_those_of_the_clock():
    """A clock that ticks once a reading: three readings a pass of all rows, two a proposal."""
    ticks = count()
    clock = {"clock": lambda: float(next(ticks))}
    times = measure_passes(table_engine(), [0, 1], new_tokens=[4], rows=3, **clock)
    assert times.verify == times.rest == {1: 1.0, 3: 1.0, 4: 1.0} and times.draft == 1.0
    assert times.rows == 3


def test_times_of_trees_are_those_of_the_clock():
    ticks = count()
    clock = {"clock": lambda: float(next(ticks))}
    times = measure_trees(table_engine(), [0, 1], budgets=[8, 4], **clock)
    assert times.verify == times.draft == times.rest == {4: 1.0, 8: 1.0} and times.context == 2


@pytest.mark.parametrize("inside", [False, True])
def test_rows_of_scripted_drafts_give_the_tau_they_were_told_and_change_no_token(inside):
    alone = table_engine(drafter=False)
    known = [0, *alone.generate([0], max_new_tokens=60).tokens]
    drafter = table_engine().drafter if inside else None
    scripted = Scripted(drafter, known, tau=2.5, n_slots=3, ops=alone.ops)
    found = decode_rate(replace(alone, drafter=scripted), [0], max_new_tokens=31, rows=3)
    assert found["tau"] == 2.5 and [0, *found["tokens"]] == known[:32]
    assert scripted.fits_rows
    assert not Scripted(table_engine().drafter, known, tau=3.5, n_slots=3, ops=alone.ops).fits_rows


def test_a_rate_of_rows_counts_all_of_them():
    ticks = count()
    engine, clock = table_engine(drafter=False), lambda: float(next(ticks))
    found = decode_rate(engine, [0], max_new_tokens=11, rows=4, clock=clock)
    assert found["rate"] == 40.0 and len(found["tokens"]) == 11, "10 passes of 4 rows in one tick"


@pytest.mark.parametrize("drafter", [True, False])
def test_a_measured_plan_of_rows_has_the_predicted_tau(drafter, tmp_path):
    engine = table_engine(drafter)
    plans = []
    for rows in (1, 2):
        plan = make_plan(measure_passes(engine, [0, 1, 2], rows=rows), [0.8, 0.5], block_sizes=[2, 4])
        plans.append(measure_plan(engine, plan, [0, 1], max_new_tokens=41, repetitions=1))
    for plan in plans:
        assert plan.measured_autoregressive > 0
        assert all(f.measured > 0 and f.measured_tau == pytest.approx(f.tau, abs=0.1) for f in plan.forecasts)
    trees = plan_trees(TREES, {4: 1.5, 8: 2.0, 16: 2.5}, measured={4: 1.0, 8: 2.0, 16: 3.0})
    kinds = {"two": {}, "three": {"batches": BatchPlan(plans=tuple(plans)), "trees": trees}}
    for name, more in kinds.items():
        draw_plan(tmp_path / f"{name}.png", plans[0], title="a title", **more)
    assert imread(tmp_path / "three.png").shape[1] > imread(tmp_path / "two.png").shape[1]


def test_taus_of_trees_are_those_of_decoding():
    """The drafter's laws are even, so that every token has a node: 4 first tokens, then 16 pairs."""
    engine = table_engine()
    trees = measure_tree_plan(
        engine, measure_trees(engine, [0], budgets=[4, 20]), Suite("mine", ([0], [1, 2])), max_new_tokens=31
    )
    assert {f.budget: f.tau for f in trees.forecasts} == {4: 2.0, 20: 3.0}
    assert all(f.measured > 0 for f in trees.forecasts) and trees.measured_block > 0


def test_batches_and_trees_on_the_command_line(capsys, tmp_path, room):
    (tmp_path / "suite.jsonl").write_text('{"tokens": [101, 101, 100]}\n{"tokens": [60, 61]}\n')
    words = ("bench", TARGET, DRAFTER, "--plan", "--suite", tmp_path / "suite.jsonl", "--context", 12)
    words += ("--max-new-tokens", 8, "--backend", room.device, "--output", tmp_path / "out")
    status, out, _ = run(capsys, *words, "--json", "--batch-sizes", "1,2", "--budgets", 4)
    found = json.loads(out)
    assert status == 0 and found == json.loads((tmp_path / "out" / "plan.json").read_text())
    one, two = found["batches"]["plans"]
    assert (one["times"]["rows"], two["times"]["rows"]) == (1, 2) and one["forecasts"] == found["forecasts"]
    assert two["measured_autoregressive"] > 0 and two["forecasts"][0]["measured"] > 0
    (tree,) = found["trees"]["forecasts"]
    assert tree["budget"] == 4 and tree["tau"] >= 1 and tree["measured"] > 0 and found["notes"] == []
    assert found["trees"]["times"]["verify"]["4"] > 0 and found["trees"]["best_budget"] == 4
    assert (tmp_path / "out" / "plan.png").stat().st_size > 10_000


def test_what_models_cannot_do_is_said_in_a_line(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(cli_plan, "describe_device", lambda *_, **__: "a table")
    (tmp_path / "suite.jsonl").write_text('{"tokens": [0, 1]}\n')
    settings = {"backend": "cpu", "acceptance": (0.5,), "context": 4, "max_new_tokens": 4}
    more = {"batch_sizes": (2,), "budgets": (4,)}
    found = cli_plan.show_plan(rowless(), str(tmp_path / "suite.jsonl"), **settings, **more)
    out = capsys.readouterr().out
    assert "Planned for one request alone: the target has no batches." in out
    assert "No trees: their tau does not follow from an acceptance" in out
    assert len(found["batches"]["plans"]) == 1 and len(found["notes"]) == 2


def test_a_drafter_that_goes_slot_by_slot_has_no_trees(tmp_path, monkeypatch):
    monkeypatch.setattr(cli_plan, "describe_device", lambda *_, **__: "a table")
    (tmp_path / "suite.jsonl").write_text('{"tokens": [0, 1]}\n')
    drafter = TableDrafter(table_engine().drafter.table, autoregressive=True)
    engine = Engine(TableTarget(CYCLE), drafter, NumpyOps())
    settings = {"backend": "cpu", "acceptance": (0.5,), "context": 4, "max_new_tokens": 4, "quiet": True}
    found = cli_plan.show_plan(engine, str(tmp_path / "suite.jsonl"), **settings, budgets=(4,))
    assert found["trees"] is None and "slot by slot" in found["notes"][0]

"""Prediction on invented times, scripted acceptance, measured passes, and `dspec bench --plan`."""

import json
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from dspec.backends.numpy import NumpyOps, TableDrafter, TableTarget
from dspec.cli_plan_options import read_acceptance
from dspec.core.stats import Stats
from dspec.engine import Engine
from dspec.errors import ConfigError
from dspec.evaluation.pass_times import decode_rate, measure_passes, measure_plan
from dspec.evaluation.plan_picture import draw_plan
from dspec.evaluation.roofline import PassTimes, expected_tau, make_plan
from dspec.evaluation.scripted import Scripted
from dspec.plan_display import describe_plan
from tests.test_cli import run

GOLDEN = Path(__file__).parent / "golden" / "dflash_tiny"
TARGET, DRAFTER = str(GOLDEN / "target"), str(GOLDEN / "drafter")
CYCLE = np.eye(4)[[1, 2, 3, 0]][None]  # after token a comes a + 1 mod 4, surely
TIMES = PassTimes(context=100, verify={1: 2.0, 4: 2.5, 8: 4.0}, rest={1: 0.0, 4: 0.5, 8: 0.5}, draft=1.0)


def table_engine(drafter=True):
    drafts = TableDrafter(np.full((2, 4, 4), 0.25)) if drafter else None
    return Engine(TableTarget(CYCLE), drafts, NumpyOps())


@pytest.mark.clause("DL-2")
def test_tau_is_one_and_the_chance_of_each_slot():
    assert expected_tau([0.9, 0.5, 0.2], 3) == pytest.approx(1 + 0.9 + 0.45 + 0.09)
    assert expected_tau([0.5], 50) == pytest.approx(2.0), "the geometric law"
    assert expected_tau([0.0], 7) == 1.0 and expected_tau([1.0], 7) == 8.0
    stats = Stats(n_accepted=(3, 0, 1, 3), n_drafted=(3,) * 4, n_tokens=11)
    assert expected_tau(stats.alpha, 3) == pytest.approx(stats.tau), "measured acceptance gives measured tau"


def test_a_rate_is_tau_over_the_three_times():
    plan = make_plan(TIMES, [0.5], block_sizes=[8, 4])
    assert [f.block_size for f in plan.forecasts] == [4, 8]
    assert plan.forecasts[0].predicted == pytest.approx(1.875 / (2.5 + 1.0 + 0.5))
    assert plan.forecasts[1].predicted == pytest.approx(1.9921875 / (4.0 + 1.0 + 0.5))
    assert plan.autoregressive == 0.5 and plan.best.block_size == 4
    assert not plan.pays, "1.875 tokens in 4 s against one in 2 s"
    assert plan.break_even(4) == pytest.approx(2.0)
    said = "Speculation does not pay here: the best block size, 4, is predicted at 0.94 x one token a pass. "
    assert describe_plan(plan) == said + "It would need tau above 2.00; it has 1.88."
    barely = make_plan(TIMES, [0.6], block_sizes=[4])
    assert barely.pays and barely.best.tau > 2.0
    assert describe_plan(barely) == "Speculation pays: blocks of 4, 1.09 x one token a pass."
    assert barely.speedup(barely.best) == pytest.approx(barely.best.tau / 2.0)


def test_between_measured_sizes_times_lie_on_straight_lines():
    assert TIMES.at(6) == (3.25, 0.5)
    assert TIMES.at(4) == (2.5, 0.5)
    with pytest.raises(ConfigError, match=r"block size: got 9; needs between 1 and 8"):
        make_plan(TIMES, [0.5], block_sizes=[9])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_plan(TIMES, [], block_sizes=[4]), "acceptance: got"),
        (lambda: make_plan(TIMES, [1.2], block_sizes=[4]), "acceptance: got"),
        (lambda: make_plan(TIMES, [float("nan")], block_sizes=[4]), "acceptance: got"),
        (lambda: make_plan(TIMES, [0.5], block_sizes=[1]), "block sizes: got"),
        (lambda: make_plan(TIMES, [0.5], block_sizes=[]), "block sizes: got"),
        (lambda: replace(TIMES, rest={1: 0.0}), "verify, rest: got"),
        (lambda: replace(TIMES, verify={4: 1.0}, rest={4: 1.0}), "verify, rest: got"),
        (lambda: replace(TIMES, draft=float("nan")), "seconds: got nan"),
        (lambda: measure_passes(table_engine(), [0], repetitions=0), "pass times: got 0 repetitions"),
        (lambda: decode_rate(table_engine(), [0], max_new_tokens=1), "max_new_tokens: got 1"),
        (lambda: Scripted(None, [0], tau=4.5, n_slots=3, ops=NumpyOps()), "tau: got 4.5"),
        (lambda: read_acceptance("0.5;0.4"), "--acceptance: got"),
        (lambda: read_acceptance("0.5,-0.4"), "--acceptance: got"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("tau", [1.0, 2.25, 3.5, 4.0])
@pytest.mark.parametrize("inside", [False, True])
def test_scripted_drafts_give_the_tau_they_were_told_and_change_no_token(tau, inside):
    alone = table_engine(drafter=False)
    known = [0, *alone.generate([0], max_new_tokens=60).tokens]
    drafter = table_engine().drafter if inside else None
    engine = replace(alone, drafter=Scripted(drafter, known, tau=tau, n_slots=3, ops=alone.ops))
    found = decode_rate(engine, [0], max_new_tokens=1 + round(12 * tau))
    assert found["tau"] == tau
    assert [0, *found["tokens"]] == known[: 2 + round(12 * tau)]


def test_times_are_those_of_the_clock():
    """A clock that ticks once a reading: three readings a pass, two a proposal."""
    ticks = count()
    times = measure_passes(table_engine(), [0, 1], new_tokens=[1, 4], clock=lambda: float(next(ticks)))
    assert times.verify == times.rest == {1: 1.0, 3: 1.0, 4: 1.0}, "3 is the drafter's own block"
    assert times.draft == 1.0 and times.context == 2
    assert measure_passes(table_engine(drafter=False), [0], new_tokens=[2]).draft == 0.0


@pytest.mark.parametrize("drafter", [True, False])
def test_a_measured_plan_has_every_speed_and_the_predicted_tau(drafter, tmp_path):
    engine = table_engine(drafter)
    plan = make_plan(measure_passes(engine, [0, 1, 2]), [0.8, 0.5], block_sizes=[2, 4, 8])
    measured = measure_plan(engine, plan, [0, 1], max_new_tokens=41, repetitions=1)
    assert measured.measured_autoregressive > 0
    for forecast in measured.forecasts:
        assert forecast.measured > 0
        assert forecast.measured_tau == pytest.approx(forecast.tau, abs=0.1)
    draw_plan(tmp_path / "deep" / "plan.png", measured, title="a title", note="a note")
    assert imread(tmp_path / "deep" / "plan.png").std() > 0.01


def test_plan_on_the_command_line(capsys, tmp_path, room):
    (tmp_path / "suite.jsonl").write_text('{"tokens": [101, 101, 100]}\n{"tokens": [60, 61]}\n')
    words = ("bench", TARGET, DRAFTER, "--plan", "--suite", tmp_path / "suite.jsonl", "--context", 12)
    words += ("--max-new-tokens", 8, "--backend", room.device, "--output", tmp_path / "out")
    status, out, _ = run(capsys, *words, "--json")
    found = json.loads(out)
    assert status == 0 and found == json.loads((tmp_path / "out" / "plan.json").read_text())
    assert (tmp_path / "out" / "plan.png").stat().st_size > 10_000
    assert found["times"]["context"] == 12 and found["times"]["draft"] > 0
    assert {"1", "2", "4", "8", "16", "32"} <= set(found["times"]["verify"])
    assert all(line["measured"] > 0 for line in found["forecasts"])
    assert found["pays"] == (max(line["speedup"] for line in found["forecasts"]) > 1)
    assert found["machine"]["device"] and 0 <= found["acceptance"][0] <= 1
    assert not (tmp_path / "out" / "bench.json").exists()


def test_a_plan_without_a_drafter_needs_an_acceptance(capsys, tmp_path):
    (tmp_path / "suite.jsonl").write_text('{"tokens": [101, 101, 100]}\n')
    words = ("bench", TARGET, "--plan", "--suite", tmp_path / "suite.jsonl", "--context", 8)
    status, out, _ = run(capsys, *words, "--max-new-tokens", 4, "--acceptance", "0.01")
    assert status == 0 and "\nSpeculation " in out and "predicted" in out
    status, _, err = run(capsys, *words)
    assert status == 2 and "--plan: got no drafter" in err
    status, _, err = run(capsys, *words, "--acceptance", "x")
    assert status == 2 and "--acceptance: got 'x'" in err
    status, _, err = run(capsys, *(word for word in words if word != "--plan"), "--acceptance", "0.5")
    assert status == 2 and "--plan beside it" in err

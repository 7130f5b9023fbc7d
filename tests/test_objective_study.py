"""The study of objectives: what its file may say, what it runs again, its statistics against sums by hand."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dspec.errors import ConfigError, DataError

ROOT = Path(__file__).parent.parent
SMALL = """
data = "nowhere"
baselines = ["a"]
[training]
steps = 10
[arms]
a = "uniform"
b = {objective = "ltr", reduction = "weighted_mean"}
"""


@pytest.fixture(scope="module")
def study():
    """The scripts of the study, as modules; examples/ is on the path while they are read."""
    sys.path.insert(0, str(ROOT / "examples"))
    names = ("settings", "texts", "seed", "pace", "statistics", "report", "pictures")
    try:
        found = {name: importlib.import_module(f"study_{name}") for name in names}
        main = importlib.import_module("objective_study")
    finally:
        sys.path.pop(0)
    return SimpleNamespace(main=main, **found)


def read(study, tmp_path, text=SMALL):
    path = tmp_path / "study.toml"
    path.write_text(text, encoding="utf-8")
    return study.settings.read_settings(path)


def arm(emitted, passes, **more):
    """Figures of an arm whose prompts have these counts in suite x, and twice the tokens in suite y."""
    twice = [2 * n for n in emitted]
    suites = {"x": {"emitted": emitted, "passes": passes}, "y": {"emitted": twice, "passes": passes}}
    curve = [{"step": 5, "tau": emitted[0], "waste": 0.1, "validation_loss": 1.0}]
    costs = {"seconds": {"own_steps": 1.0, "replay": 1.0}, "group": ["a", "b"]}
    costs |= {"tokens_per_s_of_the_group": 9.0, "peak_memory_bytes": None}
    base = {"objective": "decay(inf)", "reduction": "block_sum"}
    return {**base, "cells": {"T=0": suites, "T=1": suites}, "curve": curve, **costs, **more}


def reports(settings):
    """Two seeds: b emits 1.2 and 1.5 times what a emits, at every prompt."""
    made_of = json.loads(json.dumps(settings.decides()))
    shared = {"machine": {"processor": "p", "cores": 2}, "device": "cpu", "made_of": made_of}
    a, passes = [10.0, 30.0], [10.0, 10.0]
    return [
        {"seed": s, **shared, "arms": {"a": arm(a, passes), "b": arm([f * n for n in a], passes)}}
        for s, f in ((0, 1.2), (1, 1.5))
    ]


def test_the_shipped_configurations_can_be_read(study):
    found = {p.stem: study.settings.read_settings(p) for p in (ROOT / "benchmarks" / "study").glob("*.toml")}
    assert set(found) >= {"quick", "h100", "shipped_gpu", "rehearsal"}
    assert len(found["h100"].seeds) == 3
    assert found["h100"].arms == found["shipped_gpu"].arms
    assert found["h100"].arms["auf, mean"].reduction == "weighted_mean"
    assert found["quick"].evaluation.cells == {
        "T=0": (0.0, None),
        "T=1": (1.0, "rejection"),
        "T=1 one_hot": (1.0, "one_hot"),
    }


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('data = "nowhere"', 'data = "nowhere"\njob = 2', "jobs"),  # the closest known key
        ('data = "nowhere"', "", "data"),
        ("steps = 10", "step = 10", "steps"),
        ("steps = 10", 'steps = 10\nobjective = "ltr"', "objective"),
        ("steps = 10", "steps = 0", "steps"),
        ('baselines = ["a"]', 'baselines = ["c"]', "c"),
        ('baselines = ["a"]', "seeds = [1, 1]", "seeds"),
        ('baselines = ["a"]', "draws = 1.5", "draws"),
        ('a = "uniform"', 'a = "unifrom"', "uniform"),
        ('a = "uniform"', 'a = "uniform"\nc = {objective = "ltr", reduce = "sum"}', "reduction"),
        ("[arms]", "[texts]\nrecords = 0\n[arms]", "records"),
        ("[arms]", "[evaluation]\nprompt = 3\n[arms]", "prompts"),
        ("[arms]", "[evaluation]\ntemperatures = 0\n[arms]", "temperatures"),
    ],
)
def test_what_the_file_may_not_say(study, tmp_path, old, new, named):
    assert old in SMALL
    with pytest.raises(ConfigError, match=named):
        read(study, tmp_path, SMALL.replace(old, new))


def test_gains_are_paired(study, tmp_path):
    """b is the same multiple of a at every prompt, so prompts add nothing to the interval of its gain."""
    settings = read(study, tmp_path)
    taus = study.statistics.estimate(reports(settings), ["a", "b"], ["T=0", "T=1"], draws=500)
    assert taus.tau("a", ("T=0", "x"))["mean"] == pytest.approx(2.0)
    assert taus.tau("a", ("both", "mean"))["seeds"] == pytest.approx([3.0, 3.0])
    assert taus.tau("b", ("both", "y"))["sd"] == pytest.approx(1.2 * 0.5**0.5)
    # One prompt or the other, twice; both seeds are alike: normal, of the draws' own spread.
    tau = taus.tau("a", ("T=0", "x"))
    assert tau["bootstrap"] == pytest.approx((1.0, 3.0))
    spread = taus.prompted["T=0", "x"][:, 0].std()
    assert spread == pytest.approx(0.5**0.5, rel=0.1)
    assert tau["interval"] == pytest.approx((2 - 1.96 * spread, 2 + 1.96 * spread))
    gain = taus.gain("b", "a", ("both", "mean"))
    assert gain["mean"] == pytest.approx(0.35)
    assert gain["seeds"] == pytest.approx([0.2, 0.5])
    assert gain["bootstrap"] == pytest.approx((0.2, 0.5))  # one seed twice, or the other
    # Two seeds: one degree of freedom.
    assert gain["interval"] == pytest.approx((0.35 - 12.706 * 0.15, 0.35 + 12.706 * 0.15))


def test_degrees_of_freedom(study):
    """S - 1 where seeds decide, no end where prompts do; t by the tables in between."""
    degrees, student = study.statistics.degrees, study.statistics.student
    assert degrees(1.0, 0.0, 3) == pytest.approx(2.0)
    assert degrees(1.0, 1.0, 3) == pytest.approx(8.0)
    assert degrees(0.0, 1.0, 3) == float("inf")
    assert [student(n) for n in (1, 2, 8, float("inf"))] == [12.706, 4.303, 2.306, 1.960]
    assert student(7) == pytest.approx(2.365, abs=2e-3)
    assert student(40) == pytest.approx(2.021, abs=2e-3)


def test_one_seed_leaves_a_paired_gain_without_width(study, tmp_path):
    settings = read(study, tmp_path)
    taus = study.statistics.estimate(reports(settings)[:1], ["a", "b"], ["T=0"], draws=50)
    gain = taus.gain("b", "a", ("T=0", "x"))
    assert gain["interval"] == pytest.approx((0.2, 0.2))
    assert gain["sd"] is None


def test_prompts_without_a_pass_do_not_spoil_the_interval(study, tmp_path):
    only = reports(read(study, tmp_path))[:1]
    for name in ("a", "b"):
        for cell in only[0]["arms"][name]["cells"].values():
            cell["x"] = {"emitted": [0.0, 30.0], "passes": [0.0, 10.0]}
    taus = study.statistics.estimate(only, ["a", "b"], ["T=0"], draws=200)
    assert taus.tau("a", ("T=0", "x"))["interval"] == pytest.approx((3.0, 3.0))
    only[0]["arms"]["a"]["cells"]["T=0"]["x"] = {"emitted": [0.0], "passes": [0.0]}
    with pytest.raises(DataError, match="no verify pass"):
        study.statistics.estimate(only, ["a"], ["T=0"])


def test_intervals_cover_what_they_should(study):
    """200 made-up studies of 3 seeds and 40 prompts: the true gain of 10 % lies inside about 95 % of them.

    Seen: 189, and of the bootstrap, which few seeds make too sure, 137.
    """
    chance, inside, drawn = np.random.default_rng(1), 0, 0
    for _ in range(200):
        found, prompts = [], chance.uniform(1, 4, size=40)
        for s in range(3):
            noise = chance.normal(0, 0.04, size=2)
            arms = {}
            for i, name in enumerate("ab"):
                each = 10 * prompts * (1 + 0.1 * i + noise[i])
                arms[name] = {"cells": {"T=0": {"x": {"emitted": each.tolist(), "passes": [10.0] * 40}}}}
            found.append({"seed": s, "arms": arms})
        taus = study.statistics.estimate(found, ["a", "b"], ["T=0"], draws=200)
        gain = taus.gain("b", "a", ("T=0", "x"))
        inside += gain["interval"][0] <= 0.1 <= gain["interval"][1]
        drawn += gain["bootstrap"][0] <= 0.1 <= gain["bootstrap"][1]
    assert 182 <= inside <= 198
    assert drawn < inside


def test_the_table(study, tmp_path):
    settings = read(study, tmp_path)
    report = study.report.make_report(settings, reports(settings), "python x")
    text = study.report.markdown(report)
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]
    assert rows[0] == ["arm", "objective", "τ T=0", "τ T=1", "τ both", "over a"]
    assert rows[2][:2] == ["b", "`ltr`, weighted_mean"]  # the best first
    assert rows[2][4:] == ["4.050 ± 0.636", "+35.0% [-155.6, +225.6]"]
    assert rows[3] == ["a", "`uniform`", "3.000 ± 0.000", "3.000 ± 0.000", "3.000 ± 0.000", ""]
    assert "2 seeds (0, 1), 10 steps" in text


def test_arms_that_a_seed_lacks_are_named_and_not_averaged(study, tmp_path):
    settings, seeds = read(study, tmp_path), None
    seeds = reports(settings)
    del seeds[1]["arms"]["b"]
    report = study.report.make_report(settings, seeds, "python x")
    assert report["missing"] == ["b"]
    assert list(report["tau"]) == ["a"]
    assert "Left out, for want of a seed: b." in study.report.markdown(report)


def test_pictures(study, tmp_path):
    settings = read(study, tmp_path)
    report = study.report.make_report(settings, reports(settings), "python x")
    for draw in (study.pictures.draw_gains, study.pictures.draw_curves):
        path = tmp_path / f"{draw.__name__}.png"
        draw(path, report)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_only_what_is_missing_is_run_again(study, tmp_path, monkeypatch):
    settings, key = read(study, tmp_path), {"k": 1}
    ran = []

    def group(settings, engine, data, output, seed, arms):
        ran.append((seed, *arms))
        return {name: {"objective": a.objective, "reduction": a.reduction} for name, a in arms.items()}

    engine = SimpleNamespace(target=None)
    for name, value in {
        "train_group": group,
        "opened": lambda settings, output: (engine, [], []),
        "describe_device": lambda target, backend: "cpu",
    }.items():
        monkeypatch.setattr(study.seed, name, value)
    monkeypatch.setattr(study.seed, "LONGEST", {"s": 0.0})

    def run(settings, key=key, seed=4, deadline=None):
        study.main.run_seeds(replace(settings, seeds=(seed,), jobs=1), tmp_path, key, deadline)

    run(replace(settings, arms_at_once=1))
    assert ran == [(4, "a"), (4, "b")]
    run(settings)
    assert len(ran) == 2
    other = read(study, tmp_path, SMALL.replace('a = "uniform"', 'a = "decay(3)"'))
    run(other)
    assert ran[2:] == [(4, "a")]  # its objective changed
    run(other, {"k": 2})
    assert ran[3:] == [(4, "a", "b")]  # so did what all figures depend on
    run(other, seed=5, deadline=0.0)
    assert len(ran) == 4  # the deadline is over


def test_the_first_arms_of_every_seed_come_before_the_next(study, tmp_path, monkeypatch):
    """So that a run that is short of time has all seeds of the arms that matter most."""
    settings, ran = replace(read(study, tmp_path), seeds=(1, 2), arms_at_once=1, jobs=1), []

    def group(settings, output, seed, arms, deadline):
        ran.append((seed, *arms))

    monkeypatch.setattr(study.main, "run_group", group)
    study.main.run_seeds(settings, tmp_path, {}, None)
    assert ran == [(1, "a"), (2, "a"), (1, "b"), (2, "b")]
    # Also where one seed is ahead of the other.
    (tmp_path / "seeds").mkdir()
    ahead = {"seed": 1, "made_of": {}, "arms": {"a": {"objective": "uniform", "reduction": "block_sum"}}}
    study.seed.seed_path(tmp_path, 1).write_text(json.dumps(ahead), encoding="utf-8")
    ran.clear()
    study.main.run_seeds(settings, tmp_path, {}, None)
    assert ran == [(2, "a"), (1, "b"), (2, "b")]


def test_steps_that_fit(study, tmp_path):
    settings = read(study, tmp_path, SMALL.replace("steps = 10", "steps = 10\nvalidate_every = 50"))
    # 2 arms, 3 seeds one after another, 0.85 of 600 s: 85 s an arm; 5 s are for measuring it.
    assert study.pace.fitting_steps(settings, [(0.1, 5.0), (0.05, 1.0)], 600) == 800
    assert study.pace.fitting_steps(settings, [(100.0, 5.0)], 600) == 50
    study.pace.keep_steps(tmp_path, 800, [(0.1, 5.0)])
    assert study.pace.kept_steps(tmp_path) == 800
    assert study.pace.kept_steps(tmp_path / "elsewhere") is None


def test_prompts_of_training_records(study):
    chat = {"messages": [{"role": r, "content": r} for r in ("user", "assistant", "user", "assistant")]}
    assert study.texts.prompt_of(chat) == chat["messages"][:1]
    lines = "x" * 300 + "\n" + "y" * 300
    assert study.texts.prompt_of({"text": lines}) == "x" * 300 + "\n"
    assert study.texts.prompt_of({"text": "z" * 500}) == "z" * 400


def test_the_command_line_names_arms_that_exist(study, tmp_path):
    settings = read(study, tmp_path)
    words = ["x.toml", "--output", "y", "--arms", "b", "--seeds", "7", "--jobs", "2"]
    found = study.main.restricted(settings, study.main.parse_arguments(words))
    assert (list(found.arms), found.seeds, found.jobs, found.baselines) == (["b"], (7,), 2, ())
    with pytest.raises(ConfigError, match="one of a, b"):
        study.main.restricted(settings, study.main.parse_arguments(["x", "--output", "y", "--arms", "q"]))

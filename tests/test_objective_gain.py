"""The study over seeds: its table against sums done by hand, and which seeds it runs again."""

import importlib.util
import json
from pathlib import Path

import pytest

from dspec.demo.settings import ARMS, DemoSettings

SOURCE = Path(__file__).parent.parent / "examples" / "objective_gain.py"


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("objective_gain", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def seed(*taus):
    """Figures of a seed whose four objectives have these taus in domain a, and twice them in b."""
    pairs = zip(ARMS, taus, strict=True)
    return {"decoding": {name: {"a": {"tau": tau}, "b": {"tau": 2 * tau}} for name, tau in pairs}}


def test_the_table_shows_mean_and_spread(study):
    seeds = {"0": seed(1.0, 1.1, 1.2, 1.3), "1": seed(1.2, 1.1, 1.2, 1.5)}
    report = study.make_report("python x", {}, seeds)
    tau, gain = report["over_seeds"]["tau"], report["over_seeds"]["gain"]
    assert tau["uniform"]["a"]["mean"] == pytest.approx(1.1)
    assert tau["uniform"]["a"]["sd"] == pytest.approx(0.02**0.5)
    assert tau["ltr"]["mean"]["values"] == pytest.approx([1.95, 2.25])
    assert gain["uniform"]["ltr"]["values"] == pytest.approx([0.3, 0.25])
    assert gain["decay(7)"]["uniform"]["mean"] == pytest.approx((1.0 / 1.1 + 1.2 / 1.1) / 2 - 1)
    last = study.markdown(report).splitlines()[-1]
    cells = [cell.strip() for cell in last.strip("|").split("|")]
    assert cells[0] == "ltr = `decay(10)+first_error(0.3)+chain(40)`"
    assert cells[1:4] == ["1.400 ± 0.141", "2.800 ± 0.283", "2.100 ± 0.212"]
    assert cells[4] == "+27.5% ± 3.5"


def test_one_seed_has_no_spread(study):
    report = study.make_report("python x", {}, {"0": seed(1.0, 1.1, 1.2, 1.3)})
    assert "±" not in study.markdown(report)
    assert report["over_seeds"]["tau"]["ltr"]["a"]["sd"] is None


def test_seeds_of_other_settings_are_run_again(study, tmp_path):
    path = tmp_path / "gain.json"
    needed = study.made_of(DemoSettings(), "cpu")
    assert study.read_seeds(path, needed) == {}
    path.write_text(json.dumps({**needed, "seeds": {"0": {"x": 1}}}), encoding="utf-8")
    assert study.read_seeds(path, study.made_of(DemoSettings(seed=5), "cpu")) == {"0": {"x": 1}}
    assert study.read_seeds(path, study.made_of(DemoSettings(steps=7), "cpu")) == {}


def test_every_setting_that_decides_a_figure_is_an_option(study, monkeypatch):
    monkeypatch.setattr("sys.argv", ["objective_gain.py", "--steps", "9", "--lr", "0.5", "--seeds", "4"])
    args = study.parse_arguments()
    assert (args.steps, args.lr, args.seeds, args.block_size) == (9, 0.5, [4], DemoSettings().block_size)

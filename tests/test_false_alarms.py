"""The count of false alarms: fresh seeds, every stochastic check, alarms counted, a stopped count goes on."""

import importlib.util
import json

import pytest

from dspec.testing.plan import STATISTICAL


@pytest.fixture
def bench(request, monkeypatch):
    path = request.config.rootpath / "benchmarks" / "false_alarms.py"
    spec = importlib.util.spec_from_file_location("false_alarms", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.sys, "argv", ["false_alarms.py"])
    return module


def scripted(bench, monkeypatch, alarms_at=()):
    """Runs that only note their seeds; those listed have an alarm."""
    seeds = []

    def one_run(job):
        seeds.append(job[1])
        alarms = [{"check": "distribution"}] if len(seeds) - 1 in alarms_at else []
        return {"checks": 9, "alpha": 9e-10, "alarms": alarms, "seconds": 1.0}

    monkeypatch.setattr(bench, "one_run", one_run)
    return seeds


def test_every_stochastic_check_of_smoke_runs_with_the_runs_own_seed(bench):
    first, second = bench.parts_of("numpy", 5), bench.parts_of("numpy", 1005)
    assert {part.check for part in first} == set(STATISTICAL) and len(first) >= 6
    assert not {part.key for part in first} & {part.key for part in second}
    assert sum(part.arguments["alpha"] for part in first) < 1e-9


def test_one_run_passes_on_the_library(bench):
    """One run of smoke size: false-fail rate 9e-10; that a wrong engine fails it is test_independence's."""
    result = bench.one_run(("numpy", 7))
    assert (
        result["checks"] == len(bench.parts_of("numpy", 7))
        and result["alarms"] == []
        and 0 < result["alpha"] < 1e-9
    )


def test_a_stopped_count_goes_on_with_other_seeds(bench, monkeypatch, tmp_path):
    seeds, file = scripted(bench, monkeypatch), tmp_path / "alarms.json"
    assert bench.main(["--runs", "3", "--output", str(file)]) == 0
    assert bench.main(["--runs", "5", "--output", str(file)]) == 0
    tally = json.loads(file.read_text(encoding="utf-8"))
    assert tally["runs"] == 5 and tally["checks"] == 45 and tally["seconds"] == 5.0
    assert seeds == [tally["seed"] + 1000 * run for run in range(5)]
    other = tmp_path / "other.json"
    bench.main(["--runs", "1", "--output", str(other)])
    assert json.loads(other.read_text(encoding="utf-8"))["seed"] != tally["seed"]


def test_an_alarm_is_counted_kept_and_the_exit_code(bench, monkeypatch, tmp_path):
    scripted(bench, monkeypatch, alarms_at=(1,))
    file = tmp_path / "alarms.json"
    assert bench.main(["--runs", "2", "--output", str(file)]) == 1
    assert json.loads(file.read_text(encoding="utf-8"))["alarms"] == [{"check": "distribution"}]
    assert bench.main(["--runs", "2", "--output", str(file)]) == 1


def test_a_file_of_another_backend_is_not_added_to(bench, monkeypatch, tmp_path):
    scripted(bench, monkeypatch)
    file = tmp_path / "alarms.json"
    bench.main(["--runs", "1", "--output", str(file)])
    with pytest.raises(SystemExit, match="another file"):
        bench.main(["--runs", "2", "--backend", "cpu", "--output", str(file)])

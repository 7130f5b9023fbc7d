"""`dspec check` at the command line: names, tables, files, exit codes, a run that was stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from dspec import cli, cli_check
from dspec.check_display import CheckProgress, clause_grid
from dspec.testing.clause_table import clause_table
from dspec.testing.levels import LEVELS
from dspec.testing.plan import Part
from dspec.testing.report import Report
from dspec.testing.run import run_part
from tests.test_check_levels import TINY

SCRIPT = """
import sys
from dspec import cli
from dspec.testing.levels import LEVELS
from tests.test_check_levels import TINY

if __name__ == "__main__":
    LEVELS["smoke"] = TINY
    sys.exit(cli.run(sys.argv[1:]))
"""


def run(capsys, *words):
    """Run the command line and return status, stdout, stderr."""
    status = cli.run(["check", *map(str, words)])
    out = capsys.readouterr()
    return status, out.out, out.err


@pytest.fixture
def tiny(monkeypatch):
    """Levels in little: what is tested here is what is printed and written."""
    monkeypatch.setitem(LEVELS, "smoke", TINY)


def test_json_is_one_object_with_all_that_a_release_reports(capsys, tiny):
    status, out, err = run(capsys, "--backend", "numpy", "--workers", 1, "--json")
    found = json.loads(out)
    assert status == 0 and found["passed"] is True and found["level"] == "smoke"
    assert found["versions"]["numpy"] and found["machine"]["cores"] and found["seconds"] > 0
    assert found["clauses"]["RS-1"]["numpy float32"] == "passed"
    assert found["clauses"]["RS-1"]["numpy bfloat16"] == found["clauses"]["RS-1"]["cuda "] == "not run here"
    assert Report.from_json(json.dumps(found["report"])).alpha < 1e-9
    assert "parts; last: " in err, "progress is on stderr, in lines where there is no terminal"


@pytest.mark.parametrize("backend", ["torch", pytest.param("mlx", marks=pytest.mark.mlx)])
def test_each_backend_passes(capsys, tiny, backend):
    status, out, _ = run(
        capsys, "--backend", f"numpy,{backend}", "--dtype", "float32", "--workers", 1, "--json"
    )
    device = {"torch": "cpu", "mlx": "mlx"}[backend]
    found = json.loads(out)
    assert status == 0 and found["clauses"]["RS-10"][f"{device} float32"] == "passed"
    assert not any("16" in column for column in found["clauses"]["RS-1"])


def test_the_tables_of_a_person(capsys, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    words = ("--backend", "numpy", "--workers", 1, "--output", tmp_path / "run.md")
    status, out, _ = run(capsys, *words, "--report")
    assert status == 0 and "RS-1 Joint law" in out and "Not run here: cuda" in out
    assert max(map(len, out.splitlines()[:40])) <= 80 and "passed: 37 of" not in out.splitlines()[0]
    text = (tmp_path / "run.md").read_text()
    assert (
        text.startswith("# Exactness report") and "| RS-20 Evidence |" in text and str(tmp_path) not in text
    )
    _, checks, _ = run(capsys, *words[:4])
    assert (
        "lattice" in checks and "RS-1" not in checks and "a right library fails with chance 9e-10" in checks
    )


def test_a_failure_is_exit_1_and_is_replayed_from_its_file(capsys, tiny, tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    with monkeypatch.context() as patch:
        patch.setattr("dspec.testing.models.recall.RecallTargetSession.rewind", lambda self, length: None)
        words = ("--backend", "numpy", "--dtype", "float32", "--workers", 1)
        status, out, err = run(capsys, *words, "--output", path)
        assert status == 1 and "FAILED: rollback numpy float32" in err
        assert "kept tokens" in out and "--replay" in out
        status, out, _ = run(capsys, "--replay", path)
        assert status == 1 and out.startswith("rollback (numpy float32): FAILED")
    status, out, _ = run(capsys, "--replay", path, "--json")
    assert status == 0 and json.loads(out)["passed"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--level", "deep"), "ConfigError: level: got 'deep'"),
        (("--backend", "tpu"), "ConfigError: --backend: got 'tpu'; needs some of numpy, auto, torch"),
        (("--dtype", "float8"), "ConfigError: --dtype: got 'float8'"),
        (("--workers", "-1"), "ConfigError: --workers: got -1"),
        (("--replay", "nowhere.json"), "ConfigError: --replay: got nowhere.json"),
        (("--replay", __file__), "DataError: replay: got no JSON"),
    ],
)
def test_a_mistake_is_one_line_and_status_2_before_anything_runs(capsys, words, message):
    status, out, err = run(capsys, *words)
    assert status == 2 and out == "" and err.count("\n") == 1 and message in err


def test_a_backend_that_is_not_installed_is_refused_at_once(capsys, monkeypatch):
    monkeypatch.setattr(cli_check, "find_spec", lambda name: None)
    monkeypatch.setattr("dspec.backends.registry.find_spec", lambda name: None)
    status, _, err = run(capsys, "--backend", "numpy,torch")
    assert status == 2 and "BackendUnavailable" in err and "pip install 'dspec[torch]'" in err


def test_torch_is_a_name_for_its_cpu_and_names_are_not_run_twice():
    options = cli_check._options("torch,cpu,numpy", "float32", level="full", seed=1, workers=3)
    assert options.backends == ("cpu", "numpy") and options.workers == 3 and options.level.name == "full"


def test_a_killed_run_leaves_no_process_and_goes_on(tmp_path):
    """SIGKILL of the parent: its workers leave by themselves; the parts that were done are kept."""
    script, folder = tmp_path / "go.py", tmp_path / "out"
    script.write_text(SCRIPT)
    words = [sys.executable, str(script), "check", "--backend", "numpy", "--workers", "2"]
    words += ["--output", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    first = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    end = time.monotonic() + 60
    while len(list(folder.glob("parts/*.json"))) < 3 and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    done = len(list(folder.glob("parts/*.json")))
    assert done >= 3
    while time.monotonic() < end:
        try:
            os.killpg(first.pid, 0)  # asks only: is anybody of the group left?
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        os.killpg(first.pid, signal.SIGKILL)
        pytest.fail("workers outlived their parent")
    second = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert json.loads((folder / "report.json").read_text())["passed"] and (folder / "report.md").is_file()


def test_progress_is_a_bar_in_a_terminal_and_names_failures_for_good():
    text = StringIO()
    terminal = Console(file=text, force_terminal=True, width=80)
    part = Part("lattice", "numpy", "float32", "match", {})
    with CheckProgress(2, console=terminal) as progress:
        progress.step(part, Report("lattice", True, {}))
        progress.step(part, Report("lattice", False, {}))
    assert "2/2" in text.getvalue() and "FAILED: lattice numpy float32 match" in text.getvalue()


def test_a_wide_terminal_shows_which_checks_stand_behind():
    table = clause_table(run_part(Part("streams", "loop", "exact", "", {"count": 1, "seed": 0})))
    for width, shown in ((140, True), (80, False)):
        text = StringIO()
        Console(file=text, width=width).print(clause_grid(table, width=width))
        assert ("streams" in text.getvalue()) is shown and "RN-1 Keys" in text.getvalue()

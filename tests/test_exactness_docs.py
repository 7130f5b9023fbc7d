"""docs/exactness.md: its Python runs as it stands, its numbers are the code's."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from dspec.testing.levels import LEVELS
from dspec.testing.specimens.arrays import Arrays
from tests.table_server import table_server

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "exactness.md").read_text(encoding="utf-8")
OWN, VERIFIER, ENDPOINT = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def run(code, **names):
    """The names that a snippet leaves behind."""
    exec(compile(code, "docs/exactness.md", "exec"), names)
    return names


@pytest.mark.clause("RS-20")
def test_ten_lines_check_a_sampler_of_ones_own(capsys):
    lines = [line for line in OWN.splitlines() if line and "import" not in line]
    assert len(lines) <= 10
    assert run(OWN)["report"].passed
    assert f"\n{capsys.readouterr().out}" in TEXT  # the line that the page explains
    # The same lines on a sampler that forgets the last token: off by 0.3, with outcomes that cannot be.
    wrong = run(OWN.replace("TABLE[first])[0]", "TABLE[0])[0]"))
    assert not wrong["report"].passed


@pytest.mark.clause("RS-20")
def test_a_verifier_is_checked_in_one_line():
    import dspec

    assert run(VERIFIER, dspec=dspec, verify=Arrays())["report"].passed
    assert not run(VERIFIER, dspec=dspec, verify=Arrays(stale_bonus=True))["report"].passed


def test_an_endpoint_is_checked_as_written(tmp_path, monkeypatch):
    import dspec

    monkeypatch.chdir(tmp_path)
    address = "http://127.0.0.1:8080/v1"
    assert address in ENDPOINT
    for weights, right in (
        ([[1, 2, 3, 2], [4, 0, 3, 1], [2, 1, 0, 5], [3, 3, 1, 1]], True),
        ([[1] * 4] * 4, False),
    ):
        with table_server(weights) as server:
            report = run(ENDPOINT.replace(address, server.url), dspec=dspec)["report"]
        assert report.passed == right, report
    assert (tmp_path / "table-model" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["worlds", "pair_rows"])
def test_counts_of_the_levels_are_the_codes(name):
    (row,) = re.findall(rf"^\| `{name}`.*?\|(.*)\|$", TEXT, re.MULTILINE)
    said = [int(cell.replace(",", "")) for cell in row.split("|")]
    assert said == [getattr(LEVELS[level], name) for level in ("smoke", "full", "nightly")]


def test_results_on_others_are_the_recorded_ones():
    spec = importlib.util.spec_from_file_location("check_others", ROOT / "examples" / "check_others.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    recorded = json.loads((ROOT / example.OUTPUT).read_text(encoding="utf-8"))
    assert example.table(recorded["findings"]) in TEXT
    assert example.COMMAND in TEXT and f"manual_seed({example.ZERO_SEED})" in TEXT
    for name in ("transformers", "mlx-lm", "mlx", "torch"):
        assert recorded["versions"][name].split("+")[0] in TEXT
    (edges,) = (one for one in recorded["findings"] if one["check"] == "boundaries")
    said = f"{edges['at u = 0']} of the {len(edges['wrong'])} cases"
    assert said in TEXT


@pytest.mark.mlx
def test_the_example_runs_and_says_what_it_finds(tmp_path, capsys, monkeypatch):
    """Small: the kit on mlx-lm's loop and on transformers' assisted generation, 40 draws each."""
    spec = importlib.util.spec_from_file_location("check_others", ROOT / "examples" / "check_others.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setattr(example, "hf_sampler", lambda options: [example.zero_draw("transformers")])
    monkeypatch.setattr(example, "mlx_server", lambda options: [])
    assert example.main(["--draws", "40", "--output", str(tmp_path / "new" / "others.json")]) == 0
    written = json.loads((tmp_path / "new" / "others.json").read_text())["findings"]
    assert example.table(written) == capsys.readouterr().out.strip()
    zero, *rest = written
    assert zero["passed"] == (zero["wrong"] == [])
    assert [one["tried"]["draws"] for one in rest] == [40, 40] and all(one["passed"] for one in rest)

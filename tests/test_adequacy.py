"""The checks on trial: every wrong sampler is caught, every right one passes, and the table says so."""

import re
from dataclasses import replace

import array_api_compat.numpy as npx
import pytest

from dspec.testing import adequacy as kit
from dspec.testing.adequacy import AdequacyReport, Trial, adequacy, draws_to_kill, main
from dspec.testing.checks.battery import battery
from dspec.testing.checks.boundaries import check_boundaries
from dspec.testing.checks.coupling import check_coupled_arrays, check_coupling
from dspec.testing.checks.lattice import check_lattice
from dspec.testing.levels import FULL
from dspec.testing.specimens.arrays import ARRAY_CONTROLS, ARRAY_MUTANTS, Arrays
from dspec.testing.specimens.loops import CONTROLS, MUTANTS
from dspec.testing.specimens.pipelines import PIPELINE_CONTROLS, PIPELINE_MUTANTS

WRONG = Trial(kind="loop", number=1, name="wrong", must_fail="exact_law", passed=("exact_law",))
RIGHT = Trial(kind="loop", number=0, name="right", must_fail="", killed={"lattice": {"instances": 2}})
SEEN_BY_ONE = [mutant for mutant in ARRAY_MUTANTS if mutant.cases]


@pytest.mark.clause("RS-18", "RS-3", "RS-4", "RS-5", "RS-6")
def test_no_wrong_sampler_survives_and_no_right_one_fails():
    """Many more than the 40 wrong samplers and 10 right ones asked for, and every number of the survey."""
    trials = adequacy()
    assert trials.survivors == ()
    assert trials.false_alarms == ()
    assert sum(bool(row.must_fail) for row in trials.rows) >= 150
    assert sum(not row.must_fail for row in trials.rows) >= 65
    assert {row.number for row in trials.rows} >= {0, *range(1, 38), "m1", "m2", "m3"}
    assert {(row.kind, row.name) for row in trials.rows} == samplers()


def samplers():
    """Kind and name of all that the kit has, each once."""
    kinds = {
        "loop": [*MUTANTS, *CONTROLS],
        "arrays": [*ARRAY_MUTANTS, *ARRAY_CONTROLS],
        "pipeline": [*PIPELINE_MUTANTS, *PIPELINE_CONTROLS],
    }
    found = [(kind, specimen.name) for kind, specimens in kinds.items() for specimen in specimens]
    assert len(set(found)) == len(found)
    return set(found)


def test_a_survivor_and_a_false_alarm_are_found_and_shown():
    """The report itself must not be what passes everything."""
    report = AdequacyReport((WRONG, RIGHT), "smoke")
    assert report.survivors == (WRONG,) and report.false_alarms == (RIGHT,)
    text = report.to_markdown()
    assert "1 wrong samplers, 1 survivors" in text and "1 false alarms" in text
    assert "| 1 | loop | wrong | **none** | exact_law |" in text and "**false alarm: lattice**" in text


def test_a_mutant_that_another_check_kills_still_survives_its_own():
    assert replace(WRONG, killed={"lattice": {"instances": 1}}).survives
    assert not replace(WRONG, killed={"exact_law": {"worlds": 1}}).survives


@pytest.mark.clause("RS-7", "RS-9", "RS-16", "NU-4")
@pytest.mark.parametrize("mutant", SEEN_BY_ONE, ids=lambda mutant: mutant.name)
def test_only_its_own_cases_of_the_battery_see_a_fault(mutant):
    """A case is worth its place if some fault is seen by it and by nothing else."""
    failing = [
        c.name for c in battery("rejection") if not check_boundaries(mutant.verify, xp=npx, given=[c]).passed
    ]
    assert failing and all(name.startswith(mutant.cases) for name in failing)
    assert check_lattice(mutant.verify, xp=npx, dtype=npx.float32, count=1).passed
    assert check_coupling(mutant.verify, xp=npx, rows=200).passed
    assert check_coupled_arrays(Arrays(), mutant.verify, rows=4000).passed


def test_draws_are_counted_until_the_e_value_rejects():
    """Four times nearer needs about 16 times the draws; a forbidden outcome shows at once; none: never."""
    law = {0: 0.5, 1: 0.5}
    near, far = (draws_to_kill({0: 0.5 + d, 1: 0.5 - d}, law, seed=1) for d in (0.025, 0.1))
    assert 8 <= near / far <= 32
    assert far == 2000  # 1,200 draws times the divergence are ln(1e9) and half a ln(n); then doubled
    assert draws_to_kill({0: 0.4, 1: 0.4, 2: 0.2}, law, seed=1) == kit.FIRST
    assert draws_to_kill(law, law, seed=1) is None


def test_the_table_is_one_command(tmp_path, monkeypatch):
    """Thorough trials of two samplers: all checks, laws in all worlds, draws; a survivor is exit code 1."""
    chosen = [mutant for mutant in MUTANTS if mutant.number in (8, 12)]
    for name, some in (
        ("MUTANTS", chosen),
        ("CONTROLS", []),
        ("ARRAY_MUTANTS", []),
        ("ARRAY_CONTROLS", []),
        ("PIPELINE_MUTANTS", []),
        ("PIPELINE_CONTROLS", []),
    ):
        monkeypatch.setattr(kit, name, some)
    table = tmp_path / "table.md"
    assert main(["--output", str(table)]) == 0
    (row,) = [line for line in table.read_text(encoding="utf-8").splitlines() if line.startswith("| 12 |")]
    assert "exact_law (5 worlds, 238 paths)" in row and "5 of 9 worlds" in row and "2,000" in row
    monkeypatch.setattr(kit, "MUTANTS", [replace(chosen[0], sampler=CONTROLS[0].sampler)])
    assert adequacy(level=FULL).survivors and main(["--output", str(table)]) == 1


def test_the_kill_table_in_the_docs_is_of_these_samplers(request):
    """The file is made by a command: samplers that came or went since then would make it tell stories."""
    text = (request.config.rootpath / "docs" / "kill-table.md").read_text(encoding="utf-8")
    listed = set(
        re.findall(r"(?m)^\|(?: \S+ \|)? (loop|arrays|pipeline) \| (.+?) \| ", text.replace("\\|", "!"))
    )
    assert listed == {(kind, name.replace("|", "!")) for kind, name in samplers()}
    assert ", 0 survivors" in text and ", 0 false alarms" in text

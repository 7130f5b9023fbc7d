"""No MUST clause of decoding is without a check of the kit, or a named test that stands in for one."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from dspec.testing.clause_table import BY_PYTEST, TITLES, clause_table, markdown
from dspec.testing.levels import SMOKE
from dspec.testing.plan import plan
from dspec.testing.report import Report, merge
from dspec.testing.run import run_parts
from tests.clauses import read_clauses

ROOT = Path(__file__).parent.parent
PREFIXES = ("RS", "DL", "RN", "NU", "SS")
TINY = replace(
    SMOKE,
    worlds=2,
    instances=1,
    coupled_rows=50,
    wide_rows=1,
    pair_rows=100,
    draws=60,
    independent=20,
    steps=5,
    cases=4,
    longest=2,
)


@pytest.fixture(scope="module")
def report():
    """All of a level on numpy, in little."""
    return run_parts(plan(TINY, ["numpy"]))


def must():
    return [c for c in read_clauses(ROOT)[0] if c.level == "MUST" and c.prefix in PREFIXES]


@pytest.mark.clause("RS-20")
def test_the_table_has_exactly_the_clauses_of_the_contract():
    assert {clause.id: clause.text.splitlines()[0] for clause in must()} == TITLES


@pytest.mark.clause("RS-20")
def test_every_clause_has_a_check_behind_it_or_names_its_test(report):
    assert report.status == "passed", report
    table = clause_table(report)
    shown = {row.clause for row in table.rows if row.checks}
    assert set(TITLES) - shown == set(BY_PYTEST), "a check was lost, or a stand-in is not needed any more"
    for row in table.rows:
        statuses = set(row.cells.values()) - {"not run here"}
        assert statuses == ({"passed"} if row.checks else set()), row


@pytest.mark.clause("RS-20")
@pytest.mark.parametrize("clause", BY_PYTEST)
def test_a_stand_in_is_a_test_that_cites_the_clause(clause):
    tree = ast.parse((ROOT / BY_PYTEST[clause]).read_text())
    cited = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert clause in cited


@pytest.mark.clause("RS-20")
def test_reports_say_what_was_tried_and_with_what_power(report):
    for leaf in report.leaves():
        assert leaf.subject and leaf.check
        if leaf.not_run:
            continue
        assert leaf.tried and leaf.clauses and sum(leaf.tried.values()) > 0
        statistical = leaf.check in ("distribution", "independence")
        assert (leaf.alpha > 0) == (leaf.delta is not None) == (leaf.beta is not None) == statistical
    text = markdown(report, clause_table(report), about=[("command", "dspec check")])
    for leaf in report.leaves():
        assert f"| {leaf.check} | {leaf.subject} | {leaf.status} |" in text
    assert text.count("\n| RS-") == 23 and "9.0e-10" in text


def leaf(check, subject, clauses, **fields):
    return Report(check, fields.pop("passed", True), {"rows": 1}, subject=subject, clauses=clauses, **fields)


def test_a_cell_says_the_worst_of_what_ran_there_and_only_there():
    whole = merge(
        "all",
        [
            leaf("lattice", "numpy float32 match", ("RS-1",)),
            leaf("lattice", "numpy float32 rejection", ("RS-1", "RS-4"), passed=False),
            leaf("lattice", "numpy bfloat16 match", (), not_run="numpy has no bfloat16"),
            leaf("boundaries", "mlx float32 match", ("RS-4",)),
        ],
    )
    table = clause_table(whole, elsewhere=["mlx", "cuda"])
    assert table.columns[-1] == ("cuda", "") and ("mlx", "") not in table.columns
    cells = table.plain()
    assert cells["RS-1"]["numpy float32"] == cells["RS-4"]["numpy float32"] == "FAILED"
    assert cells["RS-1"]["numpy bfloat16"] == cells["RS-1"]["cuda "] == "not run here"
    assert cells["RS-4"]["mlx float32"] == "passed" and cells["RS-1"]["mlx float32"] == "not run here"
    text = markdown(whole, table)
    assert "| RS-4 Acceptance | – | FAILED | – | passed | – | lattice, boundaries |" in text
    assert "result: **FAILED**" in text and "numpy has no bfloat16" in text

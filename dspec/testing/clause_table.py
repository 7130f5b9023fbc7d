"""Clause by backend by dtype: which sentences of the contract a run has shown to hold, and where."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dspec.testing.plan import EXACT, LOOP
from dspec.testing.report import NOT_RUN, Report, clause_order

# Every clause of spec/ that speaks of decoding, with its title; tests/test_clause_table.py keeps it equal.
TITLES = {
    "RS-1": "Joint law",
    "RS-2": "Honest proposals",
    "RS-3": "Freedom of the drafter",
    "RS-4": "Acceptance",
    "RS-5": "Correction",
    "RS-6": "Bonus",
    "RS-7": "Support",
    "RS-8": "Independence",
    "RS-9": "Rows are independent",
    "RS-10": "Reproducibility",
    "RS-11": "Greedy",
    "RS-12": "Scope of exactness",
    "RS-13": "One warp",
    "RS-14": "Stop",
    "RS-15": "Rollback",
    "RS-16": "Bad input",
    "RS-17": "Purity",
    "RS-18": "Verifiers",
    "RS-19": "Log-probabilities",
    "RS-20": "Evidence",
    "RS-21": "Block verification",
    "RS-22": "Several drafts of a slot",
    "RS-23": "Draft trees",
    "RS-24": "Sampled draft trees",
    "DL-1": "The loop",
    "DL-2": "Counts",
    "DL-3": "The cut",
    "DL-4": "Rewind",
    "DL-5": "The anchor",
    "DL-6": "One synchronisation",
    "DL-7": "Greedy output",
    "DL-8": "Failure",
    "DL-9": "Stop strings",
    "DL-10": "Acceptance along a written text",
    "DL-11": "Tree pass",
    "DL-12": "Batches",
    "DL-13": "Draft length",
    "DL-14": "Tree size",
    "RN-1": "Keys",
    "RN-2": "No key twice",
    "RN-3": "The grid",
    "RN-4": "Independent of the batch",
    "RN-5": "Training",
    "RN-6": "Denoising",
    "NU-1": "Two-level draw",
    "NU-2": "At least float32",
    "NU-3": "Division-free acceptance",
    "NU-4": "Where rounding leaves nothing",
    "NU-5": "Ties",
    "NU-6": "No TF32",
    "SS-1": "Alignment",
    "SS-2": "Block-size-one law",
    "SS-3": "Who sees whom",
    "SS-4": "Draft masks",
    "SS-5": "Caches",
    "SS-6": "Verification in one pass",
    "SS-7": "No mask token",
    "SS-8": "Selection",
    "SS-9": "Schedule",
    "SS-10": "Statistics of a slot",
    "SS-11": "Expected accepted length",
    "SS-12": "Score",
    "SS-13": "Routes",
    "SS-14": "Exact self-speculation",
    "SS-15": "Greedy",
    "SS-16": "Fused commits",
    "SS-17": "Bonus",
    "SS-18": "The fused layout",
    "SS-19": "Hybrid rounds",
    "SS-20": "Tempered ratio",
    "SS-21": "Editing",
    "SS-22": "Batches",
    "SS-23": "Refusals",
    "SS-24": "Trace and counts",
    "SS-25": "Leave-one-out verification",
    "SS-26": "Denoising",
}
# What no check of the kit can show, and the test that does; why it cannot stands behind each.
BY_PYTEST = {
    "RS-19": "tests/test_log_probs.py",  # reported beside the tokens, which alone the checks look at
    "RS-20": "tests/test_clause_table.py",  # about reports themselves
    "RN-5": "tests/test_run_state.py",  # about training runs and their data on disk
    "NU-6": "tests/test_target_calls.py",  # a setting of a framework while a real model runs
    "DL-11": "tests/test_tree_sessions.py",  # masks and positions of real models
    "DL-10": "tests/test_replay_law.py",  # about texts that are there already: nothing is decoded
    "DL-13": "tests/test_draft_length_law.py",  # of its law; isolation tries lengths in company
    "DL-14": "tests/test_sized_trees.py",  # the checks decode trees of one budget
    # What decides without a law, and what only models on disk and whole requests show.
    "RN-6": "tests/test_block_engine.py",
    "SS-1": "tests/test_block_models.py",
    "SS-4": "tests/test_core_layouts.py",
    "SS-8": "tests/test_core_selection.py",
    "SS-9": "tests/test_core_selection.py",
    "SS-10": "tests/test_core_estimates.py",
    "SS-11": "tests/test_core_estimates.py",
    "SS-12": "tests/test_core_estimates.py",
    "SS-13": "tests/test_core_routing.py",
    "SS-19": "tests/test_block_engine.py",
    "SS-20": "tests/test_tempered.py",
    "SS-21": "tests/test_golden_block_diffusion.py",
    "SS-22": "tests/test_block_engine.py",
    "SS-23": "tests/test_block_engine.py",
    "SS-24": "tests/test_block_engine.py",
    "SS-25": "tests/test_core_denoising.py",
    "SS-26": "tests/test_golden_block_diffusion.py",
}
ANYWHERE = (LOOP, EXACT)
Column = tuple[str, str]


@dataclass(frozen=True)
class Row:
    """One clause.

    Args:
        clause: its id.
        cells: column -> "passed", "FAILED" or "not run here".
        checks: names of the checks behind it that were part of the run.
    """

    clause: str
    cells: dict[Column, str]
    checks: tuple[str, ...]

    @property
    def title(self) -> str:
        """The clause's title."""
        return TITLES[self.clause]

    @property
    def shown_by(self) -> str:
        """The checks, or the test that stands in for one."""
        return ", ".join(self.checks) or f"pytest: {BY_PYTEST.get(self.clause, 'none')}"


@dataclass(frozen=True)
class ClauseTable:
    """All clauses of one run.

    Args:
        columns: (backend, dtype); the first is what holds for every backend alike.
        rows: one a clause, in the order of the spec.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def plain(self) -> dict[str, dict[str, str]]:
        """Return clause -> "backend dtype" -> status, for JSON."""
        return {row.clause: {" ".join(c): row.cells[c] for c in self.columns} for row in self.rows}


def clause_table(report: Report, *, elsewhere: Sequence[str] = ()) -> ClauseTable:
    """Return which clauses a run has shown, where.

    Spec: RS-20.

    Args:
        report: of `dspec.testing.run`; the first two words of a part's subject are backend and dtype.
        elsewhere: backends that were not part of the run: a column each, in which nothing ran.

    Returns:
        The table.

    Example:
        >>> part = Report("lattice", True, {}, subject="numpy float32 match", clauses=("RS-1",))
        >>> clause_table(part).rows[0].cells[("numpy", "float32")]
        'passed'
    """
    leaves = report.leaves()
    found = dict.fromkeys(_column(leaf) for leaf in leaves)
    columns = [ANYWHERE, *(column for column in found if column != ANYWHERE)]
    columns += [(name, "") for name in elsewhere if name not in {backend for backend, _ in columns}]
    rows = [_row(clause, columns, leaves) for clause in sorted(TITLES, key=_spec_order)]
    return ClauseTable(tuple(columns), tuple(rows))


def _column(leaf: Report) -> Column:
    backend, dtype, *_ = [*leaf.subject.split(), "", ""]
    return backend, dtype


def _spec_order(clause: str) -> tuple[int, int]:
    prefix, number = clause_order(clause)
    return ("RS", "DL", "RN", "NU", "SS").index(prefix), number


def _row(clause: str, columns: Sequence[Column], leaves: Sequence[Report]) -> Row:
    names = {leaf.check for leaf in leaves if clause in leaf.clauses}
    # A check that broke off before it said what it stands for fails all that it shows elsewhere.
    broke = [leaf for leaf in leaves if leaf.status == "FAILED" and not leaf.clauses and leaf.check in names]
    behind = [leaf for leaf in leaves if clause in leaf.clauses] + broke
    cells = {column: _status([leaf for leaf in behind if _column(leaf) == column]) for column in columns}
    return Row(clause, cells, tuple(dict.fromkeys(leaf.check for leaf in behind)))


def _status(leaves: Sequence[Report]) -> str:
    """Return the worst of what ran; a check that could not run says nothing."""
    seen = {leaf.status for leaf in leaves} - {NOT_RUN}
    return "FAILED" if "FAILED" in seen else "passed" if seen else NOT_RUN


def markdown(report: Report, table: ClauseTable, *, about: Sequence[tuple[str, str]] = ()) -> str:
    """Return a run as a Markdown document.

    Args:
        report: of the run.
        table: its clauses.
        about: (name, value) lines for its head: command, machine, versions.

    Returns:
        The text.
    """
    return "\n".join([*_head(report, about), *_clause_lines(table), *_check_lines(report)]) + "\n"


def _head(report: Report, about: Sequence[tuple[str, str]]) -> Iterator[str]:
    yield "# Exactness report\n"
    yield from (f"- {name}: {value}" for name, value in about)
    yield f"- result: **{report.status}**"
    tried = ", ".join(f"{count:,} {what}" for what, count in report.tried.items())
    yield f"- tried: {tried}"
    yield f"- chance that a right library fails one of the statistical checks: {report.alpha:.1e}"
    for leaf in report.leaves():
        if leaf.status == "FAILED":
            yield f"\n```\n{leaf}\n```"


def _clause_lines(table: ClauseTable) -> Iterator[str]:
    heads = ["every backend", *(" ".join(column).strip() for column in table.columns[1:])]
    yield "\n## Clauses\n"
    yield f"`–` is {NOT_RUN}: the clause does not depend on the column and is shown in another one, the"
    yield "backend has no such dtype, or it was not part of this run. Checks that need no 16-bit laws run"
    yield "in float32.\n"
    yield "| clause | " + " | ".join(heads) + " | shown by |"
    yield "|---" * (len(heads) + 2) + "|"
    for row in table.rows:
        cells = ["–" if row.cells[column] == NOT_RUN else row.cells[column] for column in table.columns]
        yield f"| {row.clause} {row.title} | " + " | ".join(cells) + f" | {row.shown_by} |"


def _check_lines(report: Report) -> Iterator[str]:
    yield "\n## Checks\n"
    yield "α: chance that a right sampler fails; δ: total variation that passes with chance β at most."
    yield "Without α and δ a check is exact.\n"
    yield "| check | subject | result | tried | α | β | δ |"
    yield "|---|---|---|---|---|---|---|"
    for leaf in report.leaves():
        tried = leaf.not_run or ", ".join(f"{count:,} {what}" for what, count in leaf.tried.items())
        numbers = [f"{leaf.alpha:.1e}" if leaf.alpha else "0"]
        numbers += ["" if x is None else f"{x:.2g}" for x in (leaf.beta, leaf.delta)]
        yield f"| {leaf.check} | {leaf.subject} | {leaf.status} | {tried} | " + " | ".join(numbers) + " |"

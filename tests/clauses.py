"""The static clause check: `python -m tests.clauses` prints every fault and exits 1 if there is one.

It reads the clauses of spec/*.md, the ids that tests cite by `@pytest.mark.clause("RS-3")`, and the
ids of `Spec:` lines in docstrings of dspec/. Python files are parsed, never imported.
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FORM = re.compile(r"### (?P<prefix>[A-Z]{2})-(?P<number>[1-9]\d*) \((?P<level>[A-Z]+)\) (?P<title>\S.*)")
LEVELS = ("MUST", "SHOULD", "MAY", "PLANNED")
NEED_TEST = ("MUST", "SHOULD")
ISSUE = re.compile(r"\bissue \d+", re.IGNORECASE)
SPEC_LINE = re.compile(r"^[ \t]*Spec:(?P<ids>.*)$", re.MULTILINE)
FENCE = ("```", "~~~")
# A "Spec:" line holds ids and ranges of ids between commas; anything else hides a typing error.
RANGE = re.compile(r"(?P<prefix>[A-Z]{2})-(?P<first>[1-9]\d*)(\.\.(?P=prefix)-(?P<last>[1-9]\d*))?")


@dataclass(frozen=True)
class Clause:
    """One clause: where its heading stands, its id and level, its title and text."""

    prefix: str
    number: int
    level: str
    text: str
    place: str

    @property
    def id(self) -> str:
        """The id, such as RS-3."""
        return f"{self.prefix}-{self.number}"


@dataclass(frozen=True)
class Citation:
    """One mention of a clause id in Python code."""

    id: str
    place: str


def headings(text: str) -> list[tuple[int, str, str]]:
    """Return line number, heading and the text under it of every level-3 heading outside of fences."""
    found: list[tuple[int, str, list[str]]] = []
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        fenced ^= line.lstrip().startswith(FENCE)
        if not fenced and re.match(r"###(?!#)", line):
            found.append((number, line, []))
        elif not fenced and re.match(r"##?(?!#)", line):
            found.append((number, "", []))  # ends the clause above, opens none
        elif found:
            found[-1][2].append(line)
    return [(number, line, "\n".join(body)) for number, line, body in found if line]


def read_clauses(root: Path) -> tuple[list[Clause], list[str]]:
    """Return the clauses of spec/*.md in order, and a fault for each malformed heading."""
    clauses, faults = [], []
    for path in sorted((root / "spec").glob("*.md")):
        for number, line, body in headings(path.read_text(encoding="utf-8")):
            place = f"{path.relative_to(root).as_posix()}:{number}"
            match = FORM.fullmatch(line)
            if match is None or match["level"] not in LEVELS:
                faults.append(f"{place}: malformed heading {line!r}; needs '### RS-3 (MUST) Title'")
                continue
            said = f"{match['title']}\n{body}"
            clauses.append(Clause(match["prefix"], int(match["number"]), match["level"], said, place))
    return clauses, faults


def parsed(root: Path, folder: str) -> Iterator[tuple[str, ast.Module]]:
    """Yield name and syntax tree of every Python file in a folder."""
    for path in sorted((root / folder).rglob("*.py")):
        name = path.relative_to(root).as_posix()
        yield name, ast.parse(path.read_text(encoding="utf-8"), filename=name)


def is_clause_mark(node: ast.AST) -> bool:
    """Return whether a node is a call of `pytest.mark.clause` (or `mark.clause`)."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "clause"
        and ast.unparse(node.func.value).endswith("mark")
    )


def read_test_citations(root: Path) -> tuple[list[Citation], list[str]]:
    """Return the ids cited by clause marks in tests/, and a fault for each mark that is no plain string."""
    citations, faults = [], []
    for name, tree in parsed(root, "tests"):
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not is_clause_mark(node):
                continue
            place = f"{name}:{node.lineno}"
            if not node.args or node.keywords:
                faults.append(f"{place}: a clause mark needs ids as plain strings")
            for argument in node.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    citations.append(Citation(argument.value, place))
                else:
                    faults.append(f"{place}: clause mark {ast.unparse(argument)!r} is not a plain string")
    return citations, faults


def ids_of(line: str) -> list[str]:
    """Return the ids of a `Spec:` line, ranges such as RS-1..RS-18 in full; empty if it is malformed."""
    ids: list[str] = []
    for entry in line.strip().removesuffix(".").split(", "):
        match = RANGE.fullmatch(entry)
        if match is None:
            return []
        first, last = int(match["first"]), int(match["last"] or match["first"])
        if last < first:
            return []
        ids += [f"{match['prefix']}-{number}" for number in range(first, last + 1)]
    return ids


def read_docstring_citations(root: Path) -> tuple[list[Citation], list[str]]:
    """Return the ids on `Spec:` lines of docstrings in dspec/, and a fault for each unreadable line."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    citations, faults = [], []
    for name, tree in parsed(root, "dspec"):
        for node in ast.walk(tree):
            if not isinstance(node, documented):
                continue
            for match in SPEC_LINE.finditer(ast.get_docstring(node) or ""):
                place = f"{name}:{getattr(node, 'lineno', 1)}"
                ids = ids_of(match["ids"])
                if not ids:
                    faults.append(f"{place}: unreadable 'Spec:{match['ids']}'; needs 'Spec: RS-3, RS-4.'")
                citations += [Citation(id, place) for id in ids]
    return citations, faults


def check_order(clauses: list[Clause]) -> list[str]:
    """Return faults: an id used twice, or ids of one prefix that do not rise inside a file."""
    faults = []
    first: dict[str, str] = {}
    last: dict[tuple[str, str], Clause] = {}
    for clause in clauses:
        if clause.id in first:
            faults.append(f"{clause.place}: {clause.id} is used already at {first[clause.id]}")
        first.setdefault(clause.id, clause.place)
        key = (clause.place.rpartition(":")[0], clause.prefix)
        if key in last and clause.number < last[key].number:
            faults.append(f"{clause.place}: {clause.id} stands after {last[key].id}; ids rise in a file")
        last[key] = clause
    return faults


def check_tests(clauses: list[Clause], cited: set[str]) -> list[str]:
    """Return faults: a MUST or SHOULD without a test, a PLANNED that names no issue."""
    faults = []
    for clause in clauses:
        if clause.level in NEED_TEST and clause.id not in cited:
            faults.append(f"{clause.place}: {clause.id} ({clause.level}) has no test")
        if clause.level == "PLANNED" and ISSUE.search(clause.text) is None:
            faults.append(f"{clause.place}: {clause.id} (PLANNED) names no issue")
    return faults


def check(root: Path) -> list[str]:
    """Return every fault of the tree under `root`; an empty list is a pass."""
    clauses, faults = read_clauses(root)
    tests, test_faults = read_test_citations(root)
    docs, doc_faults = read_docstring_citations(root)
    known = {clause.id for clause in clauses}
    faults += test_faults + doc_faults + check_order(clauses)
    faults += [f"{c.place}: cites {c.id}, which no clause has" for c in tests + docs if c.id not in known]
    faults += check_tests(clauses, {citation.id for citation in tests})
    return faults if known else [*faults, "spec: no clause found"]


def main(root: Path = Path(__file__).parent.parent) -> int:
    """Print the faults of the repository and return the exit status."""
    faults = check(root)
    for fault in faults:
        print(fault)
    n_clauses = len(read_clauses(root)[0])
    print(f"clause check: {n_clauses} clauses, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

"""The static clause check finds every kind of fault, and finds none in this repository."""

from pathlib import Path

import pytest

from tests.clauses import check, main

GOOD = {
    "spec/a.md": "# A\n\n### AA-1 (MUST) First\nText.\n\n### AA-2 (MAY) Second\nText.\n",
    "spec/b.md": "### BB-1 (PLANNED) Later\nNot built: issue 7.\n\n### BB-3 (SHOULD) Third\nText.\n",
    "tests/test_a.py": ('import pytest\n\n\n@pytest.mark.clause("AA-1", "BB-3")\ndef test_a():\n    pass\n'),
    "dspec/a.py": 'def f():\n    """F.\n\n    Spec: AA-1..AA-2, BB-3.\n    """\n',
}
FAULTS = {
    "duplicate id": ("spec/c.md", "### AA-1 (MAY) Again\n", "AA-1 is used already at spec/a.md:3"),
    "out of order": ("spec/c.md", "### CC-2 (MAY) Two\n\n### CC-1 (MAY) One\n", "CC-1 stands after CC-2"),
    "MUST without a test": ("spec/c.md", "### CC-1 (MUST) One\n", "CC-1 (MUST) has no test"),
    "SHOULD without a test": ("spec/c.md", "### CC-1 (SHOULD) One\n", "CC-1 (SHOULD) has no test"),
    "unknown id in a test": (
        "tests/test_b.py",
        'import pytest\npytestmark = pytest.mark.clause("AA-9")\n',
        "tests/test_b.py:2: cites AA-9",
    ),
    "unknown id in a docstring": ("dspec/b.py", '"""B.\n\nSpec: ZZ-1.\n"""\n', "dspec/b.py:1: cites ZZ-1"),
    "end of a range": ("dspec/b.py", '"""B.\n\nSpec: AA-1..AA-3.\n"""\n', "dspec/b.py:1: cites AA-3"),
    "falling range": ("dspec/b.py", '"""B.\n\nSpec: AA-2..AA-1.\n"""\n', "unreadable 'Spec:"),
    "range over two prefixes": ("dspec/b.py", '"""B.\n\nSpec: AA-1..BB-3.\n"""\n', "unreadable 'Spec:"),
    "words in a Spec line": ("dspec/b.py", '"""B.\n\nSpec: AA-1 and AA-2.\n"""\n', "unreadable 'Spec:"),
    "empty Spec line": ("dspec/b.py", '"""B.\n\nSpec:\n"""\n', "unreadable 'Spec:"),
    "mark that is no string": (
        "tests/test_b.py",
        "import pytest\nX = 'AA-1'\npytestmark = pytest.mark.clause(X)\n",
        "clause mark 'X' is not a plain string",
    ),
    "mark without an id": (
        "tests/test_b.py",
        "import pytest\npytestmark = pytest.mark.clause()\n",
        "a clause mark needs ids",
    ),
    "unknown level": ("spec/c.md", "### CC-1 (OUGHT) One\n", "spec/c.md:1: malformed heading"),
    "no title": ("spec/c.md", "### CC-1 (MAY)\n", "spec/c.md:1: malformed heading"),
    "no level": ("spec/c.md", "### CC-1 One\n", "spec/c.md:1: malformed heading"),
    "number with a leading zero": ("spec/c.md", "### CC-01 (MAY) One\n", "malformed heading"),
    "no space after the hashes": ("spec/c.md", "###CC-1 (MAY) One\n", "malformed heading"),
    "planned without an issue": (
        "spec/c.md",
        "### CC-1 (PLANNED) One\nSoon.\n",
        "CC-1 (PLANNED) names no issue",
    ),
    "planned, issue of the next section": (
        "spec/c.md",
        "### CC-1 (PLANNED) One\nSoon.\n\n## Notes\nissue 3\n",
        "CC-1 (PLANNED) names no issue",
    ),
}


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_a_sound_tree_has_no_fault(tmp_path):
    assert check(write(tmp_path, GOOD)) == []
    assert main(tmp_path) == 0


@pytest.mark.parametrize("kind", FAULTS)
def test_each_kind_of_fault_is_found_and_nothing_else(tmp_path, capsys, kind):
    name, text, message = FAULTS[kind]
    faults = check(write(tmp_path, {**GOOD, name: text}))
    assert len(faults) == 1, faults
    assert message in faults[0]
    assert main(tmp_path) == 1
    assert faults[0] in capsys.readouterr().out


def test_removing_a_test_shows_its_clauses(tmp_path):
    faults = check(write(tmp_path, {**GOOD, "tests/test_a.py": ""}))
    assert [fault.split(": ")[1] for fault in faults] == [
        "AA-1 (MUST) has no test",
        "BB-3 (SHOULD) has no test",
    ]


def test_a_mark_in_a_string_or_comment_is_no_citation(tmp_path):
    text = "# @pytest.mark.clause('AA-9')\nTEXT = \"@pytest.mark.clause('AA-8')\"\n"
    assert check(write(tmp_path, {**GOOD, "tests/test_b.py": text})) == []


def test_a_heading_inside_a_fence_is_an_example(tmp_path):
    text = "```\n### Heading of an example\n```\n"
    assert check(write(tmp_path, {**GOOD, "spec/c.md": text})) == []


def test_an_empty_spec_is_a_fault(tmp_path):
    assert check(write(tmp_path, {"spec/a.md": "# A\n", "tests/t.py": "", "dspec/d.py": ""})) == [
        "spec: no clause found"
    ]


def test_the_repository_passes():
    assert check(Path(__file__).parent.parent) == []

"""The study's text: suites by folder, and prompts cut as the README of the folder says."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from dspec.errors import ConfigError
from dspec.evaluation.suites import load_suites

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def study():
    """The example as a module; it imports the one beside it."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        spec = importlib.util.spec_from_file_location("make_study_data", EXAMPLES / "make_study_data.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(EXAMPLES))
    return module


def test_a_folder_of_suites_has_each_under_its_name(tmp_path):
    with pytest.raises(ConfigError, match="suite_NAME"):
        load_suites(tmp_path)
    for name, count in (("sums", 3), ("code", 2)):
        lines = [json.dumps({"text": f"{name} {i}", "domain": name}) for i in range(count)]
        (tmp_path / f"suite_{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "train.jsonl").write_text("{}")
    found = load_suites(tmp_path, limit=2)
    assert [(suite.name, suite.prompts) for suite in found] == [
        ("code", ("code 0", "code 1")),
        ("sums", ("sums 0", "sums 1")),
    ]


def test_prompts_of_files_fit_and_the_file_goes_on_after_them(study):
    rows = [{"text": "".join(f"line {i} of {n}\n" for i in range(n))} for n in (12, 200, 70)]
    found = [r["text"].splitlines() for r in study.excerpts(rows, lambda r: r["text"].count("\n") <= 25)]
    assert len(found) == 4 + 3, "of five places of a file those where it goes on for more than 41 lines"
    assert {len(lines) for lines in found} == {25}
    assert [lines[0] for lines in found[:4]] == [f"line {40 * i} of 200" for i in range(4)]
    assert not study.excerpts(rows, lambda r: r["text"].count("\n") < 10), "nothing shorter than ten lines"


def test_prompts_of_dialogues_end_with_the_user(study):
    talk = {"messages": study.turns([["USER", " a "], ["SYSTEM", "b"]] * 4)}
    found = [study.opening(talk, i)["messages"] for i in range(4)]
    assert [len(m) for m in found] == [1, 3, 5, 1]
    assert all(m[-1] == {"role": "user", "content": "a"} for m in found)


def test_files_are_cut_between_lines_and_nothing_is_lost_but_long_lines(study):
    text = "x = 1  # a comment\n" * 300
    found = study.pieces([{"text": text}])
    assert "".join(r["text"] for r in found) == text.rstrip("\n") and len(found) > 1
    assert all(len(r["text"]) <= study.demo.MAX_CHARACTERS for r in found)
    assert study.pieces([{"text": "y" * 2000}]) == []

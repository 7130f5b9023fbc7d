"""The vectors on disk are what the witness gives now."""

import json

import pytest

from tests import objective_vectors
from tests.tolerances import FLOAT64


def assert_same(now, stored, place="objectives.json"):
    """Equal structure, integers and text; floats up to the last bits, which differ between C libraries."""
    assert type(now) is type(stored), place
    if isinstance(now, dict):
        assert list(now) == list(stored), place
        for key in now:
            assert_same(now[key], stored[key], f"{place}: {key}")
    elif isinstance(now, list):
        assert len(now) == len(stored), place
        for index, pair in enumerate(zip(now, stored)):
            assert_same(*pair, f"{place}: {index}")
    elif isinstance(now, float):
        assert now == pytest.approx(stored, rel=FLOAT64, abs=FLOAT64), place
    else:
        assert now == stored, place


@pytest.mark.clause("OB-6", "OB-7", "OB-8")
def test_the_vectors_on_disk_are_what_the_oracle_gives():
    stored = objective_vectors.PATH.read_text(encoding="utf-8")
    now = json.loads(objective_vectors.text(objective_vectors.vectors()))
    assert_same(now, json.loads(stored))
    readme = (objective_vectors.PATH.parent.parent / "README.md").read_text(encoding="utf-8")
    assert f"**{now['edition']}.**" in readme


def test_a_changed_vector_would_be_seen():
    now = objective_vectors.vectors()
    changed = json.loads(json.dumps(now))
    changed["cases"][3]["value"] += 1e-9
    with pytest.raises(AssertionError, match="cases: 3: value"):
        assert_same(changed, now)

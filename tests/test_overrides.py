"""The table of overridden operations: each entry keeps core's signature and law, and none is needed."""

import inspect

import numpy as np
import pytest

from dspec.backends.override import CORE
from dspec.errors import ConfigError
from tests.test_gold import gradient, problem

# Every room must have these; `test_every_entry_is_tested` keeps the list whole.
OPERATIONS = pytest.mark.parametrize("name", ["gold_log_probs"])


def entry_of(room, name):
    (entry,) = (entry for entry in room.overrides.OVERRIDES if entry.operation == name)
    return entry


def test_every_entry_is_tested(room):
    (mark,) = OPERATIONS.args[1:]
    assert [entry.operation for entry in room.overrides.OVERRIDES] == mark


@OPERATIONS
def test_signature_begins_with_core_s(room, name):
    core = inspect.signature(CORE[name]).parameters
    ours = inspect.signature(entry_of(room, name).function).parameters
    assert list(ours)[: len(core)] == list(core)
    added = list(ours.values())[len(core) :]
    assert all(parameter.default is not inspect.Parameter.empty for parameter in added)


@OPERATIONS
def test_stays_within_its_tolerance(room, name):
    assert name == "gold_log_probs", "write the comparison of a new operation here"
    entry, arguments = entry_of(room, name), problem(room, rows=300, vocab=2003)
    ours = gradient(room, entry.function, *arguments)
    core = gradient(room, CORE[name], *arguments)
    np.testing.assert_allclose(ours[0], core[0], atol=entry.tolerance, rtol=0)
    np.testing.assert_allclose(ours[2], core[2], atol=entry.tolerance, rtol=0)


@OPERATIONS
def test_says_what_it_gains_and_what_it_must_keep(room, name):
    entry = entry_of(room, name)
    assert "benchmarks/" in entry.reason and any(letter.isdigit() for letter in entry.reason)
    assert entry.clauses


def test_lookup_by_device_and_switch(room, monkeypatch):
    overrides = room.overrides
    ours, core = overrides.OVERRIDES[0].function, CORE["gold_log_probs"]
    assert overrides.operation("gold_log_probs", device=room.device) is ours
    assert overrides.operation("gold_log_probs", device="xla") is core
    assert overrides.operation("gold_log_probs", enabled=False) is core
    monkeypatch.setattr(overrides, "OVERRIDES", ())
    assert overrides.operation("gold_log_probs") is core


def test_unknown_operation_is_refused(room):
    with pytest.raises(ConfigError, match="gold_log_probs"):
        room.overrides.operation("gold_log_prob")

"""The table of overridden operations: each entry keeps core's signature and law, and none is needed."""

import inspect

import numpy as np
import pytest

from dspec.backends.override import CORE
from dspec.errors import ConfigError
from tests.test_gold import gradient, problem
from tests.test_overlap import gradients as overlap_gradients
from tests.test_overlap import problem as overlap_problem

# Every room must have these; `test_every_entry_is_tested` keeps the list whole.
OPERATIONS = pytest.mark.parametrize("name", ["gold_log_probs", "overlap_statistics"])


def here(room):
    return [entry for entry in room.overrides.OVERRIDES if room.device in entry.devices]


def entry_of(room, name):
    """The one entry for the device that tests run on; CUDA has others where Triton is."""
    (entry,) = (entry for entry in here(room) if entry.operation == name)
    return entry


def test_every_entry_is_tested(room):
    (mark,) = OPERATIONS.args[1:]
    assert [entry.operation for entry in here(room)] == mark
    assert {entry.operation for entry in room.overrides.OVERRIDES} == set(mark)


@OPERATIONS
def test_signature_begins_with_core_s(room, name):
    core = inspect.signature(CORE[name]).parameters
    ours = inspect.signature(entry_of(room, name).function).parameters
    assert list(ours)[: len(core)] == list(core)
    added = list(ours.values())[len(core) :]
    assert all(parameter.default is not inspect.Parameter.empty for parameter in added)


def all_numbers(room, name, function):
    """Values and gradients of an operation on one problem, by name."""
    if name == "gold_log_probs":
        log_prob, _, grad = gradient(room, function, *problem(room, rows=300, vocab=2003))
        return {"log_prob": log_prob, "gradient": grad}
    assert name == "overlap_statistics", "write the comparison of a new operation here"
    *arguments, weights = overlap_problem(room, rows=300, vocab=2003)
    values = function(*arguments, xp=room.xp)
    numbers = {field: room.numpy(getattr(values, field)) for field in values._fields if field != "hit"}
    return numbers | {f"d {k}": g for k, g in overlap_gradients(room, function, *arguments, weights).items()}


@OPERATIONS
def test_stays_within_its_tolerance(room, name):
    entry = entry_of(room, name)
    ours, core = (all_numbers(room, name, function) for function in (entry.function, CORE[name]))
    for key, expected in core.items():
        np.testing.assert_allclose(ours[key], expected, atol=entry.tolerance, rtol=0, err_msg=key)


@OPERATIONS
def test_says_what_it_gains_and_what_it_must_keep(room, name):
    entry = entry_of(room, name)
    assert "benchmarks/" in entry.reason and any(letter.isdigit() for letter in entry.reason)
    assert entry.clauses


def test_lookup_by_device_and_switch(room, monkeypatch):
    overrides = room.overrides
    ours, core = entry_of(room, "gold_log_probs").function, CORE["gold_log_probs"]
    assert overrides.operation("gold_log_probs", device=room.device) is ours
    assert overrides.operation("gold_log_probs", device="xla") is core
    assert overrides.operation("gold_log_probs", enabled=False) is core
    monkeypatch.setattr(overrides, "OVERRIDES", ())
    assert overrides.operation("gold_log_probs") is core


def test_unknown_operation_is_refused(room):
    with pytest.raises(ConfigError, match="gold_log_probs"):
        room.overrides.operation("gold_log_prob")

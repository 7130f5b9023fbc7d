"""The table of overridden operations: each entry keeps core's signature and law, and none is needed."""

import inspect

import pytest
import torch

from dspec.backends.torch import overrides
from dspec.backends.torch.overrides import CORE, OVERRIDES, operation
from dspec.errors import ConfigError
from tests.test_gold import gradient, problem

ENTRIES = pytest.mark.parametrize("entry", OVERRIDES, ids=lambda entry: entry.operation)


@ENTRIES
def test_signature_begins_with_core_s(entry):
    core = inspect.signature(CORE[entry.operation]).parameters
    ours = inspect.signature(entry.function).parameters
    assert list(ours)[: len(core)] == list(core)
    added = list(ours.values())[len(core) :]
    assert all(parameter.default is not inspect.Parameter.empty for parameter in added)


@ENTRIES
def test_stays_within_its_tolerance(entry):
    assert entry.operation == "gold_log_probs", "write the comparison of a new operation here"
    arguments = problem(torch.float32, rows=300, vocab=2003)
    ours, core = gradient(entry.function, *arguments), gradient(CORE[entry.operation], *arguments)
    torch.testing.assert_close(ours[0], core[0], atol=entry.tolerance, rtol=0)
    torch.testing.assert_close(ours[2], core[2], atol=entry.tolerance, rtol=0)


@ENTRIES
def test_says_what_it_gains_and_what_it_must_keep(entry):
    assert "benchmarks/" in entry.reason and any(letter.isdigit() for letter in entry.reason)
    assert entry.clauses


def test_lookup_by_device_and_switch(monkeypatch):
    ours, core = OVERRIDES[0].function, CORE["gold_log_probs"]
    assert operation("gold_log_probs", device="cpu") is ours
    assert operation("gold_log_probs", device="xla") is core
    assert operation("gold_log_probs", enabled=False) is core
    monkeypatch.setattr(overrides, "OVERRIDES", ())
    assert operation("gold_log_probs") is core


def test_unknown_operation_is_refused():
    with pytest.raises(ConfigError, match="gold_log_probs"):
        operation("gold_log_prob")

"""The table of overridden operations: each entry keeps core's signature and law, and none is needed."""

import inspect

import numpy as np
import pytest

from dspec.backends.override import CORE
from dspec.core.policies import GREEDY, POLICIES, draft_tokens
from dspec.core.types import Sampling, Uniforms
from dspec.errors import ConfigError
from tests.test_gold import gradient, problem
from tests.test_overlap import gradients as overlap_gradients
from tests.test_overlap import problem as overlap_problem

# Every room must have the first two, torch on a CPU all; `test_every_entry_is_tested` keeps the list whole.
EVERYWHERE = ["gold_log_probs", "overlap_statistics"]
ALL = [*EVERYWHERE, "judge", "log_probs", "warp"]
OPERATIONS = pytest.mark.parametrize("name", ALL)


def here(room):
    return [entry for entry in room.overrides.OVERRIDES if room.device in entry.devices]


def entry_of(room, name):
    """The one entry for the device that tests run on; CUDA has others where Triton is."""
    found = [entry for entry in here(room) if entry.operation == name]
    if not found and name not in EVERYWHERE:
        pytest.skip(f"{room.device} runs core's own {name}")
    (entry,) = found
    return entry


def test_every_entry_is_tested(room):
    expected = ALL if room.device == "cpu" else EVERYWHERE
    assert [entry.operation for entry in here(room)] == expected
    assert {entry.operation for entry in room.overrides.OVERRIDES} == set(expected)
    assert set(CORE) == set(ALL)


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
    if name in ("judge", "warp"):
        return decoded(room, name, function)
    if name == "log_probs":
        return told(room, function)
    assert name == "overlap_statistics", "write the comparison of a new operation here"
    *arguments, weights = overlap_problem(room, rows=300, vocab=2003)
    values = function(*arguments, xp=room.xp)
    numbers = {field: room.numpy(getattr(values, field)) for field in values._fields if field != "hit"}
    return numbers | {f"d {k}": g for k, g in overlap_gradients(room, function, *arguments, weights).items()}


def decoded(room, name, function):
    """Laws, or verdicts of every policy, under several settings; V = 257 fills no block of 17."""
    rng = np.random.default_rng(3)
    logits = 3 * rng.standard_normal((40, 6, 257), dtype=np.float32)
    noise = rng.standard_normal((40, 5, 257), dtype=np.float32)
    logits[3, 1], logits[4, 0, 7], logits[5, 2, :200] = np.nan, np.inf, -np.inf
    found = {}
    for policy in POLICIES.values() if name == "judge" else [None]:
        for at, filters in (("plain", {}), ("filtered", {"top_k": 40, "top_p": 0.9})):
            heat = 0.0 if policy is GREEDY else 0.7
            sampling = Sampling(temperature=heat, **filters)
            if name == "warp":
                found[at] = room.numpy(function(room.array(logits), sampling, xp=room.xp))
                continue
            close = room.array(rng.random((40, 6, 2), dtype=np.float32))
            draft = draft_tokens(
                room.array(logits[:, :5] + noise), policy, sampling, close[:, :5], xp=room.xp
            )
            uniforms = Uniforms(room.array(rng.random((40, 5), dtype=np.float32)), close)
            verdict = function(room.array(logits), draft, policy, sampling, uniforms, xp=room.xp)
            key = f"{policy.name} {at}"
            # Rows 3 to 5 may be malformed behind the closing token, which only core looks at.
            found |= {f"{key} n": room.numpy(verdict.n_accepted)[6:], key: room.numpy(verdict.tokens)[6:]}
    return found


def told(room, function):
    """Log-probabilities of tokens of all ranks, some rows asked nothing; under several settings."""
    rng = np.random.default_rng(5)
    logits = room.array(4 * rng.standard_normal((40, 6, 257), dtype=np.float32))
    tokens = room.array(rng.integers(-1, 257, (40, 6)).astype(np.int32))
    settings = (
        {"temperature": 1.0},
        {"temperature": 0.3},
        {"temperature": 0.7, "top_k": 40, "top_p": 0.9},
        {},
    )
    return {str(one): room.numpy(function(logits, tokens, Sampling(**one), xp=room.xp)) for one in settings}


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

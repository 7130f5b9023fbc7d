"""Two engines in step: the same tokens, near-edge passes counted, every other difference a failure."""

from dataclasses import replace

import numpy as np
import pytest

from dspec.backends.numpy import NumpyOps, TableDrafter, TableTarget
from dspec.engine import Engine
from dspec.testing import compare_engines

V, NEAR = 6, 2e-2
PROMPTS = [[i % V] for i in range(40)]
SETTINGS = {"max_new_tokens": 12, "ignore_eos": True}
MODES = {
    "greedy": {},
    "one_hot": {"temperature": 1.0},
    "rejection": {"temperature": 0.8, "policy": "rejection"},
    "sample_match": {"temperature": 1.0, "policy": "sample_match"},
}


@pytest.fixture(params=MODES)
def mode(request):
    return {**SETTINGS, **MODES[request.param]}


def engine(*, noise=0.0, drafter_noise=0.0, ops=None):
    """Two laws over six tokens, some of whose entries are nearly equal; noise is of the log-laws."""
    rng, other = np.random.default_rng(3), np.random.default_rng(4)
    law = rng.dirichlet(np.full(V, 0.5), (2, V)) + 0.02
    law[0, 1, 1] = law[0, 1, 2] = law[0, 1].max()  # a tie, which noise breaks
    near = law[[0, 1, 0]] + 0.05 * rng.random((3, V, V))

    def perturbed(table, size):
        table = table * np.exp(size * other.uniform(-1, 1, table.shape))
        return table / table.sum(axis=-1, keepdims=True)

    target = TableTarget(perturbed(law, noise), frozenset([0]))
    drafter = TableDrafter(perturbed(near, drafter_noise), autoregressive=True)
    return Engine(target, drafter, ops or NumpyOps())


@pytest.mark.clause("RS-10")
def test_equal_engines_agree_on_every_token(mode):
    report = compare_engines(engine(), engine(), PROMPTS, distance=1e-9, **mode)
    assert report.passed, report
    assert report.tried["near-edge passes"] == 0 and report.tried["tokens"] == len(PROMPTS) * 12


@pytest.mark.clause("RS-12")
def test_near_edge_passes_are_excused_and_counted(mode):
    noisy = engine(noise=NEAR / 4, drafter_noise=NEAR / 4)
    report = compare_engines(engine(), noisy, PROMPTS * 5, distance=NEAR, **mode)
    assert report.passed, report
    assert 0 < report.tried["near-edge passes"] < report.tried["prompts"]
    assert report.tried["passes"] > report.tried["prompts"]


def test_logits_further_apart_than_declared_are_a_failure(mode):
    report = compare_engines(engine(), engine(noise=0.1), PROMPTS, distance=NEAR, **mode)
    assert not report.passed and report.counterexample["logits apart"] > NEAR


class OtherUniforms(NumpyOps):
    """Every uniform moved by a twentieth: right logits, wrong tokens."""

    def from_host(self, array):
        return np.mod(array + np.float32(0.05), 1) if array.dtype == np.float32 else array


@pytest.mark.parametrize("name", ["one_hot", "rejection", "sample_match"])
def test_an_engine_that_draws_otherwise_is_a_failure(name):
    wrong = engine(ops=OtherUniforms())
    report = compare_engines(engine(), wrong, PROMPTS, distance=1e-6, **SETTINGS, **MODES[name])
    assert not report.passed and report.counterexample["edge distance"] > 4e-6


def test_an_engine_that_draws_otherwise_without_a_drafter_is_a_failure():
    pair = (replace(e, drafter=None) for e in (engine(), engine(ops=OtherUniforms())))
    report = compare_engines(*pair, PROMPTS, distance=1e-6, **SETTINGS, temperature=1.0)
    assert not report.passed and report.tried["near-edge passes"] == 0


@pytest.mark.parametrize("name", ["one_hot", "rejection"])
def test_a_drafter_of_other_weights_is_a_failure(name):
    report = compare_engines(
        engine(), engine(drafter_noise=0.5), PROMPTS, distance=1e-6, **SETTINGS, **MODES[name]
    )
    assert not report.passed and "tokens" in report.counterexample

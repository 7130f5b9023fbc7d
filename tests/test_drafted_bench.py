"""Decoders of one target and drafter side by side: figures, table, refusals."""

import json

import pytest

from dspec.backends.numpy import NumpyOps
from dspec.core.stats import pool
from dspec.decoders import Autoregressive, Speculative, Tree
from dspec.engine import Engine
from dspec.errors import ConfigError
from dspec.evaluation.drafted_bench import compare_drafted
from tests.test_cli import DRAFTER, TARGET, run
from tests.test_tree_engine import tables

PROMPTS = [[0, 1], [3], [2, 4, 1], [5, 0]]
ARMS = {"plain": Autoregressive(), "block": Speculative(), "tree": Tree(budget=12)}


@pytest.fixture
def engine():
    return Engine(*tables(), NumpyOps())


@pytest.mark.clause("DL-2", "DL-7", "RN-1")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_figures_are_those_of_each_decoder_alone(engine, temperature):
    done = []
    settings = {"max_new_tokens": 30, "temperature": temperature}
    found = compare_drafted(engine, PROMPTS, ARMS, seed=7, advance=done.append, **settings)
    assert list(found) == list(ARMS) and done == list(ARMS) * len(PROMPTS)
    for name, decoder in ARMS.items():
        outs = [
            engine.generate(prompt, seed=7 + i, decoder=decoder, **settings)
            for i, prompt in enumerate(PROMPTS)
        ]
        alone, own = pool(out.stats for out in outs), found[name]
        assert own["tau"] == alone.tau and own["n_passes"] == len(alone.n_accepted)
        assert own["n_tokens"] == alone.n_tokens and own["tau_ratio"] == alone.tau / found["plain"]["tau"]
        low, high = own["tau_ratio_interval"]
        assert low <= own["tau_ratio"] <= high
        assert own["n_equal"] == len(PROMPTS) or temperature
    assert found["plain"]["tau"] == 1.0 == found["plain"]["speedup"]
    assert found["tree"]["tau"] > found["block"]["tau"] > 1


def test_outputs_without_a_pass_leave_no_warning(engine):
    found = compare_drafted(engine, PROMPTS[:1], ARMS, max_new_tokens=1)
    assert found["block"]["n_passes"] == 0 and found["block"]["tau"] != found["block"]["tau"]


def test_nothing_to_compare_is_refused(engine):
    for prompts, arms in (([], ARMS), (PROMPTS, {})):
        with pytest.raises(ConfigError, match="at least one of each"):
            compare_drafted(engine, prompts, arms)


def test_the_command_line_compares_decoders(capsys, tmp_path):
    (tmp_path / "suite.jsonl").write_text('{"tokens": [101, 101, 100]}\n{"tokens": [60, 61]}\n')
    words = ("bench", TARGET, DRAFTER, "--suite", tmp_path / "suite.jsonl", "--max-new-tokens", 12)
    arms = ("--decoder", "autoregressive", "--decoder", "tree(budget=8)")
    status, out, _ = run(capsys, *words, *arms, "--output", tmp_path / "out")
    assert status == 0 and "tree(budget=8)" in out and "2 prompts, temperature 0" in out and "equal" in out
    found = json.loads((tmp_path / "out" / "bench.json").read_text())["decoders"]
    assert list(found) == ["autoregressive", "tree(budget=8)"]
    assert found["tree(budget=8)"]["n_equal"] == 2 and found["tree(budget=8)"]["tau"] >= 1
    status, out, _ = run(capsys, *words, *arms, "--temperature", "1", "--json")
    assert status == 0 and json.loads(out)["decoders"]["autoregressive"]["tau"] == 1.0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((TARGET, DRAFTER, "--decoder", "diffusion"), "where there is a drafter"),
        ((TARGET, DRAFTER, "--plan", "--decoder", "autoregressive"), "no --plan beside it"),
        ((TARGET, DRAFTER, "--decoder", "tree(budget=some)"), "budget: got 'some'"),
    ],
)
def test_what_does_not_fit_is_refused(capsys, words, said):
    status, _, err = run(capsys, "bench", *words)
    assert status == 2 and said in err

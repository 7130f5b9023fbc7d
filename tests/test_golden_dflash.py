"""Equality with z-lab/dflash: recorded states, logits, greedy tokens, acceptance lengths, files."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dspec.backends.judge import RequestJudge
from dspec.backends.torch.drafter import load_drafter, save_drafter
from dspec.backends.torch.ops import TorchOps
from dspec.backends.torch.target import Target
from dspec.core.decode import Limits, decode
from dspec.core.policies import GREEDY
from dspec.core.types import Draft, Sampling
from dspec.rng import Stream
from tests.tolerances import GOLDEN

FOLDER = Path(__file__).parent / "golden" / "dflash_tiny"
RECORDED = load_file(FOLDER / "io.safetensors")
RUNS = json.loads((FOLDER / "generate.json").read_text())
# Upstream counts 96 tokens after the prefill's: one more of ours, of which 96 are compared.
NEW_TOKENS = 97


@pytest.fixture(scope="module")
def target():
    return Target.load(FOLDER / "target", device="cpu")


@pytest.fixture(scope="module")
def drafter():
    return load_drafter(FOLDER / "drafter", device="cpu")


@pytest.fixture(params=range(3))
def recorded(request):
    """One recorded sequence: its tensors by name."""
    prefix = f"{request.param}."
    return {name.removeprefix(prefix): t for name, t in RECORDED.items() if name.startswith(prefix)}


def assert_golden(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=GOLDEN, rtol=0)


@pytest.mark.clause("BD-5")
def test_taps_and_logits_of_the_target(target, drafter, recorded):
    ids = recorded["input_ids"]
    assert_golden(target.tap(ids[None, :-1], drafter.layer_ids)[0], recorded["target_hidden"])
    session = target.session(layer_ids=drafter.layer_ids, capacity=len(ids))
    scores = session.prefill(ids.tolist())
    assert_golden(scores.features[0, :-1], recorded["target_hidden"])
    assert_golden(scores.logits[0, 0], recorded["target_logits"][-1])
    session.rewind(0)
    every = session.score(int(ids[0]), ids[None, 1:])
    assert_golden(every.logits[0], recorded["target_logits"])


@pytest.mark.clause("BD-6")
def test_hidden_states_and_logits_of_the_drafter(target, drafter, recorded):
    context = drafter.fuse(recorded["target_hidden"][None])
    anchor = context.shape[1]
    with torch.no_grad():
        hidden = drafter(
            target.embed(recorded["block_ids"][None]),
            torch.arange(anchor, anchor + drafter.block_size)[None],
            context,
            torch.arange(anchor)[None],
        )
    assert_golden(hidden[0], recorded["draft_hidden"])
    assert_golden(target.logits(hidden)[0], recorded["draft_logits"])


@pytest.mark.clause("BD-6", "BD-8")
def test_logits_of_a_drafting_session(target, drafter, recorded):
    features, seen = recorded["target_hidden"][None], []

    def rule(logits):
        seen.append(logits[0])
        return Draft(logits.argmax(-1))

    session = drafter.session(target, capacity=64 + features.shape[1])
    session.propose(int(recorded["block_ids"][0]), features.shape[1], features, rule)
    assert_golden(seen[0].clone(), recorded["draft_logits"][1:])


@pytest.mark.clause("DL-2", "DL-7")
@pytest.mark.parametrize("run", RUNS)
def test_greedy_tokens_and_every_acceptance_length(target, drafter, run):
    prompt = run["prompt"]
    capacity = len(prompt) + NEW_TOKENS + drafter.block_size
    judge = RequestJudge(
        TorchOps(target.device), GREEDY, Sampling(), Stream(seed=0), n_slots=drafter.block_size - 1
    )
    sessions = (
        target.session(layer_ids=drafter.layer_ids, capacity=capacity),
        drafter.session(target, capacity=capacity),
    )
    first, *passes = decode(*sessions, judge, prompt, Limits(NEW_TOKENS))
    tokens = [token for step in (first, *passes) for token in step.tokens]
    assert prompt + tokens[:96] == run["output_ids"]
    assert [step.n_emitted for step in passes] == run["acceptance_lengths"]


@pytest.mark.clause("BD-7")
@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_a_published_checkpoint_survives_a_round_trip(drafter, dtype, tmp_path):
    save_drafter(load_drafter(FOLDER / "drafter", device="cpu", dtype=dtype), tmp_path / "copy")
    assert (tmp_path / "copy/model.safetensors").read_bytes() == (
        FOLDER / "drafter/model.safetensors"
    ).read_bytes()
    ours, theirs = (
        json.loads((f / "config.json").read_text()) for f in (tmp_path / "copy", FOLDER / "drafter")
    )
    assert ours == theirs

"""Equality with z-lab/dflash: recorded states, logits, greedy tokens, acceptance lengths, files."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from dspec.backends.judge import RequestJudge
from dspec.core.decode import Limits, decode
from dspec.core.policies import GREEDY
from dspec.core.types import Draft, Sampling
from dspec.rng import Stream
from tests.tolerances import GOLDEN, GOLDEN_MLX

FOLDER = Path(__file__).parent / "golden" / "dflash_tiny"
RECORDED = load_file(FOLDER / "io.safetensors")
RUNS = json.loads((FOLDER / "generate.json").read_text())
# Upstream counts 96 tokens after the prefill's: one more of ours, of which 96 are compared.
NEW_TOKENS = 97


@pytest.fixture(scope="module")
def target(room):
    return room.target.Target.load(FOLDER / "target", device=room.device)


@pytest.fixture(scope="module")
def drafter(room):
    return room.drafter.load_drafter(FOLDER / "drafter", device=room.device)


@pytest.fixture(params=range(3))
def recorded(request):
    """One recorded sequence: its tensors by name."""
    prefix = f"{request.param}."
    return {name.removeprefix(prefix): t for name, t in RECORDED.items() if name.startswith(prefix)}


@pytest.fixture
def assert_golden(room):
    """Compares an array of the room with a recorded one."""
    largest = {"torch": GOLDEN, "mlx": GOLDEN_MLX}[room.name]

    def compare(ours, theirs):
        np.testing.assert_allclose(room.numpy(ours), theirs, atol=largest, rtol=0)

    return compare


@pytest.mark.clause("BD-5")
def test_taps_and_logits_of_the_target(room, target, drafter, recorded, assert_golden):
    ids = recorded["input_ids"]
    assert_golden(target.tap(room.array(ids[None, :-1]), drafter.layer_ids)[0], recorded["target_hidden"])
    session = target.session(layer_ids=drafter.layer_ids, capacity=len(ids))
    scores = session.prefill(ids.tolist())
    assert_golden(scores.features[0, :-1], recorded["target_hidden"])
    assert_golden(scores.logits[0, 0], recorded["target_logits"][-1])
    session.rewind(0)
    every = session.score(int(ids[0]), room.array(ids[None, 1:]))
    assert_golden(every.logits[0], recorded["target_logits"])


@pytest.mark.clause("BD-6")
def test_hidden_states_and_logits_of_the_drafter(room, target, drafter, recorded, assert_golden):
    context = drafter.fuse(room.array(recorded["target_hidden"][None]))
    anchor = context.shape[1]
    hidden = drafter(
        target.embed(room.array(recorded["block_ids"][None])),
        room.array(np.arange(anchor, anchor + drafter.block_size)[None]),
        context,
        room.array(np.arange(anchor)[None]),
    )
    assert_golden(hidden[0], recorded["draft_hidden"])
    assert_golden(target.logits(hidden)[0], recorded["draft_logits"])


@pytest.mark.clause("BD-6", "BD-8")
def test_logits_of_a_drafting_session(room, target, drafter, recorded, assert_golden):
    features, seen = room.array(recorded["target_hidden"][None]), []

    def rule(logits):
        seen.append(logits[0] + 0)
        return Draft(room.xp.argmax(logits, axis=-1))

    session = drafter.session(target, capacity=64 + features.shape[1])
    session.propose(int(recorded["block_ids"][0]), features.shape[1], features, rule)
    assert_golden(seen[0], recorded["draft_logits"][1:])


@pytest.mark.clause("DL-2", "DL-7")
@pytest.mark.parametrize("run", RUNS)
def test_greedy_tokens_and_every_acceptance_length(room, target, drafter, run):
    prompt = run["prompt"]
    capacity = len(prompt) + NEW_TOKENS + drafter.block_size
    judge = RequestJudge(room.operations, GREEDY, Sampling(), Stream(seed=0), n_slots=drafter.block_size - 1)
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
def test_a_published_checkpoint_survives_a_round_trip(room, dtype, tmp_path):
    copy = room.drafter.load_drafter(FOLDER / "drafter", device=room.device, dtype=dtype)
    room.drafter.save_drafter(copy, tmp_path / "copy")
    for name in ("model.safetensors", "config.json"):
        ours, theirs = ((f / name).read_bytes() for f in (tmp_path / "copy", FOLDER / "drafter"))
        assert ours == theirs

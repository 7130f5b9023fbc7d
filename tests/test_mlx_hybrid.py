"""Targets with recurrent layers on MLX: rewound by a snapshot and reading again, exactly."""

import dataclasses
import json
import random

import mlx.core as mx
import numpy as np
import pytest

from dspec.backends.mlx import target_session
from dspec.backends.mlx.replay import RecurrentLayer, Replay
from dspec.backends.mlx.target import Target
from dspec.backends.torch.target import Target as TorchTarget
from dspec.errors import BackendUnavailable, ConfigError
from tests import tiny_models
from tests.no_waiting import lazy, no_waiting
from tests.reference_model import TAPS, TOKENS, ids_of, side_by_side, whole
from tests.rooms import ROOMS
from tests.test_mlx_targets import save
from tests.test_target_calls import watched
from tests.tolerances import FORWARD_F32, TWO_RECURRENCES

pytestmark = [pytest.mark.mlx, pytest.mark.clause("DL-4", "DL-8")]
MLX = ROOMS["mlx"]


@pytest.fixture(scope="module", params=tiny_models.HYBRID)
def kind(request):
    return request.param


@pytest.fixture
def target(kind):
    return tiny_models.opened(kind, MLX)


def check(scores, target, read, start):
    """Scores of positions start.. equal a fresh pass over all tokens."""
    fresh = score(target.session(layer_ids=TAPS, capacity=len(read)), read)
    for ours, theirs in ((scores.logits, fresh.logits), (scores.features, fresh.features)):
        assert np.abs(MLX.numpy(ours) - MLX.numpy(theirs)[:, start:]).max() <= FORWARD_F32


def block_of(dice, count):
    return dice.choices(range(3, tiny_models.VOCABULARY), k=count)


def score(session, block):
    return session.score(block[0], MLX.array(np.array([block[1:]], dtype=np.int32)))


def test_one_pass_equals_transformers(kind, target):
    logits, states = whole(kind, TOKENS[0])
    scores = score(target.session(layer_ids=TAPS, capacity=24), TOKENS[0])
    features = target.tap(ids_of(MLX, TOKENS), TAPS)
    pairs = (
        (scores.logits, logits),
        (scores.features, side_by_side(states)),
        (features, side_by_side(states)),
    )
    for ours, theirs in pairs:
        assert np.abs(MLX.numpy(ours)[0] - theirs).max() <= TWO_RECURRENCES * np.abs(theirs).max()


def test_a_model_of_text_and_images_gives_its_text_part(kind, target, tmp_path):
    """As Qwen3.5 is published: one config in another, one prefix before every tensor, an eye beside it."""
    place = tiny_models.changed(kind, tmp_path / "new")
    text = json.loads((place / "config.json").read_text())
    whole_config = {"model_type": "qwen3_5", "text_config": text, "tie_word_embeddings": False}
    (place / "config.json").write_text(json.dumps(whole_config))
    weights = mx.load(str(place / "model.safetensors"))
    named = {name.replace("model.", "model.language_model.", 1): array for name, array in weights.items()}
    save(place / "model.safetensors", named | {"model.visual.patch": mx.ones(3)})
    opened = Target.load(place)
    assert dataclasses.replace(opened.facts, name=target.facts.name) == target.facts
    ours, theirs = (score(t.session(capacity=24), TOKENS[0]).logits for t in (opened, target))
    assert np.array_equal(MLX.numpy(ours), MLX.numpy(theirs))
    (place / "config.json").write_text(json.dumps(whole_config | {"tie_word_embeddings": True}))
    with pytest.raises(
        BackendUnavailable, match="tie_word_embeddings True; needs False, as text_config says"
    ):
        Target.load(place)


def test_a_held_model_is_driven_as_it_drives_itself(target):
    held = Target.load(target.model)
    assert held.facts.rope_theta == target.facts.rope_theta and held.body.recurrent == target.body.recurrent
    own = MLX.numpy(target.model(ids_of(MLX, TOKENS)))
    assert np.abs(MLX.numpy(score(held.session(capacity=24), TOKENS[0]).logits) - own).max() <= FORWARD_F32


@pytest.mark.clause("DL-6")
@pytest.mark.parametrize("any_kind", ["qwen3", *tiny_models.HYBRID])
@pytest.mark.parametrize("kept", [3, 2])
def test_a_long_request_takes_no_more_memory_than_a_short_one(any_kind, kept):
    """What a pass makes and nobody reads must not wait in a graph of all passes for the end."""
    session = tiny_models.opened(any_kind, MLX).session(layer_ids=TAPS, capacity=1000)
    MLX.numpy(session.prefill([4, 5, 6]).logits)
    held = []
    for step in range(240):
        MLX.numpy(score(session, [7, 8, 9]).logits)
        session.rewind(3 + kept * (step + 1))
        mx.synchronize()
        held.append(mx.get_active_memory())
    # What is read again comes in periods of 17 passes: two of them against two.
    assert max(held[206:]) - max(held[70:104]) < 500, "bytes; the ids alone of 136 passes are 1,632"


def test_facts_name_no_scaling_that_a_drafter_would_take_over(target):
    """A quarter of each head is turned here: the drafter turns all of its own."""
    assert (target.facts.rope_theta, target.facts.rope_scaling) == (10000.0, None)


def test_a_prompt_in_chunks_gives_the_same_scores(target):
    session = target_session.TargetSession(target, layer_ids=TAPS, capacity=24, chunk=7)
    found = session.prefill(TOKENS[0])
    fresh = score(target.session(layer_ids=TAPS, capacity=24), TOKENS[0])
    assert np.abs(MLX.numpy(found.logits - fresh.logits[:, -1:])).max() <= FORWARD_F32
    assert np.abs(MLX.numpy(found.features - fresh.features)).max() <= FORWARD_F32


@pytest.mark.parametrize("merged", [0, 3, 32])
def test_sessions_after_random_rewinds_equal_a_fresh_pass(target, merged, monkeypatch):
    """Within the last pass, as decoding rewinds; and now and then far before it."""
    monkeypatch.setattr(target_session, "MERGED", merged)
    dice = random.Random(merged)
    session = target_session.TargetSession(target, layer_ids=TAPS, capacity=48, chunk=5)
    read = block_of(dice, 9)
    session.prefill(read)
    for step in range(14):
        block = block_of(dice, dice.randint(1, 6))
        check(score(session, block), target, read + block, len(read))
        least = 1 if step % 5 == 4 else len(read) + 1
        read = (read + block)[: dice.randint(min(least, 30), min(len(read) + len(block), 40))]
        session.rewind(len(read))
        assert session.length == len(read)


def passes(target):
    """Tokens of every pass of the target from now on."""
    found = []
    own = target.body.embedding

    def counted(ids):
        found.append(ids.shape[1])
        return own(ids)

    target.body = dataclasses.replace(target.body, embedding=counted)
    return found


def test_what_is_read_again_goes_with_the_next_pass_until_it_is_long(target):
    session, found = target.session(capacity=200), passes(target)
    session.prefill([4, 5, 6])
    score(session, [7, 8, 9])  # all three are kept: nothing is read again
    score(session, [7, 8, 9])
    assert found == [3, 3, 3]
    del found[:]
    for i in range(1, 20):
        session.rewind(6 + 2 * i)
        score(session, [7, 8, 9])
    assert found == [5 + 2 * i for i in range(16)] + [34, 3, 5, 7]


def test_a_failing_pass_changes_nothing(kind):
    state = {"fail": False}

    def fail(layer_id):
        if state["fail"] and layer_id == 2:
            raise RuntimeError("out of memory")

    target = watched(MLX, tiny_models.opened(kind, MLX), fail)
    session = target.session(layer_ids=TAPS, capacity=12)
    read = [4, 5, 6, 7, 8, 9]
    session.prefill(read[:3])
    score(session, read[3:])
    for length in (6, 5):
        session.rewind(length)
        state["fail"] = True
        with pytest.raises(RuntimeError, match="out of memory"):
            score(session, [10, 11])
        state["fail"] = False
        assert session.length == length
        check(score(session, [12, 13]), target, [*read[:length], 12, 13], length)
        session.rewind(length)
    with pytest.raises(ConfigError, match="capacity: got 13; needs at most 12"):
        score(session, [3] * 8)
    assert session.length == 5
    check(score(session, [12, 13]), target, [*read[:5], 12, 13], 5)


@pytest.mark.clause("DL-6")
def test_scoring_after_a_rewind_reads_nothing_back(kind, target):
    session = target.session(layer_ids=TAPS, capacity=24)
    MLX.numpy(session.prefill([4, 5, 6]).logits)
    MLX.numpy(score(session, [7, 8, 9]).logits)
    session.rewind(4)
    drafts = lazy(MLX, [[10, 11]])
    with no_waiting(MLX):
        scores = session.score(12, drafts)
    check(scores, target, [4, 5, 6, 7, 12, 10, 11], 4)


def test_a_snapshot_is_not_changed_by_what_comes_after():
    layer = RecurrentLayer()
    replay = Replay([layer], capacity=8)
    layer[0] = MLX.array(np.ones(3, dtype=np.float32))
    replay.commit(MLX.array(np.array([[5]], dtype=np.int32)), replay.begin(0))
    plan = replay.begin(1)
    before = layer[0]
    layer[0] = before + 1
    replay.commit(MLX.array(np.array([[6, 7]], dtype=np.int32)), plan)
    plan = replay.begin(2)
    assert (plan.start, plan.kept, replay.tokens(plan).tolist()) == (1, 2, [[6]])
    assert layer[0].tolist() == [1.0, 1.0, 1.0] and layer[1] is None


def test_torch_refuses_what_it_cannot_rewind(kind):
    with pytest.raises(BackendUnavailable, match="linear_attention"):
        TorchTarget(tiny_models.make(kind))

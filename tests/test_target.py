"""The target: sessions equal the model itself, taps are raw, one folder is one target.

In both rooms "the model itself" is transformers' on the same weights.
"""

import random

import numpy as np
import pytest

from tests import tiny_models
from tests.reference_model import TAPS, TOKENS, assert_near, ids_of, side_by_side, whole
from tests.rooms import ROOMS


@pytest.fixture(scope="module", params=tiny_models.DRIVEN)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def target(room, kind):
    return tiny_models.opened(kind, room)


@pytest.mark.clause("BD-5")
def test_taps_are_the_layers_outputs_in_the_order_given(room, kind, target):
    features = target.tap(ids_of(room, TOKENS), TAPS)
    assert_near(room, features[0], side_by_side(whole(kind, TOKENS[0])[1]))
    swapped = room.numpy(target.tap(ids_of(room, TOKENS), TAPS[::-1]))
    assert np.array_equal(swapped, np.roll(room.numpy(features), tiny_models.WIDTH, axis=-1))


@pytest.mark.clause("BD-5")
def test_the_last_layer_is_tapped_before_the_final_norm(room, kind, target):
    last = target.tap(ids_of(room, TOKENS), [3])
    normed = whole(kind, TOKENS[0])[1][-1]
    assert not np.allclose(room.numpy(last)[0], normed, atol=0.1)
    norm = target.model.get_decoder().norm if room.name == "torch" else target.body.norm
    assert_near(room, norm(last)[0], normed)


def test_logits_and_embeddings_are_the_models_own(room, kind, target):
    logits, states = whole(kind, TOKENS[0])
    assert_near(room, target.embed(ids_of(room, TOKENS))[0], states[0])
    assert_near(room, target.logits(room.array(states[-1])), logits)
    assert tuple(target.head_weight.shape) == (target.vocab_size, tiny_models.WIDTH)


@pytest.mark.clause("DL-4")
def test_sessions_after_random_rewinds_equal_the_model_without_a_cache(room, kind, target):
    """Past the sliding windows, forth and back: every score equals a fresh pass over the same tokens."""
    dice = random.Random(11)
    session = target.session(layer_ids=TAPS, capacity=40)
    read = dice.choices(range(3, tiny_models.VOCABULARY), k=9)
    scores = session.prefill(read)
    logits, states = whole(kind, read)
    assert_near(room, scores.logits[0], logits[-1:])
    assert_near(room, scores.features[0], side_by_side(states))
    for _ in range(12):
        block = dice.choices(range(3, tiny_models.VOCABULARY), k=dice.randint(1, 6))
        scores = session.score(block[0], room.array(np.array([block[1:]], dtype=np.int32)))
        logits, states = whole(kind, read + block)
        assert_near(room, scores.logits[0], logits[len(read) :])
        assert_near(room, scores.features[0], side_by_side(states)[len(read) :])
        read = (read + block)[: dice.randint(max(1, len(read) - 7), min(len(read) + len(block), 30))]
        session.rewind(len(read))
        assert session.length == len(read)


def test_a_prompt_in_chunks_gives_the_same_scores(room, kind, target):
    pieces = room.target_session.TargetSession(target, layer_ids=TAPS, capacity=24, chunk=7)
    scores, (logits, states) = pieces.prefill(TOKENS[0]), whole(kind, TOKENS[0])
    assert tuple(scores.logits.shape) == (1, 1, target.vocab_size)
    assert_near(room, scores.logits[0], logits[-1:])
    assert_near(room, scores.features[0], side_by_side(states))


@pytest.mark.mlx
@pytest.mark.clause("DL-8")
def test_one_folder_is_one_target_in_both_rooms(kind):
    """Facts and digest are what a drafter's checkpoint and a resumed run are held against."""
    ours, theirs = (tiny_models.opened(kind, room) for room in ROOMS.values())
    assert ours.facts == theirs.facts
    assert (ours.softcap, ours.eos_ids, ours.vocab_size) == (
        theirs.softcap,
        theirs.eos_ids,
        theirs.vocab_size,
    )
    assert ours.max_positions == theirs.max_positions
    # mlx-lm keeps all experts of a layer in one array.
    assert (ours.digest() == theirs.digest()) is (kind != "qwen3_moe")


def test_a_digest_tells_targets_apart(room):
    digests = {tiny_models.opened(kind, room).digest() for kind in ("qwen3", "qwen3_tied", "llama")}
    assert len(digests) == 3 and tiny_models.opened("llama", room).digest() in digests

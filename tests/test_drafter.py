"""The drafter: training and drafting see the same blocks, errors are named, nothing waits."""

import numpy as np
import pytest

from dspec.core.blocks import attention_mask
from dspec.core.types import Draft
from dspec.errors import CheckpointError, ConfigError, ShapeError
from dspec.io.checkpoints import tensor_shapes
from tests.no_waiting import NoWaiting
from tests.rooms import ROOMS
from tests.tiny_drafters import BLOCK, config_for, fresh, open_target
from tests.tolerances import FORWARD_F32

LENGTH = 14
TOKENS = np.random.default_rng(5).integers(3, 50, (1, LENGTH))


@pytest.fixture(scope="module", params=["qwen3", "gemma2"])
def target(request, room, tmp_path_factory):
    return open_target(room, request.param, tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def drafter(room, target):
    return fresh(room, config_for(target))


def embeds_and_positions(room, target, drafter, anchors):
    """Embeddings and positions of the blocks at some anchors, one after the other."""
    ids = np.full((len(anchors), BLOCK), drafter.config.mask_token_id)
    ids[:, 0] = TOKENS[0, list(anchors)]
    positions = np.array(anchors)[:, None] + np.arange(BLOCK)
    return target.embed(room.array(ids.reshape(1, -1))), room.array(positions.reshape(1, -1))


def features_of(room, target, drafter):
    """Features of all the tokens, as numpy."""
    return room.numpy(target.tap(room.array(TOKENS), drafter.layer_ids))


def alone(room, target, drafter, anchor):
    """Logits of the drafted slots, the block on its own without any cache."""
    context = drafter.fuse(room.array(features_of(room, target, drafter)[:, :anchor]))
    block = embeds_and_positions(room, target, drafter, (anchor,))
    hidden = drafter(*block, context, room.array(np.arange(anchor)[None]))
    return room.numpy(target.logits(hidden))[0, 1:]


class Rule:
    """Drafts by argmax and remembers the logits."""

    def __init__(self, room):
        self.room = room

    def __call__(self, logits):
        self.logits = logits[0] + 0
        return Draft(self.room.xp.argmax(logits, axis=-1))

    @property
    def seen(self):
        return self.room.numpy(self.logits)


def assert_near(ours, theirs):
    np.testing.assert_allclose(ours, theirs, atol=FORWARD_F32, rtol=0)


@pytest.mark.clause("BD-8", "DL-4", "DL-5")
def test_a_session_equals_uncached_passes_whatever_was_rejected(room, target, drafter):
    """Rows at or past the anchor are NaN: nothing may read them, in this pass or a later one."""
    features = features_of(room, target, drafter)
    session, rule = drafter.session(target, capacity=LENGTH + BLOCK), Rule(room)
    for anchor, rows in ((3, 3), (4, 4), (7, 4), (11, 4), (12, 4)):
        new = np.full((1, rows, features.shape[-1]), np.nan, np.float32)
        kept = anchor - session.length
        new[:, :kept] = features[:, session.length : anchor]
        draft = session.propose(int(TOKENS[0, anchor]), anchor, room.array(new), rule)
        assert session.length == anchor
        assert tuple(draft.tokens.shape) == (1, BLOCK - 1)
        assert_near(rule.seen, alone(room, target, drafter, anchor))


@pytest.mark.clause("DL-4")
def test_a_rewound_session_takes_in_other_features(room, target, drafter):
    features = features_of(room, target, drafter)
    other = np.random.default_rng(1).standard_normal(features.shape, dtype=np.float32)
    session, rule = drafter.session(target, capacity=LENGTH + BLOCK), Rule(room)
    session.propose(int(TOKENS[0, 9]), 9, room.array(other[:, :9]), rule)
    session.rewind(20)
    assert session.length == 9, "a rewind never lengthens"
    session.rewind(0)
    session.propose(int(TOKENS[0, 6]), 6, room.array(features[:, :6]), rule)
    assert_near(rule.seen, alone(room, target, drafter, 6))


def packed(room, target, drafter, anchors):
    """All inputs of one training pass over several blocks, but for the mask."""
    context = drafter.fuse(room.array(features_of(room, target, drafter)))
    block = embeds_and_positions(room, target, drafter, anchors)
    return *block, context, room.array(np.arange(LENGTH)[None])


def mask_of(room, anchors):
    keep = room.array(np.ones((1, len(anchors)), bool))
    return attention_mask(room.array(np.array([anchors])), keep, LENGTH, BLOCK, xp=room.xp)


@pytest.mark.clause("BD-2", "BD-8")
def test_training_sees_what_drafting_sees(room, target, drafter):
    anchors = (0, 4, 5, 13)
    hidden = drafter(*packed(room, target, drafter, anchors), mask_of(room, anchors))
    logits = room.numpy(target.logits(hidden)).reshape(len(anchors), BLOCK, -1)[:, 1:]
    for ours, anchor in zip(logits, anchors):
        if anchor:  # a block with no context at all is never drafted
            assert_near(ours, alone(room, target, drafter, anchor))


def test_every_form_of_a_mask_means_the_same(room, target, drafter):
    mask, inputs = mask_of(room, (2, 9)), packed(room, target, drafter, (2, 9))
    plain = room.numpy(drafter(*inputs, mask))
    np.testing.assert_array_equal(room.numpy(drafter(*inputs, mask[:, None])), plain)
    assert not np.allclose(room.numpy(drafter(*inputs)), plain, atol=0.1), "the mask matters"


def weight_gradients(room, drafter, loss):
    """Gradients of a scalar loss by the names of the weights, as numpy."""
    if room.name == "torch":
        loss().backward()
        return {name: room.numpy(weight.grad) for name, weight in drafter.weights().items()}
    from mlx import nn
    from mlx.utils import tree_flatten

    _, found = nn.value_and_grad(drafter, loss)()
    return {name: room.numpy(gradient) for name, gradient in tree_flatten(found)}


def test_every_weight_gets_a_gradient(room, target):
    drafter = fresh(room, config_for(target))
    mask = mask_of(room, (2, 9))

    def loss():
        logits = target.logits(drafter(*packed(room, target, drafter, (2, 9)), mask))
        return room.xp.mean(logits * logits)

    found = weight_gradients(room, drafter, loss)
    assert found.keys() == tensor_shapes(drafter.config).keys()
    assert [name for name, gradient in found.items() if not np.abs(gradient).sum() > 0] == []


@pytest.mark.clause("BD-7")
def test_tensors_are_those_of_the_format_and_nan_until_given(room, target, drafter):
    blank, shapes = room.drafter.Drafter(drafter.config), tensor_shapes(drafter.config)
    assert {name: tuple(weight.shape) for name, weight in blank.weights().items()} == shapes
    assert blank.n_parameters == sum(int(np.prod(shape)) for shape in shapes.values())
    assert all(np.isnan(room.numpy(weight)).all() for weight in blank.weights().values())


def test_new_weights_depend_on_the_generator_alone(room, drafter):
    first, second = (
        {name: room.numpy(weight) for name, weight in made.weights().items()}
        for made in (drafter, fresh(room, drafter.config))
    )
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert abs(first["fc.weight"].std() - 0.3) < 0.02
    assert not np.array_equal(first["layers.0.mlp.up_proj.weight"], first["layers.1.mlp.up_proj.weight"])
    assert (first["norm.weight"] == 1).all()


@pytest.mark.parametrize(
    ("error", "words", "change"),
    [
        (ShapeError, r"anchor\[0\]: got 60", {"anchor": 60}),
        (ShapeError, "features: got 4 rows; needs rows for positions 5..9", {"position": 10}),
        (ShapeError, "position: got 4; needs >= 5", {"position": 4}),
        (ShapeError, r"features: got \(\); needs \(1, R, F\)", {"features": None}),
        (ShapeError, r"features: got \(1, 4, 7\); needs \(B, S, 64\)", {"features": np.zeros((1, 4, 7))}),
        (ConfigError, "capacity: got 13; needs at most 12", {"position": 9}),
        (ConfigError, "capacity: got 13; needs at most 12", {"features": np.zeros((1, 8, 64))}),
        (ZeroDivisionError, "division", {"rule": lambda logits: 1 // 0}),
    ],
)
@pytest.mark.clause("DL-8", "NT-3", "NT-4")
def test_bad_proposals_are_named_and_change_nothing(room, target, drafter, error, words, change):
    features, rule = features_of(room, target, drafter), Rule(room)
    session = drafter.session(target, capacity=12)
    session.propose(7, 5, room.array(features[:, :5]), rule)
    anchor = int(TOKENS[0, 7])
    good = {"anchor": anchor, "position": 7, "features": room.array(features[:, 5:9]), "rule": rule}
    if isinstance(change.get("features"), np.ndarray):
        change = {"features": room.array(change["features"], "float32")}
    with pytest.raises(error, match=words):
        session.propose(**{**good, **change})
    assert session.length == 5
    session.propose(**good)
    assert_near(rule.seen, alone(room, target, drafter, 7))


def test_a_session_without_room_is_refused(target, drafter):
    with pytest.raises(ConfigError, match="capacity: got 0; needs at least 1 position"):
        drafter.session(target, capacity=0)


@pytest.mark.clause("BD-7")
def test_a_drafter_of_another_target_is_refused(room, target):
    other = fresh(room, config_for(target, vocab_size=61, num_target_layers=9))
    with pytest.raises(CheckpointError, match=r"vocab_size: got 61, needs 60; num_target_layers: got 9"):
        other.session(target, capacity=8)


@pytest.mark.mlx
def test_a_drafter_of_another_framework_is_refused(target, drafter, room):
    other = ROOMS["mlx" if room.name == "torch" else "torch"]
    foreign = fresh(other, drafter.config)
    words = f"drafter: got {foreign.device}; needs the target's {target.device}. Load both on one device"
    with pytest.raises(ConfigError, match=words):
        foreign.session(target, capacity=8)


# What is asked of one room only.


@pytest.fixture(scope="module")
def torch_pair():
    target = open_target(ROOMS["torch"], "qwen3", None)
    return target, fresh(ROOMS["torch"], config_for(target))


def test_torchs_global_generator_is_left_alone(torch_pair):
    import torch

    state = torch.get_rng_state()
    fresh(ROOMS["torch"], torch_pair[1].config)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_means_the_same_as_a_mask(torch_pair, monkeypatch):
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    room, (target, drafter) = ROOMS["torch"], torch_pair
    monkeypatch.setattr(room.drafter_layers, "_compiled_flex", lambda: flex_attention)
    mask, inputs = mask_of(room, (2, 9)), packed(room, target, drafter, (2, 9))
    flex = create_block_mask(lambda b, h, q, kv: mask[b, q, kv], 1, None, *mask.shape[1:], device="cpu")
    with torch.no_grad():  # flex attention has no gradient on a CPU
        assert_near(room.numpy(drafter(*inputs, flex)), room.numpy(drafter(*inputs, mask)))


@pytest.mark.clause("DL-6")
def test_drafting_reads_nothing_back_on_torch(torch_pair):
    room, (target, drafter) = ROOMS["torch"], torch_pair
    features = target.tap(room.array(TOKENS), drafter.layer_ids)
    session = drafter.session(target, capacity=LENGTH + BLOCK)
    with NoWaiting():
        session.propose(5, 9, features[:, :9], Rule(room))


@pytest.mark.mlx
@pytest.mark.clause("DL-6")
def test_drafting_on_mlx_waits_for_nothing_and_starts_the_device_on_the_draft(monkeypatch, tmp_path):
    import mlx.core as mx

    from tests.unreadable import unreadable

    room, started = ROOMS["mlx"], []
    target = open_target(room, "qwen3", tmp_path)
    drafter = fresh(room, config_for(target))
    monkeypatch.setattr(mx, "async_eval", lambda *arrays: started.extend(arrays))
    session = drafter.session(target, capacity=LENGTH + BLOCK)
    assert started, "what every proposal reads is made once, when the session opens"
    started.clear()
    draft = session.propose(5, 9, unreadable((1, 9, drafter.config.feature_size), tmp_path), Rule(room))
    assert [array is draft.tokens for array in started] == [True]


@pytest.mark.mlx
def test_a_proposal_on_mlx_copies_no_cache(tmp_path):
    import mlx.core as mx

    room, capacity = ROOMS["mlx"], 1 << 16
    target = open_target(room, "qwen3", tmp_path)
    drafter = fresh(room, config_for(target))
    features = mx.zeros((1, 4, drafter.config.feature_size))
    session = drafter.session(target, capacity=capacity)
    grown = []
    for position in (4, 8, 12):
        mx.synchronize()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(session.propose(5, position, features, Rule(room)).tokens)
        grown.append(mx.get_peak_memory() - before)
    buffer = capacity * drafter.config.num_key_value_heads * drafter.config.head_dim * 4
    # The first pass makes the buffers; from then on not even one of them is made again.
    assert max(grown[1:]) < buffer / 8

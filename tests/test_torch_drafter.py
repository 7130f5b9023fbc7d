"""The drafter: training and drafting see the same blocks, files are whole, errors are named."""

import dataclasses

import array_api_compat.torch as xp
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from transformers import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

from dspec.backends.torch import drafter_layers
from dspec.backends.torch.drafter import Drafter, load_drafter, save_drafter
from dspec.backends.torch.rotary import Rotary
from dspec.backends.torch.target import Target
from dspec.config import DrafterConfig
from dspec.core.blocks import attention_mask
from dspec.core.types import Draft
from dspec.errors import CheckpointError, ConfigError, ShapeError
from dspec.io.checkpoints import tensor_shapes
from tests import tiny_models
from tests.no_waiting import NoWaiting
from tests.tolerances import FORWARD_F32

BLOCK, LENGTH = 4, 14
TOKENS = torch.randint(3, 50, (1, LENGTH), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module", params=["qwen3", "gemma2"])
def target(request):
    return Target(tiny_models.make(request.param))


@pytest.fixture(scope="module")
def drafter(target):
    return fresh(target)


def fresh(target, **changes):
    config = DrafterConfig.for_target(
        target.facts, block_size=BLOCK, layers=2, mask_token_id=59, target_layer_ids=(0, 2)
    )
    # Wide weights: at 0.02 a wrong mask would hardly show.
    config = dataclasses.replace(config, initializer_range=0.3, **changes)
    return Drafter(config).initialise(torch.Generator().manual_seed(3))


def block(target, drafter, anchor):
    """Embeddings and positions of the block at one anchor."""
    ids = torch.full((1, BLOCK), drafter.config.mask_token_id)
    ids[0, 0] = TOKENS[0, anchor]
    return target.embed(ids), torch.arange(anchor, anchor + BLOCK)[None]


def alone(target, drafter, anchor):
    """Logits of the drafted slots, the block on its own without any cache."""
    context = drafter.fuse(target.tap(TOKENS, drafter.layer_ids)[:, :anchor])
    with torch.no_grad():
        hidden = drafter(*block(target, drafter, anchor), context, torch.arange(anchor)[None])
    return target.logits(hidden)[0, 1:]


class Rule:
    """Drafts by argmax and remembers the logits."""

    def __call__(self, logits):
        self.logits = logits[0].clone()
        return Draft(logits.argmax(-1))


def assert_near(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=FORWARD_F32, rtol=0)


@pytest.mark.clause("BD-8", "DL-4", "DL-5")
def test_a_session_equals_uncached_passes_whatever_was_rejected(target, drafter):
    """Rows at or past the anchor are NaN: nothing may read them, in this pass or a later one."""
    features = target.tap(TOKENS, drafter.layer_ids)
    session, rule = drafter.session(target, capacity=LENGTH + BLOCK), Rule()
    for anchor, rows in ((3, 3), (4, 4), (7, 4), (11, 4), (12, 4)):
        new = torch.full((1, rows, features.shape[-1]), torch.nan)
        kept = anchor - session.length
        new[:, :kept] = features[:, session.length : anchor]
        draft = session.propose(int(TOKENS[0, anchor]), anchor, new, rule)
        assert session.length == anchor
        assert draft.tokens.shape == (1, BLOCK - 1)
        assert_near(rule.logits, alone(target, drafter, anchor))


@pytest.mark.clause("DL-4")
def test_a_rewound_session_takes_in_other_features(target, drafter):
    features = target.tap(TOKENS, drafter.layer_ids)
    session, rule = drafter.session(target, capacity=LENGTH + BLOCK), Rule()
    session.propose(int(TOKENS[0, 9]), 9, torch.randn(features[:, :9].shape), rule)
    session.rewind(20)
    assert session.length == 9, "a rewind never lengthens"
    session.rewind(0)
    session.propose(int(TOKENS[0, 6]), 6, features[:, :6], rule)
    assert_near(rule.logits, alone(target, drafter, 6))


def packed(target, drafter, anchors):
    """All inputs of one training pass over several blocks, but for the mask."""
    blocks = [block(target, drafter, a) for a in anchors]
    context = drafter.fuse(target.tap(TOKENS, drafter.layer_ids))
    embeds, positions = (torch.cat(part, dim=1) for part in zip(*blocks))
    return embeds, positions, context, torch.arange(LENGTH)[None]


@pytest.mark.clause("BD-2", "BD-8")
def test_training_sees_what_drafting_sees(target, drafter):
    anchors = (0, 4, 5, 13)
    keep = torch.ones(1, len(anchors), dtype=torch.bool)
    mask = attention_mask(torch.tensor([anchors]), keep, LENGTH, BLOCK, xp=xp)
    with torch.no_grad():
        hidden = drafter(*packed(target, drafter, anchors), mask)
    logits = target.logits(hidden).unflatten(1, (len(anchors), BLOCK))[0, :, 1:]
    for ours, anchor in zip(logits, anchors):
        if anchor:  # a block with no context at all is never drafted
            assert_near(ours, alone(target, drafter, anchor))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_every_form_of_a_mask_means_the_same(target, drafter, monkeypatch):
    monkeypatch.setattr(drafter_layers, "_compiled_flex", lambda: flex_attention)
    anchors = torch.tensor([[2, 9]])
    mask = attention_mask(anchors, torch.ones(1, 2, dtype=torch.bool), LENGTH, BLOCK, xp=xp)
    flex = create_block_mask(lambda b, h, q, kv: mask[b, q, kv], 1, None, *mask.shape[1:], device="cpu")
    inputs = packed(target, drafter, (2, 9))
    with torch.no_grad():
        plain = drafter(*inputs, mask)
        assert torch.equal(drafter(*inputs, mask[:, None]), plain)
        assert_near(drafter(*inputs, flex), plain)
        assert not torch.allclose(drafter(*inputs), plain, atol=0.1), "the mask matters"


def test_every_weight_gets_a_gradient(target):
    drafter = fresh(target)
    mask = attention_mask(torch.tensor([[2, 9]]), torch.ones(1, 2, dtype=torch.bool), LENGTH, BLOCK, xp=xp)
    target.logits(drafter(*packed(target, drafter, (2, 9)), mask)).square().mean().backward()
    flat = [n for n, p in drafter.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert flat == []


@pytest.mark.clause("DL-6")
def test_drafting_reads_nothing_back(target, drafter):
    features = target.tap(TOKENS, drafter.layer_ids)
    session, rule = drafter.session(target, capacity=LENGTH + BLOCK), Rule()
    with NoWaiting():
        session.propose(5, 9, features[:, :9], rule)


@pytest.mark.clause("BD-7")
def test_tensors_are_those_of_the_format_and_nan_until_given(target, drafter):
    blank = Drafter(drafter.config)
    assert {n: tuple(p.shape) for n, p in blank.named_parameters()} == tensor_shapes(drafter.config)
    assert blank.state_dict().keys() == tensor_shapes(drafter.config).keys()
    assert all(torch.isnan(p).all() for p in blank.parameters())


def test_new_weights_depend_on_the_generator_alone(target):
    torch.manual_seed(1)
    state, first = torch.get_rng_state(), fresh(target)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"
    torch.manual_seed(2)
    second = fresh(target)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))
    assert abs(first.fc.weight.std().item() - 0.3) < 0.02
    assert torch.equal(first.norm.weight, torch.ones(tiny_models.WIDTH))


@pytest.mark.clause("BD-6")
@pytest.mark.parametrize(
    "scaling",
    [
        None,
        {"rope_type": "default"},
        {"type": "linear", "factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ],
)
def test_rotary_angles_are_those_of_transformers(target, scaling):
    config = fresh(target, rope_scaling=scaling, rope_theta=5000.0).config
    parameters = {"rope_type": "default", **(scaling or {}), "rope_theta": 5000.0}
    parameters["rope_type"] = parameters.pop("type", parameters["rope_type"])
    theirs = Qwen3RotaryEmbedding(
        Qwen3Config(
            head_dim=config.head_dim,
            max_position_embeddings=config.max_position_embeddings,
            rope_parameters=parameters,
        )
    )
    positions = torch.tensor([[0, 1, 77, 200]])
    cos, sin = Rotary(config)(positions, torch.float32)
    for ours, expected in zip((cos[:, 0], sin[:, 0]), theirs(torch.ones(1), positions)):
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


def test_a_narrow_drafter_keeps_wide_frequencies(target):
    narrow = fresh(target).to(torch.bfloat16)
    positions = torch.tensor([[4000, 4001]])
    assert torch.equal(
        narrow.rotary(positions, torch.float32)[0], fresh(target).rotary(positions, torch.float32)[0]
    )
    assert narrow.dtype == torch.bfloat16


@pytest.mark.clause("BD-7")
@pytest.mark.parametrize("stored", ["bfloat16", "float16", "float32"])
def test_a_checkpoint_is_stored_in_its_configs_dtype_and_comes_back_the_same(target, stored, tmp_path):
    first = fresh(target, dtype=stored)
    save_drafter(first, tmp_path / "a")
    assert {str(t.dtype) for t in load_file(tmp_path / "a/model.safetensors").values()} == {f"torch.{stored}"}
    again = load_drafter(tmp_path / "a", device="cpu")
    assert again.dtype == torch.float32 and not again.training
    save_drafter(again, tmp_path / "b")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert load_drafter(tmp_path / "b", device="cpu", dtype=stored).dtype == getattr(torch, stored)


@pytest.mark.clause("BD-7")
def test_weights_that_are_not_finite_are_named(drafter, tmp_path):
    save_drafter(drafter, tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors["layers.1.mlp.up_proj.weight"][2, 3] = torch.inf
    save_file(tensors, path)
    words = r"model\.safetensors: layers\.1\.mlp\.up_proj\.weight: got 1 of 1536 values NaN or infinite"
    with pytest.raises(CheckpointError, match=words):
        load_drafter(tmp_path, device="cpu")


@pytest.mark.clause("BD-7")
def test_an_unfinished_drafter_is_not_written(drafter, tmp_path):
    with pytest.raises(CheckpointError, match=r"fc\.weight: got 2048 of 2048 values NaN"):
        save_drafter(Drafter(drafter.config), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("error", "words", "change"),
    [
        (ShapeError, r"anchor\[0\]: got 60", {"anchor": 60}),
        (ShapeError, "features: got 4 rows; needs rows for positions 5..9", {"position": 10}),
        (ShapeError, "position: got 4; needs >= 5", {"position": 4}),
        (ShapeError, r"features: got \(\); needs \(1, R, F\)", {"features": None}),
        (ShapeError, r"features: got \(1, 4, 7\); needs \(B, S, 64\)", {"features": torch.zeros(1, 4, 7)}),
        (ConfigError, "capacity: got 13; needs at most 12", {"position": 9}),
        (ZeroDivisionError, "division", {"rule": lambda logits: 1 // 0}),
    ],
)
@pytest.mark.clause("DL-8", "NT-3", "NT-4")
def test_bad_proposals_are_named_and_change_nothing(target, drafter, error, words, change):
    features, rule = target.tap(TOKENS, drafter.layer_ids), Rule()
    session = drafter.session(target, capacity=12)
    session.propose(7, 5, features[:, :5], rule)
    good = {"anchor": int(TOKENS[0, 7]), "position": 7, "features": features[:, 5:9], "rule": rule}
    with pytest.raises(error, match=words):
        session.propose(**{**good, **change})
    assert session.length == 5
    session.propose(**good)
    assert_near(rule.logits, alone(target, drafter, 7))


@pytest.mark.clause("BD-7")
def test_a_drafter_of_another_target_is_refused(target):
    other = fresh(target, vocab_size=61, num_target_layers=9)
    with pytest.raises(CheckpointError, match=r"vocab_size: got 61, needs 60; num_target_layers: got 9"):
        other.session(target, capacity=8)

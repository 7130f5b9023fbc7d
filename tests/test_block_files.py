"""Weights of block-diffusion models: which tensors must be there, what is refused, how models are opened."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dspec.block_config import FAMILIES
from dspec.core.layouts import causal
from dspec.errors import BackendUnavailable, CheckpointError, ConfigError
from dspec.io.block_tensors import block_tensor_shapes, check_block_tensors, sources
from tests.block_models import FOLDERS, MASK, every, model, parsed, written
from tests.tolerances import FORWARD_F32

EMBEDDING = {"llada2": "model.word_embeddings.weight"}


def opened(room, place, **settings):
    return room.block_diffusion.load_block_model(place, mask_token_id=MASK, device=room.device, **settings)


def logits(found):
    return every(found.session(rows=1, capacity=16), [causal((1, 2, 3, 4), start=0)])


@pytest.mark.clause("SS-23")
@pytest.mark.parametrize("family", FAMILIES)
def test_every_published_tensor_is_used_once(family):
    config, stored = parsed(family), load_file(FOLDERS[family] / "model.safetensors")
    assert block_tensor_shapes(config) == {name: tensor.shape for name, tensor in stored.items()}
    used = {name: np.zeros(tensor.shape[:1], int) for name, tensor in stored.items()}
    for source in sources(config).values():
        for name in source.names:
            used[name][slice(*(source.rows or (None,)))] += 1
    assert all((count == 1).all() for count in used.values())


SPOILT = [
    ("sdar", {"model.norm.weight": None}, "model.safetensors: got no model.norm.weight"),
    (
        "sdar",
        {"model.layers.3.self_attn.q_norm.weight": None},
        "got no model.layers.3.self_attn.q_norm.weight",
    ),
    (
        "sdar",
        {"model.layers.0.self_attn.q_proj.bias": np.ones(64, "f")},
        "extra model.layers.0.self_attn.q_proj.bias",
    ),
    (
        "fast_dllm_v2",
        {"model.layers.1.self_attn.k_proj.bias": None},
        "got no model.layers.1.self_attn.k_proj.bias",
    ),
    (
        "llada2",
        {"model.layers.1.mlp.experts.7.up_proj.weight": None},
        "got no model.layers.1.mlp.experts.7.up_proj",
    ),
    (
        "llada2",
        {"model.layers.1.attention.query_key_value.weight": np.ones((112, 64), "f")},
        r"shape \(112, 64\)",
    ),
    (
        "llada2",
        {"model.layers.2.mlp.gate.expert_bias": np.ones(9, "f")},
        r"expert_bias: got shape \(9,\); needs \(8,\)",
    ),
    ("sdar", {"model.norm.weight": np.ones(64, "i4")}, "model.norm.weight: got dtype I32"),
    ("sdar", {"model.norm.weight": np.full(64, np.nan, "f")}, "model.norm.weight: got 64 of 64 values NaN"),
    (
        "llada2",
        {"model.layers.1.mlp.experts.3.up_proj.weight": np.full((48, 64), np.inf, "f")},
        "3.up_proj.weight: got 3072",
    ),
]


@pytest.mark.clause("SS-23")
@pytest.mark.parametrize(("family", "tensors", "words"), SPOILT)
def test_other_tensors_than_the_models_are_refused(room, family, tensors, words, tmp_path):
    place = written(family, tmp_path / "new", tensors=tensors)
    with pytest.raises(CheckpointError, match=words):
        opened(room, place)


def test_weights_in_several_files_are_the_same_model(room, tmp_path):
    place = written("llada2", tmp_path / "new")
    stored = load_file(place / "model.safetensors")
    (place / "model.safetensors").unlink()
    halves = {f"model-0000{i + 1}-of-00002.safetensors": sorted(stored)[i::2] for i in range(2)}
    for name, names in halves.items():
        save_file({n: stored[n] for n in names}, place / name)
    with pytest.raises(CheckpointError, match="without an index"):
        opened(room, place)
    index = place / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {n: name for name, names in halves.items() for n in names}}))
    ours, theirs = (room.numpy(logits(found)) for found in (opened(room, place), model(room, "llada2")))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.clause("SS-23")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tied_head_is_the_embedding(room, family, tmp_path):
    name = EMBEDDING.get(family, "model.embed_tokens.weight")
    embedding = load_file(FOLDERS[family] / "model.safetensors")[name]
    untied = opened(room, written(family, tmp_path / "a", tensors={"lm_head.weight": embedding}))
    for place, head in (("b", None), ("c", embedding)):
        settings = {"tensors": {"lm_head.weight": head}, "tie_word_embeddings": True}
        tied = opened(room, written(family, tmp_path / place, **settings))
        np.testing.assert_allclose(room.numpy(logits(tied)), room.numpy(logits(untied)), atol=FORWARD_F32)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight: got another matrix"):
        opened(room, written(family, tmp_path / "d", tie_word_embeddings=True))


@pytest.mark.parametrize(("stored", "asked"), [("float32", "bfloat16"), ("bfloat16", "auto")])
def test_dtypes_are_as_for_targets(room, stored, asked, tmp_path):
    place = written("llada2", tmp_path / "new", dtype=stored)
    found = opened(room, place, dtype=asked)
    narrow = asked == "bfloat16" or (room.name == "mlx" and room.ops.on_metal())
    assert str(found.dtype).split(".")[-1] == ("bfloat16" if narrow else "float32")
    assert str(found.layers[1].mlp.gate.expert_bias.dtype).endswith("float32")
    ours = logits(found)
    assert ours.dtype == found.dtype
    theirs = room.numpy(logits(model(room, "llada2")))
    assert np.abs(room.numpy(ours) - theirs).max() < (0.5 if narrow else 1e-4)


@pytest.mark.clause("SS-23")
@pytest.mark.parametrize("family", FAMILIES)
def test_scaled_positions_are_the_plain_ones_further_on(room, family, tmp_path):
    scaled = opened(room, written(family, tmp_path / "new", rope_scaling={"type": "linear", "factor": 2.0}))
    layout = causal((1, 2, 3, 4), start=0)
    ours = every(scaled.session(rows=1, capacity=16), [replace(layout, positions=(0, 2, 4, 6))])
    np.testing.assert_allclose(room.numpy(ours), room.numpy(logits(model(room, family))), atol=FORWARD_F32)


# Opening.
@pytest.mark.clause("SS-23")
def test_an_opened_model_stays_as_it_is(room):
    found = model(room, "sdar")
    again, ops = room.front.open_block_model(found, family="sdar", mask_token_id=MASK)
    assert again is found and ops.xp is room.xp
    for settings, words in (
        ({"family": "llada2"}, "family: got 'llada2'; needs sdar, the model's"),
        ({"mask_token_id": 5}, "mask_token_id: got 5; needs 299"),
        ({"dtype": "bfloat16"}, "dtype: got bfloat16"),
        ({"device": "cuda" if room.name == "mlx" else "mps"}, "device: got"),
        ({"tokenizer": object()}, "tokenizer: got one beside an opened model"),
    ):
        with pytest.raises((ConfigError, BackendUnavailable), match=words):
            room.front.open_block_model(found, **settings)


@pytest.mark.clause("SS-23")
def test_what_is_no_model_is_refused(room, tmp_path):
    for source, kind, words in (
        (object(), ConfigError, "model: got a object; needs a hub id, a folder"),
        (tmp_path / "none", CheckpointError, "model: got .*none; needs an existing folder, or a hub id"),
        (tmp_path, CheckpointError, "config.json: got No such file"),
    ):
        with pytest.raises(kind, match=words):
            room.front.open_block_model(source, device=room.device)
    with pytest.raises(ConfigError, match="dtype: got 'int8'"):
        room.front.open_block_model(FOLDERS["sdar"], device=room.device, dtype="int8")
    config = replace(parsed("sdar"), num_hidden_layers=5)
    with pytest.raises(CheckpointError, match="of a sdar model of 5 layers"):
        check_block_tensors(FOLDERS["sdar"], config)


def test_a_tokenizer_of_the_callers_is_taken(room):
    mine = object()
    assert opened(room, FOLDERS["llada2"], tokenizer=mine).tokenizer is mine
    assert opened(room, FOLDERS["llada2"]).tokenizer is None

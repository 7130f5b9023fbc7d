"""Drafter checkpoints: the published format in and out, and every fault a CheckpointError."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from dspec.config import DrafterConfig, TargetFacts
from dspec.errors import CheckpointError
from dspec.io.checkpoints import (
    check_fits,
    check_tensors,
    config_json,
    read_config,
    tensor_shapes,
    weights_file,
    write_checkpoint,
)
from dspec.io.drafter_json import config_from_json

GOLDEN = Path(__file__).parent / "golden" / "dflash_tiny" / "drafter"
RAW = json.loads((GOLDEN / "config.json").read_text())
FACTS = TargetFacts(
    hidden_size=64,
    vocab_size=300,
    num_layers=6,
    intermediate_size=160,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=24,
    rope_theta=10000.0,
    max_position_embeddings=1024,
    bos_token_id=256,
    eos_token_ids=(257,),
    pad_token_id=258,
    name="tiny",
)
SMALL = DrafterConfig.for_target(
    dataclasses.replace(FACTS, hidden_size=8, intermediate_size=4, head_dim=2),
    block_size=4,
    layers=1,
    mask_token_id=299,
    target_layer_ids=(1, 3),
)


def zeros(config, **changes):
    return {name: np.zeros(shape, np.float32) for name, shape in tensor_shapes(config).items()} | changes


@pytest.mark.clause("BD-7")
def test_the_golden_checkpoint_is_read_and_its_config_written_back_byte_for_byte():
    config = read_config(GOLDEN)
    assert (config.block_size, config.target_layer_ids, config.mask_token_id) == (8, (1, 3, 4), 299)
    assert len(check_tensors(weights_file(GOLDEN, config), config)) == 36
    text = json.dumps(config_json(config), indent=2, sort_keys=True) + "\n"
    assert text.encode() == (GOLDEN / "config.json").read_bytes()


@pytest.mark.clause("BD-7")
def test_the_golden_checkpoint_round_trips_bit_for_bit(tmp_path):
    tensors = load_file(GOLDEN / "model.safetensors")
    config = read_config(GOLDEN)
    write_checkpoint(
        tmp_path / "copy", config, lambda path: save_file(tensors, path, metadata={"format": "pt"})
    )
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "copy" / name).read_bytes() == (GOLDEN / name).read_bytes(), name
    assert sorted(p.name for p in (tmp_path / "copy").iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.clause("BD-7")
def test_a_new_drafter_has_the_key_set_of_the_published_ones():
    config = DrafterConfig.for_target(
        FACTS, block_size=8, layers=3, mask_token_id=299, target_layer_ids=(1, 3, 4)
    )
    written = config_json(config)
    assert written.keys() == RAW.keys()
    # 28 is a default that the golden one never set; nothing reads it.
    assert written == RAW | {"max_window_layers": 3}
    assert config_from_json(written, where="new") == dataclasses.replace(
        config, extra=config_from_json(written, where="new").extra
    )


@pytest.mark.clause("BD-7")
def test_an_id_that_is_null_is_written_back_and_an_absent_one_is_not():
    null = RAW | {"pad_token_id": None}
    assert config_json(config_from_json(null, where="x")) == null
    absent = without(RAW, "pad_token_id")
    assert config_json(config_from_json(absent, where="x")) == absent


@pytest.mark.clause("BD-7")
def test_five_layers_have_the_58_tensors_of_the_published_format():
    shapes = tensor_shapes(dataclasses.replace(SMALL, num_hidden_layers=5))
    assert len(shapes) == 58
    assert shapes["fc.weight"] == (8, 16) and shapes["layers.4.self_attn.o_proj.weight"] == (8, 8)
    assert shapes["layers.0.mlp.down_proj.weight"] == (8, 4)
    assert shapes["layers.0.self_attn.k_proj.weight"] == (4, 8)


def without(raw, *keys):
    return {k: v for k, v in raw.items() if k not in keys}


@pytest.mark.clause("BD-7")
@pytest.mark.parametrize(
    "raw",
    [
        without(RAW, "block_size") | {"dflash_config": RAW["dflash_config"] | {"block_size": 8}},
        without(RAW, "rope_theta", "rope_scaling")
        | {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
        RAW | {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
        without(RAW, "dtype") | {"torch_dtype": "float32"},
        without(RAW, "layer_types"),
        RAW | {"dflash_config": RAW["dflash_config"] | {"causal": False, "shift_label": False}},
        RAW | {"sliding_window": 2048, "auto_map": {"AutoModel": "dflash.DFlashDraftModel"}},
    ],
    ids=[
        "nested-block",
        "rope-parameters",
        "both-ropes",
        "torch-dtype",
        "no-layer-types",
        "neutral",
        "window-off",
    ],
)
def test_variants_of_the_format_mean_the_same(raw):
    config = config_from_json(raw, where="x")
    assert dataclasses.replace(config, extra={}) == dataclasses.replace(read_config(GOLDEN), extra={})
    again = config_from_json(config_json(config), where="y")
    assert dataclasses.replace(again, extra={}) == dataclasses.replace(config, extra={})


@pytest.mark.clause("BD-7")
@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"architectures": ["DFlash2DraftModel"]}, "architectures"),
        ({"model_type": "muse_glimmer"}, "model_type"),
        ({"is_causal": True}, "is_causal"),
        ({"attention_bias": True}, "attention_bias"),
        ({"attention_bias": 0}, "attention_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"sliding_window": 64, "use_sliding_window": None}, "use_sliding_window"),
        ({"swa_window_size": 64}, "swa_window_size"),
        ({"layer_types": ["full_attention", "sliding_attention", "full_attention"]}, "layer_types"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"sample_from_anchor": True}, "sample_from_anchor"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_scaling"),
        ({"rope_parameters": {"rope_theta": 5.0}}, "rope_theta"),
        ({"rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"scale_embeddings": 8.0}, "scale_embeddings"),
        ({"num_hidden_layers": "3", "layer_types": None}, "num_hidden_layers"),
        ({"hidden_size": None}, "hidden_size"),
        ({"dflash_config": {"mask_token_id": 299}}, "target_layer_ids"),
        ({"dflash_config": [1]}, "dflash_config"),
        ({"dflash_config": RAW["dflash_config"] | {"projector_type": "mlp"}}, "projector_type"),
        ({"dflash_config": RAW["dflash_config"] | {"attention_sink_bias": True}}, "attention_sink_bias"),
        ({"dflash_config": RAW["dflash_config"] | {"shift_label": True}}, "shift_label"),
        ({"dflash_config": RAW["dflash_config"] | {"block_size": 16}}, "block_size"),
        ({"dflash_config": RAW["dflash_config"] | {"target_layer_ids": [1, 9]}}, "target_layer_ids"),
    ],
)
def test_what_would_change_the_mathematics_is_refused_by_name(changes, key):
    with pytest.raises(CheckpointError, match=rf"^config.json.*{key}"):
        config_from_json(RAW | changes, where="config.json")


@pytest.mark.clause("BD-7")
@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"norm.weight": np.zeros(9, np.float32)}, r"norm.weight: got shape \(9,\); needs \(8,\)"),
        ({"norm.weight": np.zeros(8, np.int32)}, "norm.weight: got dtype I32; needs one of F32"),
        ({"norm.weight": np.zeros(8, np.float64)}, "norm.weight: got dtype F64"),
        ({"lm_head.weight": np.zeros(8, np.float32)}, "got extra lm_head.weight; needs exactly the 14"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, tensors, message):
    path = tmp_path / "model.safetensors"
    save_file(zeros(SMALL, **tensors), path)
    with pytest.raises(CheckpointError, match=f"model.safetensors.*{message}"):
        check_tensors(path, SMALL)


@pytest.mark.clause("BD-7")
def test_missing_tensors_and_files_are_named(tmp_path):
    tensors = zeros(SMALL)
    del tensors["fc.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"got no fc.weight; needs exactly the 14"):
        weights_file(tmp_path, SMALL)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pickle only.*never unpickles"):
        weights_file(tmp_path, SMALL)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"several files.*one model\.safetensors"):
        weights_file(tmp_path, SMALL)
    for folder in (tmp_path, tmp_path / "none", tmp_path / "pytorch_model.bin"):
        with pytest.raises(CheckpointError, match=folder.name):
            read_config(folder)


CONFIG = read_config(GOLDEN)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.clause("BD-7")
@given(
    changes=st.dictionaries(
        st.sampled_from([*RAW, "rope_parameters", "swa_window_size", "torch_dtype", "mystery"]),
        VALUES,
        max_size=3,
    )
)
@settings(max_examples=400, deadline=None)
def test_a_config_of_any_values_is_read_or_refused(changes):
    try:
        config = config_from_json(RAW | changes, where="config.json")
    except CheckpointError:
        return
    again = config_from_json(config_json(config), where="again")
    assert dataclasses.replace(again, extra={}) == dataclasses.replace(config, extra={})


@pytest.mark.clause("BD-7")
def test_a_drafter_of_another_target_is_refused_with_every_difference():
    check_fits(CONFIG, FACTS)
    other = dataclasses.replace(FACTS, hidden_size=32, vocab_size=200, num_layers=4, name="other")
    with pytest.raises(CheckpointError) as error:
        check_fits(CONFIG, other, where="my-drafter")
    for part in (
        "my-drafter",
        "hidden_size: got 64, needs 32",
        "vocab_size: got 300, needs 200",
        "num_target_layers: got 6, needs 4",
        "target_layer_ids: got [1, 3, 4], needs < 4",
        "mask_token_id: got 299, needs < 200",
        "the target other",
    ):
        assert part in str(error.value)


@pytest.mark.clause("BD-7")
def test_weights_that_do_not_fit_the_config_are_not_written(tmp_path):
    place = tmp_path / "drafter"
    write_checkpoint(place, SMALL, lambda path: save_file(zeros(SMALL), path))
    before = {p.name: p.read_bytes() for p in place.iterdir()}
    wrong = dataclasses.replace(SMALL, num_hidden_layers=2)
    with pytest.raises(CheckpointError, match=r"got no layers\.1"):
        write_checkpoint(place, wrong, lambda path: save_file(zeros(SMALL), path))
    assert {p.name: p.read_bytes() for p in place.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["drafter"]

"""Targets on MLX: one folder is one model in both rooms, or it is refused."""

import json
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import mlx_lm.utils
import numpy as np
import pytest
from mlx_lm.models import llama, qwen3

from dspec.backends.mlx.model_kinds import arguments_of
from dspec.backends.mlx.target import Target
from dspec.backends.model_config import config_of, read_config
from dspec.errors import BackendUnavailable, CheckpointError, ConfigError
from tests import tiny_models
from tests.rooms import ROOMS
from tests.tolerances import FORWARD_F32, TWO_FRAMEWORKS

pytestmark = pytest.mark.mlx

TOKENS = np.random.default_rng(3).integers(3, tiny_models.VOCABULARY, (1, 40))


def scores(room, target):
    """Logits and features of all tokens, as numpy."""
    session = target.session(layer_ids=(0, 2), capacity=TOKENS.shape[1])
    found = session.score(int(TOKENS[0, 0]), room.array(TOKENS[:, 1:]))
    return room.numpy(found.logits), room.numpy(found.features)


def save(file, weights):
    """As mlx-lm does: without metadata, MLX would write `null` for it."""
    mx.eval(weights)
    mx.save_safetensors(str(file), weights, metadata={"format": "mlx"})


def assert_one_model(place):
    """The folder gives the same numbers in both rooms, and the numbers are not those of the next one."""
    found = [scores(room, room.target.Target.load(place, device=room.device)) for room in ROOMS.values()]
    for ours, theirs in zip(*found, strict=True):
        assert np.abs(ours - theirs).max() <= TWO_FRAMEWORKS * np.abs(theirs).max()
    return found[0][0]


ROPED = ("llama", "qwen2", "qwen3", "mistral_sliding")


@pytest.mark.clause("DL-8")
@pytest.mark.parametrize("scaling", tiny_models.SCALED)
@pytest.mark.parametrize("kind", ROPED)
def test_scaled_rotary_positions_are_the_same_in_both_rooms(kind, scaling, tmp_path):
    rope = {"rope_theta": 5000.0, **tiny_models.SCALED[scaling]}
    logits = assert_one_model(tiny_models.changed(kind, tmp_path / "new", rope_parameters=rope))
    plain = scores(ROOMS["torch"], tiny_models.opened(kind, ROOMS["torch"]))[0]
    assert np.abs(logits - plain).max() > 0.1, "the scaling matters"


@pytest.mark.clause("DL-8")
def test_the_older_way_to_write_rotary_settings_is_read_too(tmp_path):
    old = {"rope_parameters": None, "rope_theta": 700.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    logits = assert_one_model(tiny_models.changed("llama", tmp_path / "old", **old))
    new = {"rope_parameters": {"rope_theta": 700.0, "rope_type": "linear", "factor": 2.0}}
    assert np.array_equal(logits, assert_one_model(tiny_models.changed("llama", tmp_path / "new", **new)))


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_a_setting_that_is_left_out_has_transformers_default(kind, tmp_path):
    """mlx-lm gives Qwen2 a rotary base of 1e6 where transformers gives 1e4."""
    place = tiny_models.changed(kind, tmp_path / "new", rope_parameters=None, tie_word_embeddings=None)
    assert "rope" not in (place / "config.json").read_text()
    assert_one_model(place)


def test_a_setting_that_only_mlx_lm_reads_changes_nothing(tmp_path):
    assert_one_model(tiny_models.changed("llama", tmp_path / "new", rope_traditional=True))


def test_gemma_3_scales_only_its_full_attention(tmp_path):
    rope = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
        "full_attention": {"rope_type": "linear", "rope_theta": 9000.0, "factor": 4.0},
    }
    assert_one_model(tiny_models.changed("gemma3", tmp_path / "new", rope_parameters=rope))


@pytest.mark.parametrize("n", [1, 3, 4])
def test_gemma_3_with_every_nth_layer_full(n, tmp_path):
    layers = ["full_attention" if (i + 1) % n == 0 else "sliding_attention" for i in range(4)]
    assert_one_model(tiny_models.changed("gemma3", tmp_path / "new", layer_types=layers))


def test_a_window_that_is_off_is_off(tmp_path):
    settings = {"use_sliding_window": False, "layer_types": None, "sliding_window": 5}
    assert_one_model(tiny_models.changed("qwen2_sliding", tmp_path / "new", **settings))


ROPE = {"rope_theta": 1e4}
DYNAMIC = {**ROPE, "rope_type": "dynamic", "factor": 2.0}
OWN_FACTOR = {**ROPE, "rope_type": "yarn", "factor": 4.0, "attention_factor": 2.0}
PARTIAL = {**ROPE, "partial_rotary_factor": 0.5}
LINEAR = {**ROPE, "rope_type": "linear", "factor": 2.0}
NEAR = {"sliding_attention": LINEAR, "full_attention": ROPE}
SLIDING = ["sliding_attention"] * 4


@pytest.mark.clause("DL-8")
@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("llama", {"rope_parameters": DYNAMIC}, "rotary scaling of type 'dynamic'"),
        ("llama", {"rope_parameters": OWN_FACTOR}, "attention_factor"),
        ("qwen3", {"rope_parameters": PARTIAL}, "partial_rotary_factor"),
        ("qwen3_moe", {"rope_parameters": LINEAR}, "rotary scaling of type 'linear'"),
        ("gemma2", {"rope_parameters": LINEAR}, "rotary scaling of type 'linear'"),
        ("gemma3", {"rope_parameters": NEAR}, "rotary scaling of type 'linear'"),
        ("gemma3", {"layer_types": [*SLIDING[:3], "full_attention"][::-1]}, "layer_types"),
        ("gemma3", {"layer_types": SLIDING}, "layer_types"),
        ("gemma3", {"final_logit_softcapping": 5.0}, "final_logit_softcapping 5.0"),
        ("gemma3", {"attn_logit_softcapping": 5.0}, "attn_logit_softcapping 5.0"),
        ("gemma2", {"hidden_activation": "relu"}, "hidden_activation 'relu'"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ("qwen3", {"attention_bias": True}, "attention_bias True"),
        ("gemma", {"tie_word_embeddings": False}, "tie_word_embeddings False"),
        ("qwen2", {"head_dim": 16}, "a head_dim of its own"),
        ("qwen2", {"layer_types": ["chunked_attention"] * 4}, "chunked_attention"),
        ("llama", {"quantization_config": {"quant_method": "awq", "bits": 4}}, "quantised in another way"),
        ("llama", {"quantization": {"group_size": 32, "bits": 4, "mode": "mxfp4"}}, "in another way"),
        ("llama", {"quantize_activations": True}, "in another way"),
    ],
)
def test_what_mlx_lm_would_build_otherwise_is_refused(kind, settings, words, tmp_path):
    with pytest.raises(BackendUnavailable, match=words):
        Target.load(tiny_models.changed(kind, tmp_path / "new", **settings))


@pytest.mark.parametrize("name", ["attn_logit_softcapping", "final_logit_softcapping"])
def test_gemma_2_without_a_softcap_is_refused(name, tmp_path):
    place = tiny_models.changed("gemma2", tmp_path / "new")
    values = json.loads((place / "config.json").read_text()) | {name: None}
    (place / "config.json").write_text(json.dumps(values))
    with pytest.raises(BackendUnavailable, match=f"no {name}"):
        Target.load(place)


def test_weights_packed_by_another_tool_are_refused(tmp_path):
    place = tiny_models.changed("llama", tmp_path / "new")
    (place / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "NVFP4"}}))
    with pytest.raises(BackendUnavailable, match="quantised in another way"):
        Target.load(place)


@pytest.mark.parametrize("tie", [True, False])
def test_a_head_of_gemma_3_is_tied_as_the_config_says(tie, tmp_path):
    """mlx-lm looks at what is stored instead."""
    place = tiny_models.changed("gemma3", tmp_path / "new", tie_word_embeddings=tie)
    if tie:
        weights = dict(mx.load(str(place / "model.safetensors")))
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"] * 2
        save(place / "model.safetensors", weights)
    with pytest.raises(CheckpointError, match=r"stored lm_head\.weight; needs as tie_word_embeddings"):
        Target.load(place)


def test_code_of_a_checkpoint_is_not_run(tmp_path):
    place = tiny_models.changed("llama", tmp_path / "new", model_file="own.py")
    (place / "own.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    with pytest.raises(CheckpointError, match=r"model_file 'own\.py': custom code"):
        Target.load(place)
    assert not (place / "ran").exists()


# Loaded models that a caller holds: what they were built of is what they are.
@pytest.mark.parametrize("kind", tiny_models.DRIVEN)
def test_a_held_model_is_driven_as_it_drives_itself(kind):
    model = Target.load(tiny_models.folder(kind)).model
    if kind in ("qwen2_sliding", "mistral_sliding", "gemma2"):
        model.args.sliding_window = None  # what mlx-lm itself knows of them
    target, ids = Target.load(model), mx.array(TOKENS)
    own = np.array(model(ids))
    if kind == "gemma3":  # mlx-lm rounds the factor of the embeddings to bfloat16, 1.1e-4 of it here
        assert np.abs(scores(ROOMS["mlx"], target)[0] - own).max() <= 1e-3 * np.abs(own).max()
    else:
        assert np.abs(scores(ROOMS["mlx"], target)[0] - own).max() <= FORWARD_F32


def test_a_held_model_that_is_not_what_its_config_says_is_refused():
    place = tiny_models.folder("llama")
    values = json.loads((place / "config.json").read_text())
    model, config = mlx_lm.utils.load_model(place)
    Target(model, config=config)
    other = {**values, "rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}}
    with pytest.raises(BackendUnavailable, match=r"rope_theta 10000; needs 500\.0, as its config says"):
        Target(model, config=other)
    with pytest.raises(ConfigError, match="model_type: got 'qwen3'; needs 'llama'"):
        Target(model, config={**values, "model_type": "qwen3"})


class Scaled(llama.Model):
    """Logits that no matrix alone gives."""

    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs) * 2


SLIDING_HALF = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 5}


@pytest.mark.clause("DL-8")
@pytest.mark.parametrize(
    ("classes", "settings", "words"),
    [
        ((Scaled, llama.ModelArgs), {}, "logits made in another way"),
        ((llama.Model, llama.ModelArgs), SLIDING_HALF, r"sliding windows \(5, None, 5, None\)"),
        ((qwen3.Model, qwen3.ModelArgs), {}, r"class 'mlx_lm\.models\.qwen3\.Model'.*needs a .*llama\.Model"),
        ((qwen3.Model, qwen3.ModelArgs), {"model_type": "mixed"}, "got model_type 'mixed'; needs one of"),
    ],
)
def test_a_held_model_that_goes_another_way_is_refused(classes, settings, words):
    config = {"rope_theta": 1e4, "tie_word_embeddings": False, "head_dim": 8, "rms_norm_eps": 1e-6} | settings
    folder = tiny_models.folder("qwen3" if classes[0] is qwen3.Model else "llama")
    if classes[0] is qwen3.Model:
        config["head_dim"] = 16
    config.setdefault("model_type", "llama")
    model, _ = mlx_lm.utils.load_model(folder, model_config=config, get_model_classes=lambda config: classes)
    with pytest.raises(BackendUnavailable, match=words):
        Target.load(model)


WITHOUT_TORCH = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.split(".")[0] == "torch" else find(name, *rest)
sys.modules["torch"] = None
from dspec.backends.mlx.target import Target
target = Target.load("dspec/demo/target")
import transformers
assert not transformers.is_torch_available()
print(target.tokenizer.decode(target.tokenizer("12 * 7")["input_ids"]))
"""


def test_a_folder_opens_in_silence_without_torch():
    """transformers says at its import that torch is missing; mlx-lm asks it not to, if it comes first."""
    call = [sys.executable, "-W", "error", "-c", WITHOUT_TORCH]
    done = subprocess.run(call, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert (done.stdout.strip(), done.stderr) == ("12 * 7", "")


def test_a_gemma_with_the_other_gelu_is_refused():
    model, config = mlx_lm.utils.load_model(tiny_models.folder("gemma"))
    with pytest.raises(BackendUnavailable, match="exact GELU"):
        Target(model, config=config)


def test_a_config_is_the_same_by_its_file_and_by_its_values():
    for kind in tiny_models.DRIVEN:
        by_file = read_config(tiny_models.folder(kind))
        assert arguments_of(by_file) == arguments_of(config_of(by_file.to_dict()))

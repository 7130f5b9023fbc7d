"""Devices, dtypes and targets by name: what is asked for is what is loaded, or an error says why."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from transformers import PreTrainedTokenizerFast

from dspec.backends.torch.ops import TorchOps, devices_here, resolve_device, resolve_dtype
from dspec.backends.torch.target import Target
from dspec.errors import BackendUnavailable, CheckpointError, ConfigError
from tests import tiny_models

GOLDEN = Path(__file__).parent / "golden" / "dflash_tiny"
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def folder(tmp_path):
    """A copy of the golden target that a test may spoil."""
    return Path(shutil.copytree(GOLDEN / "target", tmp_path / "tiny"))


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def weights_of(room, model):
    """Every weight by name."""
    if room.name == "torch":
        return dict(model.named_parameters())
    from mlx.utils import tree_flatten

    return dict(tree_flatten(model.parameters()))


def trained(room, model):
    """The weights that a gradient would be taken for."""
    if room.name == "torch":
        return [weight for weight in model.parameters() if weight.requires_grad]
    from mlx.utils import tree_flatten

    return tree_flatten(model.trainable_parameters())


def test_facts_of_a_folder(room, folder):
    edit(folder / "config.json", rope_theta=5e5)
    edit(folder / "generation_config.json", eos_token_id=[257, 10])
    target = room.target.Target.load(folder, device=room.device)
    facts = target.facts
    assert (facts.hidden_size, facts.vocab_size, facts.num_layers, facts.head_dim) == (64, 300, 6, 24)
    assert (facts.rope_theta, facts.rope_scaling, facts.dtype, facts.name) == (5e5, None, "float32", "tiny")
    assert target.eos_ids == {10, 257} and facts.eos_token_ids == (10, 257)
    assert (target.vocab_size, target.max_positions, target.tokenizer) == (300, 1024, None)
    assert not trained(room, target.model) and not target.model.training


def test_rotary_scaling_is_read(room, folder):
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
    edit(folder / "config.json", rope_scaling=scaling)
    facts = room.target.Target.load(folder, device=room.device).facts
    assert {k: facts.rope_scaling[k] for k in scaling} == scaling
    assert facts.rope_theta == 10000.0 and "rope_theta" not in facts.rope_scaling


def test_gemma_3_gives_the_rotary_base_of_its_full_attention(room):
    config = tiny_models.make("gemma3").config
    assert config.rope_parameters["full_attention"]["rope_theta"] == 1e6
    assert tiny_models.opened("gemma3", room).facts.rope_theta == 1e6


def test_token_zero_can_end_a_text(room, folder):
    edit(folder / "generation_config.json", eos_token_id=0)
    assert room.target.Target.load(folder, device=room.device).eos_ids == {0}


@pytest.mark.parametrize("spoil", [lambda f: f.unlink(), lambda f: edit(f, eos_token_id=None)])
def test_without_a_word_of_the_generation_config_the_models_config_names_the_end(room, folder, spoil):
    spoil(folder / "generation_config.json")
    assert room.target.Target.load(folder, device=room.device).eos_ids == {257}


def test_a_tokenizer_beside_the_model_is_loaded(room, folder):
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(folder)
    target = room.target.Target.load(folder, device=room.device)
    assert target.tokenizer("b a c")["input_ids"] == [1, 0, 2]
    own = object()
    assert room.target.Target.load(folder, device=room.device, tokenizer=own).tokenizer is own


@pytest.mark.parametrize(("dtype", "expected"), [("auto", "float32"), ("bfloat16", "bfloat16")])
def test_dtypes_of_a_loaded_target(room, folder, dtype, expected):
    edit(folder / "config.json", dtype="bfloat16")
    target = room.target.Target.load(str(folder), device=room.device, dtype=dtype)
    assert target.facts.dtype == expected
    assert {weight.dtype for weight in weights_of(room, target.model).values()} == {
        getattr(room.xp, expected)
    }


def test_auto_dtype_is_the_stored_one_on_an_accelerator():
    assert resolve_dtype("auto", device=GPU, stored=torch.bfloat16) == torch.bfloat16
    assert resolve_dtype("auto", device=GPU, stored=None) is None
    assert resolve_dtype("float16", device=CPU, stored=torch.bfloat16) == torch.float16
    for wrong in ("int8", torch.int8):
        with pytest.raises(ConfigError, match="dtype"):
            resolve_dtype(wrong, device=CPU, stored=None)


def test_a_device_that_is_not_here_is_no_other_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert devices_here() == ("cpu",) and resolve_device("auto") == CPU
    for missing in ("cuda", "mps", "cuda:1"):
        with pytest.raises(BackendUnavailable, match=f"got '{missing}'; needs a device of this machine: cpu"):
            resolve_device(missing)
    for unknown in ("gpu", "cpu:x", "cpu:"):
        with pytest.raises(ConfigError, match="one of auto, cuda, cpu, mps"):
            resolve_device(unknown)


def test_devices_are_counted(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == GPU
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(BackendUnavailable, match="cuda:2"):
        resolve_device("cuda:2")


def test_a_loaded_model_stays_as_it_is(room):
    model = tiny_models.opened("qwen3", room).model
    assert room.target.Target.load(model, device=room.device, dtype="float32").model is model
    with pytest.raises(ConfigError, match=r"dtype: got bfloat16; needs .*float32, the model's"):
        room.target.Target.load(model, dtype="bfloat16")
    other = "mlx" if room.name == "torch" else "cpu"
    with pytest.raises(ConfigError, match=f"device: got '?{other}'?; needs"):
        room.target.Target.load(model, device=other)
    with pytest.raises(ConfigError, match="target: got a list; needs a hub id, a folder"):
        room.target.Target.load([])


def test_a_model_on_another_device_is_not_moved():
    with pytest.raises(ConfigError, match="device: got cpu; needs meta"):
        Target.load(tiny_models.make("qwen3").to("meta"), device="cpu")


def drop_tensor(folder):
    edit(folder / "config.json", num_hidden_layers=7, layer_types=["full_attention"] * 7)


def only_a_pickle(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def remote_code(folder):
    code = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"
    (folder / "modeling_own.py").write_text(code)
    edit(
        folder / "config.json",
        model_type="own",
        architectures=["Own"],
        auto_map={"AutoConfig": "modeling_own.C", "AutoModelForCausalLM": "modeling_own.Own"},
    )


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (drop_tensor, r"model\.layers\.6\."),
        (only_a_pickle, "safetensors"),
        (remote_code, "custom code|trust_remote_code|own"),
        (lambda f: (f / "config.json").unlink(), "config.json|model_type"),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"short"),
            "needs a folder or hub id|not safetensors",
        ),
    ],
)
def test_a_folder_that_is_no_sound_target_is_refused(room, folder, spoil, words):
    spoil(folder)
    with pytest.raises(CheckpointError, match=words):
        room.target.Target.load(folder, device=room.device)
    assert not (folder / "ran").exists()


def test_a_drafter_given_as_target_is_refused(room):
    with pytest.raises(CheckpointError, match="DFlash drafter is no target"):
        room.target.Target.load(GOLDEN / "drafter", device=room.device)


@pytest.mark.parametrize("source", ["./nowhere", Path("nowhere")])
def test_a_missing_folder_is_not_looked_up_elsewhere(room, source):
    with pytest.raises(CheckpointError, match="needs an existing folder, or a hub id"):
        room.target.Target.load(source, device=room.device)


def test_arrays_travel_with_their_dtype():
    ops = TorchOps(CPU)
    fixed = np.array([[0.5, 0.25]], dtype=np.float32)
    fixed.flags.writeable = False
    moved = ops.from_host(fixed)
    assert moved.dtype == torch.float32 and ops.to_host(moved) == [[0.5, 0.25]]
    assert ops.from_host(np.zeros((1, 0), dtype=np.int32)).dtype == torch.int32
    start = ops.mark()
    assert 0 <= ops.seconds(start, ops.mark()) < 5

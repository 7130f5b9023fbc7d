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


def test_facts_of_a_folder(folder):
    edit(folder / "config.json", rope_theta=5e5)
    edit(folder / "generation_config.json", eos_token_id=[257, 10])
    target = Target.load(folder, device="cpu")
    facts = target.facts
    assert (facts.hidden_size, facts.vocab_size, facts.num_layers, facts.head_dim) == (64, 300, 6, 24)
    assert (facts.rope_theta, facts.rope_scaling, facts.dtype, facts.name) == (5e5, None, "float32", "tiny")
    assert target.eos_ids == {10, 257} and facts.eos_token_ids == (10, 257)
    assert (target.vocab_size, target.max_positions, target.tokenizer) == (300, 1024, None)
    assert not any(p.requires_grad for p in target.model.parameters()) and not target.model.training


def test_rotary_scaling_is_read(folder):
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
    edit(folder / "config.json", rope_scaling=scaling)
    facts = Target.load(folder, device="cpu").facts
    assert {k: facts.rope_scaling[k] for k in scaling} == scaling
    assert facts.rope_theta == 10000.0 and "rope_theta" not in facts.rope_scaling


def test_gemma_3_gives_the_rotary_base_of_its_full_attention():
    model = tiny_models.make("gemma3")
    assert (
        Target(model).facts.rope_theta == model.config.rope_parameters["full_attention"]["rope_theta"] == 1e6
    )


def test_without_a_generation_config_the_models_config_names_the_end(folder):
    (folder / "generation_config.json").unlink()
    assert Target.load(folder, device="cpu").eos_ids == {257}


def test_a_tokenizer_beside_the_model_is_loaded(folder):
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(folder)
    assert Target.load(folder, device="cpu").tokenizer("b a c")["input_ids"] == [1, 0, 2]


@pytest.mark.parametrize(("dtype", "expected"), [("auto", "float32"), ("bfloat16", "bfloat16")])
def test_dtypes_of_a_loaded_target(folder, dtype, expected):
    edit(folder / "config.json", dtype="bfloat16")
    target = Target.load(str(folder), device="cpu", dtype=dtype)
    assert target.facts.dtype == expected
    assert {p.dtype for p in target.model.parameters()} == {getattr(torch, expected)}


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


def test_a_loaded_model_stays_as_it_is():
    model = tiny_models.make("qwen3")
    assert Target.load(model, device="cpu", dtype="float32").model is model
    with pytest.raises(ConfigError, match=r"dtype: got bfloat16; needs torch\.float32, the model's"):
        Target.load(model, dtype="bfloat16")
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
        (drop_tensor, r"no or misshapen model\.layers\.6\."),
        (only_a_pickle, "safetensors"),
        (remote_code, "custom code|trust_remote_code|own"),
        (lambda f: (f / "config.json").unlink(), "config.json|model_type"),
        (lambda f: (f / "model.safetensors").write_bytes(b"short"), "needs a folder or hub id"),
    ],
)
def test_a_folder_that_is_no_sound_target_is_refused(folder, spoil, words):
    spoil(folder)
    with pytest.raises(CheckpointError, match=words):
        Target.load(folder, device="cpu")
    assert not (folder / "ran").exists()


def test_a_drafter_given_as_target_is_refused():
    with pytest.raises(CheckpointError, match="DFlash drafter is no target"):
        Target.load(GOLDEN / "drafter", device="cpu")


@pytest.mark.parametrize("source", ["./nowhere", Path("nowhere")])
def test_a_missing_folder_is_not_looked_up_elsewhere(source):
    with pytest.raises(CheckpointError, match="needs an existing folder, or a hub id"):
        Target.load(source, device="cpu")


def test_arrays_travel_with_their_dtype():
    ops = TorchOps(CPU)
    fixed = np.array([[0.5, 0.25]], dtype=np.float32)
    fixed.flags.writeable = False
    moved = ops.from_host(fixed)
    assert moved.dtype == torch.float32 and ops.to_host(moved) == [[0.5, 0.25]]
    assert ops.from_host(np.zeros((1, 0), dtype=np.int32)).dtype == torch.int32
    start = ops.mark()
    assert 0 <= ops.seconds(start, ops.mark()) < 5

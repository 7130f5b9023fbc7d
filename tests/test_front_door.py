"""`dspec.load` and `dspec.train`: mistakes are said early and by name, and what is the caller's stays."""

import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import tokenizers
import torch
from transformers import PreTrainedTokenizerFast

import dspec
from dspec.backends.torch import front
from dspec.backends.torch.drafter import load_drafter
from dspec.backends.torch.target import Target
from dspec.errors import CheckpointError, ConfigError, DataError
from dspec.progress import MetricsLog
from tests import tiny_models

GOLDEN = Path(__file__).parent / "golden" / "dflash_tiny"
SETTINGS = {"block_size": 4, "layers": 1, "steps": 1, "batch_size": 2, "seq_len": 32, "anchors": 3}
SETTINGS |= {"target_layer_ids": (0, 2), "mask_token_id": 59, "backend": "cpu"}


@pytest.fixture
def model():
    return tiny_models.make("qwen3")


@pytest.fixture
def data(tmp_path):
    """40 records: one cannot be trained on, one is longer than seq_len."""
    lengths = [1, 50, *[20] * 38]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps({"tokens": [i % 50 for i in range(n)]}) for n in lengths))
    return path


def words():
    known = {f"w{i}": i for i in range(58)} | {"?": 58}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, unk_token="?"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=model, unk_token="?")


def refuse_to_load(monkeypatch):
    def load(*arguments, **options):
        raise AssertionError("the target was loaded")

    monkeypatch.setattr(Target, "load", load)


def test_training_into_the_targets_own_folder_changes_nothing(tmp_path, data, monkeypatch):
    place = Path(shutil.copytree(GOLDEN / "target", tmp_path / "target"))
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    refuse_to_load(monkeypatch)
    with pytest.raises(CheckpointError, match=r"output: got .* holds another model"):
        dspec.train(place, data, place, quiet=True, **SETTINGS)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before


@pytest.mark.parametrize("below", ["", "drafter"])
def test_an_output_that_is_a_file_is_refused_before_the_target_is_loaded(tmp_path, data, monkeypatch, below):
    refuse_to_load(monkeypatch)
    with pytest.raises(CheckpointError, match="is a file; needs a folder"):
        dspec.train(GOLDEN / "target", data, data / below, quiet=True, **SETTINGS)


def test_metrics_that_cannot_be_written_are_a_checkpoint_error(model, tmp_path, data):
    (tmp_path / "run" / "metrics.jsonl").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: got "):
        dspec.train(model, data, tmp_path / "run", quiet=True, **SETTINGS)
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log._file.close()

    def refuse(text):
        raise OSError("No space left on device")

    log._file = SimpleNamespace(write=refuse)
    with pytest.raises(CheckpointError, match="No space left"):
        log.write({"step": 1})


def test_a_wrong_objective_is_refused_before_the_target_is_loaded(data, monkeypatch):
    refuse_to_load(monkeypatch)
    with pytest.raises(ConfigError, match="chian"):
        dspec.train(GOLDEN / "target", data, quiet=True, **SETTINGS, objective="chian(40)")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seq_len", 257, "seq_len: got 257; needs at most 256"),
        ("target_layer_ids", (0, 4), "target_layer_ids: got 4"),
        ("mask_token_id", 60, "mask_token_id: got 60"),
        ("mask_token_id", None, "mask_token_id: got none"),
    ],
)
def test_what_does_not_fit_the_target_is_refused_before_the_data_is_read(model, name, value, message):
    with pytest.raises(ConfigError, match=message):
        dspec.train(model, "nowhere.jsonl", quiet=True, **{**SETTINGS, name: value})
    with pytest.raises(DataError, match="nowhere"):
        dspec.train(model, "nowhere.jsonl", quiet=True, **SETTINGS)


def test_what_became_of_the_records_is_said(model, data, capsys):
    dspec.train(model, data, **SETTINGS)
    said = capsys.readouterr().err
    assert f"{data}: 39 of 40 records kept (1 without two trainable neighbours, 1 cut)" in said
    assert "validation: 3 of 39 examples held out: a tenth of the data, which is less than" in said
    dspec.train(model, data, quiet=True, **SETTINGS)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validate_examples": 2}, "validation: 2 of 39 examples held out\n"),
        ({"validate_examples": 0}, "validation: none, as validate_examples is 0\n"),
    ],
)
def test_the_size_of_the_validation_slice_is_said(model, data, capsys, changes, message):
    dspec.train(model, data, **SETTINGS, **changes)
    assert message in capsys.readouterr().err


def test_no_validation_slice_of_a_few_records_is_said(model, data, capsys):
    data.write_text("\n".join(data.read_text().splitlines()[1:9]))
    result = dspec.train(model, data, **SETTINGS)
    assert "validation: none of 8 examples held out: a tenth of the data" in capsys.readouterr().err
    assert "tau" not in result.metrics
    dspec.train(model, data, validation=data, **SETTINGS)
    assert capsys.readouterr().err.count(f"{data}: 8 of 8 records kept") == 2


def test_a_loaded_model_is_put_back_as_it_was(model, data):
    model.train()
    frozen = next(model.parameters()).requires_grad_(False)
    dspec.train(model, data, quiet=True, **SETTINGS)
    assert all(module.training for module in model.modules())
    assert [p for p in model.parameters() if not p.requires_grad] == [frozen]
    with pytest.raises(DataError):
        dspec.train(model, "nowhere.jsonl", quiet=True, **SETTINGS)
    assert model.training


def test_a_loaded_model_is_given_its_tokenizer(model, tmp_path):
    tokenizer = words()
    assert dspec.load(model, backend="cpu", tokenizer=tokenizer).generate("w1 w2", max_new_tokens=2).tokens
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": "w1 w2 w3 w4 w5"}) for _ in range(4)))
    with pytest.raises(DataError, match="no tokenizer"):
        dspec.train(model, path, quiet=True, **SETTINGS)
    free = {**SETTINGS, "mask_token_id": None}
    result = dspec.train(model, path, quiet=True, tokenizer=tokenizer, **free)
    assert result.drafter.config.mask_token_id == 59, "the first row that no token of the tokenizer uses"
    assert Target.load(GOLDEN / "target", device="cpu", tokenizer=tokenizer).tokenizer is tokenizer
    with pytest.raises(ConfigError, match="tokenizer: got one beside an opened target"):
        dspec.load(Target(model), backend="cpu", tokenizer=tokenizer)


@pytest.mark.parametrize("target", [None, 3])
def test_what_is_no_target_is_refused_by_name(target):
    with pytest.raises(ConfigError, match=r"target: got a \w+; needs a hub id, a folder"):
        dspec.load(target, backend="cpu")


def test_settings_that_contradict_what_is_loaded_are_refused(model):
    target = Target.load(GOLDEN / "target", device="cpu")
    drafter = load_drafter(GOLDEN / "drafter", device="cpu")
    elsewhere = Target(model)
    model.to("meta")
    with pytest.raises(ConfigError, match=r"drafter: got a int; needs a hub id, a folder"):
        dspec.load(target, 3, backend="cpu")
    with pytest.raises(ConfigError, match=r"dtype: got bfloat16; needs torch\.float32, the target's"):
        dspec.load(target, drafter, backend="cpu", dtype="bfloat16")
    with pytest.raises(ConfigError, match=r"dtype: got bfloat16; needs torch\.float32, the drafter's"):
        dspec.load(GOLDEN / "target", drafter, backend="cpu", dtype="bfloat16")
    with pytest.raises(ConfigError, match="device: got cpu; needs meta, the target's"):
        front.open_models(elsewhere, None, device="cpu", dtype="auto")
    assert dspec.load(target, drafter, backend="cpu", dtype="float32").target is target


def test_a_target_of_other_weights_is_another_target_whatever_its_name(tmp_path, data):
    first, second = tiny_models.make("qwen3"), tiny_models.make("qwen3")
    run = {"quiet": True, **SETTINGS}
    dspec.train(first, data, tmp_path / "run", **run)
    second.config.name_or_path = "elsewhere"
    dspec.train(second, data, tmp_path / "run", **run)
    with torch.no_grad():
        second.model.layers[3].mlp.up_proj.weight[5, 7] += 1.0
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=r"target: 'float32 \w+' then, 'float32 \w+' now"):
        dspec.train(second, data, tmp_path / "run", **run)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


def test_a_stopped_run_does_not_pass_an_older_drafter_off_as_its_own(model, tmp_path, data, monkeypatch):
    older = dspec.train(model, data, tmp_path / "run", quiet=True, **SETTINGS)
    assert older.output == tmp_path / "run"
    inner = Target.tap

    def stop(self, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return inner(self, *arguments)

    monkeypatch.setattr(Target, "tap", stop)
    again = {**SETTINGS, "steps": 3, "resume": False}
    stopped = dspec.train(model, data, tmp_path / "run", quiet=True, **again)
    assert (stopped.metrics["finished"], stopped.metrics["step"], stopped.output) == (False, 1, None)

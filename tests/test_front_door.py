"""`dspec.load` and `dspec.train`: mistakes are said early and by name, and what is the caller's stays."""

import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import tokenizers
from transformers import PreTrainedTokenizerFast

import dspec
from dspec.errors import CheckpointError, ConfigError, DataError
from dspec.progress import MetricsLog
from tests.rooms import ROOMS
from tests.tiny_training import target_folder

GOLDEN = Path(__file__).parent / "golden" / "dflash_tiny"
SETTINGS = {"block_size": 4, "layers": 1, "steps": 1, "batch_size": 2, "seq_len": 32, "anchors": 3}
SETTINGS |= {"target_layer_ids": (0, 2), "mask_token_id": 59}


@pytest.fixture
def settings(room):
    return {**SETTINGS, "backend": room.device}


@pytest.fixture
def model(room):
    return load_model(room)


def load_model(room):
    """A model of the room's framework, as a caller has it."""
    return room.target.Target.load(target_folder(), device=room.device).model


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


def refuse_to_load(room, monkeypatch):
    def load(*arguments, **options):
        raise AssertionError("the target was loaded")

    monkeypatch.setattr(room.target.Target, "load", load)


def test_training_into_the_targets_own_folder_changes_nothing(room, settings, tmp_path, data, monkeypatch):
    place = Path(shutil.copytree(GOLDEN / "target", tmp_path / "target"))
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    refuse_to_load(room, monkeypatch)
    with pytest.raises(CheckpointError, match=r"output: got .* holds another model"):
        dspec.train(place, data, place, quiet=True, **settings)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before


@pytest.mark.parametrize("below", ["", "drafter"])
def test_an_output_that_is_a_file_is_refused_before_the_target_is_loaded(
    room, settings, tmp_path, data, monkeypatch, below
):
    refuse_to_load(room, monkeypatch)
    with pytest.raises(CheckpointError, match="is a file; needs a folder"):
        dspec.train(GOLDEN / "target", data, data / below, quiet=True, **settings)


def test_metrics_that_cannot_be_written_are_a_checkpoint_error(settings, model, tmp_path, data):
    (tmp_path / "run" / "metrics.jsonl").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: got "):
        dspec.train(model, data, tmp_path / "run", quiet=True, **settings)
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log._file.close()

    def refuse(text):
        raise OSError("No space left on device")

    log._file = SimpleNamespace(write=refuse)
    with pytest.raises(CheckpointError, match="No space left"):
        log.write({"step": 1})


def test_a_wrong_objective_is_refused_before_the_target_is_loaded(room, settings, data, monkeypatch):
    refuse_to_load(room, monkeypatch)
    with pytest.raises(ConfigError, match="chian"):
        dspec.train(GOLDEN / "target", data, quiet=True, **settings, objective="chian(40)")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seq_len", 129, "seq_len: got 129; needs at most 128"),
        ("target_layer_ids", (0, 3), "target_layer_ids: got 3"),
        ("mask_token_id", 97, "mask_token_id: got 97"),
        ("mask_token_id", None, "mask_token_id: got none"),
    ],
)
def test_what_does_not_fit_the_target_is_refused_before_the_data_is_read(
    settings, model, name, value, message
):
    with pytest.raises(ConfigError, match=message):
        dspec.train(model, "nowhere.jsonl", quiet=True, **{**settings, name: value})
    with pytest.raises(DataError, match="nowhere"):
        dspec.train(model, "nowhere.jsonl", quiet=True, **settings)


def test_what_became_of_the_records_is_said(settings, model, data, capsys):
    dspec.train(model, data, **settings)
    said = capsys.readouterr().err
    assert f"{data}: 39 of 40 records kept (1 without two trainable neighbours, 1 cut)" in said
    assert "validation: 3 of 39 examples held out: a tenth of the data, which is less than" in said
    dspec.train(model, data, quiet=True, **settings)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validate_examples": 2}, "validation: 2 of 39 examples held out\n"),
        ({"validate_examples": 0}, "validation: none, as validate_examples is 0\n"),
    ],
)
def test_the_size_of_the_validation_slice_is_said(settings, model, data, capsys, changes, message):
    dspec.train(model, data, **settings, **changes)
    assert message in capsys.readouterr().err


def test_no_validation_slice_of_a_few_records_is_said(settings, model, data, capsys):
    data.write_text("\n".join(data.read_text().splitlines()[1:9]))
    result = dspec.train(model, data, **settings)
    assert "validation: none of 8 examples held out: a tenth of the data" in capsys.readouterr().err
    assert "tau" not in result.metrics
    dspec.train(model, data, validation=data, **settings)
    assert capsys.readouterr().err.count(f"{data}: 8 of 8 records kept") == 2


def found_as(room, model):
    """Modes of a model's modules, and which weights are trained."""
    modes = [module.training for module in model.modules()]
    if room.name == "torch":
        return modes, [p.requires_grad for p in model.parameters()]
    return modes, [list(module.trainable_parameters()) for module in model.modules()]


def half_frozen(room, model):
    """The model in training mode, one of its weights frozen by its owner."""
    model.train()
    if room.name == "torch":
        model.requires_grad_(True)
        model.lm_head.weight.requires_grad_(False)
    else:
        model.unfreeze()
        model.lm_head.freeze()
    return found_as(room, model)


def test_a_loaded_model_is_put_back_as_it_was(room, settings, model, data):
    loaded = found_as(room, model)
    before = half_frozen(room, model)
    assert before != loaded and all(before[0])
    dspec.train(model, data, quiet=True, **settings)
    assert found_as(room, model) == before
    with pytest.raises(DataError):
        dspec.train(model, "nowhere.jsonl", quiet=True, **settings)
    assert found_as(room, model) == before


def test_a_loaded_model_is_given_its_tokenizer(room, settings, model, tmp_path):
    tokenizer = words()
    assert (
        dspec.load(model, backend=room.device, tokenizer=tokenizer).generate("w1 w2", max_new_tokens=2).tokens
    )
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": "w1 w2 w3 w4 w5"}) for _ in range(4)))
    with pytest.raises(DataError, match="no tokenizer"):
        dspec.train(model, path, quiet=True, **settings)
    free = {**settings, "mask_token_id": None}
    result = dspec.train(model, path, quiet=True, tokenizer=tokenizer, **free)
    assert result.drafter.config.mask_token_id == 59, "the first row that no token of the tokenizer uses"
    assert (
        room.target.Target.load(GOLDEN / "target", device=room.device, tokenizer=tokenizer).tokenizer
        is tokenizer
    )
    with pytest.raises(ConfigError, match="tokenizer: got one beside an opened target"):
        dspec.load(room.target.Target(model), backend=room.device, tokenizer=tokenizer)


@pytest.mark.parametrize("target", [None, 3])
def test_what_is_no_target_is_refused_by_name(room, target):
    with pytest.raises(ConfigError, match=r"target: got a \w+; needs a hub id, a folder"):
        dspec.load(target, backend=room.device)


def test_settings_that_contradict_what_is_loaded_are_refused(room):
    target = room.target.Target.load(GOLDEN / "target", device=room.device)
    drafter = room.drafter.load_drafter(GOLDEN / "drafter", device=room.device)
    with pytest.raises(ConfigError, match=r"drafter: got a int; needs a hub id, a folder"):
        dspec.load(target, 3, backend=room.device)
    with pytest.raises(ConfigError, match=r"dtype: got bfloat16; needs \S*float32, the target's"):
        dspec.load(target, drafter, backend=room.device, dtype="bfloat16")
    with pytest.raises(ConfigError, match=r"dtype: got bfloat16; needs \S*float32, the drafter's"):
        dspec.load(GOLDEN / "target", drafter, backend=room.device, dtype="bfloat16")
    assert dspec.load(target, drafter, backend=room.device, dtype="float32").target is target


def test_a_model_elsewhere_is_not_moved():
    """On torch alone: MLX has one device."""
    room = ROOMS["torch"]
    model = load_model(room)
    elsewhere = room.target.Target(model)
    model.to("meta")
    with pytest.raises(ConfigError, match="device: got cpu; needs meta, the target's"):
        room.front.open_models(elsewhere, None, device="cpu", dtype="auto")


def change_one_number(room, model):
    projection = model.model.layers[2].mlp.up_proj
    changed = room.numpy(projection.weight).copy()
    changed[5, 7] += 1.0
    if room.name == "torch":
        projection.weight.data.copy_(room.array(changed))
    else:
        projection.weight = room.array(changed)


def test_a_target_of_other_weights_is_another_target_whatever_its_name(room, settings, tmp_path, data):
    run = {"quiet": True, **settings}
    elsewhere = shutil.copytree(target_folder(), tmp_path / "elsewhere")
    dspec.train(load_model(room), data, tmp_path / "run", **run)
    dspec.train(elsewhere, data, tmp_path / "run", **run)
    second = load_model(room)
    change_one_number(room, second)
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=r"target: 'float32 \w+' then, 'float32 \w+' now"):
        dspec.train(second, data, tmp_path / "run", **run)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


def test_a_stopped_run_does_not_pass_an_older_drafter_off_as_its_own(
    room, settings, model, tmp_path, data, monkeypatch
):
    older = dspec.train(model, data, tmp_path / "run", quiet=True, **settings)
    assert older.output == tmp_path / "run"
    kind = room.target.Target
    inner = kind.tap

    def stop(self, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return inner(self, *arguments)

    monkeypatch.setattr(kind, "tap", stop)
    again = {**settings, "steps": 3, "resume": False}
    stopped = dspec.train(model, data, tmp_path / "run", quiet=True, **again)
    assert (stopped.metrics["finished"], stopped.metrics["step"], stopped.output) == (False, 1, None)

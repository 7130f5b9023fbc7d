"""The command line: options, prompts, JSON on stdout, one line a mistake."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from dspec import cli
from dspec.cli_prompt import read_prompt_options
from dspec.config import TrainConfig
from dspec.display import show_stream
from dspec.generation import Chunk
from dspec.results import TrainResult

GOLDEN = Path(__file__).parent / "golden" / "dflash_tiny"
TARGET, DRAFTER = str(GOLDEN / "target"), str(GOLDEN / "drafter")


def run(capsys, *words):
    """Run the command line and return status, stdout, stderr."""
    status = cli.run([str(word) for word in words])
    out = capsys.readouterr()
    return status, out.out, out.err


def test_generate_prints_one_json_object(capsys, room):
    words = ("generate", TARGET, "--drafter", DRAFTER, "--prompt-ids", "101 101 100", "--json")
    backend = ("--backend", room.device)
    status, out, _ = run(capsys, *words, "--max-new-tokens", 12, *backend)
    found = json.loads(out)
    assert status == 0 and len(found["tokens"]) == 12 and sum(found["n_emitted"]) >= 11
    assert found["tau"] == sum(found["n_emitted"]) / len(found["n_emitted"])
    assert found["seconds"]["total"] > 0 and found["tokens_per_second"] > 0
    alone = json.loads(run(capsys, *words[:2], *words[4:], "--max-new-tokens", 12, *backend)[1])
    assert alone["tokens"] == found["tokens"] and alone["n_emitted"] == [1] * 11
    slow = json.loads(run(capsys, *words, "--max-new-tokens", 12, "--decoder", "autoregressive", *backend)[1])
    assert slow["tokens"] == found["tokens"] and slow["n_emitted"] == [1] * 11


@pytest.mark.clause("RS-19")
def test_log_probs_are_in_the_json_and_nowhere_else(capsys):
    words = ("generate", TARGET, "--drafter", DRAFTER, "--prompt-ids", "101 101 100", "--max-new-tokens", 6)
    words += ("--temperature", "0.7", "--top-p", "0.9")
    found = {
        name: json.loads(run(capsys, *words, "--json", "--log-probs", name)[1]) for name in ("raw", "warped")
    }
    assert found["raw"]["tokens"] == found["warped"]["tokens"]
    assert len(found["raw"]["log_probs"]) == len(found["warped"]["log_probs"]) == 6
    assert found["raw"]["log_probs"] != found["warped"]["log_probs"]
    assert "log_probs" not in json.loads(run(capsys, *words, "--json")[1])
    status, out, err = run(capsys, *words, "--log-probs", "raw")
    assert (status, out) == (2, "") and "ConfigError: --log-probs: got raw; needs --json beside it" in err
    status, _, err = run(capsys, *words, "--json", "--log-probs", "both")
    assert status == 2 and "ConfigError: log_probs: got 'both'; needs 'raw'" in err


def test_generate_streams_ids_where_there_is_no_tokenizer(capsys):
    status, out, err = run(capsys, "generate", TARGET, "--prompt-ids", "101,102", "--max-new-tokens", 5)
    assert status == 0 and len(out.split()) == 5
    assert "5 tokens" in err and "ended by length" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("generate", TARGET), "ConfigError: prompt: got none; needs one of --prompt, "),
        (("generate", TARGET, "--prompt", "a", "--prompt-ids", "1"), "prompt: got --prompt and --prompt-ids"),
        (("generate", TARGET, "--prompt-ids", "1", "--chat"), "ConfigError: --chat: got --prompt-ids"),
        (("bench", TARGET, DRAFTER, "--output", str(GOLDEN / "generate.json")), "FileExistsError: "),
        (("generate", TARGET, "--prompt-ids", "1 x"), "ConfigError: --prompt-ids: got '1 x'"),
        (("generate", TARGET, "--prompt-ids", "300"), "ShapeError: prompt[0]: got 300"),
        (("generate", TARGET, "--prompt", "a"), "the target has no tokenizer"),
        (("generate", "nowhere/at/all/", "--prompt-ids", "1"), "CheckpointError: target nowhere/at/all/"),
        (("generate", TARGET, "--drafter", TARGET, "--prompt-ids", "1"), "CheckpointError: "),
        (
            ("generate", TARGET, "--prompt-ids", "1", "--temperature", "-1"),
            "ConfigError: temperature: got -1.0",
        ),
        (("generate", TARGET, "--prompt-ids", "1", "--backend", "tpu"), "ConfigError: backend: got 'tpu'"),
        (("generate", TARGET, "--prompt-ids", "1", "--decoder", "x"), "ConfigError: --decoder: got 'x'"),
        (("generate", TARGET, "--prompt-ids", "1", "--decoder", "speculative"), "ConfigError: decoder: "),
        (("check", "--backend", "numpy", "--level", "deep"), "ConfigError: level: got 'deep'"),
        (("train", TARGET, "x.jsonl", "--output", "y", "--betas", "a,b"), "ConfigError: --betas: got 'a,b'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(capsys, words, message):
    status, out, err = run(capsys, *words)
    assert status == 2 and out == ""
    last = err.strip().splitlines()[-1]  # transformers may have drawn a bar before
    assert message in last and "Traceback" not in err


def test_every_training_setting_is_an_option(capsys):
    _, out, _ = run(capsys, "train", "--help")
    for field in dataclasses.fields(TrainConfig):
        assert "--" + field.name.replace("_", "-") in out.replace("\n", "")


def test_train_then_generate_with_the_trained_drafter(capsys, tmp_path, room):
    lines = [json.dumps({"tokens": [i % 7 + 60 for i in range(40)]}) for _ in range(6)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    (tmp_path / "run.toml").write_text("block_size = 4\nlayers = 1\nmask_token_id = 299\nsteps = 9\n")
    words = ("train", TARGET, tmp_path / "data.jsonl", "--output", tmp_path / "out")
    options = (
        "--config",
        tmp_path / "run.toml",
        "--steps",
        2,
        "--batch-size",
        2,
        "--target-layer-ids",
        "1,3",
        "--backend",
        room.device,
    )
    status, out, _ = run(capsys, *words, *options, "--json")
    found = json.loads(out)
    assert status == 0 and found["step"] == 2, "an option wins over the config file"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["block_size"], config["dflash_config"]["target_layer_ids"]) == (4, [1, 3])
    decode = (
        "generate",
        TARGET,
        "--drafter",
        tmp_path / "out",
        "--prompt-ids",
        "60 61",
        "--max-new-tokens",
        6,
        "--backend",
        room.device,
    )
    assert len(json.loads(run(capsys, *decode, "--json")[1])["tokens"]) == 6


def test_bench_prints_a_table_and_writes_the_figures(capsys, tmp_path, room):
    (tmp_path / "suite.jsonl").write_text('{"tokens": [101, 101, 100]}\n{"tokens": [60, 61]}\n')
    words = ("bench", TARGET, DRAFTER, "--suite", tmp_path / "suite.jsonl", "--output", tmp_path / "out")
    status, out, _ = run(capsys, *words, "--max-new-tokens", 8, "--backend", room.device)
    found = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert status == 0 and f"{found['tau']:.3f}" in out and found["n_prompts"] == 2
    assert found["seconds"]["total"] == pytest.approx(sum(p["seconds"]["total"] for p in found["prompts"]))


def test_a_prompt_file_is_text_or_messages(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "a.json").write_text('[{"role": "user", "content": "hi"}]')
    assert read_prompt_options(None, tmp_path / "a.txt", None, False) == "hello"
    assert read_prompt_options(None, tmp_path / "a.json", None, False) == [{"role": "user", "content": "hi"}]
    assert read_prompt_options("hi", None, None, True) == [{"role": "user", "content": "hi"}]


def test_the_script_is_installed():
    script = shutil.which("dspec", path=str(sys.prefix) + "/bin")
    assert script is not None
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1].count(".") == 2


def test_text_on_stdout_is_the_text_to_the_letter(capsys, monkeypatch):
    class Engine:
        drafter = None

        class target:
            tokenizer = object()

        def stream(self, prompt, **settings):
            yield Chunk(tokens=(1, 2), pieces=("a:\n\tb", "\t1\r\n"), n_accepted=1, n_drafted=3, finish="eos")

    show_stream(Engine(), "x", {})
    assert capsys.readouterr().out == "a:\n\tb\t1\r\n\n"
    monkeypatch.setattr(
        "dspec.display.Console", lambda **_: Console(force_terminal=True, color_system="standard")
    )
    show_stream(Engine(), "x", {})
    assert "\x1b[32ma:\n\tb\x1b[0m\x1b[1;33m\t1\r\n\x1b[0m\n" in capsys.readouterr().out


def test_a_stopped_run_does_not_claim_a_drafter(capsys, monkeypatch, tmp_path):
    stopped = TrainResult(drafter=None, history=(), metrics={"step": 2, "finished": False}, output=None)
    monkeypatch.setattr("dspec.api.train", lambda *_, **__: stopped)
    status, _, err = run(capsys, "train", TARGET, "data.jsonl", "--output", tmp_path)
    assert status == 130 and "stopped early" in err and "The drafter is in" not in err

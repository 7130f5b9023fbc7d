"""The examples for a Mac, on the tiny target: train, stop and go on, chat."""

import importlib.util
import io
import json
import os
import signal
from pathlib import Path

import pytest
from rich.console import Console

import dspec
from dspec.demo.settings import shipped_target
from dspec.errors import ConfigError
from dspec.generation import Chunk

pytestmark = pytest.mark.mlx
EXAMPLES = Path(__file__).parent.parent / "examples"
SMALL = ["--tiny", "--steps", "3", "--layers", "1", "--batch-size", "2", "--seq-len", "32", "--anchors", "2"]


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


train_mac, chat_mac = example("train_mac"), example("chat_mac")


@pytest.fixture(scope="module")
def drafter(tmp_path_factory):
    """The folder of one whole run."""
    folder = tmp_path_factory.mktemp("mac") / "drafter"
    assert train_mac.main([*SMALL, "--output", str(folder)]) == 0
    return folder


def test_memory_is_that_of_one_sequence():
    config = train_mac.settings(train_mac.arguments(["a", "b", "--output", "c", "--batch-size", "6"]))
    assert (config.accumulation, config.batch_size, config.recompute, config.backend) == (6, 6, True, "mlx")


def test_a_stopped_run_goes_on_to_the_same_drafter(drafter, tmp_path, capsys, monkeypatch):
    learner = importlib.import_module("dspec.backends.mlx.learner").Learner
    inner = learner.train_step

    def stop(self, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return inner(self, *arguments)

    words = [*SMALL, "--output", str(tmp_path / "drafter")]
    with monkeypatch.context() as patch:
        patch.setattr(learner, "train_step", stop)
        assert train_mac.main(words) == 130
    said = capsys.readouterr().out
    assert "Stopped after step 1" in said and "Chat with it" not in said
    assert train_mac.main(words) == 0
    said = capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "drafter" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "train"] == [1, 2, 3]
    peak = max(line["peak_memory_bytes"] for line in lines if line["event"] == "train")
    assert f"peak memory  {peak / 2**30:.2f} GiB" in said and "tau on held-out text  1." in said
    again = (tmp_path / "drafter" / "model.safetensors").read_bytes()
    assert again == (drafter / "model.safetensors").read_bytes()


def test_a_mistake_is_one_line(tmp_path, capsys):
    assert train_mac.main(["nowhere/at/all/", "data.jsonl", "--output", str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("CheckpointError: target nowhere/at/all/")
    assert chat_mac.main(["--tiny", "--drafter", str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("CheckpointError: ")


def test_a_chat_streams_what_generate_returns_and_keeps_what_was_said(drafter, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("What is 2 + 2?\nAnd 3 + 3?\n\nnot read\n"))
    assert chat_mac.main(["--tiny", "--drafter", str(drafter), "--max-new-tokens", "8"]) == 0
    said = capsys.readouterr().out
    engine = dspec.load(shipped_target(), drafter, backend="mlx")
    first = {"role": "user", "content": "What is 2 + 2?"}
    answer = engine.generate([first], max_new_tokens=8)
    messages = [first, {"role": "assistant", "content": answer.text}]
    second = engine.generate([*messages, {"role": "user", "content": "And 3 + 3?"}], max_new_tokens=8)
    flat = said.replace("\n", "")
    assert answer.text.replace("\n", "") in flat and second.text.replace("\n", "") in flat
    n_tokens = len(answer.tokens) + len(second.tokens)
    passes = [n for out in (answer, second) for n in out.n_emitted]
    line = f"The chat: {n_tokens} tokens, tau {sum(passes) / len(passes):.2f} over {len(passes)} passes"
    assert line in said and "tokens/s" in said


class Parrot:
    """Stands for an engine: the first turn has an accepted draft, the second is too long."""

    class target:
        tokenizer = object()

    def __init__(self, fault=None):
        self.seen, self.fault = [], fault or ConfigError("too long")

    def stream(self, messages, **settings):
        self.seen.append([message["content"] for message in messages])
        if len(self.seen) == 2:
            raise self.fault
        return iter([Chunk(tokens=(1, 2), pieces=("yes", " no"), n_accepted=1, n_drafted=3, finish="eos")])


def test_accepted_drafts_are_green_and_a_turn_that_fails_is_forgotten(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("a\nb\nc\n"))
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", highlight=False)
    parrot = Parrot()
    replies = chat_mac.chat(parrot, console)
    said = console.file.getvalue()
    assert "\x1b[32myes\x1b[0m\x1b[1;33m no\x1b[0m" in said and "ConfigError: too long" in said
    assert [stats.n_accepted for stats in replies] == [(1,), (1,)] and replies[0].tau == 2
    assert parrot.seen == [["a"], ["a", "yes no", "b"], ["a", "yes no", "c"]]


def test_ctrl_c_stops_an_answer_and_not_the_chat(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("a\nb\nc\n"))
    console, parrot = Console(file=io.StringIO()), Parrot(KeyboardInterrupt())
    assert len(chat_mac.chat(parrot, console)) == 2
    assert "stopped" in console.file.getvalue() and parrot.seen[-1] == ["a", "yes no", "c"]

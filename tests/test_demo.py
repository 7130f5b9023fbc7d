"""The demo, end to end and small, on the target and the text that ship."""

import io
import json
import re
import socket

import pytest
from matplotlib.image import imread
from rich.console import Console

import dspec
from dspec.core.stats import Stats
from dspec.demo import run, tables
from dspec.demo.greedy import compare_greedy
from dspec.demo.live import marked
from dspec.demo.settings import ARMS, BASELINES, DemoSettings, shipped_target
from dspec.demo.summary import MEAN, summarise
from dspec.demo.training import folder_name
from dspec.evaluation.bench import PromptResult, SuiteResult
from dspec.evaluation.report import plain
from dspec.evaluation.suites import DOMAINS, Suite
from dspec.generation import Chunk
from dspec.progress import TrainingDisplay
from dspec.testing.report import Report

SMALL = DemoSettings(
    steps=4, batch_size=2, anchors=4, seq_len=64, prompts=2, max_new_tokens=8, greedy_prompts=3
)


@pytest.fixture(scope="module")
def demo(room, tmp_path_factory):
    """One run: report, folder, what was printed, calls of the exactness check, connections tried."""
    calls, connections, patch = [], [], pytest.MonkeyPatch()

    def check(engine, *, level):
        # The check itself has tests of its own; here it counts that the demo asks for it.
        calls.append((engine, level))
        return Report(check="stub", passed=True, tried={"draws": 1})

    def connect(*address):
        connections.append(address)
        raise OSError("no network here")

    patch.setattr(dspec, "check_exactness", check, raising=False)
    patch.setattr(socket.socket, "connect", connect)
    output = tmp_path_factory.mktemp("demo")
    console = Console(file=io.StringIO(), width=100)
    try:
        report = run.run_demo(backend=room.device, output=output, settings=SMALL, seed=1, console=console)
    finally:
        patch.undo()
    return report, output, console.file.getvalue(), calls, connections


def test_the_report_is_complete_and_what_was_written(demo):
    report, output, *_ = demo
    assert json.loads((output / "report.json").read_text(encoding="utf-8")) == report
    assert list(report["decoding"]) == list(report["training"]) == list(ARMS)
    for name in ARMS:
        assert list(report["decoding"][name]) == list(DOMAINS)
        for result in report["decoding"][name].values():
            assert result["n_prompts"] == len(result["prompts"]) == SMALL.prompts
            assert len(result["alpha"]) == SMALL.block_size - 1
            assert 1.0 <= result["tau"] <= SMALL.block_size
        assert report["training"][name]["metrics"]["step"] == SMALL.steps
        assert report["training"][name]["validations"]
    assert report["settings"]["seed"] == 1
    assert report["settings"]["objectives"] == ARMS
    assert report["machine"]["cores"] and report["versions"]["torch"] and report["versions"]["mlx-lm"]
    assert report["machine"]["device"].startswith(report["settings"]["backend"])
    parts = {"load", "train", "decode", "live", "greedy", "sampled", "total"}
    assert report["seconds"].keys() == parts
    assert sum(report["seconds"][p] for p in parts - {"total"}) <= report["seconds"]["total"]


def test_every_drafter_saw_the_same_and_is_its_own(demo):
    _, output, *_ = demo
    lines = [json.loads(line) for line in (output / "drafters" / "metrics.jsonl").read_text().splitlines()]
    first = {
        line["learner"]: line["loss"] for line in lines if line["event"] == "train" and line["step"] == 1
    }
    # Same weights, texts and blocks: at step 1 only the weighing of slots differs, and an untrained
    # drafter's chain is worth nothing, so ltr's loss is that of decay+first_error up to the chain.
    assert first["ltr"] == pytest.approx(first["decay-first_error"], rel=1e-3)
    assert first["uniform"] > first["decay-7"]
    weights = {
        name: (output / "drafters" / folder_name(name) / "model.safetensors").read_bytes() for name in ARMS
    }
    assert len(set(weights.values())) == len(ARMS)
    assert not (output / "drafters" / "checkpoints").exists()


def test_a_saved_drafter_decodes_what_the_demo_decoded(demo, room):
    report, output, *_ = demo
    live = report["live"]
    drafter = output / "drafters" / folder_name(live["drafter"])
    engine = dspec.load(shipped_target(), drafter, backend=room.device)
    out = engine.generate(live["prompt"], max_new_tokens=SMALL.max_new_tokens)
    assert out.text == live["text"]
    assert list(out.n_emitted) == live["n_emitted"]


def test_greedy_outputs_are_the_targets_own(demo):
    greedy = demo[0]["greedy"]
    assert greedy["prompts"] == SMALL.greedy_prompts
    assert greedy["comparisons"] == greedy["equal"] == SMALL.greedy_prompts * len(ARMS)
    assert greedy["differences"] == []


def test_a_wrong_greedy_output_is_found(room):
    engine = dspec.load(shipped_target(), backend=room.device)
    suite = Suite("one", ("def add(a, b):",))
    out = engine.generate(suite.prompts[0], max_new_tokens=6)
    wrong = (*out.tokens[:3], out.tokens[3] ^ 1, *out.tokens[4:])
    results = {"right": {"one": result(tokens=out.tokens)}, "wrong": {"one": result(tokens=wrong)}}
    settings = {"backend": room.device, "prompts": 1, "max_new_tokens": 6, "progress": lambda *_: None}
    found = compare_greedy(engine, [suite], results, **settings)
    assert found["reference"] == room.reference.NAME
    assert (found["comparisons"], found["equal"]) == (2, 1)
    assert found["differences"] == [
        {"objective": "wrong", "suite": "one", "prompt": 0, "first_difference": 3}
    ]


def test_the_exactness_check_is_asked_about_the_drafter_shown(demo):
    report, _, _, calls, _ = demo
    ((engine, level),) = calls
    assert level == "smoke"
    assert engine.drafter is not None
    assert report["sampled"] == {
        "passed": True,
        "tried": {"draws": 1},
        "text": str(Report("stub", True, {"draws": 1})),
    }


def test_what_is_printed_is_what_is_reported(demo):
    report, _, printed, *_ = demo
    tau_part, gain_part = printed.split("Gain in τ")
    rows = {name: re.search(rf"│ {re.escape(name)} +│(.*)│", tau_part)[1] for name in ARMS}
    for name, row in rows.items():
        shown = [cell.strip() for cell in row.split("│")]
        assert shown == [f"{f['value']:.2f}" for f in report["summary"]["tau"][name].values()]
        assert report["summary"]["tau"][name]["gsm8k"]["value"] == report["decoding"][name]["gsm8k"]["tau"]
    for base, part in zip(BASELINES, gain_part.split("over decay(7)"), strict=True):
        for name, figures in report["summary"]["gain"][base].items():
            row = re.search(rf"│ {re.escape(name)} +│(.*)│", part)[1]
            assert [c.strip() for c in row.split("│")] == [f"{f['value']:+.1%}" for f in figures.values()]
    assert f"{report['greedy']['equal']} of {report['greedy']['comparisons']} greedy outputs" in printed
    for text in ("improve", "better", "winner"):
        assert text not in printed.lower().replace(report["live"]["text"].lower(), "")


def test_the_picture_is_an_image(demo):
    pixels = imread(demo[1] / "report.png")
    assert pixels.shape[:2] == (780, 1875)
    assert pixels.std() > 0.05


def test_it_needs_no_network(demo):
    assert demo[4] == []


def result(n_emitted=(2, 1), tokens=(1, 2, 3), suite="one"):
    stats = Stats(n_accepted=tuple(n - 1 for n in n_emitted), n_drafted=(7,) * len(n_emitted), n_tokens=3)
    prompt = PromptResult(n_prompt=1, tokens=tokens, finish="length", stats=stats, n_drafted=14, n_wasted=0)
    return SuiteResult(suite=suite, settings={}, prompts=(prompt,))


def test_the_summary_by_hand():
    results = {
        "uniform": {"a": result((1, 1)), "b": result((2, 2))},
        "decay(7)": {"a": result((2, 2)), "b": result((2, 4))},
    }
    summary = summarise(results, ["uniform"])
    taus = {name: {d: f["value"] for d, f in by.items()} for name, by in summary["tau"].items()}
    assert taus == {"uniform": {"a": 1, "b": 2, MEAN: 1.5}, "decay(7)": {"a": 2, "b": 3, MEAN: 2.5}}
    gains = {d: f["value"] for d, f in summary["gain"]["uniform"]["decay(7)"].items()}
    # The gain of the mean is that of the means, not the mean of the gains.
    assert gains == pytest.approx({"a": 1.0, "b": 0.5, MEAN: 2.5 / 1.5 - 1})
    assert summary["gain"]["uniform"].keys() == {"decay(7)"}
    # One prompt a domain: no other sample can be drawn.
    assert all(f["interval"] == [f["value"]] * 2 for f in summary["tau"]["uniform"].values())


def test_closing_tokens_are_marked_where_there_is_no_colour():
    chunk = Chunk(tokens=(5, 6, 7), pieces=("a", "b", "c"), n_accepted=2, n_drafted=7, finish=None)
    assert marked(chunk).plain == "ab‹c›"
    prefill = Chunk(tokens=(5,), pieces=("x",), n_accepted=None, n_drafted=0, finish=None)
    assert marked(prefill).plain == "‹x›"


def test_settings_reach_the_training_run():
    config = DemoSettings(steps=80, seed=3).train_config(backend="cpu")
    assert (config.steps, config.seed, config.block_size, config.layers) == (80, 3, 8, 2)
    assert config.lr == 2e-3
    assert config.validate_every == 20
    quick = DemoSettings().quick().train_config(backend="cpu")
    assert quick.validate_every == 0, "one validation, at the end: each reads the text of eight steps"


def test_four_learners_leave_the_training_bar_whole():
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with TrainingDisplay(100, console=console) as display:
        display.step(50, {name: {"loss": 20.0, "tau": 1.5} for name in ARMS}, tokens_per_s=1234.5)
    lines = [line for line in console.file.getvalue().splitlines() if "uniform" in line]
    line = re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", lines[-1])
    assert re.match("[━╸╺]{24} ", line)
    assert "50/100" in line
    assert "uniform: τ 1.50" in line


def test_rates_pool_the_suites():
    one = {"n_tokens": 10, "seconds": {"total": 1.0}}
    two = {"n_tokens": 50, "seconds": {"total": 2.0}}
    report = plain({"no_drafter": {"a": one, "b": two}, "decoding": {"ltr": {"a": two}}})
    assert tables.rate_line(report) == "Tokens per second: no drafter 20, ltr 25"

"""The example and the benchmark of self-speculation, on a few tokens of the recorded tiny models."""

import importlib.util
import io
import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

import dspec
from dspec.core.trace import BlockStats, Commit
from dspec.decoders import Autoregressive, SelfSpeculative
from dspec.evaluation.decoder_picture import draw_decoders, place_labels
from dspec.evaluation.decoder_table import KINDS, Output, decoder_table, figures_of, gap_of, text_of
from dspec.generation import BlockGeneration
from tests.block_models import FOLDERS, MASK, tokens_of

ROOT = Path(__file__).parent.parent
PROMPTS = [list(tokens_of(seed, size)) for seed, size in ((1, 7), (2, 8))]
ONE = Output(
    n_tokens=4,
    passes=3,
    seconds=2.0,
    n_accepted=1,
    n_verified=2,
    log_likelihood=-8.0,
    n_best=3,
    n_matching=1,
    n_greedy=5,
    equal=False,
)


def program(folder):
    spec = importlib.util.spec_from_file_location(f"{folder}_program", ROOT / folder / "self_speculation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


example, benchmark = program("examples"), program("benchmarks")


@pytest.fixture(scope="module", params=["sdar", "fast_dllm_v2"])
def lm(request):
    pytest.importorskip("torch")
    family = request.param
    return dspec.load_block_diffusion(
        FOLDERS[family], family=family, mask_token_id=MASK, backend="cpu", dtype="float32"
    )


@pytest.fixture(scope="module")
def compared(lm):
    """Figures of all decoders at both temperatures, and what the bar was told."""
    said = []
    found = example.compare(lm, PROMPTS, block_size=4, max_new_tokens=6, batch_size=2, advance=said.append)
    return found, said


def test_exact_decoders_are_autoregressive_decoding_when_greedy(compared, lm):
    figures = compared[0]["0"]
    exact = [found for found in figures.values() if found["kind"] == "exact"]
    assert len(exact) == 7
    level = figures["autoregressive"]["log_likelihood"]
    for found in exact:
        assert found["exact_match"] == found["matching_share"] == found["best_share"] == 1.0
        assert found["log_likelihood"] == level
        assert found["log_likelihood_over_baseline"] == {"value": 0.0, "interval": [0.0, 0.0]}
    others = [f for f in figures.values() if f["kind"] == "diffusion"]
    assert min(found["best_share"] for found in others) < 1


def test_every_decoder_is_another_one_and_is_reported(compared, lm):
    found, said = compared
    for figures in found.values():
        written = [one["decoder"] for one in figures.values()]
        assert len(set(written)) == len(written)
        kinds = [one["kind"] for one in figures.values()]
        assert [kind for kind, _ in itertools.groupby(kinds)] == list(KINDS[: 4 if lm.model.shifted else 5])
        assert all(one["n_prompts"] == 2 and one["n_tokens"] > 0 for one in figures.values())
    assert len(said) == sum(len(figures) for figures in found.values())


def test_the_table_and_the_picture_show_every_decoder(compared, tmp_path):
    for temperature, figures in compared[0].items():
        console = Console(file=io.StringIO(), width=140)
        console.print(decoder_table(figures, title="t", greedy=temperature == "0"))
        printed = console.file.getvalue()
        for name, one in figures.items():
            line = next(line for line in printed.splitlines() if line.startswith(f" {name} "))
            assert f" {one['forwards_per_token']['value']:.3f} " in line
        assert ("start" in printed) == (temperature == "0")
        narrow = Console(file=io.StringIO(), width=80)
        narrow.print(decoder_table(figures, title="t", greedy=temperature == "0"))
        for one in figures.values():  # no figure is cut
            assert f"{one['log_likelihood']['interval'][1]:.2f})" in narrow.file.getvalue()
    draw_decoders(tmp_path / "a" / "x.png", {"one": compared[0]["0"], "two": compared[0]["1"]}, title="t")
    pixels = imread(tmp_path / "a" / "x.png")
    assert pixels.shape[1] > pixels.shape[0] > 900
    assert pixels.std() > 0.05


def test_figures_by_hand():
    two = replace(ONE, n_tokens=2, passes=3, log_likelihood=-1.0, n_matching=2, n_greedy=2, equal=True)
    found = figures_of([ONE, two])
    assert found["forwards_per_token"] == {"value": 1.0, "interval": [0.75, 1.5]}
    assert found["log_likelihood"] == {"value": -1.5, "interval": [-2.0, -0.5]}
    assert (found["tokens_per_second"], found["accepted_per_verify"]) == (1.5, 0.5)
    assert (found["exact_match"], found["matching_prefix"], found["matching_share"]) == (0.5, 1.5, 3 / 7)
    assert gap_of([ONE], [two]) == {"value": -1.5, "interval": [-1.5, -1.5]}
    assert text_of(Autoregressive()) == "Autoregressive()"
    assert eval(text_of(SelfSpeculative(route="span(2)"))) == SelfSpeculative(route="span(2)")


@pytest.mark.parametrize("seed", range(3))
def test_labels_cover_nothing(seed):
    draw = np.random.default_rng(seed)
    points, sizes = draw.uniform(300, 700, (25, 2)), [(70.0, 12.0)] * 25
    places = place_labels(points, sizes, (0, 0, 1000, 1000))
    low = points + places - np.array(sizes) / 2
    boxes = np.concatenate([low, low + np.array(sizes)], axis=1)
    for i, a in enumerate(boxes):
        assert (a[:2] >= 0).all() and (a[2:] <= 1000).all()
        for b in boxes[:i]:
            assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]
        for x, y in points:
            assert not (a[0] < x < a[2] and a[1] < y < a[3])


@pytest.mark.clause("SS-16")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_counts_of_the_loops_are_the_laws(lm, temperature):
    found = benchmark.measure(lm, PROMPTS, block_size=4, temperature=temperature, max_new_tokens=9, most=9.0)
    assert found["faults"] == []
    loops = found["loops"]
    published, fused = loops["published loop"], loops["fused commits"]
    assert published["forward_passes"] - fused["forward_passes"] == found["whole_blocks"] >= 2
    assert fused["forward_passes"] == 2 * found["rounds"] + len(PROMPTS)
    assert loops["autoregressive"]["accepted_per_verify"] is None
    assert published["of_published"] == {"value": 1.0, "interval": [1.0, 1.0]}


def output(steps, passes, tokens=(5, 6, 7), n_accepted=(1, 0)):
    """An output after a prompt of two tokens: positions 2, 3, 4 decided by these steps."""
    trace = tuple(
        Commit(2 + i, token, "accepted", step) for i, (token, step) in enumerate(zip(tokens, steps))
    )
    stats = BlockStats(forward_passes=passes, n_tokens=3, n_accepted=n_accepted)
    return BlockGeneration(tokens=tokens, text=None, finish="length", stats=stats, trace=trace)


def test_blocks_by_hand():
    # Block 0 holds two prompt tokens and positions 2 and 3, by one round and the pass that keeps it; then
    # one round of block 1, which is not finished.
    published = output((3, 3, 6), passes=6)
    assert benchmark.blocks_of(published, 2, 4) == (
        1,
        [benchmark.Block(rounds=1, passes=3, whole=True), benchmark.Block(rounds=1, passes=2, whole=False)],
    )
    fused = output((3, 3, 5), passes=5)
    assert benchmark.law_faults(published, fused, 2, 4, shifted=False) == []


def test_prefill_by_hand():
    counts = [benchmark.prefill_of(n, shifted) for n in (1, 2048, 2049) for shifted in (False, True)]
    assert counts == [1, 0, 1, 1, 2, 1]


@pytest.mark.parametrize(
    ("published", "fused", "fault"),
    [
        (output((3, 3, 6), 7), output((3, 3, 5), 5), "published loop: block 1 of 1 rounds took 3, not 2"),
        (output((3, 3, 6), 6), output((3, 3, 6), 6), "fused commits: block 0 of 1 rounds took 3, not 2"),
        (output((4, 4, 7), 7), output((3, 3, 5), 5), "published loop: 2 passes of prefill, not 1"),
        (output((3, 3, 6), 6), output((3, 3, 5), 5, (5, 9, 7)), "fused commits: token 1 is not that"),
        (output((3, 3, 6), 6), output((3, 5, 7), 7), "fused commits: other rounds"),
        (output((3, 3, 6), 6, n_accepted=(1,)), output((3, 3, 5), 5), "published loop: the trace's rounds"),
    ],
)
def test_a_broken_count_is_named(published, fused, fault):
    found = benchmark.law_faults(published, fused, 2, 4, shifted=False)
    assert any(text.startswith(fault) for text in found), found


def test_a_greedy_output_of_its_own_is_named():
    outs = {name: [output((3, 3, 5), 5)] for name in ("autoregressive", *benchmark.LOOPS)}
    outs["published loop"] = [output((3, 3, 6), 6)]
    outs["fused layout"] = outs["no guesses"] = [output((2, 2, 3), 3)]
    assert benchmark.faults_of(outs, [2], 4, greedy=True, shifted=False) == []
    outs["sliding window"] = [output((3, 3, 5), 5, (5, 6, 8))]
    outs["no guesses"] = outs["fused layout"] = [output((2, 2, 3), 4)]
    assert benchmark.faults_of(outs, [2], 4, greedy=False, shifted=False) == [
        "prompt 0, no guesses: 4 passes for 2 rounds",
        "prompt 0, fused layout: 4 passes for 2 rounds",
    ]
    assert benchmark.faults_of(outs, [2], 4, greedy=True, shifted=False)[0] == (
        "prompt 0, sliding window: greedy token 2 is not that of autoregressive decoding"
    )


def test_the_check_fails_where_there_is_a_fault(monkeypatch, tmp_path, capsys):
    loops = {
        name: {"forwards_per_token": 1.0, "of_published": {"value": 1.0, "interval": [1.0, 1.0]}}
        for name in ("autoregressive", *benchmark.LOOPS)
    }
    run = {"block_size": 4, "temperature": 0.0, "blocks": 1, "loops": loops, "faults": ["it broke"]}
    monkeypatch.setattr(benchmark, "run_model", lambda *_: {"family": "sdar", "runs": [run]})
    words = ["--model", "a", "--json", str(tmp_path / "x.json")]
    assert benchmark.main(words) == 0
    assert benchmark.main([*words, "--check"]) == 1
    assert "FAULT a, blocks of 4, temperature 0: it broke" in capsys.readouterr().out
    assert json.loads((tmp_path / "x.json").read_text())["models"]["a"]["runs"][0]["faults"] == ["it broke"]


def test_the_example_writes_its_files(compared, monkeypatch, tmp_path, capsys):
    few = {t: dict(itertools.islice(figures.items(), 5)) for t, figures in compared[0].items()}
    facts = {"model": "m", "family": "sdar", "temperatures": few}
    monkeypatch.setattr(example, "run", lambda options: {"m": facts})
    monkeypatch.setattr(example, "errors", SimpleNamespace(print=lambda *_: None))
    assert example.main(["--quick", "--output", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "self_speculation_decoders.json").read_text())
    assert report["settings"]["prompts"] == 1 and report["machine"]["cores"]
    assert report["models"]["m"]["temperatures"].keys() == {"0", "1"}
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".png"}
    assert "published loop" in capsys.readouterr().out

"""Suites, decoding them, intervals, reports: each number against one computed by hand."""

import doctest
import gzip
import importlib
import json
import pkgutil
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from dspec.backends.numpy import NumpyOps, TableDrafter, TableTarget
from dspec.engine import Engine
from dspec.errors import ConfigError, DataError
from dspec.evaluation import report
from dspec.evaluation.bench import run_suite
from dspec.evaluation.bootstrap import bounds, interval, mean_over_domains, resampled_taus
from dspec.evaluation.machine import describe_device, describe_machine, describe_versions
from dspec.evaluation.suites import DOMAINS, Suite, load_suite

CYCLE = np.eye(4)[[1, 2, 3, 0]][None]  # after token a comes a + 1 mod 4, surely
PROMPTS = Suite("cycle", ([0], [3, 0, 1], [2]))


def cycle_engine(*right):
    """A drafter of len(right) slots that drafts the cycle where `right`, the token before it elsewhere."""
    rows = [[(a + 1 + slot if ok else a + slot) % 4 for a in range(4)] for slot, ok in enumerate(right)]
    return Engine(TableTarget(CYCLE), TableDrafter(np.eye(4)[rows]), NumpyOps())


def random_engine(seed=0, vocab=12, slots=3):
    draw = np.random.default_rng(seed)
    target = draw.dirichlet(np.full(vocab, 0.1), size=(1, vocab))
    drafter = draw.dirichlet(np.full(vocab, 0.1), size=(slots, vocab))
    drafter = 0.5 * drafter + 0.5 * np.stack([np.linalg.matrix_power(target[0], k + 1) for k in range(slots)])
    return Engine(TableTarget(target), TableDrafter(drafter), NumpyOps())


@pytest.mark.parametrize("name", DOMAINS)
def test_shipped_suites_are_chats_that_end_with_a_question(name):
    suite = load_suite(name)
    assert suite.name == name
    assert len(suite.prompts) == len({json.dumps(p) for p in suite.prompts}) == 48
    assert all(prompt[-1]["role"] == "user" and prompt[-1]["content"] for prompt in suite.prompts)


def test_tiny_takes_a_few_of_each_domain():
    tiny = load_suite("tiny")
    expected = [prompt for name in DOMAINS for prompt in load_suite(name).prompts[:4]]
    assert list(tiny.prompts) == expected
    assert load_suite("gsm8k", limit=3).prompts == load_suite("gsm8k").prompts[:3]


def test_a_file_of_ones_own_loses_its_answers(tmp_path):
    question, answer = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}
    lines = [
        {"messages": [question, answer]},
        {"messages": [question]},
        {"prompt": "2 + 2 =", "response": "4"},
        {"prompt": "3 + 3 ="},
        {"text": "Once upon"},
        {"tokens": [5, 6]},
    ]
    path = tmp_path / "mine.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    suite = load_suite(path)
    assert suite.name == "mine"
    assert suite.prompts == ((question,), (question,), "2 + 2 =", "3 + 3 =", "Once upon", (5, 6))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "mine.jsonl:2"),
        ("[1]", "not an object"),
        ('{"question": "?"}', "mine.jsonl:2"),
        ('{"prompt": ""}', "nothing but an answer"),
        ('{"messages": [{"role": "assistant", "content": "4"}]}', "nothing but an answer"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(tmp_path, line, said):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=said):
        load_suite(path)


def test_unknown_and_empty_suites_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean gsm8k"):
        load_suite("gsm8")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no prompts"):
        load_suite(empty)
    with pytest.raises(ConfigError, match="integer >= 1"):
        load_suite("gsm8k", limit=0)


@pytest.mark.clause("DL-2")
def test_tau_alpha_and_waste_of_a_drafter_known_by_heart():
    # Right, wrong, right: every pass emits two tokens, and the third slot is right in vain.
    result = run_suite(cycle_engine(True, False, True), PROMPTS, max_new_tokens=9)
    assert result.stats.tau == 2.0
    assert result.stats.alpha[:2] == (1.0, 0.0)
    assert result.reached == (12, 12, 0)
    # 8 tokens after the prefill's: 4 passes a prompt; the last one's third slot lies past the end.
    assert [(p.n_drafted, p.n_wasted) for p in result.prompts] == [(11, 3)] * 3
    assert result.waste == 9 / 33
    assert result.counts.tolist() == [[8, 4]] * 3


def test_no_waste_where_all_is_accepted_and_none_without_a_drafter():
    assert run_suite(cycle_engine(True, True), PROMPTS, max_new_tokens=9).waste == 0.0
    alone = run_suite(Engine(TableTarget(CYCLE), None, NumpyOps()), PROMPTS, max_new_tokens=5)
    assert alone.stats.tau == 1.0
    assert np.isnan(alone.waste)
    assert report.plain(alone.as_dict())["waste"] is None


def test_measuring_changes_no_token():
    engine, suite = random_engine(), Suite("s", tuple([i] for i in range(6)))
    measured = run_suite(engine, suite, max_new_tokens=12, temperature=0.8, seed=3)
    for i, prompt in enumerate(suite.prompts):
        alone = engine.generate(prompt, max_new_tokens=12, temperature=0.8, seed=3 + i)
        assert measured.prompts[i].tokens == alone.tokens
        assert measured.prompts[i].stats.n_accepted == alone.stats.n_accepted


def test_waste_is_what_a_count_by_hand_gives():
    engine = random_engine(seed=1)
    result = run_suite(engine, Suite("s", tuple([i] for i in range(8))), max_new_tokens=20)
    drafted = wasted = 0
    for i, prompt in enumerate(result.prompts):
        text, place = [i, *prompt.tokens], 1
        for n_accepted in prompt.stats.n_accepted:
            drafts = engine.drafter.table[:, text[place]].argmax(axis=-1)
            for slot, draft in enumerate(drafts, 1):
                if place + slot < len(text):
                    drafted += 1
                    wasted += slot > n_accepted + 1 and draft == text[place + slot]
            place += n_accepted + 1
    assert wasted > 0
    assert result.waste == wasted / drafted


def test_progress_counts_prompts_and_json_has_every_prompt():
    seen = []
    result = run_suite(
        cycle_engine(True), PROMPTS, max_new_tokens=4, progress=lambda *count: seen.append(count)
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    data = result.as_dict()
    assert data["tau"] == 2.0
    assert data["n_tokens"] == 12 == sum(p["n_tokens"] for p in data["prompts"])
    assert data["n_passes"] == sum(len(p["n_emitted"]) for p in data["prompts"])
    low, high = data["tau_interval"]
    assert low <= data["tau"] <= high


def test_the_bootstrap_is_paired_and_covers_what_prompts_vary():
    same = np.array([[4, 2], [8, 4]])
    assert interval(same) == (2.0, 2.0)
    varied = np.array([[4, 4], [16, 4], [8, 4], [12, 4]])
    low, high = interval(varied)
    assert 1.0 < low < varied[:, 0].sum() / varied[:, 1].sum() < high < 4.0
    # Twice as good on every prompt: the ratio is 2 on every sample, though tau itself varies.
    ratio = resampled_taus(varied * [2, 1]) / resampled_taus(varied)
    assert bounds(ratio) == (2.0, 2.0)
    assert not np.array_equal(resampled_taus(varied, seed=1), resampled_taus(varied, seed=2))
    assert mean_over_domains([np.full(3, 1.0), np.full(3, 2.0)]).tolist() == [1.5] * 3


def test_the_picture_shows_the_numbers(tmp_path):
    runs = {
        "good": {s: run_suite(cycle_engine(True, True), Suite(s, ([0],) * 3)) for s in ("a", "b")},
        "poor": {s: run_suite(cycle_engine(False, True), Suite(s, ([0],) * 3)) for s in ("a", "b")},
    }
    figure = Figure()
    left, right = figure.subplots(1, 2)
    report._bars(left, runs)
    report._lines(right, runs)
    # Bars begin at the axis' foot, 1, and end at tau.
    assert [bar.get_height() for bar in left.patches] == [3.0, 3.0, 1.0, 1.0]
    assert left.get_ylim()[0] == 1.0
    lines = {line.get_label(): line.get_ydata().tolist() for line in right.lines}
    # The poor drafter's second slot is reached by no pass, so it is not drawn.
    assert lines == {"good": [1.0, 1.0], "poor": [0.0]}
    path = tmp_path / "new" / "picture.png"
    report.draw_picture(path, runs, title="Two drafters", note="by hand")
    pixels = imread(path)
    assert pixels.shape[0] > 500
    assert pixels.std() > 0.05


def test_pooled_alpha_is_the_stats_own():
    result = run_suite(random_engine(), Suite("s", tuple([i] for i in range(8))), max_new_tokens=30)
    rates = report.alpha_by_slot([result])
    np.testing.assert_array_equal([rate for rate, _ in rates], result.stats.alpha)
    assert tuple(reached for _, reached in rates) == result.reached


def test_json_is_whole_and_has_no_nan(tmp_path):
    path = tmp_path / "new" / "report.json"
    report.write_json(path, {"tau": float("nan"), "α": (1, np.inf, {"x": None})})
    assert json.loads(path.read_text(encoding="utf-8")) == {"tau": None, "α": [1, None, {"x": None}]}
    assert [p.name for p in path.parent.iterdir()] == ["report.json"]
    with pytest.raises(TypeError):
        report.write_json(path, {"tau": object()})
    assert json.loads(path.read_text(encoding="utf-8"))["tau"] is None


def test_the_machine_is_described_without_naming_it():
    import platform

    machine = describe_machine()
    assert machine["cores"] >= 1
    assert platform.node() not in json.dumps(machine)
    assert describe_versions()["numpy"] == np.__version__


@pytest.mark.mlx
@pytest.mark.parametrize(
    ("gpu", "metal", "words"),
    [
        (True, True, "mlx on Metal: "),
        (True, False, "mlx on a GPU that is not Metal: "),
        (False, True, "mlx on the CPU: "),
    ],
)
def test_the_device_of_mlx_is_named_for_what_it_is(monkeypatch, gpu, metal, words):
    monkeypatch.setattr("dspec.backends.mlx.hardware.on_metal", lambda: gpu)
    monkeypatch.setattr("mlx.core.metal.is_available", lambda: metal)
    found = describe_device(None, backend="mlx")
    assert found.startswith(words) and len(found) > len(words)
    assert describe_versions()["mlx-lm"] and describe_versions()["mlx"]


@pytest.mark.parametrize(("kind", "words"), [("cpu", "cpu"), ("mps", "mps"), ("cuda", "cuda: A GPU")])
def test_the_device_of_torch_is_named(monkeypatch, kind, words):
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "A GPU")
    target = SimpleNamespace(device=SimpleNamespace(type=kind))
    assert describe_device(target, backend="cpu") == words


@pytest.mark.parametrize("package", ["dspec.evaluation", "dspec.demo"])
def test_examples_of_docstrings_hold(package):
    folder = importlib.import_module(package).__path__
    names = [f"{package}.{module.name}" for module in pkgutil.iter_modules(folder)]
    results = [doctest.testmod(importlib.import_module(name)) for name in names]
    assert sum(result.attempted for result in results) >= 5
    assert not any(result.failed for result in results)

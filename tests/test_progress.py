"""What a run says of itself: acceptance, the rate, the lines of its metrics, the display."""

import io

import numpy as np
import pytest
from rich.console import Console

from dspec.acceptance import Acceptance
from dspec.errors import DataError
from dspec.progress import MetricsLog, TrainingDisplay
from dspec.schedule import learning_rate


def test_tau_is_the_mean_accepted_prefix_plus_one_where_no_block_is_cut():
    hit = np.random.default_rng(0).random((50, 5)) < 0.7
    counts = Acceptance.count(hit[:20], np.ones((20, 5), bool)) + Acceptance.count(
        hit[20:], np.ones((30, 5), bool)
    )
    prefix = [next((k for k, h in enumerate(row) if not h), 5) for row in hit]
    assert counts.tau == pytest.approx(1 + np.mean(prefix))
    wasted = sum(int(row[n:].sum()) for row, n in zip(hit, prefix))
    assert counts.waste == wasted / hit.size


def test_a_block_cut_by_the_end_of_its_text_is_no_error():
    hit = np.ones((2, 3), dtype=bool)
    mask = np.array([[True, True, True], [True, False, False]])
    counts = Acceptance.count(hit & mask, mask)
    assert counts.tau == 4.0 and counts.rates == (1.0, 1.0, 1.0) and counts.waste == 0


def test_the_rate_rises_then_falls_to_nearly_zero():
    rates = [learning_rate(s, peak=2.0, steps=100, warmup=0.1) for s in range(100)]
    assert rates[9] == rates[10] == max(rates) == 2.0 and rates[0] == pytest.approx(0.2)
    assert rates[10:] == sorted(rates[10:], reverse=True) and 0 < rates[-1] < 0.01
    assert learning_rate(0, peak=2.0, steps=1, warmup=0.0) == 2.0


def test_metrics_of_steps_after_the_checkpoint_are_dropped_and_half_a_line_too(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    with MetricsLog(path, step=1) as log:
        log.write({"step": 2, "loss": 0.5})
        assert path.read_text() == '{"step": 1}\n{"step": 2, "loss": 0.5}\n'  # flushed, not closed yet
    path.write_text('{"st\n{"step": 2}\n')
    with pytest.raises(DataError, match="line 1"):
        MetricsLog(path, step=2)


@pytest.mark.parametrize("terminal", [False, True])
def test_the_display_shows_loss_tau_waste_rate_and_steps(terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=140)
    with TrainingDisplay(2, console=console) as display:
        display.step(1, {"ltr": {"loss": 2.5}}, tokens_per_s=1234.5)
        assert "peak" not in console.file.getvalue()
        figures = {"ltr": {"loss": 2.25, "tau": 1.5, "waste": 0.25}}
        display.step(2, figures, tokens_per_s=1234.5, peak_memory_bytes=3_140_000_000)
    text = console.file.getvalue()
    parts = ("2/2", "loss 2.250", "τ 1.50", "waste 25%", "1,234 tok/s", "peak 3.1 GB")
    assert all(part in text for part in parts)
    assert ("left" in text) is not terminal

"""The fit loop: it learns, it repeats itself bit for bit, and it stops and goes on without a trace."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
from safetensors.numpy import load_file

from dspec.backends.training import fit
from dspec.errors import CheckpointError, ConfigError, NumericsError
from dspec.interrupt import Interrupt
from dspec.io.checkpoints import step_folders
from dspec.io.examples import Example
from dspec.rng import Purpose, Stream
from tests.tiny_training import make_config, make_drafter, make_examples, make_learner, make_target


@pytest.fixture(scope="module")
def target(room):
    return make_target(room)


def train(room, target, config, *, output=None, names=("ltr",), examples=None, validation=()):
    learners = {name: make_learner(room, target, config, name) for name in names}
    data = make_examples() if examples is None else examples
    return room.train.fit(target, learners, data, config, validation=validation, output=output, quiet=True)


def weights(room, trained):
    """Weights of a result's drafter, or of a drafter, by name."""
    drafter = getattr(trained, "drafter", trained)
    return {name: room.numpy(weight).copy() for name, weight in drafter.weights().items()}


def same(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[k], second[k]) for k in first)


def losses(result):
    return [line["loss"] for line in result.history if line["event"] == "train"]


def test_the_loss_goes_down(room, target):
    result = train(room, target, make_config(steps=150, lr=1e-2, anchors=20), names=("uniform",))["uniform"]
    seen = losses(result)
    assert np.mean(seen[-10:]) < 0.7 * np.mean(seen[:5])


def test_a_repeated_text_is_learnt_by_heart_up_to_the_whole_block(room, target):
    text = np.tile(np.array([5, 17, 40, 3, 88, 61, 29], dtype=np.int64), 8)
    examples = (Example(text, np.ones(len(text), dtype=bool)),)
    config = make_config(steps=120, lr=1e-2, block_size=6, batch_size=1, anchors=24, validate_every=0)
    result = train(room, target, config, examples=examples, validation=examples)["ltr"]
    assert result.metrics["tau"] > 5.8
    assert result.metrics["tau"] <= config.block_size
    assert result.metrics["waste"] < 0.01


@pytest.mark.clause("RN-5")
def test_two_runs_are_equal_bit_for_bit(room, target):
    config = make_config(accumulation=2)
    first, second = (train(room, target, config)["ltr"] for _ in range(2))
    assert losses(first) == losses(second)
    assert same(weights(room, first), weights(room, second))
    other = train(room, target, config.replace(seed=1))["ltr"]
    assert losses(other) != losses(first)


@pytest.fixture
def blocks_read(room, monkeypatch):
    """Anchors of every micro-batch that is read from here on."""
    seen, kind = [], room.micro_batch.MicroBatch
    inner = kind.read

    def recorded(target, blocks, layer_ids, **options):
        seen.append(blocks.anchors.tolist())
        return inner(target, blocks, layer_ids, **options)

    monkeypatch.setattr(kind, "read", recorded)
    return seen


@pytest.mark.clause("RN-5")
def test_anchors_are_new_every_step(room, target, blocks_read):
    train(room, target, make_config(steps=3, batch_size=1), examples=make_examples(2)[1:])
    first, second, third = blocks_read
    assert first != second != third


@pytest.mark.clause("RN-2")
def test_validation_sees_the_same_blocks_each_time_and_not_those_of_training(room, target, blocks_read):
    text = make_examples(2)[1:]
    config = make_config(steps=2, batch_size=1, validate_every=1)
    train(room, target, config, examples=text, validation=text)
    first, seen, second, seen_again = blocks_read
    assert seen == seen_again and seen not in (first, second)


@pytest.mark.clause("RN-5")
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(room, target, tmp_path):
    config = make_config(save_every=3, validate_every=2)
    names = ("ltr", "uniform")
    held = make_examples(4, seed=9)
    whole = train(room, target, config, output=tmp_path / "run", names=names, validation=held)
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    last = step_folders(tmp_path / "again")[-1]
    assert last.step == 6
    shutil.rmtree(last.path)
    resumed = train(
        room, target, config, output=tmp_path / "again", names=names, validation=make_examples(4, seed=9)
    )
    for name in names:
        assert same(weights(room, whole[name]), weights(room, resumed[name]))
        assert losses(whole[name]) == losses(resumed[name])
        before, after = (
            load_file(tmp_path / run / "checkpoints" / "step-00000006" / name / "optimizer.safetensors")
            for run in ("run", "again")
        )
        assert same(before, after) and len(before) == 4 * len(weights(room, whole[name]))
        assert whole[name].metrics["tau"] == resumed[name].metrics["tau"]


def test_one_target_pass_a_batch_feeds_every_learner(room, target, monkeypatch):
    shapes = []
    tap = target.tap
    monkeypatch.setattr(
        target, "tap", lambda ids, layers: (shapes.append(tuple(ids.shape)), tap(ids, layers))[1]
    )
    config = make_config(steps=2)
    together = train(room, target, config, names=("uniform", "ltr"))
    assert shapes == [(4, 64)] * 2
    for name in ("uniform", "ltr"):
        alone = train(room, target, config, names=(name,))[name]
        assert same(weights(room, together[name]), weights(room, alone))


def test_the_output_folder_holds_the_drafter_and_its_metrics(room, target, tmp_path):
    config = make_config(steps=4, validate_every=2)
    result = train(room, target, config, output=tmp_path, validation=make_examples(4, seed=9))["ltr"]
    loaded = room.drafter.load_drafter(tmp_path, device=room.device)
    assert same(weights(room, loaded), weights(room, result))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(result.history)
    assert [(x["event"], x["step"]) for x in lines] == [
        ("train", 1), ("train", 2), ("validate", 2), ("train", 3), ("train", 4), ("validate", 4)
    ]  # fmt: skip
    assert result.metrics["finished"] and result.metrics["step"] == 4
    assert result.metrics["tau"] == lines[-1]["tau"] >= 1
    assert len(result.metrics["acceptance"]) == 3


def test_a_finished_run_is_handed_back_without_training(room, target, tmp_path):
    config = make_config(steps=3)
    first = train(room, target, config, output=tmp_path)["ltr"]
    again = train(room, target, config, output=tmp_path)["ltr"]
    assert same(weights(room, first), weights(room, again)) and losses(first) == losses(again)


@pytest.mark.parametrize("change", ["lr", "data", "objective", "target"])
def test_a_checkpoint_of_another_run_is_refused(room, target, tmp_path, change):
    config = make_config(steps=2)
    train(room, target, config, output=tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    other = config.replace(lr=1e-5) if change == "lr" else config
    examples = make_examples(seed=5) if change == "data" else None
    name = "uniform" if change == "objective" else "ltr"
    target = make_target(room, softcap=5.0) if change == "target" else target
    with pytest.raises(CheckpointError, match=rf"{change}.*no-resume"):
        train(room, target, other, output=tmp_path, examples=examples, names=(name,))
    assert (tmp_path / "model.safetensors").read_bytes() == before
    anew = train(room, target, other.replace(resume=False), output=tmp_path, examples=examples, names=(name,))
    assert len(losses(anew[name])) == 2


def test_settings_that_change_no_weight_may_change(room, target, tmp_path):
    config = make_config(steps=2)
    first = train(room, target, config, output=tmp_path)["ltr"]
    again = train(room, target, config.replace(validate_every=1, save_every=1), output=tmp_path)["ltr"]
    assert again.metrics["finished"] and losses(again) == losses(first)


def test_activations_made_again_give_the_same_weights(room, target, monkeypatch, tmp_path):
    """To the bit, so that it is no other run: a run may go on with less memory."""
    kind = room.drafter_layers.DrafterLayer
    name = "forward" if room.name == "torch" else "__call__"
    calls, inner = [], getattr(kind, name)
    monkeypatch.setattr(kind, name, lambda self, *inputs: (calls.append(1), inner(self, *inputs))[1])
    config = make_config(steps=2, layers=2)
    kept, n_kept = train(room, target, config, output=tmp_path)["ltr"], len(calls)
    again = train(room, target, config.replace(recompute=True))["ltr"]
    assert n_kept == 2 * 2 and len(calls) - n_kept == 2 * n_kept, "each layer runs once more in the backward"
    assert losses(kept) == losses(again) and same(weights(room, kept), weights(room, again))
    train(room, target, config.replace(recompute=True), output=tmp_path)
    calls.clear()
    train(
        room, target, config.replace(recompute=True, steps=1, validate_every=1), validation=make_examples(4)
    )
    assert len(calls) == 2 * 2 + 2, "a validation has no backward"


def test_peak_memory_is_written_where_the_room_can_tell(room, target):
    counted = {"torch": False, "mlx": True}[room.name]
    result = train(room, target, make_config(steps=2), validation=make_examples(4))["ltr"]
    assert ("peak_memory_bytes" in result.metrics) is counted
    learners = {"ltr": make_learner(room, target, make_config(steps=2))}
    here = {"read": room.micro_batch.MicroBatch.read, "peak_memory": iter([10, 30]).__next__, "quiet": True}
    data = make_examples()
    result = fit(target, learners, data, make_config(steps=2), validation=data[:4], **here)["ltr"]
    written = [(line["event"], line.get("peak_memory_bytes")) for line in result.history]
    assert written == [("train", 10), ("train", 30), ("validate", None)]
    assert result.metrics["peak_memory_bytes"] == 30


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_a_checkpoint_and_leaves(room, target, tmp_path, monkeypatch, number):
    config = make_config(steps=6)
    whole = train(room, target, config)["ltr"]
    tap, calls = target.tap, []

    def tap_and_signal(ids, layers):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        return tap(ids, layers)

    monkeypatch.setattr(target, "tap", tap_and_signal)
    stopped = train(room, target, config, output=tmp_path)["ltr"]
    assert stopped.output is None
    assert (stopped.metrics["finished"], stopped.metrics["step"]) == (False, 3)
    assert [found.step for found in step_folders(tmp_path)] == [3]
    assert not (tmp_path / "model.safetensors").exists()
    finished = train(room, target, config, output=tmp_path)["ltr"]
    assert finished.output == tmp_path
    assert finished.metrics["finished"] and losses(finished) == losses(whole)
    assert same(weights(room, finished), weights(room, whole))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_loss_that_is_not_finite_names_the_step_and_overwrites_nothing(room, target, tmp_path, monkeypatch):
    config = make_config(steps=4, save_every=2)
    tap, calls = target.tap, []

    def poisoned(ids, layers):
        calls.append(1)
        return tap(ids, layers) * (float("nan") if len(calls) == 4 else 1.0)

    monkeypatch.setattr(target, "tap", poisoned)
    with pytest.raises(NumericsError, match="step 4"):
        train(room, target, config, output=tmp_path)
    assert [found.step for found in step_folders(tmp_path)] == [2]
    assert not (tmp_path / "model.safetensors").exists()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_learners_must_share_blocks_and_taps(room, target):
    learners = {str(k): make_learner(room, target, make_config(block_size=k)) for k in (4, 5)}
    with pytest.raises(ConfigError, match="block_size"):
        room.train.fit(target, learners, make_examples(), make_config(), quiet=True)
    with pytest.raises(ConfigError, match="at least one"):
        room.train.fit(target, {}, make_examples(), make_config(), quiet=True)


@pytest.mark.clause("RN-2")
def test_validation_does_not_draw_the_order_again(room, target, monkeypatch):
    drawn, inner = [], Stream.generator
    monkeypatch.setattr(Stream, "generator", lambda self, *key: (drawn.append(key), inner(self, *key))[1])
    train(room, target, make_config(seed=77, steps=2), validation=make_examples(7, seed=9))
    assert drawn.count((Purpose.ORDER, 0)) == 1


def test_a_second_interrupt_acts_at_once():
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.requested == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_drafters_are_left_as_they_were_by_validation(room, target):
    config = make_config(steps=3, validate_every=1)
    with_validation = train(room, target, config, validation=make_examples(4, seed=9))["ltr"]
    assert same(weights(room, with_validation), weights(room, train(room, target, config)["ltr"]))
    assert not same(weights(room, with_validation), weights(room, make_drafter(room, target)))

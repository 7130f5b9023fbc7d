"""A run on disk: what its files hold, what is refused before a weight moves, and a change of backend."""

import shutil
from itertools import permutations

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from dspec.backends import run_state
from dspec.errors import CheckpointError, ConfigError
from dspec.io.checkpoints import newest_valid, read_header, step_folders, tensor_shapes
from tests import tiny_models
from tests.rooms import ROOMS
from tests.tiny_training import (
    make_config,
    make_drafter,
    make_examples,
    make_learner,
    make_target,
    target_folder,
)
from tests.tolerances import ROOMS_CURVE

MADE_OF = {"lr": 1e-3}
NAMES = ("first", "second")


@pytest.fixture(scope="module")
def target(room):
    return make_target(room)


def trained_learner(room, target, *, seed=0):
    """A learner that has seen two steps."""
    config = make_config(steps=2, seed=seed)
    learner = make_learner(room, target, config)
    room.train.fit(target, {"one": learner}, make_examples(), config, quiet=True)
    return learner


@pytest.fixture
def saved(room, target, tmp_path):
    """A checkpoint of two learners after two steps, and its learners."""
    learners = {name: trained_learner(room, target, seed=seed) for seed, name in enumerate(NAMES)}
    run_state.save_run(tmp_path, learners, 2, MADE_OF)
    return step_folders(tmp_path)[-1], learners


def copied(learner):
    return {name: values.copy() for name, values in learner.state().items()}


def equal(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[k], second[k]) for k in first)


def fresh(room, target):
    return {name: make_learner(room, target, make_config(steps=4)) for name in NAMES}


@pytest.mark.clause("RN-5")
def test_the_file_names_every_weight_and_moment_in_the_masters_dtype(room, saved):
    found, learners = saved
    entries = read_header(found.path / "first" / run_state.OPTIMIZER)
    shapes = tensor_shapes(learners["first"].drafter.config)
    keys = ("weight", "step", "exp_avg", "exp_avg_sq")
    assert entries.keys() == {f"{name}/{key}" for name in shapes for key in keys}
    for name, shape in shapes.items():
        assert {entries[f"{name}/{key}"].shape for key in keys if key != "step"} == {shape}
        assert entries[f"{name}/step"].shape == ()
    assert {entry.dtype for entry in entries.values()} == {"F32"}
    tensors = load_file(found.path / "first" / run_state.OPTIMIZER)
    assert all(tensors[f"{name}/step"] == 2 for name in shapes)
    assert tensors["fc.weight/exp_avg"].any() and (tensors["fc.weight/exp_avg_sq"] >= 0).all()
    kept = room.numpy(learners["first"].drafter.weights()["fc.weight"])
    assert np.array_equal(tensors["fc.weight/weight"], kept)


@pytest.mark.clause("RN-5")
def test_a_learner_takes_over_a_state_and_goes_on_as_the_one_that_left_it(room, target, saved):
    found, learners = saved
    taken = fresh(room, target)
    assert not equal(copied(taken["first"]), copied(learners["first"]))
    run_state.load_run(found, taken, MADE_OF)
    for name in NAMES:
        assert equal(copied(taken[name]), copied(learners[name])) and taken[name].step == 2
    # The same next step: nothing that it depends on lies outside the state.
    config = make_config(steps=4)
    whole = make_learner(room, target, config)
    halves = [make_learner(room, target, config) for _ in range(2)]
    reader = room.micro_batch.MicroBatch.read
    parts = [reader(target, blocks, (0, 1)) for blocks in _blocks(config)]
    for learner in (whole, halves[0]):
        learner.train_step(parts)
    halves[1].restore(copied(halves[0]), 1)
    reports = [learner.train_step(parts) for learner in (whole, halves[1])]
    assert reports[0] == reports[1] and equal(copied(whole), copied(halves[1]))


def _blocks(config):
    from dspec.io.data import batches
    from dspec.supervision import Supervision

    batch = batches(make_examples(), batch_size=config.batch_size, seq_len=config.seq_len, seed=0, step=0)
    uniforms = np.random.default_rng(0).random(batch.tokens.shape, dtype=np.float32)
    sizes = {"anchors": config.anchors, "block_size": config.block_size, "mask_token_id": 96}
    return Supervision.cut(batch.tokens, batch.loss_mask, uniforms, **sizes).split(2)


def spoil(path, fault):
    tensors = load_file(path)
    name = "layers.0.mlp.up_proj.weight/exp_avg"
    if fault == "missing":
        del tensors[name]
    if fault == "shape":
        tensors[name] = tensors[name][:1]  # would be spread over all rows
    if fault == "dtype":
        tensors[name] = tensors[name].astype(np.float64)
    save_file(tensors, path)
    if fault == "bytes":
        path.write_bytes(path.read_bytes() + b"more")


@pytest.mark.parametrize("fault", ["missing", "shape", "dtype", "bytes"])
def test_a_spoilt_state_is_refused_before_any_weight_moves(room, target, saved, fault):
    found, _ = saved
    spoil(found.path / "second" / run_state.OPTIMIZER, fault)
    taken = fresh(room, target)
    before = [copied(learner) for learner in taken.values()]
    with pytest.raises(CheckpointError, match=r"second.optimizer\.safetensors"):
        run_state.load_run(found, taken, MADE_OF)
    assert all(equal(copied(learner), old) for learner, old in zip(taken.values(), before))
    assert {learner.step for learner in taken.values()} == {0}


def test_a_disk_that_is_full_is_named_and_the_checkpoint_before_stays(room, target, tmp_path, monkeypatch):
    config, calls, inner = make_config(steps=6, save_every=2), [], run_state.save_file

    def save(tensors, path):
        calls.append(path)
        if len(calls) == 2:
            path.write_bytes(b"half of it")
            raise SafetensorError("Error while serializing: No space left on device")
        inner(tensors, path)

    monkeypatch.setattr(run_state, "save_file", save)
    learners = {"one": make_learner(room, target, config)}
    with pytest.raises(CheckpointError, match="No space left"):
        room.train.fit(target, learners, make_examples(), config, output=tmp_path, quiet=True)
    (found,) = step_folders(tmp_path)
    assert newest_valid(tmp_path) == found and found.step == 2
    assert [path.name for path in found.path.parent.iterdir()] == [found.path.name]
    assert not (tmp_path / "model.safetensors").exists()


def test_weights_of_16_bits_are_not_trained(room, target, tmp_path):
    room.drafter.save_drafter(make_drafter(room, target), tmp_path)
    narrow = room.drafter.load_drafter(tmp_path, device=room.device, dtype="bfloat16")
    with pytest.raises(ConfigError, match=r"weights to train: got bfloat16; needs float32"):
        room.learner.Learner(narrow, target, make_config())


@pytest.fixture
def both():
    for room in ROOMS.values():
        if not room.installed:
            pytest.skip(f"{room} is not installed")


# Kinds whose weights mlx-lm keeps in other tensors than transformers: experts stacked, or not.
OTHER_TENSORS = ("qwen3_moe",)


@pytest.mark.mlx
@pytest.mark.parametrize("kind", tiny_models.DRIVEN)
def test_a_target_has_one_digest_in_every_room(both, kind):
    """So that a run may change rooms; one whose target has two digests is refused there as another's."""
    digests = {tiny_models.opened(kind, room).digest() for room in ROOMS.values()}
    assert len(digests) == (2 if kind in OTHER_TENSORS else 1)


def test_a_digest_sees_one_number_the_softcap_and_the_dtype_but_not_the_name(room, tmp_path):
    targets = {"own": make_target(room), "softcap": make_target(room, softcap=5.0)}
    targets["name"] = room.target.Target.load(
        shutil.copytree(target_folder(), tmp_path / "named"), device=room.device
    )
    place = shutil.copytree(target_folder(), tmp_path / "number")
    tensors = load_file(place / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][3, 5] += 1e-3
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    targets["number"] = room.target.Target.load(place, device=room.device)
    targets["dtype"] = room.target.Target.load(target_folder(), device=room.device, dtype="bfloat16")
    digests = {name: target.digest() for name, target in targets.items()}
    assert digests.pop("name") == digests["own"]
    assert len(set(digests.values())) == len(digests) == 4


@pytest.mark.mlx
@pytest.mark.clause("RN-5")
@pytest.mark.parametrize(("begun", "ended"), list(permutations(ROOMS, 2)))
def test_a_run_begun_in_one_room_goes_on_in_the_other(both, begun, ended, tmp_path):
    config, results = make_config(steps=6, save_every=3), {}
    held = make_examples(4, seed=9)

    def run(name, output):
        room = ROOMS[name]
        target = make_target(room)
        learners = {"ltr": make_learner(room, target, config)}
        options = {"validation": held, "output": output, "quiet": True}
        return room.train.fit(target, learners, make_examples(), config, **options)["ltr"]

    results["whole"] = run(begun, tmp_path)
    shutil.rmtree(step_folders(tmp_path)[-1].path)
    results["changed"] = run(ended, tmp_path)
    whole, changed = (
        [line["loss"] for line in result.history if line["event"] == "train"] for result in results.values()
    )
    assert changed[:3] == whole[:3], "the first steps are those of the room that ran them"
    assert changed == pytest.approx(whole, rel=ROOMS_CURVE)
    taus = [result.metrics["tau"] for result in results.values()]
    assert taus[0] == pytest.approx(taus[1], abs=0.05)

"""Drafter files: the same bytes from every room, read in every room, every fault a CheckpointError."""

import dataclasses
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dspec.errors import CheckpointError
from dspec.io.checkpoints import read_header
from tests.rooms import ROOMS
from tests.tiny_drafters import PLAIN, fresh
from tests.tolerances import FORWARD_F32

FILE = "model.safetensors"
LABELS = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


def weights_of(room, drafter):
    return {name: room.numpy(weight) for name, weight in drafter.weights().items()}


def same_bytes(folder, other):
    return all((folder / name).read_bytes() == (other / name).read_bytes() for name in ("config.json", FILE))


@pytest.mark.clause("BD-7")
@pytest.mark.parametrize("stored", LABELS)
def test_a_checkpoint_is_stored_in_its_configs_dtype_and_comes_back_the_same(room, stored, tmp_path):
    load, save = room.drafter.load_drafter, room.drafter.save_drafter
    save(fresh(room, dataclasses.replace(PLAIN, dtype=stored)), tmp_path / "a")
    assert {entry.dtype for entry in read_header(tmp_path / "a" / FILE).values()} == {LABELS[stored]}
    again = load(tmp_path / "a", device=room.device, dtype="float32")
    assert again.dtype == room.xp.float32 and not again.training
    save(again, tmp_path / "b")
    assert same_bytes(tmp_path / "a", tmp_path / "b")
    assert load(tmp_path / "b", device=room.device, dtype=stored).dtype == getattr(room.xp, stored)


@pytest.mark.mlx
@pytest.mark.clause("BD-7")
@pytest.mark.parametrize("stored", LABELS)
@pytest.mark.parametrize(("first", "second"), [("torch", "mlx"), ("mlx", "torch")])
def test_a_file_of_one_room_is_read_and_written_the_same_in_the_other(first, second, stored, tmp_path):
    first, second = ROOMS[first], ROOMS[second]
    written = fresh(first, dataclasses.replace(PLAIN, dtype=stored))
    first.drafter.save_drafter(written, tmp_path / "a")
    read = second.drafter.load_drafter(tmp_path / "a", device=second.device, dtype="float32")
    again = first.drafter.load_drafter(tmp_path / "a", device=first.device, dtype="float32")
    ours, theirs = weights_of(second, read), weights_of(first, again)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    second.drafter.save_drafter(read, tmp_path / "b")
    assert same_bytes(tmp_path / "a", tmp_path / "b")


@pytest.mark.mlx
@pytest.mark.clause("BD-6")
def test_one_checkpoint_gives_the_same_hidden_states_in_both_rooms(tmp_path):
    config = dataclasses.replace(PLAIN, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2)
    ROOMS["torch"].drafter.save_drafter(fresh(ROOMS["torch"], config), tmp_path)
    chance = np.random.default_rng(0)
    embeds, features = (chance.standard_normal((2, n, w), np.float32) for n, w in ((4, 32), (9, 64)))
    positions = np.array([[9, 10, 11, 12], [200, 201, 202, 203]])
    context_positions = positions[:, :1] + np.arange(-9, 0)
    mask = chance.random((2, 4, 13)) < 0.7
    mask[:, :, 9:] = True
    found = []
    for room in ROOMS.values():
        drafter = room.drafter.load_drafter(tmp_path, device=room.device, dtype="float32")
        a = room.array
        context = drafter.fuse(a(features))
        found.append(
            room.numpy(drafter(a(embeds), a(positions), context, a(context_positions), mask=a(mask)))
        )
    np.testing.assert_allclose(*found, atol=FORWARD_F32, rtol=0)


def test_a_loaded_drafter_needs_its_file_no_more(room, tmp_path):
    written = fresh(room, PLAIN)
    room.drafter.save_drafter(written, tmp_path)
    read = room.drafter.load_drafter(tmp_path, device=room.device)
    (tmp_path / FILE).write_bytes(b"")
    ours, theirs = weights_of(room, read), weights_of(room, written)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.clause("BD-7")
def test_weights_that_are_not_finite_are_named(room, tmp_path):
    room.drafter.save_drafter(fresh(room, PLAIN), tmp_path)
    tensors = load_file(tmp_path / FILE)
    tensors["layers.0.mlp.up_proj.weight"][2, 3] = np.inf
    save_file(tensors, tmp_path / FILE)
    words = r"model\.safetensors: layers\.0\.mlp\.up_proj\.weight: got 1 of 512 values NaN or infinite"
    with pytest.raises(CheckpointError, match=words):
        room.drafter.load_drafter(tmp_path, device=room.device)


@pytest.mark.clause("BD-7")
def test_an_unfinished_drafter_is_not_written(room, tmp_path):
    with pytest.raises(CheckpointError, match=r"fc\.weight: got 2048 of 2048 values NaN"):
        room.drafter.save_drafter(room.drafter.Drafter(PLAIN), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.clause("BD-7")
def test_a_weight_too_large_for_the_stored_dtype_is_not_written(room, tmp_path):
    drafter = fresh(room, dataclasses.replace(PLAIN, dtype="float16", initializer_range=1e6))
    with pytest.raises(CheckpointError, match=r"fc\.weight: got \d+ of 2048 values NaN or infinite"):
        room.drafter.save_drafter(drafter, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def doubled(content):
    """The file with its first tensor declared a second time, under the same name and bytes."""
    (length,) = struct.unpack("<Q", content[:8])
    text = content[8 : 8 + length].rstrip()
    start = text.index(b'"fc.weight"')
    entry = text[start : text.index(b"}", start) + 1]
    text = text[:-1] + b"," + entry + b"}"
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


@pytest.mark.clause("BD-7")
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda content: content + b"\0" * 8, "Bytes trail"),
        (lambda content: content[:-8], "cut"),
        (doubled, "fc.weight"),
    ],
    ids=["junk", "cut", "twice"],
)
def test_a_file_that_mlx_alone_would_read_is_refused(room, spoil, words, tmp_path):
    room.drafter.save_drafter(fresh(room, PLAIN), tmp_path)
    path = tmp_path / FILE
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(CheckpointError, match=words):
        room.drafter.load_drafter(tmp_path, device=room.device)

"""Folders appear whole or not at all; training checkpoints that are damaged are passed over."""

import errno
import logging
import os
import shutil
import subprocess
import sys

import pytest

from dspec.errors import CheckpointError
from dspec.io import folders
from dspec.io.folders import atomic_folder, recover
from dspec.io.steps import MANIFEST, clear_steps, newest_valid, step_folders, write_step


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def write(place, text):
    with atomic_folder(place) as folder:
        (folder / "config.json").write_text(text)
        (folder / "model.safetensors").write_text(text)
        (folder / "sub").mkdir()
        (folder / "sub" / "x").write_text(text)


def expected(text, **others):
    return {"config.json": text, "model.safetensors": text, "sub/x": text} | others


def test_a_new_folder_and_an_update_leave_other_entries_alone(tmp_path):
    place = tmp_path / "a" / "drafter"
    write(place, "1")
    assert content(place) == expected("1")
    (place / "metrics.jsonl").write_text("kept")
    write(place, "2")
    assert content(place) == expected("2", **{"metrics.jsonl": "kept"})
    assert [p.name for p in place.parent.iterdir()] == ["drafter"]


def test_an_error_inside_leaves_the_old_content_and_no_temporary(tmp_path):
    place = tmp_path / "drafter"
    write(place, "1")
    with pytest.raises(KeyError), atomic_folder(place) as folder:
        (folder / "config.json").write_text("2")
        raise KeyError
    assert content(place) == expected("1")
    assert [p.name for p in tmp_path.iterdir()] == ["drafter"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("call", range(6))
def test_a_disk_that_refuses_is_a_checkpoint_error_and_nothing_is_lost(tmp_path, monkeypatch, code, call):
    place = tmp_path / "drafter"
    write(place, "1")
    calls = iter(range(100))
    real = os.fsync

    def refuse(handle):
        if next(calls) == call:
            raise OSError(code, os.strerror(code))
        real(handle)

    monkeypatch.setattr(folders.os, "fsync", refuse)
    with pytest.raises(CheckpointError, match=rf"drafter: got .*{os.strerror(code)}"):
        write(place, "2")
    monkeypatch.undo()
    # 0..4 sync three files and two folders; 5 comes after the rename that makes the write count.
    if call == 5:
        recover(place)
    assert content(place) == expected("2" if call == 5 else "1")
    assert [p.name for p in tmp_path.iterdir()] == ["drafter"]


KILLED = """
import os, sys, shutil, pathlib
from dspec.io import folders
calls = 0
def dying(real):
    def call(*args, **options):
        global calls
        calls += 1
        if calls > int(sys.argv[2]):
            os._exit(9)
        return real(*args, **options)
    return call
os.fsync = dying(os.fsync)
shutil.rmtree = dying(shutil.rmtree)
for name in ("rename", "replace", "rmdir", "mkdir", "write_text"):
    setattr(pathlib.Path, name, dying(getattr(pathlib.Path, name)))
with folders.atomic_folder(sys.argv[1]) as folder:
    (folder / "config.json").write_text("2")
    (folder / "model.safetensors").write_text("2")
    (folder / "sub").mkdir()
    (folder / "sub" / "x").write_text("2")
"""


@pytest.mark.parametrize("old", [True, False])
def test_a_kill_at_any_call_leaves_the_old_or_the_new_content(tmp_path, old):
    seen, code, survived = set(), 9, -1
    while code == 9:
        survived += 1
        place = tmp_path / str(survived) / "drafter"
        place.parent.mkdir()
        if old:
            write(place, "1")
        run = subprocess.run([sys.executable, "-c", KILLED, str(place), str(survived)], capture_output=True)
        code = run.returncode
        assert code in (0, 9), run.stderr.decode()
        recover(place)
        found = content(place) if place.exists() else None
        assert found in (expected("1") if old else None, expected("2")), survived
        seen.add(None if found is None else found["config.json"])
        write(place, "3")
        assert content(place) == expected("3")
        assert [p.name for p in place.parent.iterdir()] == ["drafter"], "a temporary is left"
    assert seen == {"1" if old else None, "2"} and survived > 8


def test_the_root_and_a_file_are_no_places(tmp_path):
    with pytest.raises(CheckpointError, match="root"), atomic_folder("/"):
        pass
    (tmp_path / "drafter").write_text("a file")
    with pytest.raises(CheckpointError, match="is a file"):
        write(tmp_path / "drafter", "1")
    assert (tmp_path / "drafter").read_text() == "a file"


def save(output, step):
    with write_step(output, step) as folder:
        (folder / "model.safetensors").write_text(f"weights {step}")
        (folder / "state.json").write_text("{}")


def test_the_two_newest_checkpoints_stay(tmp_path):
    assert newest_valid(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".step-00000001.partial").mkdir()
    for step in (2, 10, 100):
        save(tmp_path, step)
    assert [f.step for f in step_folders(tmp_path)] == [10, 100]
    assert newest_valid(tmp_path).step == 100
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000010", "step-00000100"]
    (tmp_path / "checkpoints" / "mine.txt").write_text("kept")
    clear_steps(tmp_path)
    assert newest_valid(tmp_path) is None
    assert content(tmp_path) == {"checkpoints/mine.txt": "kept"}
    clear_steps(tmp_path / "absent")


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, flip, lambda path: path.unlink()], ids=["cut", "flip", "gone"])
@pytest.mark.parametrize("name", ["model.safetensors", "state.json", MANIFEST])
def test_a_damaged_checkpoint_is_passed_over_and_said(tmp_path, caplog, damage, name):
    save(tmp_path, 1)
    save(tmp_path, 2)
    folder = step_folders(tmp_path)[-1].path
    if name == MANIFEST and damage is cut:
        cut(folder / name)  # only the newline goes; cut the brace as well
    damage(folder / name)
    with caplog.at_level(logging.WARNING, logger="dspec"):
        assert newest_valid(tmp_path).step == 1
    assert "step-00000002 is damaged" in caplog.text
    damage(step_folders(tmp_path)[0].path / "model.safetensors")
    with pytest.raises(CheckpointError, match="2 checkpoints, all damaged"):
        newest_valid(tmp_path)


def test_a_manifest_cannot_point_outside_nor_serve_another_step(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2)
    newest = step_folders(tmp_path)[-1].path
    manifest = newest / MANIFEST
    manifest.write_text(manifest.read_text().replace('"state.json"', '"../step-00000001/state.json"'))
    assert newest_valid(tmp_path).step == 1
    shutil.copytree(step_folders(tmp_path)[0].path, tmp_path / "checkpoints" / "step-00000003")
    assert newest_valid(tmp_path).step == 1

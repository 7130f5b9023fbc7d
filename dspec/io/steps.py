"""Numbered training checkpoints under an output folder, each with the digests of its files."""

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dspec.errors import CheckpointError, explain
from dspec.io.folders import atomic_folder, disk_errors, recover, sha256
from dspec.io.strict_json import read_object

ROOM = "checkpoints"
MANIFEST = "manifest.json"
log = logging.getLogger("dspec")


@dataclass(frozen=True, order=True)
class StepFolder:
    """One training checkpoint: the optimizer steps it has seen, and its folder."""

    step: int
    path: Path


def step_folders(output: str | Path) -> list[StepFolder]:
    """Return the training checkpoints under `output`, oldest first, valid or not."""
    room = Path(output) / ROOM
    names = ((re.fullmatch(r"step-(\d{8,15})", p.name), p) for p in room.iterdir()) if room.is_dir() else ()
    return sorted(StepFolder(int(match[1]), path) for match, path in names if match and path.is_dir())


@contextlib.contextmanager
def write_step(output: str | Path, step: int, *, keep: int = 2) -> Iterator[Path]:
    """Yield a folder for the state after `step` steps; on success add the manifest, keep the newest.

    Args:
        output: of the training run.
        step: optimizer steps done, >= 0.
        keep: checkpoints that stay, this one included, >= 1.

    Raises:
        CheckpointError: the disk refused; the earlier checkpoints are as they were.
    """
    room = Path(output) / ROOM
    for stale in room.glob(".step-*.partial"):  # of a killed run: an output has one writer at a time
        shutil.rmtree(stale, ignore_errors=True)
    with atomic_folder(room / f"step-{step:08d}") as folder:
        yield folder
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        digests = {p.relative_to(folder).as_posix(): sha256(p) for p in files}
        text = json.dumps({"step": step, "sha256": digests}, indent=2, sort_keys=True)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    for old in step_folders(output)[:-keep]:
        shutil.rmtree(old.path, ignore_errors=True)


def newest_valid(output: str | Path) -> StepFolder | None:
    """Return the newest checkpoint whose files match their digests; None if there is none at all.

    A damaged one is passed over with a warning of the logger "dspec".

    Raises:
        CheckpointError: there are checkpoints, and every one is damaged.
    """
    folders = step_folders(output)
    for found in reversed(folders):
        fault = _fault(found)
        if not fault:
            return found
        log.warning("checkpoint %s is damaged (%s): falling back to an older one", found.path, fault)
    if folders:
        remedy = "Start anew (resume off) or restore a copy."
        where = str(Path(output) / ROOM)
        found_text = f"{len(folders)} checkpoints, all damaged"
        raise CheckpointError(explain(where, found_text, "at least one whole checkpoint", remedy=remedy))
    return None


def clear_steps(output: str | Path) -> None:
    """Remove all training checkpoints, and nothing else, so that a new run cannot resume from them.

    Raises:
        CheckpointError: the disk refused.
    """
    room = Path(output) / ROOM
    with disk_errors(room):
        for stale in (*room.glob(".step-*.*"), *(found.path for found in step_folders(output))):
            shutil.rmtree(stale)
    with contextlib.suppress(OSError):  # absent, or it holds what is not ours
        room.rmdir()


def _fault(found: StepFolder) -> str:
    """Return what is wrong with a checkpoint, or ""."""
    try:
        recover(found.path)
        manifest = read_object(found.path / MANIFEST)
        digests = manifest["sha256"]
        if manifest["step"] != found.step or not isinstance(digests, dict):
            return "the manifest is not its own"
        for name, digest in digests.items():
            inside = (found.path / name).resolve().is_relative_to(found.path.resolve())
            if not inside or sha256(found.path / name) != digest:
                return f"the digest of {name} differs"
    except (CheckpointError, OSError, KeyError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""

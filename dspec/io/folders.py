"""Folders that appear whole or not at all, whenever the process dies.

A folder is written beside its place as `.NAME.partial`, synced, then renamed. Where the place already
holds files, the new ones are first renamed to `.NAME.ready`: from then on the write counts, and whoever
next opens the folder through `recover` finishes the move.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from dspec.errors import CheckpointError, explain

# Moved last, so that a folder with new weights beside an old config never lasts longer than needed.
LAST = "config.json"


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a folder to write in; when the block ends, its entries stand in `path`, all or none.

    Entries of `path` that the block does not write are left alone. One writer a folder at a time.
    Files get the mode that the umask gives, whoever made them (safetensors makes them private).

    Args:
        path: the folder to make or to update.

    Yields:
        An empty folder on the same file system.

    Raises:
        CheckpointError: the disk refused (full, read-only, no permission). `path` is as it was; if the
            new entries were already being moved in, the next `recover` finishes that.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp()) / "drafter"
        >>> with atomic_folder(place) as folder:
        ...     _ = (folder / "config.json").write_text("{}")
        >>> [entry.name for entry in place.iterdir()]
        ['config.json']
    """
    place = Path(path).resolve()
    partial = _beside(place, "partial")
    try:
        with disk_errors(place):
            recover(place)
            if partial.exists():
                shutil.rmtree(partial)
            place.parent.mkdir(parents=True, exist_ok=True)
            partial.mkdir()
            yield partial
            _share(partial)
            sync_tree(partial)
            _publish(partial, place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def disk_errors(where: str | Path) -> Iterator[None]:
    """Turn what the disk refuses inside the block into a CheckpointError that names `where`.

    Raises:
        CheckpointError: in place of an OSError or of safetensors' own error.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        needed = "a folder that can be written, with room left"
        raise CheckpointError(explain(str(where), str(error), needed)) from error


def recover(path: str | Path) -> None:
    """Finish the move that a killed writer had begun; safe for readers beside a live writer's work.

    Raises:
        CheckpointError: `path` is the root, or the disk refused.
    """
    place = Path(path).resolve()
    if not place.name:
        raise CheckpointError(explain(str(path), "the root of the file system", "a folder below it"))
    ready = _beside(place, "ready")
    try:
        if ready.exists():
            _merge(ready, place)
    except OSError as error:
        needed = "a folder that can be written, to finish an interrupted save"
        raise CheckpointError(explain(str(place), str(error), needed)) from error


def sha256(path: Path) -> str:
    """Return the hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_tree(folder: Path) -> None:
    """Force every file and folder below `folder`, and itself, to the disk."""
    for root, _, files in os.walk(folder):
        for name in files:
            sync(Path(root) / name)
        sync(Path(root))


def sync(path: Path) -> None:
    """Force one file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _share(folder: Path) -> None:
    """Give every file the mode of a new one; the folder, which is new, tells the umask."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def _beside(place: Path, state: str) -> Path:
    return place.parent / f".{place.name}.{state}"


def _publish(partial: Path, place: Path) -> None:
    """Rename into an absent or empty place; else mark as ready, then merge."""
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        partial.rename(place)
        sync(place.parent)
        return
    if not place.is_dir():
        raise NotADirectoryError(f"{place} is a file")
    ready = _beside(place, "ready")
    partial.rename(ready)
    sync(place.parent)
    _merge(ready, place)


def _merge(ready: Path, place: Path) -> None:
    """Move every entry into place; safe to repeat from any point."""
    place.mkdir(parents=True, exist_ok=True)
    for entry in sorted(ready.iterdir(), key=lambda e: (e.name == LAST, e.name)):
        goal = place / entry.name
        if goal.is_dir() and not goal.is_symlink():
            shutil.rmtree(goal)
        entry.replace(goal)
    sync(place)
    ready.rmdir()
    sync(place.parent)

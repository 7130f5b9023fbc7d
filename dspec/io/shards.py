"""The weight files of a model's folder, checked before a framework reads them.

`mx.load` accepts trailing bytes, overlaps and duplicate names, and readers that glob take every file
called model*.safetensors, whatever the index says.
"""

from dataclasses import dataclass
from pathlib import Path

from dspec.errors import CheckpointError, explain
from dspec.io.strict_json import read_object
from dspec.io.tensors import Entry, read_header

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# The index of 256 experts in 20 layers has 15,000 names of 95 bytes each.
MAX_INDEX = 8 << 20


@dataclass(frozen=True)
class Stored:
    """One tensor of a folder: its file, and what the file's header declares."""

    file: Path
    entry: Entry


def check_shards(folder: Path, *, what: str = "target") -> dict[str, Stored]:
    """Return the tensors of a folder's weight files, once each.

    Args:
        folder: of a model.
        what: the argument that named it, for messages.

    Returns:
        File and entry by tensor name.

    Raises:
        CheckpointError: no safetensors, a malformed file, a tensor in two of them, or an index that says
            something else than the files.
    """
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        needed = "weights as model.safetensors, or in several files with an index"
        raise CheckpointError(explain(f"{what} {folder}", "no model*.safetensors", needed))
    found: dict[str, Stored] = {}
    for file in files:
        for name, entry in read_header(file).items():
            if name in found:
                twice = f"{name[:200]} in {found[name].file.name} too"
                raise CheckpointError(explain(str(file), twice, "every tensor in one file"))
            found[name] = Stored(file, entry)
    _check_index(folder, {name: stored.file.name for name, stored in found.items()})
    return found


def _check_index(folder: Path, place: dict[str, str]) -> None:
    """The index names every tensor's file; a single file needs none."""
    index = folder / INDEX
    if not index.is_file():
        if set(place.values()) - {SINGLE}:
            found = "weights in " + ", ".join(sorted(set(place.values()))[:5]) + " without an index"
            raise CheckpointError(explain(str(folder), found, f"{INDEX} beside them"))
        return
    said = read_object(index, max_bytes=MAX_INDEX).get("weight_map")
    if not isinstance(said, dict):
        raise CheckpointError(explain(str(index), "no weight_map", "the file of every tensor by its name"))
    wrong = sorted(name for name in {*said, *place} if said.get(name) != place.get(name))
    if wrong:
        found = f"{wrong[0][:200]} in {said.get(wrong[0])!r}"
        found += f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        needed = f"{place.get(wrong[0], 'no such tensor')!r}, where it lies"
        raise CheckpointError(explain(str(index), found, needed))

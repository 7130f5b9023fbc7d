"""Folders of the Hugging Face hub: only the files that are asked for are downloaded."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from dspec.errors import CheckpointError, explain
from dspec.io.checkpoints import CONFIG, WEIGHTS

# Of a language model: weights, settings and every kind of tokenizer file; no Python.
MODEL_FILES = ("*.json", "model*.safetensors", "tokenizer.model", "*.txt", "*.jinja")


def fetch(source: str | Path, patterns: Sequence[str], *, what: str = "drafter", clause: str = "") -> Path:
    """Return a local folder with a repository's files.

    Args:
        source: folder, taken as it is, or hub id.
        patterns: names of the files to download, `*` for any part of a name.
        what: the argument that named the source, for messages.
        clause: of the spec, for messages.

    Returns:
        A local folder.

    Raises:
        CheckpointError: neither a folder nor a repository of the hub that can be reached.

    Example:
        >>> fetch(".", ["config.json"]).is_dir()
        True
    """
    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(snapshot_download(str(source), allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        needed = f"a folder with {' and '.join(patterns)}, or a hub id"
        raise CheckpointError(explain(f"{what} {source}", str(error), needed, clause=clause)) from error


def fetch_drafter(source: str | Path) -> Path:
    """Return the folder of a drafter; of a hub id, config and weights are downloaded.

    Spec: BD-7.

    Args:
        source: folder or hub id.

    Returns:
        A local folder.

    Raises:
        CheckpointError: neither a folder nor a repository of the hub.
    """
    return fetch(source, (CONFIG, WEIGHTS), clause="BD-7")


def fetch_model(source: str | Path, *, what: str = "model") -> Path:
    """Return the folder of a language model; of a hub id, all but its code is downloaded.

    Args:
        source: folder or hub id.
        what: the argument that named it, for messages.

    Returns:
        A local folder.

    Raises:
        CheckpointError: neither a folder nor a repository of the hub.

    Example:
        >>> fetch_model(".").is_dir()
        True
    """
    if not Path(source).is_dir() and (isinstance(source, Path) or str(source).startswith((".", "/", "~"))):
        raise CheckpointError(explain(what, str(source), "an existing folder, or a hub id"))
    return fetch(source, MODEL_FILES, what=what)

"""Folders of the Hugging Face hub: only the files that are asked for are downloaded."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from dspec.errors import CheckpointError, explain
from dspec.io.checkpoints import CONFIG, WEIGHTS


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

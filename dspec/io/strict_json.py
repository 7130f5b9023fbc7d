"""JSON as checkpoints need it: bounded, one object, no key twice, no NaN."""

import json
from pathlib import Path
from typing import Any, NoReturn

from dspec.errors import CheckpointError, explain

# A config is a few KiB; parsed JSON takes up to 30 times its text, so this also bounds the memory.
MAX_BYTES = 1 << 20


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that stands twice: readers disagree on which one counts."""
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:200]!r} stands twice")
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def parse_object(text: bytes, *, where: str) -> dict[str, Any]:
    """Return the JSON object that `text` holds.

    Args:
        text: UTF-8.
        where: file, for the error.

    Raises:
        CheckpointError: not UTF-8, not JSON, nested too deep, a key twice, or not an object.

    Example:
        >>> parse_object(b'{"a": 1}', where="config.json")
        {'a': 1}
    """
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = str(error)[:300] or type(error).__name__
        raise CheckpointError(explain(where, f"malformed JSON ({reason})", "one JSON object")) from error
    if not isinstance(value, dict):
        raise CheckpointError(explain(where, f"a JSON {type(value).__name__}", "a JSON object"))
    return value


def read_object(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Return the JSON object in a file of at most `max_bytes`."""
    try:
        with open(path, "rb") as file:
            text = file.read(max_bytes + 1)
    except OSError as error:
        raise CheckpointError(explain(str(path), error.strerror or str(error), "a readable file")) from error
    if len(text) > max_bytes:
        raise CheckpointError(
            explain(str(path), f"more than {max_bytes} bytes", f"at most {max_bytes} bytes")
        )
    return parse_object(text, where=str(path))

"""A target's tokenizer, through transformers: no remote code, and no framework needed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer
from transformers.utils import cached_file, logging

from dspec.errors import CheckpointError, explain

# Any of these makes a tokenizer; without them transformers 5 would invent an empty one.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


def read_tokenizer(source: str | Path) -> Any:
    """Return the tokenizer of a folder or hub id, or None if it has none.

    Args:
        source: an existing folder, or a hub id such as "Qwen/Qwen3-4B".

    Raises:
        CheckpointError: a tokenizer that transformers cannot read by itself.
    """
    if not _has_tokenizer(source):
        return None
    try:
        with _quiet():
            return AutoTokenizer.from_pretrained(
                str(source), trust_remote_code=False, local_files_only=Path(source).is_dir()
            )
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError) as error:
        needed = "a tokenizer that transformers knows"
        raise CheckpointError(explain(f"target {source}: tokenizer", str(error), needed)) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No warning that transformers does not know the model beside a tokenizer: none is made of it here."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _has_tokenizer(source: str | Path) -> bool:
    """Whether the folder or hub repository holds a tokenizer."""
    if Path(source).is_dir():
        return any((Path(source) / name).is_file() for name in TOKENIZER_FILES)
    quiet = {
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_connection_errors": False,
        "_raise_exceptions_for_gated_repo": False,
    }
    return any(cached_file(str(source), name, **quiet) is not None for name in TOKENIZER_FILES)

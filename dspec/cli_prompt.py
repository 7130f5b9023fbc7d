"""The prompt at the command line: text, a file, or token ids."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dspec.errors import ConfigError, explain


def read_prompt_options(text: str | None, file: Path | None, ids: str | None, chat: bool) -> Any:
    """Return the prompt that exactly one of the three options gives.

    Args:
        text: of --prompt.
        file: of --prompt-file; .json holds chat messages.
        ids: of --prompt-ids.
        chat: take the text as a user's message.

    Returns:
        Text, token ids or chat messages.

    Raises:
        ConfigError: none or several of them, or one that cannot be read.

    Example:
        >>> read_prompt_options(None, None, "1 2", False)
        [1, 2]
    """
    options = {"--prompt": text, "--prompt-file": file, "--prompt-ids": ids}
    given = [name for name, value in options.items() if value is not None]
    if len(given) != 1:
        raise ConfigError(explain("prompt", " and ".join(given) or "none", f"one of {', '.join(options)}"))
    messages = file is not None and file.suffix == ".json"
    if chat and (messages or ids is not None):
        raise ConfigError(explain("--chat", given[0], "a text to take as a message"))
    if ids is not None:
        return _numbers(ids)
    if file is not None:
        text = _read(file, lambda: file.read_text(encoding="utf-8"))
        if messages:
            return _read(file, lambda: json.loads(text))
    return [{"role": "user", "content": text}] if chat else text


def _numbers(ids: str) -> list[int]:
    try:
        return [int(word) for word in ids.replace(",", " ").split()]
    except ValueError as error:
        raise ConfigError(explain("--prompt-ids", repr(ids), 'integers such as "1 2 3"')) from error


def _read(file: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (OSError, ValueError) as error:
        raise ConfigError(
            explain("--prompt-file", f"{file}: {error}", "a readable text or JSON file")
        ) from error

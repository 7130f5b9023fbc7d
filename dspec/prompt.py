"""A prompt: what it may be, read once, and its token ids."""

import operator
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from dspec.errors import ConfigError, explain
from dspec.io.examples import encode_text, start_tokens

# Token ids may also be an integer array of one axis: whatever has `tolist`, of numpy, torch or another.
Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]
FORMS = (
    "text, token ids, or chat messages such as [{'role': 'user', 'content': 'Hi'}]; "
    "`generate` also takes a list of those"
)


def is_many(prompt: Any) -> bool:
    """Return whether `prompt` is a list of prompts rather than one.

    Args:
        prompt: what the user passed.

    Returns:
        True for a list or tuple whose first item is a prompt itself, and for an array of two axes.

    Example:
        >>> is_many([[1, 2], [3]]), is_many([1, 2]), is_many([{"role": "user", "content": "Hi"}])
        (True, False, False)
    """
    if not _is_list(prompt):
        return getattr(prompt, "ndim", None) == 2
    return len(prompt) > 0 and (isinstance(prompt[0], str) or _is_list(prompt[0]) or _is_array(prompt[0]))


def read_prompt(prompt: Any, where: str = "prompt") -> str | list[int] | list[dict[str, str]]:
    """Return one prompt in plain Python types.

    Args:
        prompt: text; integers, numpy's among them, or an integer array of one axis; or chat messages.
        where: its name, for messages.

    Returns:
        A text, a list of ids, or a list of messages; an empty list stays one.

    Raises:
        ConfigError: none of these.

    Example:
        >>> import numpy as np
        >>> read_prompt(np.array([3, 1])), read_prompt("Hi")
        ([3, 1], 'Hi')
    """
    if isinstance(prompt, str):
        return prompt
    items = prompt.tolist() if _is_array(prompt) else prompt
    if _is_list(items):
        ids = [_token(item) for item in items]
        if None not in ids:
            return [token for token in ids if token is not None]
        if all(_is_message(item) for item in items):
            return [dict(item) for item in items]
    raise ConfigError(explain(where, reprlib.repr(prompt), FORMS, clause="DL-1"))


def encode_prompt(prompt: Any, tokenizer: Any, where: str = "prompt") -> list[int]:
    """Return the token ids of one prompt.

    Args:
        prompt: what `read_prompt` takes.
        tokenizer: of the target; None reads token ids only.
        where: name of the prompt, for messages.

    Returns:
        Ids, at least one, not yet held against a vocabulary.

    Raises:
        ConfigError: not a prompt, no tokens, no tokenizer for a text, or messages that its chat
            template refuses.

    Example:
        >>> encode_prompt((4, 2), None)
        [4, 2]
    """
    read = read_prompt(prompt, where)
    ids = _ids(read, tokenizer, where)
    if not ids:
        raise ConfigError(explain(where, "no tokens", "at least one token", clause="DL-1"))
    return ids


def _ids(read: str | list[Any], tokenizer: Any, where: str) -> list[int]:
    if not isinstance(read, str) and not (read and isinstance(read[0], dict)):
        return read
    if tokenizer is None:
        remedy = "Pass token ids, or a target folder with a tokenizer."
        needed = "token ids: the target has no tokenizer"
        raise ConfigError(explain(where, type(read).__name__, needed, remedy=remedy))
    text = read if isinstance(read, str) else _render(read, tokenizer, where)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(explain(where, "half of a surrogate pair", "valid Unicode")) from error
    start = start_tokens(tokenizer) if isinstance(read, str) else []
    return start + encode_text(tokenizer, text)


def _render(messages: list[Any], tokenizer: Any, where: str) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(explain(where, "chat messages", "text or ids: the tokenizer has no chat template"))
    try:
        return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
    except Exception as error:  # a template raises whatever its author chose
        got = f"messages on which the chat template failed: {error}"
        raise ConfigError(explain(where, got, "messages that the template takes")) from error


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, memoryview))


def _is_array(value: Any) -> bool:
    return hasattr(value, "tolist") and getattr(value, "ndim", 0) > 0


def _token(value: Any) -> int | None:
    """Return an integer as an int; None for anything else, a bool and an array of one item among them."""
    if isinstance(value, bool) or getattr(value, "ndim", 0) > 0:
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(value.get(key), str) for key in ("role", "content"))

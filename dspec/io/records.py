"""Training records: one JSON object a line, in one of four forms."""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dspec.errors import DataError, explain

ROLES = ("system", "developer", "user", "assistant", "tool")
FORMS = {
    "text": frozenset({"text"}),
    "pair": frozenset({"prompt", "response"}),
    "chat": frozenset({"messages"}),
    "tokens": frozenset({"tokens"}),
}
ALLOWED = '{"text"}, {"prompt", "response"}, {"messages": [{"role", "content"}]} or {"tokens", "loss_mask"?}'


@dataclass(frozen=True)
class TextRecord:
    """Plain text: the loss is on all of it."""

    where: str
    text: str


@dataclass(frozen=True)
class PairRecord:
    """A prompt and its response: the loss is on the response and the end token."""

    where: str
    prompt: str
    response: str


@dataclass(frozen=True)
class ChatRecord:
    """A conversation: the loss is on the assistant's turns."""

    where: str
    messages: tuple[Mapping[str, str], ...]


@dataclass(frozen=True)
class TokenRecord:
    """Token ids as they are; `loss_mask` None: the loss is on all of them."""

    where: str
    tokens: tuple[int, ...]
    loss_mask: tuple[bool, ...] | None = None


Record = TextRecord | PairRecord | ChatRecord | TokenRecord


def read_records(path: str | Path) -> Iterator[Record]:
    """Yield the records of a `.jsonl` or `.jsonl.gz` file; empty lines are skipped.

    Args:
        path: the file.

    Raises:
        DataError: names file and line, what was found, what is allowed.
    """
    path = Path(path)
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise DataError(explain(str(path), f"the name {path.name!r}", "a .jsonl or .jsonl.gz file"))
    number = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield parse_record(_object(line, f"{path}:{number}"), where=f"{path}:{number}")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(explain(f"{path}:{number + 1}", str(error), "a readable, whole file")) from error


def parse_record(raw: Mapping[str, Any], *, where: str) -> Record:
    """Return the record that an object states; keys beside its form's are ignored.

    Args:
        raw: the object.
        where: file and line, for errors.

    Raises:
        DataError: no form, several forms, or a value of the wrong kind.

    Example:
        >>> parse_record({"prompt": "2+2=", "response": "4", "id": 7}, where="chat.jsonl:1")
        PairRecord(where='chat.jsonl:1', prompt='2+2=', response='4')
    """
    forms = [name for name, keys in FORMS.items() if keys & raw.keys()]
    if len(forms) != 1 or not FORMS[forms[0]] <= raw.keys():
        found = "the keys " + (", ".join(repr(key[:80]) for key in list(raw)[:20]) or "(none)")
        raise DataError(explain(where, found, f"one of {ALLOWED}"))
    if forms == ["text"]:
        return TextRecord(where, _text(raw, "text", where))
    if forms == ["pair"]:
        return PairRecord(where, _text(raw, "prompt", where), _text(raw, "response", where))
    if forms == ["chat"]:
        return ChatRecord(where, _messages(raw["messages"], where))
    return _tokens(raw, where)


def _open(path: Path) -> Any:
    return gzip.open(path, "rb") if path.name.endswith(".gz") else open(path, "rb")


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(explain(where, f"malformed JSON ({error})", "one JSON object a line")) from error
    if not isinstance(value, dict):
        raise DataError(explain(where, f"a JSON {type(value).__name__}", "a JSON object"))
    return value


def _text(raw: Mapping[str, Any], key: str, where: str) -> str:
    value = raw[key]
    if not isinstance(value, str):
        raise DataError(explain(f"{where}: {key}", repr(value)[:80], "a text"))
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(explain(f"{where}: {key}", "half of a surrogate pair", "valid Unicode")) from error
    return value


def _messages(value: Any, where: str) -> tuple[Mapping[str, str], ...]:
    if not isinstance(value, list) or not value:
        raise DataError(explain(f"{where}: messages", repr(value)[:80], "a list of messages"))
    turns = []
    for i, message in enumerate(value):
        place = f"{where}: messages[{i}]"
        keys = set(message) if isinstance(message, dict) else None
        if keys != {"role", "content"}:
            found = repr(message)[:80] if keys is None else f"the keys {sorted(keys)[:20]}"
            raise DataError(explain(place, found, "exactly the keys role and content"))
        if message["role"] not in ROLES:
            raise DataError(
                explain(f"{place}: role", repr(message["role"])[:80], f"one of {', '.join(ROLES)}")
            )
        turns.append({"role": message["role"], "content": _text(message, "content", place)})
    return tuple(turns)


def _tokens(raw: Mapping[str, Any], where: str) -> TokenRecord:
    tokens, mask = raw["tokens"], raw.get("loss_mask")
    if not isinstance(tokens, list) or not all(type(t) is int and 0 <= t < 2**31 for t in tokens):
        raise DataError(explain(f"{where}: tokens", repr(tokens)[:80], "a list of token ids >= 0"))
    if mask is None:
        return TokenRecord(where, tuple(tokens))
    if not isinstance(mask, list) or len(mask) != len(tokens) or not all(m in (0, 1) for m in mask):
        needed = f"a list of {len(tokens)} times true, false, 0 or 1"
        raise DataError(explain(f"{where}: loss_mask", repr(mask)[:80], needed))
    return TokenRecord(where, tuple(tokens), tuple(bool(m) for m in mask))

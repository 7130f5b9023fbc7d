"""Records turned into token ids and the mask of what is trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dspec.errors import DataError, explain
from dspec.io.records import ChatRecord, PairRecord, Record, TextRecord, TokenRecord


@dataclass(frozen=True, eq=False)
class Example:
    """One sequence to train on.

    Args:
        tokens: (T,) int64 ids.
        loss_mask: (T,) bool: tokens that the model itself would have to emit.
    """

    tokens: NDArray[np.int64]
    loss_mask: NDArray[np.bool_]

    @property
    def trainable(self) -> bool:
        """Whether an anchor exists: two neighbours that are both in the loss (BD-3)."""
        return bool((self.loss_mask[1:] & self.loss_mask[:-1]).any())

    def cut(self, length: int) -> "Example":
        """Return the first `length` tokens."""
        return Example(self.tokens[:length], self.loss_mask[:length])


# Token ids and whether the loss is on them.
Piece = tuple[list[int], list[bool]]


def encode(record: Record, tokenizer: Any = None, *, vocab_size: int | None = None) -> Example:
    """Return the example of a record.

    A text is trained on as a whole. Of a pair, the response and the end token are; prompt and response
    are encoded apart, because decoding starts at that boundary. Of a chat, the assistant's turns with
    their end token are.

    Args:
        record: from `read_records`.
        tokenizer: has `encode(text, add_special_tokens=...)`, `eos_token_id`, and for chats
            `apply_chat_template(messages, tokenize=False, add_generation_prompt=...)`.
        vocab_size: V of the target, if known: every id must be below it.

    Raises:
        DataError: names the record.
    """
    if isinstance(record, TokenRecord):
        mask = record.loss_mask if record.loss_mask is not None else (True,) * len(record.tokens)
        pieces: list[Piece] = [(list(record.tokens), list(mask))]
    elif tokenizer is None:
        raise DataError(
            explain(record.where, "text but no tokenizer", "a target with a tokenizer, or token ids")
        )
    elif isinstance(record, TextRecord):
        ids = encode_text(tokenizer, record.text)
        pieces = [_outside(start_tokens(tokenizer)), (ids, [True] * len(ids))]
    elif isinstance(record, PairRecord):
        ids = [*encode_text(tokenizer, record.response), _eos(tokenizer, record.where)]
        prompt = start_tokens(tokenizer) + encode_text(tokenizer, record.prompt)
        pieces = [_outside(prompt), (ids, [True] * len(ids))]
    else:
        pieces = _chat(record, tokenizer)
    tokens = np.array([t for ids, _ in pieces for t in ids], dtype=np.int64)
    if vocab_size is not None and tokens.size and int(tokens.max()) >= vocab_size:
        raise DataError(explain(record.where, f"the token id {int(tokens.max())}", f"ids < {vocab_size}"))
    return Example(tokens, np.array([m for _, mask in pieces for m in mask], dtype=np.bool_))


def start_tokens(tokenizer: Any) -> list[int]:
    """Return the begin token that this tokenizer puts before a text, or nothing.

    Some tokenizers add it, some do not, and only encoding tells. Decoding uses the same rule.
    """
    bos = getattr(tokenizer, "bos_token_id", None)
    lead = list(tokenizer.encode("", add_special_tokens=True)) if bos is not None else []
    return lead[:1] if lead[:1] == [bos] else []


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of a text, without special tokens of the tokenizer's own."""
    return [int(t) for t in tokenizer.encode(text, add_special_tokens=False)]


def _outside(ids: list[int]) -> Piece:
    return ids, [False] * len(ids)


def _eos(tokenizer: Any, where: str) -> int:
    eos = getattr(tokenizer, "eos_token_id", None)
    if eos is None:
        needed = "an eos_token_id, to end a response"
        raise DataError(explain(where, "a tokenizer without an end token", needed))
    return int(eos)


def _render(tokenizer: Any, messages: Sequence[Any], *, prompt: bool, where: str) -> str:
    template = getattr(tokenizer, "apply_chat_template", None)
    if template is None or getattr(tokenizer, "chat_template", "set") is None:
        remedy = "Use {'prompt', 'response'} records, or a chat model's tokenizer."
        raise DataError(explain(where, "messages but no chat template", "a chat template", remedy=remedy))
    try:
        return str(template(list(messages), tokenize=False, add_generation_prompt=prompt))
    except Exception as error:  # a template raises whatever its author chose
        found = f"the chat template failed: {error}"
        raise DataError(explain(where, found, "turns that the template accepts")) from error


def _chat(record: ChatRecord, tokenizer: Any) -> list[Piece]:
    """Cut the rendered conversation where the assistant starts to speak, and encode piece by piece.

    The cut is where decoding would start: the end of the conversation so far rendered with a
    generation prompt. That text must be a prefix of the whole, or the model would be trained on
    contexts it never meets.
    """
    full = _render(tokenizer, record.messages, prompt=False, where=record.where)
    turns = [i for i, message in enumerate(record.messages) if message["role"] == "assistant"]
    if not turns:
        return [_outside(encode_text(tokenizer, full))]
    starts = [_prefix_length(record, tokenizer, full, turn, prompt=True) for turn in turns]
    pieces = [_outside(encode_text(tokenizer, full[: starts[0]]))]
    for turn, start, end in zip(turns, starts, [*starts[1:], len(full)], strict=True):
        pieces += _turn(record, tokenizer, full, turn, start, end)
    return pieces


def _turn(record: ChatRecord, tokenizer: Any, full: str, turn: int, start: int, end: int) -> list[Piece]:
    """Return one assistant turn and what follows it up to the next: the loss ends with the end token."""
    ids = encode_text(tokenizer, full[start:end])
    eos = getattr(tokenizer, "eos_token_id", None)
    if eos in ids:
        # Decoding stops there; a template's line break after it is never emitted.
        last = ids.index(eos) + 1
        return [(ids, [i < last for i in range(len(ids))])]
    # The template ends turns otherwise (base models): the turn is what rendering it adds.
    if turn + 1 == len(record.messages):
        return [(ids, [True] * len(ids))]
    stop = _prefix_length(record, tokenizer, full, turn + 1, prompt=False)
    spoken = encode_text(tokenizer, full[start:stop])
    return [(spoken, [True] * len(spoken)), _outside(encode_text(tokenizer, full[stop:end]))]


def _prefix_length(record: ChatRecord, tokenizer: Any, full: str, count: int, *, prompt: bool) -> int:
    """Return the length of the first `count` messages rendered, after checking that they begin `full`."""
    head = _render(tokenizer, record.messages[:count], prompt=prompt, where=record.where)
    if not full.startswith(head):
        remedy = "Split the conversation into records of one assistant turn each."
        found = f"a chat template that renders the first {count} messages otherwise once more follow"
        needed = "a template whose rendering only grows"
        raise DataError(explain(record.where, found, needed, remedy=remedy))
    return len(head)

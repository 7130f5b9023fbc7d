"""Training data: files to examples, examples to batches that depend on (seed, step) alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dspec.errors import ConfigError, DataError, explain
from dspec.io.examples import Example, encode, start_tokens
from dspec.io.records import Record, parse_record, read_records
from dspec.rng import Purpose, Stream

__all__ = [
    "Batch",
    "Example",
    "Record",
    "Summary",
    "batches",
    "encode",
    "hold_out",
    "load_examples",
    "pad",
    "parse_record",
    "read_records",
    "start_tokens",
]

# Lengths are rounded up to this, so that a run meets few shapes (compiled code, memory pools).
ROUND = 64
PAD = 0  # never read: no anchor, no label and no context of a kept anchor lies on it


@dataclass(frozen=True)
class Summary:
    """What became of a file's records."""

    records: int
    kept: int
    dropped: int
    truncated: int
    tokens: int
    loss_tokens: int

    def __str__(self) -> str:
        return (
            f"{self.kept} of {self.records} records kept ({self.dropped} without two trainable neighbours, "
            f"{self.truncated} cut), {self.tokens} tokens, {self.loss_tokens} of them trained on"
        )


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences padded on the right to one length S.

    Args:
        tokens: (B, S) int64.
        loss_mask: (B, S) bool, False on padding.
        lengths: (B,) int64, tokens of each row without padding.
    """

    tokens: NDArray[np.int64]
    loss_mask: NDArray[np.bool_]
    lengths: NDArray[np.int64]


def load_examples(
    path: str | Path, *, tokenizer: Any = None, seq_len: int, vocab_size: int | None = None
) -> tuple[tuple[Example, ...], Summary]:
    """Return the trainable examples of a file, cut to `seq_len`, and a summary.

    Args:
        path: `.jsonl` or `.jsonl.gz`.
        tokenizer: see `encode`; None where the records hold token ids.
        seq_len: longest example, in tokens, >= 2.
        vocab_size: V of the target; ids must be below it.

    Raises:
        DataError: a record cannot be read or encoded (file and line), or none is trainable.
    """
    kept: list[Example] = []
    records = truncated = 0
    for record in read_records(path):
        records += 1
        example = encode(record, tokenizer, vocab_size=vocab_size)
        truncated += len(example.tokens) > seq_len
        if (short := example.cut(seq_len)).trainable:
            kept.append(short)
    if not kept:
        needed = "at least one with two neighbouring trained tokens within seq_len"
        raise DataError(explain(str(path), f"{records} records, none trainable", needed))
    summary = Summary(
        records=records,
        kept=len(kept),
        dropped=records - len(kept),
        truncated=truncated,
        tokens=sum(len(e.tokens) for e in kept),
        loss_tokens=sum(int(e.loss_mask.sum()) for e in kept),
    )
    return tuple(kept), summary


def hold_out(
    examples: Sequence[Example], *, count: int, seed: int
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Split examples into those to train on and `count` to validate on, at random by the seed.

    Args:
        examples: all of them.
        count: held out, >= 0; at least one example must remain.
        seed: of the run.

    Raises:
        ConfigError: nothing would remain to train on.
    """
    if not 0 <= count < len(examples):
        raise ConfigError(
            explain("validate_examples", count, f"at least 0 and below {len(examples)} examples")
        )
    # Request 1: the order of an epoch is drawn under request 0 (RN-2).
    order = Stream(seed=seed, request=1).generator(Purpose.ORDER, 0).permutation(len(examples))
    held = {int(i) for i in order[:count]}
    train = tuple(e for i, e in enumerate(examples) if i not in held)
    return train, tuple(examples[i] for i in sorted(held))


def batches(examples: Sequence[Example], *, batch_size: int, seq_len: int, seed: int, step: int) -> Batch:
    """Return the batch of one step: a pure function, so a run resumes at any step at once.

    Every example occurs once an epoch, in an order of that epoch's own; a batch may reach into the next
    epoch.

    Spec: RN-5.

    Args:
        examples: at least one.
        batch_size: B, rows.
        seq_len: longest row, in tokens; longer examples are cut.
        seed: of the run.
        step: optimizer step, >= 0.

    Returns:
        The batch; its length is that of the longest row, rounded up to a multiple of 64, at most
        `seq_len`.
    """
    if not examples:
        raise DataError(explain("examples", "none", "at least one example"))
    rows = []
    for i in range(step * batch_size, (step + 1) * batch_size):
        epoch, place = divmod(i, len(examples))
        rows.append(examples[_order(seed, epoch, len(examples))[place]])
    return pad(rows, seq_len)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return Stream(seed=seed).generator(Purpose.ORDER, epoch).permutation(count)


def pad(rows: Sequence[Example], seq_len: int) -> Batch:
    """Return the batch of some rows, cut to `seq_len`, in the order given.

    Args:
        rows: at least one.
        seq_len: longest row, in tokens.

    Returns:
        The batch; its length is that of the longest row, rounded up to a multiple of 64, at most
        `seq_len`.
    """
    rows = [row.cut(seq_len) for row in rows]
    lengths = np.array([len(row.tokens) for row in rows], dtype=np.int64)
    length = min(-(-int(lengths.max()) // ROUND) * ROUND, seq_len)
    tokens = np.full((len(rows), length), PAD, dtype=np.int64)
    loss_mask = np.zeros((len(rows), length), dtype=np.bool_)
    for i, row in enumerate(rows):
        tokens[i, : lengths[i]] = row.tokens
        loss_mask[i, : lengths[i]] = row.loss_mask
    return Batch(tokens, loss_mask, lengths)

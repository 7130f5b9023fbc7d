"""What a run is made of before any weight: its examples, the shape of a new drafter, its seed."""

from typing import Any

import numpy as np

from dspec.config import DrafterConfig, TrainConfig
from dspec.errors import ConfigError, explain
from dspec.io.data import hold_out, load_examples
from dspec.io.examples import Example
from dspec.progress import note
from dspec.rng import Purpose, Stream

# Names under which tokenizers carry a mask token of their own.
MASK_NAMES = ("<|mask|>", "<|MASK|>", "[MASK]", "<mask>")


def read_examples(
    target: Any, data: Any, validation: Any, config: TrainConfig, *, quiet: bool = True
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Return the examples to train on and those to validate on.

    Args:
        target: gives tokenizer and vocabulary.
        data: JSONL file.
        validation: JSONL file; None holds `validate_examples` out of `data`, a tenth of it at most.
        config: sequence length, seed, `validate_examples`.
        quiet: False says on stderr what became of the records, and how many are held out.

    Returns:
        Both, cut to the sequence length.

    Raises:
        DataError: a record cannot be used.
    """

    def read(path: Any) -> tuple[Example, ...]:
        size = {"seq_len": config.seq_len, "vocab_size": target.vocab_size}
        found, summary = load_examples(path, tokenizer=target.tokenizer, **size)
        note(f"{path}: {summary}", quiet=quiet)
        return found

    examples = read(data)
    if validation is not None:
        return examples, read(validation)
    count = min(config.validate_examples, len(examples) // 10)
    note(f"validation: {_slice(count, len(examples), config.validate_examples)}", quiet=quiet)
    return hold_out(examples, count=count, seed=config.seed)


def _slice(count: int, whole: int, asked: int) -> str:
    """Return how many examples are held out, and why not as many as were asked for."""
    if count == asked:
        return f"{count} of {whole} examples held out" if asked else "none, as validate_examples is 0"
    less = f"a tenth of the data, which is less than validate_examples = {asked}"
    return f"{count or 'none'} of {whole} examples held out: {less}"


def drafter_config(target: Any, config: TrainConfig) -> DrafterConfig:
    """Return the shape of a new drafter for a target.

    Spec: BD-5, BD-7.

    Args:
        target: gives facts, and tokenizer and embedding where no mask token is named.
        config: block size, layers, taps, mask token.

    Returns:
        The drafter's config.

    Raises:
        ConfigError: a setting does not fit the target.
    """
    return DrafterConfig.for_target(
        target.facts,
        block_size=config.block_size,
        layers=config.layers,
        target_layer_ids=config.target_layer_ids,
        mask_token_id=spare_token(target) if config.mask_token_id is None else config.mask_token_id,
    )


def init_generator(seed: int) -> np.random.Generator:
    """Return the only source of chance of a drafter's first weights, a key beside order and anchors.

    Spec: RN-5.

    Args:
        seed: of the run.

    Returns:
        A numpy generator; a framework with its own draws a seed from it.

    Example:
        >>> first, again = init_generator(7), init_generator(7)
        >>> bool(first.integers(2**63) == again.integers(2**63))
        True
    """
    return Stream(seed).generator(Purpose.INIT, 0)


def spare_token(target: Any) -> int:
    """Return the token that stands for a drafted slot: a mask token of the tokenizer, or the first
    row of the embedding that no token uses.

    Args:
        target: gives tokenizer and embedding.

    Returns:
        Its id.

    Raises:
        ConfigError: there is none; the message says how to name one.
    """
    remedy = "Name a token the text never holds: mask_token_id=..."
    if target.tokenizer is None:
        raise ConfigError(
            explain("mask_token_id", "none", "an id: the target has no tokenizer", remedy=remedy)
        )
    known = target.tokenizer.get_vocab()
    for name in MASK_NAMES:
        if name in known:
            return int(known[name])
    first_free = max(known.values()) + 1
    if first_free >= target.vocab_size:
        got = f"none, and all {target.vocab_size} rows of the embedding are tokens"
        raise ConfigError(explain("mask_token_id", got, "an id", remedy=remedy))
    return int(first_free)

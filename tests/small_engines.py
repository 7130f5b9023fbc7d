"""Engines of tables and tokenizers of bytes, for tests of requests, prompts and text."""

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dspec.backends.numpy import NumpyOps, TableDrafter, TableTarget
from dspec.engine import Engine

V = 6


def small_engine():
    rng = np.random.default_rng(1)
    law = rng.dirichlet(np.full(V, 0.5), (2, V))
    return Engine(
        TableTarget(law, frozenset([5])), TableDrafter(law[[0, 1, 0]], autoregressive=True), NumpyOps()
    )


def byte_tokenizer(extra=()):
    """Bytes as tokens, as `tokenizers` makes them; then `extra` byte strings; the last is the end token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    signs = byte_signs()
    words = [*alphabet, *("".join(signs[b] for b in word) for word in extra)]
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(words)}, merges=[]))
    inner.pre_tokenizer, inner.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    inner.add_special_tokens(["<|end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>")


def byte_signs():
    """The sign that stands for each byte: printable bytes for themselves, the others from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def script(engine_text, tokenizer, *, drafts=True):
    """An engine that says one fixed text: a table of certain successors over the text's positions."""
    ids = [*tokenizer(engine_text)["input_ids"], tokenizer.eos_token_id]
    return saying(ids, tokenizer, drafts=drafts)


def saying(ids, tokenizer, *, drafts=True):
    """An engine that emits these tokens."""
    table = np.zeros((len(ids), len(tokenizer), len(tokenizer)))
    for i, token in enumerate(ids):
        table[i, :, token] = 1.0
    target = TableTarget(table, frozenset([tokenizer.eos_token_id]))
    object.__setattr__(target, "tokenizer", tokenizer)
    uniform = np.full((3, len(tokenizer), len(tokenizer)), 1 / len(tokenizer))
    return Engine(target, TableDrafter(uniform) if drafts else None, NumpyOps())

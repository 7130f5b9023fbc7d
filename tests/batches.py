"""Requests that share a batch, and what each of them is alone."""

from dataclasses import replace

import numpy as np

from dspec.backends.numpy import NumpyOps, TableDrafter, TableTarget
from dspec.engine import Engine
from dspec.request import parse_request
from tests.small_engines import byte_tokenizer

V, END = 6, 5
HOT = {"temperature": 1.0}
SETTINGS = [
    {"temperature": 0.0},
    {**HOT, "policy": "one_hot"},
    {**HOT, "policy": "rejection"},
    {**HOT, "policy": "sample_match"},
    {**HOT, "policy": "block"},
    {"temperature": 0.7, "top_p": 0.9, "policy": "rejection"},
    {"temperature": 1.5, "top_k": 3, "min_p": 0.05},
]


def tables(*, chained=True, ops=None):
    rng = np.random.default_rng(4)
    law = rng.dirichlet(np.full(V, 0.5), (2, V))
    near = 0.7 * law[[0, 1, 0]] + 0.3 * rng.dirichlet(np.ones(V), (3, V))
    return Engine(TableTarget(law, frozenset([END])), TableDrafter(near, chained), ops or NumpyOps())


def ragged(count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, V, rng.integers(1, 9)).tolist() for _ in range(count)]


def gathered(count, events):
    found = [[] for _ in range(count)]
    for i, chunk in events:
        found[i].append(chunk)
    return found


def alone(engine, prompts, settings):
    """What each request emits by itself, request i of its seed."""
    requests = [replace(parse_request(one), number=i) for i, one in enumerate(settings)]
    return [list(engine._alone(engine._job(p, r))) for p, r in zip(prompts, requests, strict=True)]


def together(engine, prompts, settings, rows):
    return gathered(len(prompts), engine.stream_many(prompts, settings=settings, batch_size=rows))


def mixed(count, **shared):
    return [{**SETTINGS[i % len(SETTINGS)], "max_new_tokens": 3 + 5 * i % 17, **shared} for i in range(count)]


def letters():
    """An engine that writes letters, most of them a few: short stop strings come up."""
    tokenizer = byte_tokenizer()
    size, rng = len(tokenizer), np.random.default_rng(6)
    law = np.full((2, size, size), 1e-4)
    law[:, :, [tokenizer.get_vocab()[c] for c in "abcd"]] = rng.dirichlet(np.ones(4), (2, size))
    law[:, :, tokenizer.eos_token_id] = 0.03
    law /= law.sum(axis=-1, keepdims=True)
    target = TableTarget(law, frozenset([tokenizer.eos_token_id]))
    object.__setattr__(target, "tokenizer", tokenizer)
    return Engine(target, TableDrafter(law[[0, 1, 0]], True), NumpyOps())

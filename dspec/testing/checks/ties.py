"""Greedy decoding where maxima tie, and an engine's greedy outputs under teacher forcing."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from dspec.oracle.rejection import verify_greedy as scalar_greedy
from dspec.testing.report import Report

CLAUSES = ("RS-11", "NU-5")
SIZES = (1, 2, 3, 5, 16, 17, 31, 33, 64, 65, 130, 1000)
ROWS, SLOTS = 16, (0, 1, 3)
HAIR = 1 + 2.0**-12  # apart from 1 in float32, not in 16 bits

Greedy = Callable[[Any, Any], tuple[Any, Any]]
"""(logits (B, K + 1, V), drafts (B, K)) -> tokens (B, K + 1), n_accepted (B,)."""


def check_greedy(
    verify_greedy: Greedy,
    *,
    xp: Any,
    count: int = 36,
    seed: int = 0,
    dtype: Any = None,
    to_numpy: Callable[[Any], Any] = np.asarray,
    row: Any = None,
) -> Report:
    """Check that greedy verification takes the lowest index among equal logits, at every slot.

    Logits are 0, 1 or 2, so that nearly every row ties; some rows have -inf, and in float32 some tokens
    lead by 2^-12, which rounding to 16 bits would make a tie. Half of the drafts are the right token, a
    quarter another one of the largest.

    Spec: RS-11, NU-5.

    Args:
        verify_greedy: see `Greedy`.
        xp: array namespace of its arguments.
        count: batches of 16 rows; V and K go round.
        seed: of logits and drafts.
        dtype: of the logits; None: float32.
        to_numpy: brings results to the host.
        row: check only this: (logits of K + 1 slots, drafts).

    Returns:
        The report, alpha 0.

    Example:
        >>> import array_api_compat.numpy as xp
        >>> from dspec.testing.specimens.faulty_rules import GreedyRule, last
        >>> check_greedy(GreedyRule(), xp=xp).passed, check_greedy(GreedyRule(pick=last), xp=xp).passed
        (True, False)
    """
    wide = dtype is None or dtype == xp.float32
    batches = make_batches(count, seed=seed, wide=wide) if row is None else [_one(row)]
    rows = 0
    for logits, drafts in batches:
        arrays = xp.asarray(logits.copy()), xp.asarray(drafts.copy())
        given = arrays if dtype is None else (xp.asarray(arrays[0], dtype=dtype), arrays[1])
        tokens, n_accepted = (np.asarray(to_numpy(part)) for part in verify_greedy(*given))
        for index in range(len(logits)):
            rows += 1
            needed = scalar_greedy(logits[index].tolist(), drafts[index].tolist())
            got = tokens[index, : int(n_accepted[index]) + 1].tolist()
            if got != needed:
                return _failed(logits[index], drafts[index], got, needed, rows)
    return Report(check="greedy", passed=True, tried={"rows": rows}, clauses=CLAUSES)


def _one(row: Any) -> tuple[Any, Any]:
    logits = np.asarray([[[float(x) for x in slot] for slot in row[0]]], np.float32)
    return logits, np.asarray(row[1], np.int32).reshape(1, -1)


def _failed(logits: Any, drafts: Any, got: list[int], needed: list[int], rows: int) -> Report:
    slot = next(
        (i for i, pair in enumerate(zip(got, needed)) if pair[0] != pair[1]), min(len(got), len(needed))
    )
    peak = np.flatnonzero(logits[min(slot, len(logits) - 1)] == logits[min(slot, len(logits) - 1)].max())
    plain = [[[str(x) if np.isinf(x) else x for x in line] for line in logits.tolist()], drafts.tolist()]
    return Report(
        check="greedy",
        passed=False,
        tried={"rows": rows},
        clauses=CLAUSES,
        counterexample={
            "vocabulary": logits.shape[-1],
            "drafts": drafts,
            "got": got,
            "needed": needed,
            "slot": slot,
            "largest logits there at": peak[:8],
            "logits there": logits[min(slot, len(logits) - 1)][:16],
        },
        replay={"check": "greedy", "arguments": {"row": plain}},
    )


def make_batches(count: int, *, seed: int, wide: bool) -> Iterator[tuple[Any, Any]]:
    """Yield logits (16, K + 1, V) and drafts (16, K), small vocabularies first.

    Args:
        count: of batches.
        seed: of the numbers.
        wide: whether some tokens lead by 2^-12.
    """
    rng = np.random.default_rng(seed)
    for index in range(count):
        size, slots = SIZES[index * len(SIZES) // count], SLOTS[index % len(SLOTS)]
        logits = rng.integers(0, 3, (ROWS, slots + 1, size)).astype(np.float32)
        if wide:
            logits[::4][logits[::4] == 1] = rng.choice([1, HAIR], (logits[::4] == 1).sum())
            logits[::8][logits[::8] == 2] = 0
        hidden = rng.random(logits.shape) < 0.2
        hidden[..., rng.integers(0, size)] = False  # a row keeps a finite logit
        logits[1::4][hidden[1::4]] = -np.inf
        largest = logits == logits.max(axis=-1, keepdims=True)
        first, last = largest.argmax(axis=-1), size - 1 - largest[..., ::-1].argmax(axis=-1)
        kind = rng.integers(0, 4, (ROWS, slots))
        other = rng.integers(0, size, (ROWS, slots))
        drafts = np.where(kind < 2, first[:, :slots], np.where(kind == 2, last[:, :slots], other))
        yield logits, drafts.astype(np.int32)


def check_greedy_outputs(
    engine: Any,
    *,
    prompts: Sequence[Sequence[int]],
    distance: float,
    max_new_tokens: int = 12,
) -> Report:
    """Check an engine's greedy outputs by forcing them through its own target in one plain pass.

    Every emitted token must be the argmax of the target's logits after the tokens before it. Another
    pass width rounds otherwise, so a token may lie `distance` below the largest; 0 admits none, and then
    equal logits must give the lowest index.

    Spec: RS-11, DL-7.

    Args:
        engine: a `dspec.engine.Engine`.
        prompts: token ids, each.
        distance: how far below the largest logit an emitted token may lie, nats.
        max_new_tokens: of each output.

    Returns:
        The report, alpha 0; `tried` counts tokens that were not the argmax but near it.

    Example:
        >>> from dspec.testing.models.recall import recall_engine
        >>> check_greedy_outputs(recall_engine(), prompts=[[1, 2]], distance=0.0).tried["tokens"]
        12
    """
    tried = {"prompts": 0, "tokens": 0, "near ties": 0}
    clauses = ("RS-11", "DL-7")
    for prompt in prompts:
        out = engine.generate(list(prompt), max_new_tokens=max_new_tokens, temperature=0.0)
        tried["prompts"] += 1
        for place, row in enumerate(_forced(engine, prompt, out.tokens)):
            token, best = int(out.tokens[place]), int(np.argmax(row))
            gap = float(row[best] - row[token])
            if not gap <= distance or (distance == 0 and token != best):
                example = {"prompt": list(prompt), "tokens": out.tokens, "place": place}
                example |= {"argmax": best, "below it by": gap, "allowed": distance}
                arguments = {
                    "prompts": [list(prompt)],
                    "distance": distance,
                    "max_new_tokens": max_new_tokens,
                }
                return Report(
                    check="greedy_outputs",
                    passed=False,
                    tried=tried,
                    clauses=clauses,
                    counterexample=example,
                    replay={"check": "greedy_outputs", "arguments": arguments},
                )
            tried["tokens"] += 1
            tried["near ties"] += token != best
    return Report(check="greedy_outputs", passed=True, tried=tried, clauses=clauses)


def _forced(engine: Any, prompt: Sequence[int], tokens: Sequence[int]) -> Any:
    """Return (n, V) logits that the target has for each of the n tokens."""
    session = engine.target.session(layer_ids=(), capacity=len(prompt) + len(tokens))
    first = session.prefill(list(prompt)).logits
    rest = engine.ops.from_host(np.asarray([tokens[1:-1]], dtype=np.int32))
    parts = [first] if len(tokens) == 1 else [first, session.score(tokens[0], rest).logits]
    return np.concatenate([np.asarray(engine.ops.to_host(part), np.float64)[0] for part in parts])

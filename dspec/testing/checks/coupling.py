"""Same laws, same uniforms, token by token: an array verifier against the scalar float64 reference, or two
array verifiers against each other, by the million.

Only rows with a uniform next to a threshold may differ; their share is reported. "Next to" is declared:
within 2^-20, relative to p(d) for the acceptance test and to the total mass for a draw; of masses under block
verification.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dspec.oracle.joint import prefix_weights, verify_block
from dspec.oracle.rejection import (
    block_width,
    draw_two_level,
    residual,
    verify_sample_match,
    verify_tokens,
)
from dspec.testing.checks.instances import SAMPLED_MODES
from dspec.testing.checks.lattice import Verify, answer
from dspec.testing.report import Report

NEAR = 2.0**-20
CHUNK = 4096  # rows a call of `check_coupled_arrays`: 7 MB of laws, which a cache holds better than 70
CLAUSES = ("RS-10", "RS-12", "NU-1", "NU-2")


def check_coupling(
    verify: Verify,
    *,
    xp: Any,
    rows: int = 2000,
    vocab: int = 64,
    num_drafts: int = 3,
    mode: str = "rejection",
    seed: int = 0,
    spread: float = 2.0,
    row: int | None = None,
    to_numpy: Callable[[Any], Any] = np.asarray,
) -> Report:
    """Check that a float32 verifier emits the reference's tokens, apart from near-edge rows.

    Spec: RS-10, RS-12, NU-1, NU-2.

    Args:
        verify: see `dspec.testing.checks.lattice.Verify`.
        xp: array namespace of its arguments.
        rows: B.
        vocab: V.
        num_drafts: K.
        mode: "rejection", "block", "one_hot" or "match".
        seed: of laws and uniforms.
        spread: standard deviation of the logits behind the laws.
        row: judge only this row of the batch (replay); None: all.
        to_numpy: brings results to the host.

    Returns:
        The report; `tried` has the number of near-edge rows, about 2^-19 times the thresholds of a row.
    """
    case = random_case(rows, vocab, num_drafts, mode=mode, seed=seed, spread=spread)
    arrays = [None if part is None else xp.asarray(part.copy()) for part in case]
    tokens, n_accepted = answer(verify, arrays, to_numpy)
    excused = 0
    for index in range(rows) if row is None else [row]:
        given = [None if part is None else part[index] for part in case]
        needed = reference(given, mode)
        got = _emitted(tokens, n_accepted, index)
        if got == needed:
            continue
        margin = edge_distance(given, needed, mode)
        if margin > NEAR:
            again = {"rows": rows, "vocab": vocab, "num_drafts": num_drafts, "mode": mode, "seed": seed}
            example = {"row": index, "seed": seed, "got": got, "needed": needed, "edge distance": margin}
            return Report(
                check="coupling",
                passed=False,
                tried={"rows": index + 1},
                counterexample=example,
                clauses=CLAUSES,
                replay={"check": "coupling", "arguments": {**again, "spread": spread, "row": index}},
            )
        excused += 1
    tried = {"rows": rows if row is None else 1, "near-edge mismatches": excused}
    return Report(check="coupling", passed=True, tried=tried, clauses=CLAUSES)


def check_coupled_arrays(
    first: Verify,
    second: Verify,
    *,
    rows: int,
    vocab: int = 64,
    num_drafts: int = 3,
    mode: str = "rejection",
    seed: int = 0,
    spread: float = 2.0,
    chunk: int | None = None,
) -> Report:
    """Check that two verifiers emit the same tokens from the same arrays, apart from near-edge rows.

    Both run on whole batches; the scalar reference is asked only about rows on which they differ, so
    that ten million rows take minutes. It cannot see what both do wrong alike: `check_coupling` does.

    Spec: RS-10, RS-12, NU-1, NU-2.

    Args:
        first: a verifier that takes numpy arrays and returns what `np.asarray` reads.
        second: another.
        rows: how many, in batches of 4,096 drawn afresh from (seed, number of the batch).
        vocab: V.
        num_drafts: K.
        mode: "rejection", "block", "one_hot" or "match".
        seed: of laws and uniforms.
        spread: standard deviation of the logits behind the laws.
        chunk: run only the batch of this number (replay); None: all.

    Returns:
        The report; `tried` has the rows and the mismatches next to an edge; alpha is 0.

    Example:
        >>> from dspec.testing.specimens.arrays import Arrays
        >>> check_coupled_arrays(Arrays(), Arrays(dtype=np.float32), rows=100, seed=1).passed
        True
    """
    batches = range(-(-rows // CHUNK)) if chunk is None else [chunk]
    shape: dict[str, Any] = {"mode": mode, "spread": spread}
    done = excused = 0
    for number in batches:
        size = min(CHUNK, rows - number * CHUNK)
        case = random_case(size, vocab, num_drafts, seed=(seed, number), **shape)
        near, wrong = _differences(first, second, case, mode)
        done, excused = done + (wrong["row"] + 1 if wrong else size), excused + near
        if wrong:
            again = {"rows": rows, "vocab": vocab, "num_drafts": num_drafts, "seed": seed, **shape}
            return Report(
                check="coupled_arrays",
                passed=False,
                tried={"rows": done, "near-edge mismatches": excused},
                counterexample={"seed": seed, "chunk": number, **wrong},
                clauses=CLAUSES,
                replay={"check": "coupled_arrays", "arguments": {**again, "chunk": number}},
            )
    tried = {"rows": done, "near-edge mismatches": excused}
    return Report(check="coupled_arrays", passed=True, tried=tried, clauses=CLAUSES)


def _differences(first: Verify, second: Verify, case: Any, mode: str) -> tuple[int, dict[str, Any]]:
    """Return the number of rows that differ next to an edge, and the first that differs elsewhere."""
    answers = []
    for verify in (first, second):
        # Each gets its own copy: one that writes into its arguments must not change the other's.
        arrays = [None if part is None else part.copy() for part in case]
        answers.append(answer(verify, arrays, np.asarray))
    kept = [np.where(np.arange(tokens.shape[1]) <= n[:, None], tokens, -1) for tokens, n in answers]
    near = 0
    for index in np.flatnonzero((kept[0] != kept[1]).any(axis=1)).tolist():
        row = [None if part is None else part[index] for part in case]
        needed = reference(row, mode)
        margin = edge_distance(row, needed, mode)
        if margin > NEAR:
            both = [_emitted(*answer, index) for answer in answers]
            return near, {"row": index, "got": both, "needed": needed, "edge distance": margin}
        near += 1
    return near, {}


def _emitted(tokens: Any, n_accepted: Any, index: int) -> list[int]:
    emitted: list[int] = tokens[index, : int(n_accepted[index]) + 1].tolist()
    return emitted


def random_case(
    rows: int, vocab: int, num_drafts: int, *, mode: str, seed: int | tuple[int, ...], spread: float
) -> tuple[Any, Any, Any, Any, Any]:
    """Return float32 laws, drafts drawn from the drafter's, and 24-bit uniforms.

    Drafter logits are the target's plus noise of half the spread, so acceptance is about a half.
    """
    rng = np.random.default_rng(seed)
    logits = spread * rng.standard_normal((rows, num_drafts + 1, vocab), dtype=np.float32)
    noise = 0.5 * spread * rng.standard_normal((rows, num_drafts, vocab), dtype=np.float32)
    target, drafter = _softmax(logits), _softmax(logits[:, :num_drafts] + noise)
    heights = rng.random((rows, num_drafts, 1)) * drafter.sum(axis=-1, keepdims=True, dtype=np.float64)
    drafts = (np.cumsum(drafter, axis=-1, dtype=np.float64) <= heights).sum(axis=-1)
    drafts = np.minimum(drafts, vocab - 1).astype(np.int32)
    accept = grid_uniforms(rng, (rows, num_drafts))
    close = grid_uniforms(rng, (rows, num_drafts + 1, 2))
    return target, drafts, drafter if mode in SAMPLED_MODES else None, accept, close


def _softmax(logits: Any) -> Any:
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)


def grid_uniforms(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Return float32 multiples of 2^-24 in [0, 1) (RN-3)."""
    return (rng.integers(0, 2**24, shape) * 2.0**-24).astype(np.float32)


def reference(row: Sequence[Any], mode: str) -> list[int]:
    """Return what the scalar reference emits in float64 on one row of `random_case`."""
    parts: list[Any] = [None if part is None else part.tolist() for part in row]
    target, drafts, drafter, accept, close = parts
    if mode == "match":
        return verify_sample_match(target, drafts, close, draw=draw_two_level)
    if mode == "block":
        return verify_block(target, drafts, drafter, accept, close, draw=draw_two_level)
    return verify_tokens(target, drafts, drafter, accept, close, draw=draw_two_level)


def edge_distance(row: Sequence[Any], emitted: Sequence[int], mode: str) -> float:
    """Return how near the row's closest uniform lies to a threshold it was compared with."""
    if mode == "block":
        return _joint_distance(row, len(emitted) - 1)
    target, drafts, drafter, accept, close = row
    drafted = len(drafts)
    distance = math.inf
    for slot in range(len(emitted)):
        p = target[slot].astype(np.float64)
        if mode == "match":
            distance = min(distance, draw_distance(p, close[slot]))
        elif slot < drafted:
            q = _drafter_law(drafter, drafts, slot, len(p))
            reached, token = p[drafts[slot]], drafts[slot]
            distance = min(distance, abs(float(accept[slot]) * q[token] - reached) / max(reached, 1e-300))
    if mode == "match":
        return distance
    last = len(emitted) - 1
    law = target[last].astype(np.float64)
    if last < drafted:
        law = np.asarray(residual(law.tolist(), _drafter_law(drafter, drafts, last, len(law)).tolist()))
    return min(distance, draw_distance(law, close[0]))


def _joint_distance(row: Sequence[Any], n_accepted: int) -> float:
    """Return the distance under block verification: of masses, not relative, as they are differences."""
    target, drafts, drafter, accept, close = row
    p, q = target.astype(np.float64), drafter.astype(np.float64)
    left = np.asarray(prefix_weights(p.tolist(), drafts.tolist(), q.tolist()), np.float64)
    excess = np.maximum(left[:-1, None] * p[:-1] - q, 0)  # row i: after prefix i
    mass, u = excess.sum(axis=-1), accept.astype(np.float64)
    tests = np.abs(u[:-1] * (mass[1:] + 1 - left[1:-1]) - mass[1:])
    closing = p[n_accepted] if n_accepted == len(drafts) or not mass[n_accepted] else excess[n_accepted]
    near = min(float(abs(u[-1] - left[-1])), draw_distance(closing, close[0]))
    return min([near, *tests.tolist()])


def _drafter_law(drafter: Any, drafts: Any, slot: int, size: int) -> Any:
    if drafter is not None:
        return drafter[slot].astype(np.float64)
    law = np.zeros(size)
    law[drafts[slot]] = 1.0
    return law


def draw_distance(law: Any, uniforms: Any) -> float:
    """Return the distance of both uniforms of a draw to their thresholds, as shares of the total mass."""
    width = block_width(len(law))
    padded = np.concatenate([law, np.zeros(-len(law) % width)]).reshape(-1, width)
    chosen = draw_two_level(law.tolist(), uniforms.tolist()) // width
    levels = (padded.sum(axis=-1), padded[chosen])
    return min(
        float(np.abs(float(u) - np.cumsum(masses) / masses.sum()).min())
        for masses, u in zip(levels, uniforms)
    )

"""Several drafts of one slot, token by token: an array verifier against the scalar float64 reference.

Only rows with a uniform next to a threshold may differ. "Next to" is declared: within 2^-20, of masses that
the target still owes, not divided by their sum: each rejection makes a relative error larger.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dspec.oracle.rejection import draw_two_level, one_hot, residual
from dspec.oracle.several import verify_several
from dspec.oracle.warp import normalised
from dspec.testing.checks.coupling import NEAR, draw_distance, grid_uniforms
from dspec.testing.checks.several import VerifySeveral, answer
from dspec.testing.report import Report

CLAUSES = ("RS-22", "RS-10", "RS-12", "NU-1", "NU-2")


def check_several_coupling(
    verify: VerifySeveral,
    *,
    xp: Any = np,
    rows: int = 1000,
    vocab: int = 64,
    count: int = 3,
    kind: str = "alike",
    seed: int = 0,
    row: int | None = None,
    to_numpy: Callable[[Any], Any] = np.asarray,
) -> Report:
    """Check that a float32 verifier of several drafts chooses as the reference does, but for near-edge rows.

    Spec: RS-22, RS-10, RS-12, NU-1, NU-2.

    Args:
        verify: see `dspec.testing.checks.several.VerifySeveral`.
        xp: array namespace of its arguments.
        rows: B.
        vocab: V.
        count: k.
        kind: "alike", "apart" or "one_hot", as for `check_several`.
        seed: of laws, drafts and uniforms.
        row: judge only this row of the batch (replay); None: all.
        to_numpy: brings results to the host.

    Returns:
        The report; `tried` has the number of near-edge rows; alpha is 0.

    Example:
        >>> none_stands = lambda p, x, q, u, c: (0 * x[:, 0] + x.shape[1], 0 * x[:, 0])
        >>> check_several_coupling(none_stands, rows=20).passed
        False
    """
    case = random_slots(rows, vocab, count, kind=kind, seed=seed)
    arrays = [None if part is None else xp.asarray(part.copy()) for part in case]
    index, tokens = answer(verify, arrays, to_numpy)
    excused = 0
    for number in range(rows) if row is None else [row]:
        given: list[Any] = [None if part is None else part[number].tolist() for part in case]
        which, token = verify_several(*given, draw=draw_two_level)
        needed = (count if which is None else which, token)
        got = (int(index[number]), int(tokens[number]))
        if got == needed:
            continue
        margin = edge_distance(given, which)
        if margin > NEAR:
            again = {"rows": rows, "vocab": vocab, "count": count, "kind": kind, "seed": seed, "row": number}
            example = {"row": number, "seed": seed, "got": got, "needed": needed, "edge distance": margin}
            return Report(
                check="several_coupling",
                passed=False,
                tried={"rows": number + 1},
                counterexample=example,
                clauses=CLAUSES,
                replay={"check": "several_coupling", "arguments": again},
            )
        excused += 1
    tried = {"rows": rows if row is None else 1, "near-edge mismatches": excused}
    return Report(check="several_coupling", passed=True, tried=tried, clauses=CLAUSES)


def random_slots(rows: int, vocab: int, count: int, *, kind: str, seed: int) -> tuple[Any, ...]:
    """Return float32 laws, drafts of a kind and 24-bit uniforms: the arguments of a verifier, on numpy.

    Args:
        rows: B.
        vocab: V; more than k.
        count: k.
        kind: "alike", "apart" or "one_hot".
        seed: of everything.

    Example:
        >>> [part.shape for part in random_slots(2, 5, 3, kind="apart", seed=0)]
        [(2, 5), (2, 3), (2, 3, 5), (2, 3), (2, 2)]
    """
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((rows, vocab))
    target, drafter = (_softmax(part) for part in (logits, logits + rng.standard_normal((rows, vocab))))
    tokens, laws = np.zeros((rows, count), np.int32), np.zeros((rows, count, vocab), np.float32)
    for j in range(count):
        law = drafter.astype(np.float64)
        if kind != "alike":
            np.put_along_axis(law, tokens[:, :j].astype(np.int64), 0.0, axis=1)
        laws[:, j] = law / law.sum(axis=1, keepdims=True)
        heights = rng.random((rows, 1)) * law.sum(axis=1, keepdims=True)
        drawn = np.minimum((law.cumsum(axis=1) <= heights).sum(axis=1), vocab - 1)
        tokens[:, j] = law.argmax(axis=1) if kind == "one_hot" else drawn
    accept, close = grid_uniforms(rng, (rows, count)), grid_uniforms(rng, (rows, 2))
    return target, tokens, None if kind == "one_hot" else laws, accept, close


def _softmax(logits: Any) -> Any:
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)


def edge_distance(given: Sequence[Any], which: int | None) -> float:
    """Return how near the row's closest uniform lies to a threshold that it was compared with, in masses.

    Args:
        given: arguments of the reference, a row as lists.
        which: the draft that stands; None: none does.

    Example:
        >>> edge_distance([[0.25, 0.75], [0], [[0.5, 0.5]], [0.25], [0.5, 0.5]], 0)
        0.125
    """
    owed, tokens, laws, accept, close = given
    scale = 1.0
    distance: float = math.inf
    for j, token in enumerate(tokens):
        law = one_hot(token, len(owed)) if laws is None else laws[j]
        distance = min(distance, scale * abs(accept[j] * law[token] - owed[token]))
        if j == which:
            return distance
        left = residual(owed, law)
        scale *= float(sum(max(p - q, 0) for p, q in zip(owed, law))) or 1.0
        owed = normalised(left)
    return min(distance, scale * draw_distance(np.asarray(owed, np.float64), np.asarray(close)))

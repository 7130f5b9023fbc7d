"""A battery of edges that sampling never meets: extreme uniforms, empty residuals, odd V, bad rows.

Every case is small and says what a right verifier must do; none depends on how a uniform is mapped to a
token, except that an emitted token has positive mass.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dspec.oracle.rejection import block_width
from dspec.testing.coupling import grid_uniforms, random_case
from dspec.testing.lattice import Verify
from dspec.testing.report import Report

TOP = 1.0 - 2.0**-24  # the largest uniform
SIZES = (1, 2, 3, 4, 5, 15, 16, 17, 24, 25, 26, 63, 64, 65, 1000)


@dataclass(frozen=True)
class Case:
    """One batch and the judgement of what came out.

    Args:
        name: of the edge.
        arrays: target_probs, draft_tokens, draft_probs or None, accept_u, close_u (numpy).
        n_accepted: (B,) accepted lengths; None where any will do.
        malformed: (B,) bool, rows that must be flagged; None: no row.
        always: whether n_accepted holds in every mode, not only for sampled drafts.
    """

    name: str
    arrays: tuple[Any, Any, Any, Any, Any]
    n_accepted: Any = None
    malformed: Any = None
    always: bool = False


def check_boundaries(
    verify: Verify,
    *,
    xp: Any,
    mode: str = "rejection",
    to_numpy: Callable[[Any], Any] = np.asarray,
) -> Report:
    """Check the edges: support, strict acceptance, empty residual, odd V, K = 0, bad rows, purity, rows.

    Spec: RS-4, RS-5, RS-7, RS-9, RS-16, RS-17.

    Args:
        verify: see `dspec.testing.lattice.Verify`; a malformed row must come back with n_accepted -1.
        xp: array namespace of its arguments.
        mode: "rejection", "one_hot" or "match".
        to_numpy: brings results to the host.

    Returns:
        The report; alpha is 0.
    """
    tried = 0
    for case in cases(mode):
        tried += len(case.arrays[1])
        wrong = _judge(verify, case, xp=xp, to_numpy=to_numpy)
        if wrong:
            example = {"case": case.name, "wrong": wrong}
            return Report(check="boundaries", passed=False, tried={"rows": tried}, counterexample=example)
    wrong = _rows_independent(verify, xp=xp, mode=mode, to_numpy=to_numpy)
    last = {"case": "rows independent", "wrong": wrong} if wrong else None
    return Report(check="boundaries", passed=not wrong, tried={"rows": tried + 24}, counterexample=last)


def _judge(verify: Verify, case: Case, *, xp: Any, to_numpy: Callable[[Any], Any]) -> str:
    """Return what is wrong with the answer to a case, or nothing."""
    tokens, n_accepted, arrays = _call(verify, case.arrays, xp=xp, to_numpy=to_numpy)
    for before, after in zip(case.arrays, arrays):
        if before is not None and not np.array_equal(before, np.asarray(to_numpy(after)), equal_nan=True):
            return "an input was modified"
    malformed = np.zeros(len(tokens), bool) if case.malformed is None else case.malformed
    if (n_accepted[malformed] != -1).any():
        return f"malformed row not flagged: n_accepted {n_accepted.tolist()}"
    if case.n_accepted is not None and (n_accepted != case.n_accepted)[~malformed].any():
        return f"n_accepted {n_accepted.tolist()}; needed {np.asarray(case.n_accepted).tolist()}"
    for row in np.nonzero(~malformed)[0]:
        wrong = _outside_support(case.arrays[0][row], tokens[row], int(n_accepted[row]))
        if wrong:
            return f"row {row}: {wrong}"
    return ""


def _call(verify: Verify, arrays: Any, *, xp: Any, to_numpy: Callable[[Any], Any]) -> tuple[Any, Any, Any]:
    given = [None if part is None else xp.asarray(part.copy()) for part in arrays]
    tokens, n_accepted = (np.asarray(to_numpy(x)).astype(np.int64) for x in verify(*given))
    return tokens, n_accepted, given


def _outside_support(target: Any, tokens: Any, n_accepted: int) -> str:
    if not 0 <= n_accepted < len(target):
        return f"n_accepted {n_accepted}"
    for slot in range(n_accepted + 1):
        token = int(tokens[slot])
        if not 0 <= token < target.shape[-1]:
            return f"slot {slot}: id {token} outside [0, {target.shape[-1]})"
        if not target[slot, token] > 0:
            return f"slot {slot}: id {token} has target probability {target[slot, token]}"
    return ""


def cases(mode: str) -> Iterator[Case]:
    """Yield the battery for "rejection", "one_hot" or "match"."""
    builders: list[Callable[[], Iterator[Case]]] = [_strictness, _certain, _hair, _tops, _sizes, _no_drafts]
    for build in builders:
        for case in build():
            yield _in_mode(case, mode)
    yield from _malformed(mode)


def _in_mode(case: Case, mode: str) -> Case:
    """Drop the drafter's laws and what they imply, where the mode does not read them."""
    if mode == "rejection":
        return case
    target, tokens, _, accept, close = case.arrays
    return replace(
        case,
        arrays=(target, tokens, None, accept, close),
        n_accepted=case.n_accepted if case.always else None,
    )


def _case(name: str, target: Any, drafts: Any, drafter: Any, u: float, n_accepted: Any = None) -> Case:
    """Return a case of one law per row and slot, with all uniforms equal to u."""
    target, drafter = np.asarray(target, np.float32), np.asarray(drafter, np.float32)
    drafts = np.asarray(drafts, np.int32)
    rows, slots = drafts.shape
    accept = np.full((rows, slots), u, np.float32)
    close = np.full((rows, slots + 1, 2), u, np.float32)
    return Case(name, (target, drafts, drafter, accept, close), n_accepted)


def _strictness() -> Iterator[Case]:
    """u * q < p is strict: p = 0 is never accepted, p >= q always."""
    half, right, left = [0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5], [1, 0, 0, 0]
    for u in (0.0, 0.5, TOP):
        yield _case(f"disjoint, u={u}", [[right, half]], [[0]], [[half]], u, [0])
        yield _case(f"equal, u={u}", [[half, right]], [[1]], [[half]], u, [1])
        yield _case(f"one-hot equal, u={u}", [[left, right]], [[0]], [[left]], u, [1])
        yield _case(f"one-hot against one-hot, u={u}", [[[0, 0, 0, 1], half]], [[0]], [[left]], u, [0])
        yield _case(f"second rejected, u={u}", [[half, right, half]], [[1, 0]], [[half, half]], u, [1])
    yield _case("threshold itself", [[[0.25, 0.75], [1, 0]]], [[0]], [[[0.5, 0.5]]], 0.5, [0])


def _certain() -> Iterator[Case]:
    """One-hot targets leave no chance: the accepted length is known in every mode."""
    hot = np.eye(4)
    target = [hot[[1, 2, 3]], hot[[1, 2, 3]], hot[[1, 2, 3]]]
    drafts = [[1, 2], [1, 0], [3, 2]]
    drafter = np.full((3, 2, 4), 0.25)
    for u in (0.0, TOP):
        yield replace(_case(f"certain, u={u}", target, drafts, drafter, u, [2, 1, 0]), always=True)


def _hair() -> Iterator[Case]:
    """p(d) one step below q(d), p <= q elsewhere: rejected at the top uniform, nothing left over."""
    below = np.nextafter(np.float32(0.5), np.float32(0))
    target = [[[0, below, 0.5, 0], [0, 0, 0.5, 0.5]]]
    yield _case("empty residual", target, [[1]], [[[0, 0.5, 0.5, 0]]], TOP, [0])


def _tops() -> Iterator[Case]:
    """The top uniform on flat and steep laws whose float32 sums fall short of 1, with zero tails."""
    rng = np.random.default_rng(5)
    for vocab in (7, 100, 1000, 4097):
        logits = rng.standard_normal((64, 2, vocab)) * rng.choice([0.0, 1.0, 4.0], (64, 1, 1))
        logits[:, :, vocab - 1 - vocab // 5 :] = -np.inf
        weights = np.exp(logits)
        laws = (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)
        drafter = np.roll(laws[:, :1], 1, axis=-1)
        drafts = np.argmax(drafter[:, :, ::-1] > 0, axis=-1)
        yield _case(f"top of the CDF, V={vocab}", laws, vocab - 1 - drafts, drafter, TOP)
        yield _case(f"bottom of the CDF, V={vocab}", laws[:, ::-1], vocab - 1 - drafts, drafter, 0.0)


def _sizes() -> Iterator[Case]:
    """V around the edges of the two-level blocks and of usual tiles; the last id alone has mass."""
    for vocab in SIZES:
        for token in {0, vocab - 1, vocab // 2, min(block_width(vocab), vocab - 1)}:
            law = np.zeros((2, 2, vocab), np.float32)
            law[:, :, token] = 1
            flat = np.full((2, 1, vocab), 1 / vocab, np.float32)
            for u in (0.0, TOP):
                yield _case(f"V={vocab}, only {token}, u={u}", law, np.zeros((2, 1)), flat, u)


def _no_drafts() -> Iterator[Case]:
    """K = 0: one token from the only row."""
    law = np.asarray([[[0, 0.25, 0.75]], [[1, 0, 0]]], np.float32)
    case = _case("K=0", law, np.zeros((2, 0)), np.zeros((2, 0, 3)), 0.25, [0, 0])
    yield replace(case, always=True)


def _malformed(mode: str) -> Iterator[Case]:
    """NaN, infinite, negative and unnormalised rows are flagged; the rows beside them are not."""
    bad_rows = {
        "NaN": [np.nan, 0.5, 0.5, 0],
        "all NaN": [np.nan] * 4,
        "inf": [np.inf, 0, 0, 0],
        "negative": [1.5, -0.5, 0, 0],
        "sum 2": [0.5, 0.5, 0.5, 0.5],
        "all zero": [0, 0, 0, 0],
    }
    for name, bad in bad_rows.items():
        for where in ("target", "drafter") if mode == "rejection" else ("target",):
            for slot in range(3 if where == "target" else 2):
                yield _with_bad_row(f"{name} in {where} slot {slot}", bad, where, slot, mode)


def _with_bad_row(name: str, bad: Any, where: str, slot: int, mode: str) -> Case:
    target = np.full((3, 3, 4), 0.25, np.float32)
    drafter = np.full((3, 2, 4), 0.25, np.float32)
    (target if where == "target" else drafter)[1, slot] = bad
    uniforms = grid_uniforms(np.random.default_rng(0), (3, 3, 2))
    arrays = (target, np.ones((3, 2), np.int32), drafter, uniforms[:, :2, 0], uniforms)
    case = Case(name, arrays if mode == "rejection" else (*arrays[:2], None, *arrays[3:]))
    return Case(name, case.arrays, None, np.asarray([False, True, False]))


def _rows_independent(verify: Verify, *, xp: Any, mode: str, to_numpy: Callable[[Any], Any]) -> str:
    """Return how a row's answer changed with its batch: alone, reversed, beside a malformed row."""
    arrays = random_case(8, 33, 3, mode=mode, seed=11, spread=2.0)
    whole = _call(verify, arrays, xp=xp, to_numpy=to_numpy)

    def pick(rows: Any, source: Any = arrays) -> Any:
        return _call(verify, [None if x is None else x[rows] for x in source], xp=xp, to_numpy=to_numpy)

    backwards = np.arange(8)[::-1]
    bad_target = arrays[0].copy()
    bad_target[3] = np.nan
    poisoned = (bad_target, *arrays[1:])
    others = np.arange(8) != 3
    trials = {
        "alone": tuple(np.concatenate([pick([row])[i] for row in range(8)]) for i in (0, 1)),
        "reversed": tuple(part[backwards] for part in pick(backwards)[:2]),
        "in halves": tuple(np.concatenate([pick(slice(0, 3))[i], pick(slice(3, 8))[i]]) for i in (0, 1)),
    }
    for name, (tokens, n_accepted) in trials.items():
        if not (np.array_equal(tokens, whole[0]) and np.array_equal(n_accepted, whole[1])):
            return f"rows decoded {name} differ"
    beside = pick(slice(None), poisoned)
    same = np.array_equal(beside[0][others], whole[0][others])
    return "" if same and np.array_equal(beside[1][others], whole[1][others]) else "a NaN row changed others"

"""Cases of the boundary battery, as data: extreme uniforms, empty residuals, odd V, bad rows, ragged K.

Every case is small and says what a right verifier must do; none depends on how a uniform is mapped to a
token, except that an emitted token has positive mass.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from dspec.oracle.rejection import block_width
from dspec.testing.checks.coupling import grid_uniforms, random_case
from dspec.testing.checks.instances import SAMPLED_MODES

TOP = 1.0 - 2.0**-24  # the largest uniform
# Around the squares that blocks of the two-level draw are made of, and the tiles that kernels are made of.
SIZES = (
    1,
    2,
    3,
    4,
    5,
    15,
    16,
    17,
    24,
    25,
    26,
    63,
    64,
    65,
    127,
    128,
    129,
    255,
    256,
    257,
    1000,
    1023,
    1024,
    1025,
)

Answer = tuple[Any, Any, Any]
"""(tokens, n_accepted, the arrays that were given, to see whether they were modified)."""


@dataclass(frozen=True)
class Case:
    """One batch and the judgement of what came out.

    Args:
        name: of the edge.
        arrays: target_probs, draft_tokens, draft_probs or None, accept_u, close_u (numpy).
        n_accepted: (B,) accepted lengths; None where any will do.
        malformed: (B,) bool, rows that must be flagged; None: no row.
        always: whether n_accepted holds in every mode, not only for sampled drafts.
        relation: (verifier, arrays) -> what is wrong, where several answers are compared.
    """

    name: str
    arrays: tuple[Any, Any, Any, Any, Any]
    n_accepted: Any = None
    malformed: Any = None
    always: bool = False
    relation: Callable[[Callable[[Any], Answer], Any], str] | None = None


def battery(mode: str) -> Iterator[Case]:
    """Yield the cases for "rejection", "block", "one_hot" or "match".

    Example:
        >>> len({case.name for case in battery("match")}) > 200
        True
    """
    builders: list[Callable[[], Iterator[Case]]] = [_strictness, _certain, _hair, _tops, _sizes, _no_drafts]
    for build in builders:
        for case in build():
            yield _in_mode(case, mode)
    yield from _malformed(mode)
    yield from _relations(mode)


def _in_mode(case: Case, mode: str) -> Case:
    """Drop the drafter's laws and what they imply, where the mode does not read them."""
    if mode in SAMPLED_MODES:
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
        "-inf": [0.5, 0.5, -np.inf, 0],
        "negative": [1.5, -0.5, 0, 0],
        "sum 2": [0.5, 0.5, 0.5, 0.5],
        "all zero": [0, 0, 0, 0],
    }
    for name, bad in bad_rows.items():
        for where in ("target", "drafter") if mode in SAMPLED_MODES else ("target",):
            for slot in range(3 if where == "target" else 2):
                yield _with_bad_row(f"{name} in {where} slot {slot}", bad, where, slot, mode)


def _with_bad_row(name: str, bad: Any, where: str, slot: int, mode: str) -> Case:
    target = np.full((3, 3, 4), 0.25, np.float32)
    drafter = np.full((3, 2, 4), 0.25, np.float32)
    (target if where == "target" else drafter)[1, slot] = bad
    uniforms = grid_uniforms(np.random.default_rng(0), (3, 3, 2))
    arrays = (target, np.ones((3, 2), np.int32), drafter, uniforms[:, :2, 0], uniforms)
    case = Case(name, arrays if mode in SAMPLED_MODES else (*arrays[:2], None, *arrays[3:]))
    return Case(name, case.arrays, None, np.asarray([False, True, False]))


def _relations(mode: str) -> Iterator[Case]:
    """Yield comparisons of answers: rows without their neighbours, slots without those after or before."""
    rows = random_case(8, 33, 3, mode=mode, seed=11, spread=2.0)
    for name, parts in {
        "alone": [[row] for row in range(8)],
        "reversed": [np.arange(8)[::-1]],
        "in halves": [np.arange(3), np.arange(3, 8)],
    }.items():
        yield Case(f"rows {name}", rows, relation=partial(_in_parts, parts=parts))
    yield Case("rows beside a NaN row", rows, relation=_beside_nan)
    if mode == "block":  # which prefix stands depends on all drafts of the block
        return
    ragged = random_case(256, 9, 6, mode=mode, seed=12, spread=1.0 if mode == "rejection" else 4.0)
    if mode != "rejection":  # likely drafts, so that some rows reach the last slot
        ragged = (ragged[0], np.argmax(ragged[0][:, :6], axis=-1).astype(np.int32), *ragged[2:])
    for cut in range(7):
        yield Case(f"ragged K, first {cut} of 6", ragged, relation=partial(_first_slots, cut=cut))
        yield Case(f"ragged K, after {cut} of 6", ragged, relation=partial(_last_slots, cut=cut, mode=mode))


def _chosen(arrays: Any, rows: Any) -> Any:
    return [None if part is None else part[rows] for part in arrays]


def _in_parts(call: Any, arrays: Any, *, parts: list[Any]) -> str:
    """Compare one batch with the same rows in several, in any order (RS-9)."""
    order = np.concatenate(parts)
    whole = [part[order] for part in call(arrays)[:2]]
    pieces = [call(_chosen(arrays, rows)) for rows in parts]
    same = all(np.array_equal(np.concatenate([p[i] for p in pieces]), whole[i]) for i in (0, 1))
    return "" if same else "the answer depends on the batch"


def _beside_nan(call: Any, arrays: Any) -> str:
    poisoned = arrays[0].copy()
    poisoned[3] = np.nan
    others = np.arange(len(poisoned)) != 3
    whole, beside = call(arrays), call((poisoned, *arrays[1:]))
    same = all(np.array_equal(whole[i][others], beside[i][others]) for i in (0, 1))
    return "" if same else "a NaN row changed others"


def _slots(arrays: Any, start: int, end: int, *, closing: int) -> Any:
    """Return the arrays of slots start..end - 1, the closing uniforms from slot `closing` on."""
    target, drafts, drafter, accept, close = arrays
    cut = slice(start, end)
    probs = None if drafter is None else drafter[:, cut]
    last = closing + end - start + 1
    return target[:, start : end + 1], drafts[:, cut], probs, accept[:, cut], close[:, closing:last]


def _first_slots(call: Any, arrays: Any, *, cut: int) -> str:
    """A row with fewer drafts: what is decided before its last slot is what it was with more."""
    tokens, n_accepted, _ = call(arrays)
    less, n_less, _ = call(_slots(arrays, 0, cut, closing=0))
    if not np.array_equal(n_less, np.minimum(n_accepted, cut)):
        return "n_accepted depends on how many drafts follow"
    decided = np.arange(cut + 1) <= np.where(n_accepted < cut, n_accepted, cut - 1)[:, None]
    same = np.array_equal(np.where(decided, less, -1), np.where(decided, tokens[:, : cut + 1], -1))
    return "" if same else "tokens depend on how many drafts follow"


def _last_slots(call: Any, arrays: Any, *, cut: int, mode: str) -> str:
    """Rows that kept their first drafts: the rest alone has the same answer."""
    tokens, n_accepted, _ = call(arrays)
    kept = n_accepted >= cut
    if not kept.any():
        return f"no row of 256 keeps {cut} drafts"
    rest = _slots(arrays, cut, arrays[1].shape[1], closing=cut if mode == "match" else 0)
    less, n_less, _ = call(_chosen(rest, kept))
    if not np.array_equal(n_less, n_accepted[kept] - cut):
        return "n_accepted depends on how many drafts came before"
    decided = np.arange(less.shape[1]) <= n_less[:, None]
    same = np.array_equal(np.where(decided, less, -1), np.where(decided, tokens[kept][:, cut:], -1))
    return "" if same else "tokens depend on how many drafts came before"

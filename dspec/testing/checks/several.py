"""Exact law of a verifier of several drafts of one slot, by counting over a grid of uniforms; tolerance zero.

As `check_lattice` does for a block: laws are integers over 16, and all thresholds that uniforms are compared
with, after each rejection too, lie on a grid.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from math import prod
from typing import Any

import numpy as np

from dspec.errors import ShapeError, explain
from dspec.testing.checks.instances import UNIT
from dspec.testing.checks.lattice import dtype_name
from dspec.testing.checks.slot_instances import Slot, make_slots, read_slot
from dspec.testing.report import Report

VerifySeveral = Callable[..., tuple[Any, Any]]
"""(target (B, V), drafts (B, k), laws (B, k, V) or None, accept (B, k), close (B, 2)) -> (index, tokens).

index (B,): of the draft that stands, k if none does, -1 for a row that is no law; tokens (B,).
"""
ENDS = (0.0, 1 - 2.0**-24)
CLAUSES = ("RS-22", "RS-7", "NU-2")


def check_several(
    verify: VerifySeveral,
    *,
    xp: Any = np,
    dtype: Any = np.float32,
    kind: str = "alike",
    count: int = 6,
    seed: int = 0,
    slots: Sequence[Slot | Mapping[str, Any]] | None = None,
    to_numpy: Callable[[Any], Any] = np.asarray,
) -> Report:
    """Check that the token of a slot has the target's law, as fractions, whatever was drafted for it.

    Both ends of the uniforms, 0 and 1 - 2^-24, are tried too: no token of target probability 0 may come.

    Spec: RS-22, RS-7, NU-2.

    Args:
        verify: see `VerifySeveral`; arrays of `xp` in.
        xp: array namespace of its arguments.
        dtype: floating dtype of the laws, or its name; uniforms are float32.
        kind: "alike" (drawn independently from one law), "apart" (without replacement) or "one_hot"
            (deterministic: laws None).
        count: number of slots, with 1, 2 and 3 drafts in turn.
        seed: of the slots.
        slots: use these instead; `Slot`s, or their fields as JSON has them.
        to_numpy: brings results to the host.

    Returns:
        The report; alpha is 0: a right verifier always passes.

    Example:
        >>> target_alone = lambda p, x, q, u, c: (0 * x[:, 0] + x.shape[1], 0 * x[:, 0])
        >>> check_several(target_alone, count=1).passed  # it always emits token 0
        False
    """
    chosen = make_slots(count, seed=seed, kind=kind) if slots is None else [read_slot(one) for one in slots]
    dtype = getattr(xp, dtype) if isinstance(dtype, str) else dtype
    tried = {"slots": 0, "rows": 0}
    for slot in chosen:
        asked = partial(_asked, verify, xp=xp, dtype=dtype, to_numpy=to_numpy)
        rows, wrong = _wrong_law(asked, slot)
        tried = {"slots": tried["slots"] + 1, "rows": tried["rows"] + rows}
        wrong = wrong or _wrong_end(asked, slot)
        if wrong:
            again = {"slots": [slot.plain()], "dtype": dtype_name(dtype), "kind": slot.kind}
            example = {**slot.plain(), "unit": UNIT, **wrong}
            return Report(
                check="several",
                passed=False,
                tried=tried,
                counterexample=example,
                clauses=CLAUSES,
                replay={"check": "several", "arguments": again},
            )
    return Report(check="several", passed=True, tried=tried, clauses=CLAUSES)


def _wrong_law(asked: Callable[..., Any], slot: Slot) -> tuple[int, dict[str, Any]]:
    """Return the rows tried, and what is wrong with the law of the slot's token, if anything is."""
    vocab, start = len(slot.target), 0
    code = asked(slot, [_grid(path.grid) for path in slot.paths])
    law = [Fraction(0)] * (vocab + 1)  # the last one: an answer that contradicts itself
    for path in slot.paths:
        size = prod(path.grid)
        counts = np.bincount(code[start : start + size], minlength=vocab + 1)
        start += size
        for token, times in enumerate(counts.tolist()):
            law[token] += path.chance * Fraction(times, size)
    if law[:-1] == [Fraction(mass, UNIT) for mass in slot.target]:
        return start, {}
    return start, {"got": law[:-1], "no token of the slot": law[-1]}


def _wrong_end(asked: Callable[..., Any], slot: Slot) -> dict[str, Any]:
    """Return a sequence of drafts and uniforms at their ends that give a token of no mass, if any do."""
    ends = np.asarray(list(itertools.product(ENDS, ENDS)), np.float32)  # of acceptance, of the closing token
    table = np.repeat(ends, [slot.count, 2], axis=1)
    code = asked(slot, [table] * len(slot.paths))
    masses = np.asarray([*slot.target, 0])[code]
    if masses.all():
        return {}
    path, row = divmod(int(np.argmin(masses > 0)), len(ends))
    return {"drafted": slot.paths[path].drafted, "uniforms": ends[row].tolist(), "token without mass": True}


def _asked(
    verify: VerifySeveral,
    slot: Slot,
    grids: Sequence[Any],
    *,
    xp: Any,
    dtype: Any,
    to_numpy: Callable[[Any], Any],
) -> Any:
    """Return the token of every row, V where an answer contradicts itself."""
    target, tokens, laws, *uniforms = _batch(slot, grids)
    device = [None if part is None else xp.asarray(part, dtype=dtype) for part in (target, laws)]
    arrays = (device[0], xp.asarray(tokens), device[1], *map(xp.asarray, uniforms))
    index, emitted = answer(verify, arrays, to_numpy)
    vocab = len(slot.target)
    return np.where(_consistent(index, emitted, tokens, vocab), emitted, vocab)


def _batch(slot: Slot, grids: Sequence[Any]) -> tuple[Any, ...]:
    """Return the arguments of one call on numpy: every sequence of drafts with its uniforms (G, k + 2)."""
    sizes = [len(grid) for grid in grids]
    uniforms = np.concatenate(grids)
    tokens = np.repeat(np.asarray([path.drafted for path in slot.paths], np.int32), sizes, axis=0)
    laws = None
    if slot.kind != "one_hot":
        rows = [[[float(mass) for mass in law] for law in slot.laws(path.drafted)] for path in slot.paths]
        laws = np.repeat(np.asarray(rows, np.float32), sizes, axis=0)
    target = np.repeat(np.asarray([slot.target], np.float32) / UNIT, len(tokens), axis=0)
    accept, close = (np.ascontiguousarray(part) for part in np.split(uniforms, [slot.count], axis=1))
    return target, tokens, laws, accept, close


def _grid(sizes: Sequence[int]) -> Any:
    """Return (G, k + 2): every combination of midpoints of so many each."""
    axes = [((np.arange(n) + 0.5) / n).astype(np.float32) for n in sizes]
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=-1)


def _consistent(index: Any, emitted: Any, tokens: Any, vocab: int) -> Any:
    """Return (B,) whether a token of the vocabulary is emitted, and the one of the draft that stands."""
    count = tokens.shape[1]
    stands = (index >= 0) & (index < count)
    drafted = np.take_along_axis(tokens, np.where(stands, index, 0)[:, None], axis=1)[:, 0]
    inside = (emitted >= 0) & (emitted < vocab) & (index >= 0) & (index <= count)
    return inside & (~stands | (drafted == emitted))


def answer(
    verify: VerifySeveral, arguments: Sequence[Any], to_numpy: Callable[[Any], Any]
) -> tuple[Any, Any]:
    """Return what a verifier of several drafts answers, as int64 of numpy, its shapes looked at.

    Args:
        verify: see `VerifySeveral`.
        arguments: of one call.
        to_numpy: brings results to the host.

    Returns:
        index (B,) and tokens (B,).

    Raises:
        ShapeError: they have other shapes, or are no pair of arrays.
    """
    rows = arguments[1].shape[0]
    given = verify(*arguments)
    if not isinstance(given, tuple | list) or len(given) != 2:
        needed = "a pair: index (B,) and tokens (B,)"
        raise ShapeError(explain("what the verifier returns", f"a {type(given).__name__}", needed))
    index, tokens = (np.asarray(to_numpy(part)) for part in given)
    for name, array in (("index", index), ("tokens", tokens)):
        if array.shape != (rows,) or array.dtype.kind not in "iu":
            got = f"{array.dtype} of shape {array.shape}"
            raise ShapeError(explain(name, got, f"integers of shape ({rows},)"))
    return index.astype(np.int64), tokens.astype(np.int64)

"""Exact laws of array verifiers, by counting over a grid of uniforms; tolerance zero.

Laws are integers over 16. Where every threshold that a right verifier compares a uniform with is a
multiple of 1/N, the midpoints (j + 1/2)/N count its probabilities exactly, in any dtype from bfloat16 up,
because dyadic laws and their residuals have no rounding. Other instances are not admitted.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from typing import Any

import numpy as np

from dspec.errors import ShapeError, explain
from dspec.testing.checks.instances import (
    ACCEPT_GRID,
    CLOSE_GRIDS,
    MATCH_GRIDS,
    SAMPLED_MODES,
    UNIT,
    Instance,
    K,
    make_instances,
    read_instance,
)
from dspec.testing.report import Report

Verify = Callable[..., tuple[Any, Any]]
"""(target_probs, draft_tokens, draft_probs or None, accept_u, close_u) -> (tokens, n_accepted)."""


def check_lattice(
    verify: Verify,
    *,
    xp: Any,
    dtype: Any,
    mode: str = "rejection",
    count: int = 6,
    seed: int = 0,
    instances: Sequence[Instance | Mapping[str, Any]] | None = None,
    to_numpy: Callable[[Any], Any] = np.asarray,
) -> Report:
    """Check that a verifier's emitted law is the target's, as fractions.

    Spec: RS-1, RS-3, RS-4, RS-5, RS-6, RS-8, RS-18, NU-2.

    Args:
        verify: the verifier; arrays of `xp` in, (tokens (B, K + 1), n_accepted (B,)) out.
        xp: array namespace of its arguments.
        dtype: floating dtype of the laws, or its name; uniforms are float32.
        mode: "rejection" (sampled drafts), "block" (the same, judged together), "one_hot" (draft_probs None)
            or "match" (draws at each slot).
        count: number of instances, half with V = 4, half with V = 5 (a tail that fills no block).
        seed: of the instances.
        instances: use these instead; `Instance`s, or their fields as JSON has them.
        to_numpy: brings results to the host.

    Returns:
        The report; alpha is 0: a right verifier always passes.
    """
    given = make_instances(count, seed=seed, mode=mode) if instances is None else instances
    chosen = [read_instance(instance) for instance in given]
    dtype = getattr(xp, dtype) if isinstance(dtype, str) else dtype
    rows = 0
    for index, instance in enumerate(chosen):
        law, size = _emitted_law(verify, instance, xp=xp, dtype=dtype, to_numpy=to_numpy)
        rows += size
        wrong = _difference(law, _target_law(instance))
        if wrong is not None:
            again = {"instances": [asdict(instance)], "dtype": dtype_name(dtype), "mode": instance.mode}
            return Report(
                check="lattice",
                passed=False,
                tried={"instances": index + 1, "rows": rows},
                counterexample={
                    "target": instance.target,
                    "drafter": instance.drafter,
                    "unit": UNIT,
                    **wrong,
                },
                clauses=_clauses(mode),
                replay={"check": "lattice", "arguments": again},
            )
    tried = {"instances": len(chosen), "rows": rows}
    return Report(check="lattice", passed=True, tried=tried, clauses=_clauses(mode))


def _clauses(mode: str) -> tuple[str, ...]:
    """Return what the law of a mode says; sample-match neither accepts nor corrects."""
    common = ("RS-1", "RS-3", "RS-8", "RS-18", "NU-2")
    more = {"match": (), "block": ("RS-21", "RS-6")}
    return (*common, *more.get(mode, ("RS-4", "RS-5", "RS-6")))


def dtype_name(dtype: Any) -> str:
    """Return "float32" for the float32 of any array namespace.

    Example:
        >>> dtype_name(np.float32), dtype_name(np.dtype("float64"))
        ('float32', 'float64')
    """
    return str(getattr(dtype, "__name__", dtype)).rpartition(".")[-1]


def _grid(mode: str) -> tuple[Any, Any]:
    """Return accept (G, K) and close (G, K + 1, 2): every combination of midpoints."""
    if mode == "match":
        columns = [_midpoints(grid) for _ in range(K + 1) for grid in MATCH_GRIDS]
        table = _product(columns)
        return np.full((len(table), K), 0.5, np.float32), table.reshape(-1, K + 1, 2)
    table = _product([_midpoints(ACCEPT_GRID)] * K + [_midpoints(grid) for grid in CLOSE_GRIDS])
    # Slots beyond 0 are constant: a verifier that reads them has a degenerate law and fails.
    close = np.full((len(table), K + 1, 2), 0.5, np.float32)
    close[:, 0, :] = table[:, K:]
    return np.ascontiguousarray(table[:, :K]), close


def _midpoints(count: int) -> Any:
    return ((np.arange(count) + 0.5) / count).astype(np.float32)


def _product(columns: list[Any]) -> Any:
    return np.stack([axis.ravel() for axis in np.meshgrid(*columns, indexing="ij")], axis=-1)


def _emitted_law(
    verify: Verify, instance: Instance, *, xp: Any, dtype: Any, to_numpy: Callable[[Any], Any]
) -> tuple[dict[tuple[int, ...], Fraction], int]:
    """Return the law of K + 1 tokens: what the verifier emits, completed by the target."""
    vocab = len(instance.target[0][0])
    accept, close = _grid(instance.mode)
    drafts = [d for d in itertools.product(range(vocab), repeat=K) if _chance(instance, d)]
    batch = _batch(instance, drafts, accept, close, xp=xp, dtype=dtype)
    tokens, n_accepted = answer(verify, batch, to_numpy)
    law: dict[tuple[int, ...], Fraction] = {}
    for index, outcome, number in _counted(tokens, n_accepted, size=len(accept), vocab=vocab):
        chance = _chance(instance, drafts[index]) * Fraction(number, len(accept))
        _complete(law, instance, outcome, chance)
    return law, len(tokens)


def answer(verify: Verify, arguments: Sequence[Any], to_numpy: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Return what a verifier answers, as int64 of numpy, its shapes looked at.

    Args:
        verify: see `Verify`.
        arguments: of one call.
        to_numpy: brings results to the host.

    Returns:
        tokens (B, K + 1) and n_accepted (B,).

    Raises:
        ShapeError: they have other shapes, or are no pair of arrays.
    """
    rows, slots = arguments[1].shape
    given = verify(*arguments)
    if not isinstance(given, tuple | list) or len(given) != 2:
        needed = "a pair: tokens (B, K + 1) and n_accepted (B,)"
        raise ShapeError(explain("what the verifier returns", f"a {type(given).__name__}", needed))
    tokens, n_accepted = (np.asarray(to_numpy(part)) for part in given)
    for name, array, shape in (
        ("tokens", tokens, (rows, slots + 1)),
        ("n_accepted", n_accepted, (rows,)),
    ):
        if array.shape != shape or array.dtype.kind not in "iu":
            needed = f"integers of shape {shape}, {'(B, K + 1)' if len(shape) == 2 else '(B,)'}"
            raise ShapeError(explain(name, f"{array.dtype} of shape {array.shape}", needed))
    return tokens.astype(np.int64), n_accepted.astype(np.int64)


def _counted(
    tokens: Any, n_accepted: Any, *, size: int, vocab: int
) -> Iterator[tuple[int, tuple[int, ...], int]]:
    """Yield (draft sequence, emitted tokens, how often): one number a row, counted, is 20 times a sort.

    An emitted id outside [0, V) counts as V, which no law has; n_accepted beyond K counts as K.
    """
    ids = np.where((tokens >= 0) & (tokens < vocab), tokens, vocab)
    digits = np.where(np.arange(K + 1) <= n_accepted[:, None], ids + 1, 0)
    base = vocab + 2
    code = np.arange(len(tokens)) // size
    for slot in range(K + 1):
        code = code * base + digits[:, slot]
    counts = np.bincount(code)
    for number in np.flatnonzero(counts).tolist():
        left, outcome = number, []
        for _ in range(K + 1):
            left, digit = divmod(left, base)
            outcome.append(digit - 1)
        yield left, tuple(token for token in reversed(outcome) if token >= 0), int(counts[number])


def _chance(instance: Instance, draft: Sequence[int]) -> Fraction:
    chance = Fraction(1)
    for slot, token in enumerate(draft):
        chance *= Fraction(instance.row(instance.drafter, slot, draft)[token], UNIT)
    return chance


def _batch(
    instance: Instance, drafts: list[tuple[int, ...]], accept: Any, close: Any, *, xp: Any, dtype: Any
) -> tuple[Any, ...]:
    """Return the five arguments of one call: every draft with every combination of uniforms."""
    size = len(accept)
    target = [[instance.row(instance.target, k, d) for k in range(K + 1)] for d in drafts]
    drafter = [[instance.row(instance.drafter, k, d) for k in range(K)] for d in drafts]
    laws = [np.repeat(np.asarray(rows, np.float32) / UNIT, size, axis=0) for rows in (target, drafter)]
    draft_probs = xp.asarray(laws[1], dtype=dtype) if instance.mode in SAMPLED_MODES else None
    return (
        xp.asarray(laws[0], dtype=dtype),
        xp.asarray(np.repeat(np.asarray(drafts, np.int32), size, axis=0)),
        draft_probs,
        xp.asarray(np.tile(accept, (len(drafts), 1))),
        xp.asarray(np.tile(close, (len(drafts), 1, 1))),
    )


def _complete(
    law: dict[Any, Fraction], instance: Instance, tokens: tuple[int, ...], chance: Fraction
) -> None:
    """Add to `law` every continuation of `tokens` to K + 1 tokens under the target."""
    if len(tokens) == K + 1 or (tokens and not 0 <= tokens[-1] < len(instance.target[0][0])) or not tokens:
        law[tokens] = law.get(tokens, Fraction(0)) + chance
        return
    for token, mass in enumerate(instance.row(instance.target, len(tokens), tokens)):
        if mass:
            _complete(law, instance, (*tokens, token), chance * Fraction(mass, UNIT))


def _target_law(instance: Instance) -> dict[tuple[int, ...], Fraction]:
    law: dict[tuple[int, ...], Fraction] = {}
    for token, mass in enumerate(instance.target[0][0]):
        if mass:
            _complete(law, instance, (token,), Fraction(mass, UNIT))
    return law


def _difference(got: dict[Any, Fraction], needed: dict[Any, Fraction]) -> dict[str, Any] | None:
    """Return the outcome whose probability is furthest off, or None."""
    keys = {key for key in got.keys() | needed.keys() if got.get(key, 0) != needed.get(key, 0)}
    if not keys:
        return None
    worst = max(keys, key=lambda key: abs(got.get(key, Fraction(0)) - needed.get(key, Fraction(0))))
    distance = sum(abs(got.get(key, Fraction(0)) - needed.get(key, Fraction(0))) for key in keys) / 2
    return {"tokens": worst, "got": got.get(worst, 0), "needed": needed.get(worst, 0), "tv": distance}

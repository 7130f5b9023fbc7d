"""Exact laws of array verifiers, by counting over a grid of uniforms; tolerance zero.

Laws are integers over 16. Where every threshold that a right verifier compares a uniform with is a
multiple of 1/N, the midpoints (j + 1/2)/N count its probabilities exactly, in any dtype from bfloat16 up,
because dyadic laws and their residuals have no rounding. Other instances are not admitted.
"""

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from dspec.oracle.rejection import block_width, one_hot, residual
from dspec.testing.report import Report

Verify = Callable[..., tuple[Any, Any]]
"""(target_probs, draft_tokens, draft_probs or None, accept_u, close_u) -> (tokens, n_accepted)."""

Row = tuple[int, ...]
UNIT = 16  # laws are integers over this
K = 2  # drafted slots of an instance
ACCEPT_GRID = 16
CLOSE_GRIDS = (8, 4)  # block level, inside level
MATCH_GRIDS = (4, 4)  # sample-match draws at every slot: a smaller grid, 4^6 rows


@dataclass(frozen=True)
class Instance:
    """Dyadic laws: the row of slot k depends on the token before it.

    Args:
        target: [slot 0..K][token before; one entry at slot 0] -> V integers over 16.
        drafter: [slot 0..K-1][token before] -> V integers over 16, powers of two or 0.
        mode: "rejection", "one_hot" or "match".
    """

    target: tuple[tuple[Row, ...], ...]
    drafter: tuple[tuple[Row, ...], ...]
    mode: str

    def row(self, rows: tuple[tuple[Row, ...], ...], slot: int, before: Sequence[int]) -> Row:
        """Return the row of a slot after the tokens of the slots before it."""
        return rows[slot][before[slot - 1] if slot else 0]


def check_lattice(
    verify: Verify,
    *,
    xp: Any,
    dtype: Any,
    mode: str = "rejection",
    count: int = 6,
    seed: int = 0,
    instances: Sequence[Instance] | None = None,
    to_numpy: Callable[[Any], Any] = np.asarray,
) -> Report:
    """Check that a verifier's emitted law is the target's, as fractions.

    Spec: RS-1, RS-3, RS-4, RS-5, RS-6.

    Args:
        verify: the verifier; arrays of `xp` in, (tokens (B, K + 1), n_accepted (B,)) out.
        xp: array namespace of its arguments.
        dtype: floating dtype of the laws; uniforms are float32.
        mode: "rejection" (sampled drafts), "one_hot" (draft_probs None) or "match" (draws at each slot).
        count: number of instances, half with V = 4, half with V = 5 (a tail that fills no block).
        seed: of the instances.
        instances: use these instead.
        to_numpy: brings results to the host.

    Returns:
        The report; alpha is 0: a right verifier always passes.
    """
    chosen = list(instances) if instances is not None else make_instances(count, seed=seed, mode=mode)
    rows = 0
    for index, instance in enumerate(chosen):
        law, size = _emitted_law(verify, instance, xp=xp, dtype=dtype, to_numpy=to_numpy)
        rows += size
        wrong = _difference(law, _target_law(instance))
        if wrong is not None:
            tried = {"instances": index + 1, "rows": rows}
            example = {"target": instance.target, "drafter": instance.drafter, "unit": UNIT, **wrong}
            return Report(check="lattice", passed=False, tried=tried, counterexample=example)
    return Report(check="lattice", passed=True, tried={"instances": len(chosen), "rows": rows})


def make_instances(count: int, *, seed: int, mode: str = "rejection") -> list[Instance]:
    """Return admissible instances, of V = 4 and V = 5 in turn.

    Example:
        >>> instance, = make_instances(1, seed=0)
        >>> {sum(row) for slot in instance.target for row in slot}
        {16}
    """
    rng = random.Random(seed)
    return [_instance(rng, vocab=4 + index % 2, mode=mode) for index in range(count)]


def _instance(rng: random.Random, *, vocab: int, mode: str) -> Instance:
    grids = MATCH_GRIDS if mode == "match" else CLOSE_GRIDS
    targets, drafters = admissible_rows(vocab, grids), drafter_rows(vocab)
    target, drafter = [], []
    for slot in range(K + 1):
        pairs = [_pair(rng, targets, drafters, mode) for _ in range(vocab if slot else 1)]
        target.append(tuple(p for p, _ in pairs))
        if slot < K:
            drafter.append(tuple(q for _, q in pairs))
    return Instance(tuple(target), tuple(drafter), mode)


def _pair(rng: random.Random, targets: list[Row], drafters: list[Row], mode: str) -> tuple[Row, Row]:
    """Return one target row and one drafter row whose residuals are admissible."""
    while True:
        p, q = rng.choice(targets), rng.choice(drafters)
        if mode == "match" or _residuals_admissible(p, q, mode):
            return p, q


def _residuals_admissible(p: Row, q: Row, mode: str) -> bool:
    if mode == "rejection":
        return admissible(tuple(residual(p, q)), CLOSE_GRIDS)
    hot = [one_hot(token, len(p)) for token in range(len(p)) if q[token]]
    return all(admissible(tuple(residual(p, [UNIT * x for x in row])), CLOSE_GRIDS) for row in hot)


def admissible(row: Row, grids: tuple[int, int]) -> bool:
    """Return whether both levels of the two-level draw have all thresholds on the grid.

    Example:
        >>> admissible((4, 4, 8, 0), (2, 2)), admissible((8, 4, 2, 2), (16, 16))
        (True, False)
    """
    width = block_width(len(row))
    blocks = [row[start : start + width] for start in range(0, len(row), width)]
    levels = [(tuple(sum(block) for block in blocks), grids[0])] + [(block, grids[1]) for block in blocks]
    for masses, grid in levels:
        total = sum(masses)
        if total and any(edge * grid % total for edge in itertools.accumulate(masses)):
            return False
    return True


@cache
def _compositions(total: int, parts: int) -> list[Row]:
    if parts == 1:
        return [(total,)]
    return [(first, *rest) for first in range(total + 1) for rest in _compositions(total - first, parts - 1)]


@cache
def admissible_rows(vocab: int, grids: tuple[int, int]) -> list[Row]:
    """Return every law of V integers over 16 that is admissible."""
    return [row for row in _compositions(UNIT, vocab) if admissible(row, grids)]


@cache
def drafter_rows(vocab: int) -> list[Row]:
    """Return every law over 16 of powers of two and zeros: then p/q is a multiple of 1/16."""
    allowed = {0, 1, 2, 4, 8, 16}
    return [row for row in _compositions(UNIT, vocab) if allowed.issuperset(row)]


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
    tokens, n_accepted = (np.asarray(to_numpy(x)).astype(np.int64) for x in verify(*batch))
    kept = np.where(np.arange(K + 1) <= n_accepted[:, None], tokens, -1)
    law: dict[tuple[int, ...], Fraction] = {}
    for index, draft in enumerate(drafts):
        part = kept[index * len(accept) : (index + 1) * len(accept)]
        outcomes, counts = np.unique(part, axis=0, return_counts=True)
        for outcome, number in zip(outcomes.tolist(), counts.tolist()):
            chance = _chance(instance, draft) * Fraction(number, len(accept))
            _complete(law, instance, tuple(token for token in outcome if token >= 0), chance)
    return law, len(kept)


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
    draft_probs = xp.asarray(laws[1], dtype=dtype) if instance.mode == "rejection" else None
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

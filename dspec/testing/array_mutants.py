"""Array verifiers on numpy with one fault each, and right ones, for the array checks.

The right one is written a third time (float64 or float32 numpy, no array namespace), so that a check is
never judged by the code it judges.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dspec.oracle.rejection import block_width


def pick(law: Any, uniform: Any) -> Any:
    """Return (B,) the first index with u * total < cumsum, else the last of positive mass."""
    cumulative = np.cumsum(law, axis=-1, dtype=law.dtype)
    below = uniform[:, None].astype(law.dtype) * cumulative[:, -1:] < cumulative
    first = np.where(below.any(axis=-1), below.argmax(axis=-1), law.shape[-1])
    last = law.shape[-1] - 1 - (law[:, ::-1] > 0).argmax(axis=-1)
    return np.minimum(first, last)


def draw_rows(law: Any, uniforms: Any) -> Any:
    """Return (B,) tokens by the two-level draw."""
    width = block_width(law.shape[-1])
    padded = np.concatenate([law, np.zeros((len(law), -law.shape[-1] % width), law.dtype)], axis=-1)
    grid = padded.reshape(len(law), -1, width)
    block = pick(grid.sum(axis=-1), uniforms[:, 0])
    return block * width + pick(grid[np.arange(len(law)), block], uniforms[:, 1])


def single_level(law: Any, uniforms: Any) -> Any:
    """Return (B,) tokens by a float32 running sum whose end may fall short of 1, clipped to V - 1."""
    cumulative = np.cumsum(law.astype(np.float32), axis=-1, dtype=np.float32)
    return np.minimum((cumulative <= uniforms[:, :1]).sum(axis=-1), law.shape[-1] - 1)


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """Token verification on numpy in replaceable parts; the defaults are right.

    Args:
        dtype: of the arithmetic.
        accepts: (u, q, p) -> whether a draft stands.
        accept_u: what the accept uniforms become before use.
        draw: law and uniforms to tokens.
        stale_bonus: whether the bonus is drawn from row K instead of K + 1.
        when_empty: (residual, target row) -> law that is drawn from.
        flags: whether malformed rows are flagged.
        shared: whether a row reads the whole batch.
        in_place: whether the target's laws are overwritten.
    """

    dtype: Any = np.float64
    accepts: Callable[..., Any] = lambda u, q, p: u * q < p
    accept_u: Callable[[Any], Any] = lambda u: u
    draw: Callable[..., Any] = draw_rows
    stale_bonus: bool = False
    when_empty: Callable[..., Any] = lambda left, p: np.where(left.sum(-1, keepdims=True) > 0, left, p)
    flags: bool = True
    shared: bool = False
    in_place: bool = False

    def __call__(self, target: Any, drafts: Any, drafter: Any, accept: Any, close: Any) -> tuple[Any, Any]:
        """Return (tokens, n_accepted)."""
        rows, slots = np.arange(len(drafts)), drafts.shape[1]
        with np.errstate(invalid="ignore"):
            p = target.astype(self.dtype)
            q = np.eye(target.shape[-1])[drafts] if drafter is None else drafter.astype(self.dtype)
            q = q.reshape(len(rows), slots, target.shape[-1])
            reached, proposed = (
                np.take_along_axis(x[:, :slots], drafts[..., None], -1)[..., 0] for x in (p, q)
            )
            stands = self.accepts(self.accept_u(accept).astype(self.dtype), proposed, reached)
            if self.shared:
                stands = stands & stands.all(axis=0)
            n = np.cumprod(stands, axis=1).sum(axis=1).astype(int)
            row = p[rows, np.minimum(n, slots - 1) if self.stale_bonus else n]
            left = row.copy()
            rejected = n < slots
            left[rejected] = np.maximum(row[rejected] - q[rows[rejected], n[rejected]], 0)
            law = np.where(rejected[:, None], self.when_empty(left, row), row)
            closing = self.draw(law, close[:, 0].astype(self.dtype))
            bad = self._malformed(p) | self._malformed(q)
        tokens = np.concatenate([drafts, np.full((len(rows), 1), -1)], axis=1)
        tokens[rows, n] = closing
        if self.in_place:
            target[...] = 0
        return tokens, np.where(bad, -1, n) if self.flags else n

    def _malformed(self, laws: Any) -> Any:
        return ~((np.abs(laws.sum(-1) - 1) <= 1e-3) & (laws >= 0).all(-1)).all(-1)


def _token_zero(left: Any, p: Any) -> Any:
    empty = left.sum(-1, keepdims=True) <= 0
    return np.where(empty, np.eye(p.shape[-1])[0], left)


def _tiled_draw(law: Any, uniforms: Any) -> Any:
    """Pads V to a multiple of 8 with mass that rounds to nothing, then takes ties from the end."""
    padded = np.concatenate([law, np.full((len(law), -law.shape[-1] % 8), 1e-9)], axis=-1)
    return pick(padded, uniforms[:, 0])


@dataclass(frozen=True)
class ArraySpecimen:
    """One array verifier, the check that must fail on it ("" for a right one), and its survey number."""

    name: str
    verify: Any
    killed_by: str = ""
    number: int = 0


ARRAY_MUTANTS = [
    ArraySpecimen("accepts min(1, q/p)", Arrays(accepts=lambda u, q, p: u * p < q), "lattice", 1),
    ArraySpecimen("one accept u for all rows", Arrays(accept_u=lambda u: u[:1] + 0 * u), "lattice", 13),
    ArraySpecimen("one accept u for all slots", Arrays(accept_u=lambda u: u[:, :1] + 0 * u), "lattice", 12),
    ArraySpecimen("resamples from p", Arrays(when_empty=lambda left, p: p), "lattice", 4),
    ArraySpecimen("bonus from row K", Arrays(stale_bonus=True), "lattice", 9),
    ArraySpecimen("lenience 3/4", Arrays(accepts=lambda u, q, p: 0.75 * u * q < p), "lattice", 16),
    ArraySpecimen("accepts u * q <= p", Arrays(accepts=lambda u, q, p: u * q <= p), "boundaries", 31),
    ArraySpecimen("empty residual gives token 0", Arrays(when_empty=_token_zero), "boundaries", 32),
    ArraySpecimen("float32 sum falls off the end", Arrays(draw=single_level), "boundaries", 33),
    ArraySpecimen("padded tile can win", Arrays(draw=_tiled_draw), "boundaries", 0),
    ArraySpecimen("NaN rows give tokens", Arrays(flags=False), "boundaries", 0),
    ArraySpecimen("rows wait for each other", Arrays(shared=True), "boundaries", 36),
    ArraySpecimen("overwrites the target's laws", Arrays(in_place=True), "boundaries", 0),
    ArraySpecimen("another map from uniforms", Arrays(draw=single_level, dtype=np.float32), "coupling", 0),
    ArraySpecimen("float16 arithmetic", Arrays(dtype=np.float16), "coupling", 34),
]

ARRAY_CONTROLS = [
    ArraySpecimen("float64 numpy", Arrays()),
    ArraySpecimen("float32 numpy", Arrays(dtype=np.float32)),
]

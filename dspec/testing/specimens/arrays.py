"""Array verifiers on numpy with one fault each, and right ones, for the array checks.

The right one is written a third time (float64 or float32 numpy, no array namespace), so that a check is
never judged by the code it judges.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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


def draw_rows(law: Any, uniforms: Any, *, choose: Callable[..., Any] = pick, pad: float = 0.0) -> Any:
    """Return (B,) tokens by the two-level draw; right with the defaults."""
    width = block_width(law.shape[-1])
    padded = np.concatenate([law, np.full((len(law), -law.shape[-1] % width), pad, law.dtype)], axis=-1)
    grid = padded.reshape(len(law), -1, width)
    block = choose(grid.sum(axis=-1), uniforms[:, 0])
    return block * width + choose(grid[np.arange(len(law)), block], uniforms[:, 1])


def clipped(law: Any, uniform: Any) -> Any:
    """Return (B,) indices by a float32 running sum whose end may fall short of 1, clipped to the last."""
    shares = (law / law.sum(axis=-1, keepdims=True)).astype(np.float32)
    below = np.cumsum(shares, axis=-1, dtype=np.float32) <= uniform[:, None]
    return np.minimum(below.sum(axis=-1), law.shape[-1] - 1)


def one_level(law: Any, uniforms: Any) -> Any:
    """Return (B,) tokens by one running sum, right in law, of another map than the library's."""
    return pick(law, uniforms[:, 0])


def are_laws(laws: Any) -> Any:
    """Return (B,) whether all rows are laws: no negative entry, sum 1 within 1e-3."""
    return ((np.abs(laws.sum(-1) - 1) <= 1e-3) & (laws >= 0).all(-1)).all(-1)


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
        sound: laws -> (B,) whether the row is answered rather than flagged.
        shared: whether a row reads the whole batch.
        in_place: whether the target's laws are overwritten.
    """

    dtype: Any = np.float64
    accepts: Callable[..., Any] = lambda u, q, p: u * q < p
    accept_u: Callable[[Any], Any] = lambda u: u
    draw: Callable[..., Any] = draw_rows
    stale_bonus: bool = False
    when_empty: Callable[..., Any] = lambda left, p: np.where(left.sum(-1, keepdims=True) > 0, left, p)
    sound: Callable[[Any], Any] = are_laws
    shared: bool = False
    in_place: bool = False

    def __call__(self, target: Any, drafts: Any, drafter: Any, accept: Any, close: Any) -> tuple[Any, Any]:
        """Return (tokens, n_accepted)."""
        rows, slots = np.arange(len(drafts)), drafts.shape[1]
        with np.errstate(invalid="ignore", divide="ignore"):
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
            sound = self.sound(p) & self.sound(q)
        tokens = np.concatenate([drafts, np.full((len(rows), 1), -1)], axis=1)
        tokens[rows, n] = closing
        if self.in_place:
            target[...] = 0
        return tokens, np.where(sound, n, -1)


def _token_zero(left: Any, p: Any) -> Any:
    empty = left.sum(-1, keepdims=True) <= 0
    return np.where(empty, np.eye(p.shape[-1])[0], left)


def _whole_tiles(law: Any, uniforms: Any) -> Any:
    """Forgets the tokens after the last full tile of 256."""
    size = law.shape[-1]
    return draw_rows(law[:, : size - size % 256] if size > 256 else law, uniforms)


def _nothing_without_drafts(target: Any, drafts: Any, *others: Any) -> tuple[Any, Any]:
    if drafts.shape[1]:
        return Arrays()(target, drafts, *others)
    return np.full((len(drafts), 1), -1), np.full(len(drafts), -1)


def _another_map_alone(target: Any, *others: Any) -> tuple[Any, Any]:
    return Arrays(draw=draw_rows if len(target) > 1 else one_level)(target, *others)


@dataclass(frozen=True)
class ArraySpecimen:
    """One array verifier and what is known of it.

    Args:
        name: what it does.
        verify: as `dspec.testing.checks.lattice.Verify`, on numpy.
        killed_by: the check that must fail on it; "" for a right one.
        number: of the field bug in the survey; 0 for none.
        cases: starts of the names of the cases of the battery that see it, no other check and no other
            case does; empty if others may.
    """

    name: str
    verify: Any
    killed_by: str = ""
    number: int = 0
    cases: tuple[str, ...] = ()


def _edge(cases: str, name: str, verify: Any, *, number: int = 0) -> ArraySpecimen:
    seen = tuple(case for case in cases.split("|") if case)
    return ArraySpecimen(name, verify, "boundaries", number, seen)


ARRAY_MUTANTS = [
    ArraySpecimen("accepts min(1, q/p)", Arrays(accepts=lambda u, q, p: u * p < q), "lattice", 1),
    ArraySpecimen("one accept u for all rows", Arrays(accept_u=lambda u: u[:1] + 0 * u), "lattice", 13),
    ArraySpecimen("one accept u for all slots", Arrays(accept_u=lambda u: u[:, :1] + 0 * u), "lattice", 12),
    ArraySpecimen("resamples from p", Arrays(when_empty=lambda left, p: p), "lattice", 4),
    ArraySpecimen("bonus from row K", Arrays(stale_bonus=True), "lattice", 9),
    ArraySpecimen("lenience 3/4", Arrays(accepts=lambda u, q, p: 0.75 * u * q < p), "lattice", 16),
    ArraySpecimen("rows wait for each other", Arrays(shared=True), "lattice", 36),
    ArraySpecimen("another map from uniforms", Arrays(draw=one_level), "coupling"),
    ArraySpecimen("float16 arithmetic", Arrays(dtype=np.float16), "coupling", 34),
    _edge("", "accepts u * q <= p", Arrays(accepts=lambda u, q, p: u * q <= p), number=31),
    _edge(
        "equal, u=0.99|one-hot equal, u=0.99|second rejected, u=0.99",
        "rejects p = q",
        Arrays(accepts=lambda u, q, p: u * q * (1 + 2.0**-20) < p),
    ),
    _edge("empty residual", "empty residual gives token 0", Arrays(when_empty=_token_zero), number=32),
    _edge(
        "top of the CDF",
        "float32 sum falls off the end",
        Arrays(draw=partial(draw_rows, choose=clipped)),
        number=33,
    ),
    _edge("V=|top of the CDF", "padded tile can win", Arrays(draw=partial(draw_rows, pad=1e-6))),
    _edge("V=", "forgets what lies after the last full tile", Arrays(draw=_whole_tiles)),
    _edge("K=0|ragged K", "nothing where there are no drafts", _nothing_without_drafts),
    _edge("", "malformed rows give tokens", Arrays(sound=lambda laws: np.full(len(laws), True))),
    _edge("-inf in", "-inf is read as zero", Arrays(sound=lambda laws: are_laws(np.maximum(laws, 0)))),
    _edge(
        "", "one bad row flags the batch", Arrays(sound=lambda laws: are_laws(laws) & are_laws(laws).all())
    ),
    _edge(
        "ragged K",
        "slots after the fourth are not read",
        Arrays(accept_u=lambda u: u * (np.arange(u.shape[1]) < 4)),
    ),
    _edge("rows alone", "another map for a batch of one", _another_map_alone),
    _edge("", "overwrites the target's laws", Arrays(in_place=True)),
]

ARRAY_CONTROLS = [
    ArraySpecimen("float64 numpy", Arrays()),
    ArraySpecimen("float32 numpy", Arrays(dtype=np.float32)),
    ArraySpecimen("accepts by the ratio", Arrays(accepts=lambda u, q, p: u < p / q)),
    ArraySpecimen(
        "accepts by logarithms",
        Arrays(accepts=lambda u, q, p: np.log(u) + np.log(q) < np.log(p)),
    ),
    ArraySpecimen(
        "residual normalised first",
        Arrays(
            when_empty=lambda left, p: np.where(
                left.sum(-1, keepdims=True) > 0, left / left.sum(-1, keepdims=True), p
            )
        ),
    ),
]

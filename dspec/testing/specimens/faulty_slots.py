"""Verifiers of several drafts of one slot, wrong and right, for `check_several` and its coupling.

The right one is written a third time, on numpy, so that a check is never judged by the code it judges.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dspec.testing.specimens.arrays import draw_rows, one_level


def remaining(owed: Any, law: Any) -> Any:
    """Return (B, V): what is owed after a draft of this law fell, as a law; right."""
    excess = np.maximum(owed - law, 0)
    mass = excess.sum(-1, keepdims=True)
    return np.where(mass > 0, excess / np.where(mass > 0, mass, 1), owed)


def _as_given(laws: Any, tokens: Any, size: int) -> Any:
    """Return (B, k, V): the laws of the drafts, one-hot where none are given; right."""
    return np.eye(size)[tokens] if laws is None else laws


@dataclass(frozen=True, kw_only=True)
class Slots:
    """Several drafts of one slot on numpy in replaceable parts; the defaults are right.

    Args:
        dtype: of the arithmetic.
        laws: (laws or None, drafts, V) -> laws that the drafts are judged by.
        left: (what is owed, law of the draft that fell) -> what is owed then.
        accepts: (u, q, p) -> whether a draft stands.
        accept_u: what the accept uniforms become before use.
        closing: (what is owed, target) -> law of the correction.
        draw: law and uniforms to tokens.
        order: (number of drafts) -> the order in which they are tried.
    """

    dtype: Any = np.float64
    laws: Callable[..., Any] = _as_given
    left: Callable[..., Any] = remaining
    accepts: Callable[..., Any] = lambda u, q, p: u * q < p
    accept_u: Callable[[Any], Any] = lambda u: u
    closing: Callable[..., Any] = lambda owed, target: owed
    draw: Callable[..., Any] = draw_rows
    order: Callable[[int], Any] = range

    def __call__(self, target: Any, drafts: Any, laws: Any, accept: Any, close: Any) -> tuple[Any, Any]:
        """Return (index, tokens)."""
        rows, count = drafts.shape
        owed = target = target.astype(self.dtype)
        laws = self.laws(laws, drafts, target.shape[1]).astype(self.dtype)
        index, u = np.full(rows, count), self.accept_u(accept).astype(self.dtype)
        with np.errstate(divide="ignore", invalid="ignore"):
            for j in self.order(count):
                proposed, reached = (x[np.arange(rows), drafts[:, j]] for x in (laws[:, j], owed))
                stands = self.accepts(u[:, j], proposed, reached)
                index = np.where(stands & (index == count), j, index)
                owed = self.left(owed, laws[:, j])
        drawn = self.draw(self.closing(owed, target), close.astype(self.dtype))
        own = drafts[np.arange(rows), np.minimum(index, count - 1)]
        return index, np.where(index < count, own, drawn)


def _unconditional(laws: Any, tokens: Any, size: int) -> Any:
    """The law before anything was taken, for drafts without replacement."""
    return _as_given(None if laws is None else laws[:, :1].repeat(tokens.shape[1], axis=1), tokens, size)


def _soft(laws: Any, tokens: Any, size: int) -> Any:
    """A law that has all of the likeliest tokens, for drafts that are just these."""
    if laws is not None:
        return _as_given(laws, tokens, size)
    return np.eye(size)[tokens].mean(axis=1, keepdims=True).repeat(tokens.shape[1], axis=1)


WRONG: dict[str, Any] = {
    "several drafts: what is owed is not updated": Slots(left=lambda owed, law: owed),
    "several drafts: what is owed is not renormalised": Slots(left=lambda p, q: np.maximum(p - q, 0)),
    "several drafts: without replacement, by the law of the first": Slots(laws=_unconditional),
    "several drafts: the likeliest, by a soft law": Slots(laws=_soft),
    "several drafts: corrected from the target": Slots(closing=lambda owed, target: target),
    "several drafts: one accept u for all": Slots(accept_u=lambda u: u[:, :1] + 0 * u),
    "several drafts: accepts u * q <= p": Slots(accepts=lambda u, q, p: u * q <= p),
}
# Of these the coupling must see one; the counted law may be right, with a map of its own.
WRONG_MAPS: dict[str, Any] = {
    "several drafts: another map from uniforms": Slots(draw=one_level),
    "several drafts: float16 arithmetic": Slots(dtype=np.float16),
    "several drafts: the last one first": Slots(order=lambda count: reversed(range(count))),
}
RIGHT: dict[str, Any] = {
    "several drafts in float64": Slots(),
    "several drafts in float32": Slots(dtype=np.float32),
    "several drafts, accepted by the ratio": Slots(accepts=lambda u, q, p: u < p / q),
    "several drafts, accepted by logarithms": Slots(
        accepts=lambda u, q, p: np.log(u) + np.log(q) < np.log(p)
    ),
    "several drafts, what is owed divided once more": Slots(
        closing=lambda owed, target: owed / owed.sum(-1, keepdims=True)
    ),
}

"""Greedy rules and proposals on numpy arrays, wrong and right, for `check_greedy` and `check_honesty`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dspec.testing.checks.honesty import inverse

# Greedy rules ---------------------------------------------------------------------------------------


def first(logits: Any) -> Any:
    """Return the lowest index of the largest; right."""
    return logits.argmax(axis=-1)


def last(logits: Any) -> Any:
    """Return the highest index of the largest."""
    return logits.shape[-1] - 1 - logits[..., ::-1].argmax(axis=-1)


@dataclass(frozen=True, kw_only=True)
class GreedyRule:
    """Greedy verification on numpy in replaceable parts; the defaults are right.

    Args:
        pick: logits (B, K + 1, V) -> tokens (B, K + 1).
        agrees: (logits (B, K, V), own (B, K), drafts (B, K)) -> whether a draft stands.
        goes_on: whether drafts after one that fell may stand.
        bonus: pick of the last slot; None: the same.
    """

    pick: Callable[[Any], Any] = first
    agrees: Callable[[Any, Any, Any], Any] = lambda logits, own, drafts: own == drafts
    goes_on: bool = False
    bonus: Callable[[Any], Any] | None = None

    def __call__(self, logits: Any, drafts: Any) -> tuple[Any, Any]:
        """Return (tokens, n_accepted)."""
        own, slots = self.pick(logits), drafts.shape[1]
        if self.bonus is not None:
            own[:, -1] = self.bonus(logits[:, -1])
        stands = self.agrees(logits[:, :-1], own[:, :-1], drafts)
        n = stands.sum(axis=1) if self.goes_on else np.cumprod(stands, axis=1).sum(axis=1)
        tokens = np.concatenate([drafts, np.full((len(drafts), 1), -1)], axis=1)
        rows = np.arange(len(drafts))
        tokens[rows, n] = own[rows, np.minimum(n, slots)]
        return tokens, n


def _any_largest(logits: Any, own: Any, drafts: Any) -> Any:
    reached = np.take_along_axis(logits, drafts[..., None].astype(np.int64), axis=-1)[..., 0]
    return reached == logits.max(axis=-1)


def _tiled(logits: Any) -> Any:
    """Pads V to a multiple of 8 by the row's largest logit and takes the last: an id beyond V can win."""
    tail = np.repeat(logits.max(axis=-1, keepdims=True), -logits.shape[-1] % 8, axis=-1)
    return last(np.concatenate([logits, tail], axis=-1))


def _tile_by_tile(logits: Any) -> Any:
    """Compares tiles of 16 from the last to the first; inside a tile the lowest index wins."""
    best = np.zeros(logits.shape[:-1], np.int64)
    peak = np.full(logits.shape[:-1], -np.inf, logits.dtype)
    for start in reversed(range(0, logits.shape[-1], 16)):
        tile = logits[..., start : start + 16]
        better = tile.max(axis=-1) > peak
        best = np.where(better, start + tile.argmax(axis=-1), best)
        peak = np.maximum(peak, tile.max(axis=-1))
    return best


def bfloat16(values: Any) -> Any:
    """Return float32 values rounded to bfloat16 (to nearest, ties to even)."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32)


def _cold(logits: Any) -> Any:
    """Temperature 1e-5 and one uniform of 1/2 in place of an argmax."""
    with np.errstate(under="ignore"):
        weights = np.exp((logits - logits.max(axis=-1, keepdims=True)).astype(np.float64) * 1e5)
    running = weights.cumsum(axis=-1)
    return (0.5 * running[..., -1:] >= running).sum(axis=-1)


def _by_sorting(logits: Any) -> Any:
    return np.argsort(-logits, axis=-1, kind="stable")[..., 0]


def _reversed(logits: Any) -> Any:
    """Right: the last index of the reversed row."""
    return logits.shape[-1] - 1 - last(logits[..., ::-1])


def _no_mask(logits: Any) -> Any:
    return np.where(np.isinf(logits), 0, logits).argmax(axis=-1)


WRONG_GREEDY: dict[str, Any] = {
    "the last index of the largest": GreedyRule(pick=last),
    "any largest is accepted": GreedyRule(agrees=_any_largest),
    "the bonus takes the last index": GreedyRule(bonus=last),
    "a padded tile can win": GreedyRule(pick=_tiled),
    "tiles from the last to the first": GreedyRule(pick=_tile_by_tile),
    "logits rounded to bfloat16 first": GreedyRule(pick=lambda logits: first(bfloat16(logits))),
    "a tiny temperature in place of argmax": GreedyRule(pick=_cold),
    "drafts after a fallen one stand": GreedyRule(goes_on=True),
    "-inf counts as 0": GreedyRule(pick=_no_mask),
}
RIGHT_GREEDY: dict[str, Any] = {
    "argmax": GreedyRule(),
    "stable sort of the negated": GreedyRule(pick=_by_sorting),
    "last index of the reversed row": GreedyRule(pick=_reversed),
    "scaled and shifted logits": GreedyRule(pick=lambda logits: first(logits.astype(np.float64) / 0.7 + 5)),
    "accepts by equal ids and equal logits": GreedyRule(
        agrees=lambda logits, own, drafts: _any_largest(logits, own, drafts) & (own == drafts)
    ),
}

# Proposals ------------------------------------------------------------------------------------------


def softmax(logits: Any, *, temperature: float = 1.0) -> Any:
    """Return the law of logits, float32."""
    weights = np.exp((logits - logits.max(axis=-1, keepdims=True)) / np.float32(temperature))
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)


def nucleus(law: Any, top_p: float) -> Any:
    """Return the law of the likeliest tokens that hold `top_p`."""
    order = np.argsort(-law, axis=-1, kind="stable")
    sorted_law = np.take_along_axis(law, order, axis=-1)
    kept = np.where(sorted_law.cumsum(axis=-1) - sorted_law < top_p, sorted_law, 0)
    cut = np.zeros_like(law)
    np.put_along_axis(cut, order, kept, axis=-1)
    return cut / cut.sum(axis=-1, keepdims=True)


def _same(law: Any) -> Any:
    return law


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A draft from given logits in replaceable parts; the defaults are right.

    Args:
        law: logits -> the law that is computed.
        drawn: that law -> what tokens are drawn from.
        reported: that law -> what is reported; None: nothing is.
        draw: (law, uniforms) -> tokens.
    """

    law: Callable[[Any], Any] = softmax
    drawn: Callable[[Any], Any] = _same
    reported: Callable[[Any], Any] | None = _same
    draw: Callable[[Any, Any], Any] = inverse

    def __call__(self, logits: Any, uniforms: Any) -> tuple[Any, Any]:
        """Return (tokens, probs)."""
        law = self.law(logits)
        tokens = self.draw(self.drawn(law), uniforms)
        return tokens, None if self.reported is None else self.reported(law)


def _hot(law: Any) -> Any:
    return np.eye(law.shape[-1], dtype=np.float32)[law.argmax(axis=-1)]


def _tempered(law: Any) -> Any:
    power = law.astype(np.float64) ** 1.05
    return power / power.sum(axis=-1, keepdims=True)


def _argmax(law: Any, uniforms: Any) -> Any:
    return law.argmax(axis=-1)


WRONG_PROPOSALS: dict[str, Any] = {
    "drawn in bfloat16, reported in float32": Proposal(drawn=bfloat16),
    "reported at another temperature": Proposal(reported=_tempered),
    "argmax with a soft law": Proposal(draw=_argmax),
    "drawn after top-p, reported before": Proposal(drawn=lambda law: nucleus(law, 0.9)),
    "drawn before top-p, reported after": Proposal(reported=lambda law: nucleus(law, 0.98)),
    "laws of the slot beside": Proposal(reported=lambda law: law[:, ::-1]),
    "laws of the row beside": Proposal(reported=lambda law: np.roll(law, 1, axis=0)),
    "one-hot law of a sampled draft": Proposal(reported=_hot),
    "no law of a sampled draft": Proposal(reported=None),
    "unnormalised law": Proposal(reported=lambda law: 2 * law),
    "a bias on the drawn law alone": Proposal(drawn=lambda law: law * np.linspace(0.99, 1.01, law.shape[-1])),
}
RIGHT_PROPOSALS: dict[str, Any] = {
    "softmax": Proposal(),
    "drawn in float64, reported in float32": Proposal(drawn=lambda law: law.astype(np.float64)),
    "bfloat16 in both": Proposal(law=lambda logits: softmax(bfloat16(logits))),
    "top-p in both": Proposal(law=lambda logits: nucleus(softmax(logits), 0.9)),
    "flat whatever the logits": Proposal(law=lambda logits: softmax(0 * np.maximum(logits, -1))),
    "argmax without a law": Proposal(draw=_argmax, reported=None),
    "argmax with its one-hot law": Proposal(draw=_argmax, reported=_hot),
    "drawn from an unnormalised law": Proposal(drawn=lambda law: 3 * law.astype(np.float64)),
}

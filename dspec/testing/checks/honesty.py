"""Whether drafts were drawn from the law that is reported with them.

Not from a law like it: at a vocabulary of thousands, a draw in bfloat16, at another temperature, or from
the row beside gives another token at some uniforms, where the inverse of the reported law is a known one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dspec.core.types import Draft
from dspec.oracle.rejection import block_width
from dspec.rng import Purpose, Stream
from dspec.testing.checks.coupling import NEAR, draw_distance, grid_uniforms
from dspec.testing.models.wrapping import Wrapped, around
from dspec.testing.report import Report

CLAUSES = ("RS-2",)
SLOTS = 2
BATCH = 32
MASS_TOLERANCE = 1e-3

Propose = Callable[[Any, Any], tuple[Any, Any]]
"""(logits (B, K, V), uniforms (B, K, 2)) -> tokens (B, K), probs (B, K, V) or None."""


def check_honesty(
    propose: Propose,
    *,
    xp: Any,
    vocab: int = 4096,
    count: int = 256,
    seed: int = 0,
    to_numpy: Callable[[Any], Any] = np.asarray,
) -> Report:
    """Check that each draft is the reported law's own token at its uniforms.

    The token at a pair of uniforms is the one of the two-level draw (NU-1), in float64; rows with a
    uniform within 2^-20 of a threshold may differ and are counted. A draft without a law must be the
    same at all uniforms: its law is one-hot.

    Spec: RS-2, NU-1.

    Args:
        propose: see `Propose`.
        xp: array namespace of its arguments.
        vocab: V; a law rounded to bfloat16 before the draw gives another token in 1 %
            of the drafts at V = 4096, in 0.05 % at V = 3.
        count: rows.
        seed: of logits and uniforms.
        to_numpy: brings results to the host.

    Returns:
        The report, alpha 0; its counterexample names the tokens and how near the uniform is to an edge.

    Example:
        >>> import array_api_compat.numpy as xp
        >>> from dspec.testing.specimens.faulty_rules import Proposal
        >>> check_honesty(Proposal(), xp=xp, vocab=100, count=8).passed
        True
    """
    tried = {"drafts": 0, "near-edge drafts": 0}
    for start in range(0, count, BATCH):
        logits, uniforms, others = _instance(min(BATCH, count - start), vocab, seed + start)
        tokens, probs = _call(propose, logits, uniforms, xp=xp, to_numpy=to_numpy)
        if probs is None:
            again, _ = _call(propose, logits, others, xp=xp, to_numpy=to_numpy)
            wrong = _changes(tokens, again)
        else:
            wrong = judge_drafts(tokens, probs, uniforms, tried)
        tried["drafts"] += tokens.size if not wrong else wrong["row"] * SLOTS + wrong["slot"] + 1
        if wrong:
            arguments = {"vocab": vocab, "count": min(BATCH, count - start), "seed": seed + start}
            return Report(
                check="honesty",
                passed=False,
                tried=tried,
                clauses=CLAUSES,
                counterexample=wrong,
                replay={"check": "honesty", "arguments": arguments},
            )
    return Report(check="honesty", passed=True, tried=tried, clauses=CLAUSES)


def _instance(rows: int, vocab: int, seed: int) -> tuple[Any, Any, Any]:
    """Return logits, of which one row in eight has ties and -inf, and two sets of uniforms."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((rows, SLOTS, vocab), dtype=np.float32)
    low = (logits < -2) & (logits < logits.max(axis=-1, keepdims=True))
    logits[::8] = np.where(low[::8], -np.inf, np.round(logits[::8]))
    shape = (rows, SLOTS, 2)
    return logits, grid_uniforms(rng, shape), grid_uniforms(rng, shape)


def _call(propose: Propose, logits: Any, uniforms: Any, *, xp: Any, to_numpy: Any) -> tuple[Any, Any]:
    tokens, probs = propose(xp.asarray(logits.copy()), xp.asarray(uniforms.copy()))
    tokens = np.asarray(to_numpy(tokens)).astype(np.int64)
    return tokens, None if probs is None else np.asarray(to_numpy(probs)).astype(np.float64)


def _changes(tokens: Any, again: Any) -> dict[str, Any] | None:
    """Return the first draft that depends on uniforms though it reports no law."""
    for row, slot in np.argwhere(tokens != again).tolist():
        return {
            "wrong": "no law is reported, but the draft depends on its uniforms",
            "row": row,
            "slot": slot,
            "drafts": [int(tokens[row, slot]), int(again[row, slot])],
        }
    return None


def judge_drafts(tokens: Any, probs: Any, uniforms: Any, tried: dict[str, int]) -> dict[str, Any] | None:
    """Return the first draft that its reported law does not give at its uniforms, or None.

    Spec: RS-2, NT-2.

    Args:
        tokens: (B, K) integers.
        probs: (B, K, V), the reported laws.
        uniforms: (B, K, 2).
        tried: its "near-edge drafts" is raised for each that is excused.

    Returns:
        What is wrong, for a person.
    """
    mass = probs.sum(axis=-1)
    lawful = (np.abs(mass - 1) <= MASS_TOLERANCE) & (probs.min(axis=-1) >= 0)
    needed = inverse(probs, uniforms)
    for row, slot in np.argwhere(~lawful | (tokens != needed)).tolist():
        if not lawful[row, slot]:
            return {"wrong": "no law", "row": row, "slot": slot, "mass": float(mass[row, slot])}
        law, uniform = probs[row, slot], uniforms[row, slot]
        margin = draw_distance(law, uniform)
        if margin > NEAR:
            draft, right = int(tokens[row, slot]), int(needed[row, slot])
            return {
                "wrong": "the reported law gives another token at these uniforms",
                "row": row,
                "slot": slot,
                "draft": draft,
                "its reported probability": float(law[draft]) if 0 <= draft < len(law) else "no such id",
                "token of the reported law": right,
                "its probability": float(law[right]),
                "uniforms": uniform,
                "edge distance": margin,
            }
        tried["near-edge drafts"] += 1
    return None


def inverse(probs: Any, uniforms: Any) -> Any:
    """Return (...) tokens of the two-level draw in float64 (NU-1).

    Args:
        probs: (..., V) laws.
        uniforms: (..., 2).

    Returns:
        The tokens.

    Example:
        >>> inverse(np.array([0.125, 0.125, 0.25, 0.5]), np.array([0.2, 0.5])).tolist()
        1
    """
    vocab = probs.shape[-1]
    width = block_width(vocab)
    tail = [(0, 0)] * (probs.ndim - 1) + [(0, -vocab % width)]
    grid = np.pad(probs.astype(np.float64), tail).reshape(*probs.shape[:-1], -1, width)
    block = _pick(grid.sum(axis=-1), uniforms[..., 0])
    inside = np.take_along_axis(grid, block[..., None, None], axis=-2)[..., 0, :]
    return block * width + _pick(inside, uniforms[..., 1])


def _pick(mass: Any, uniform: Any) -> Any:
    """Return the first entry with u * total < running sum, else the last of positive mass."""
    running = np.cumsum(mass, axis=-1)
    below = uniform[..., None].astype(np.float64) * running[..., -1:] < running
    last = mass.shape[-1] - 1 - (mass[..., ::-1] > 0).argmax(axis=-1)
    return np.where(below.any(axis=-1), below.argmax(axis=-1), last)


def check_drafts(engine: Any, *, prompts: Sequence[Sequence[int]], seed: int = 0, **settings: Any) -> Report:
    """Check an engine's own drafts while it decodes: as its rule made them, and at their uniforms.

    Spec: RS-2, RN-1.

    Args:
        engine: a `dspec.engine.Engine` with a drafter.
        prompts: token ids, each.
        seed: of prompt 0; prompt i has seed + i.
        **settings: as for `Engine.generate`.

    Returns:
        The report, alpha 0.

    Example:
        >>> from dspec.testing.models.recall import recall_engine
        >>> check_drafts(recall_engine(), prompts=[[1]], temperature=1.0, policy="rejection").passed
        True
    """
    tried = {"drafts": 0, "near-edge drafts": 0}
    for index, prompt in enumerate(prompts):
        notes: list[Any] = []
        watched = around(drafter=lambda inner, notes=notes: _Noting(inner, notes))(lambda: engine)()  # type: ignore[misc]
        watched.generate(list(prompt), seed=seed + index, **settings)
        for position, draft, made in notes:
            wrong = _judge_note(engine.ops, position, draft, made, seed + index, tried)
            if wrong:
                arguments = {"prompts": [list(prompt)], "seed": seed + index, **settings}
                return Report(
                    check="drafts",
                    passed=False,
                    tried=tried,
                    clauses=CLAUSES,
                    counterexample={"prompt": list(prompt), "anchor at position": position, **wrong},
                    replay={"check": "drafts", "arguments": arguments},
                )
    return Report(check="drafts", passed=True, tried=tried, clauses=CLAUSES)


class _Noting(Wrapped):
    """A drafter's session whose drafts are noted, beside what the rule made of them."""

    def __init__(self, inner: Any, notes: list[Any]) -> None:
        super().__init__(inner)
        self._notes = notes

    def propose(self, anchor: int, position: int, features: Any, rule: Any, **cut: Any) -> Draft:
        """Propose as the inner session does."""
        made: list[Draft] = []

        def noting(*arguments: Any) -> Draft:
            made.append(rule(*arguments))
            return made[-1]

        draft: Draft = self._inner.propose(anchor, position, features, noting, **cut)
        self._notes.append((position, draft, made))
        return draft


def _judge_note(
    ops: Any, position: int, draft: Draft, made: list[Draft], seed: int, tried: dict[str, int]
) -> dict[str, Any] | None:
    """Return what is wrong with one pass's draft, or None."""

    def host(array: Any) -> Any:
        return np.asarray(ops.to_host(array))

    tokens, laws = host(draft.tokens), [part.probs for part in made]
    if not np.array_equal(tokens, np.concatenate([host(part.tokens) for part in made], axis=1)):
        return {"wrong": "the drafts are not those that the rule made", "drafts": tokens[0]}
    if (draft.probs is None) != (laws[0] is None):
        return {"wrong": "a law was left out, or made up", "rule reported one": laws[0] is not None}
    tried["drafts"] += tokens.size
    if draft.probs is None:
        return None
    uniforms = Stream(seed, 0).uniforms(Purpose.DRAFT, position, (*tokens.shape, 2))
    return judge_drafts(tokens, host(draft.probs).astype(np.float64), uniforms, tried)

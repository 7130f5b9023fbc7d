"""The decode loop, written once: prefill, then pass after pass: propose, score, judge, rewind, emit.

It does bookkeeping only: positions, stopping, what was emitted. It never looks into an array; a
`Judge` turns scores into host integers, once a block.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dspec.core.types import Draft, Scores
from dspec.errors import ConfigError, explain


@dataclass(frozen=True)
class Limits:
    """When a request ends.

    Args:
        max_new_tokens: most tokens to emit, the prefill's included; >= 1.
        eos_ids: token ids that end the output; the id itself is kept.
    """

    max_new_tokens: int
    eos_ids: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(
                explain("max_new_tokens", self.max_new_tokens, "an integer >= 1", clause="DL-3")
            )


@dataclass(frozen=True)
class Pass:
    """What one pass emitted.

    Args:
        tokens: emitted tokens, cut at a stop or limit.
        n_accepted: accepted drafts, uncut; None for the prefill, which judges nothing.
        n_drafted: drafted slots of the pass; 0 for the prefill.
        finish: None while the request goes on, else "eos" or "length".
    """

    tokens: tuple[int, ...]
    n_accepted: int | None
    n_drafted: int
    finish: str | None

    @property
    def n_emitted(self) -> int | None:
        """Accepted drafts and the closing token, uncut; None for the prefill."""
        return None if self.n_accepted is None else self.n_accepted + 1


class Judge(Protocol):
    """Policy, sampling settings and uniforms of one request, bound to a backend's arrays."""

    def first(self, scores: Scores, position: int) -> int:
        """Return the token after the prompt; `position` is the last prompt token's."""
        ...

    def rule(self, position: int) -> Callable[..., Draft]:
        """Return the rule that turns draft logits into drafts, for the anchor at `position`."""
        ...

    def verdict(self, scores: Scores, draft: Draft, position: int) -> tuple[int, Sequence[int]]:
        """Return n_accepted and the K + 1 tokens on the host: the block's one synchronisation."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What one pass found, uncut.

    Args:
        tokens: the drafts that stand, in order, and the closing token.
        n_drafted: drafted slots; of a tree its depth.
        features: of the anchor and at least the drafts that stand, for the drafter; or None.
    """

    tokens: Sequence[int]
    n_drafted: int
    features: Any


def block_pass(target: Any, drafter: Any, judge: Judge, anchor: int, position: int, features: Any) -> Outcome:
    """Propose a block, score it, judge it, rewind: one pass with the caches at the anchor's position.

    Spec: DL-1, DL-2, DL-4, DL-5, DL-6.

    Args:
        target: a `TargetSession`; holds the positions before the anchor.
        drafter: a `DrafterSession`.
        judge: the request's policy, settings and uniforms.
        anchor: the last emitted token.
        position: its position.
        features: of the positions that the drafter has not taken in.

    Returns:
        What stands, and the closing token behind it.
    """
    draft = drafter.propose(anchor, position, features, judge.rule(position))
    scores = target.score(anchor, draft.tokens)
    n_accepted, tokens = judge.verdict(scores, draft, position)
    target.rewind(position + n_accepted + 1)
    return Outcome(tokens[: n_accepted + 1], len(tokens) - 1, scores.features)


def decode(
    target: Any,
    drafter: Any,
    judge: Any,
    prompt: Sequence[int],
    limits: Limits,
    *,
    one_pass: Callable[..., Outcome] = block_pass,
) -> Iterator[Pass]:
    """Yield what each pass emits until a stop or limit.

    Between two passes both caches hold the positions before the anchor, the last emitted token;
    its own features do not exist yet, so the drafter sees what lies strictly before it.

    Spec: DL-1, DL-2, DL-3, DL-4, DL-5, DL-6, RS-14, RS-15.

    Args:
        target: a `TargetSession`, empty.
        drafter: a `DrafterSession`, empty.
        judge: a `Judge` (of trees: a `TreeJudge`): the request's policy, settings and uniforms.
        prompt: token ids, at least one.
        limits: when to end.
        one_pass: what follows the prefill again and again: `block_pass` or `tree_decode.tree_pass`.

    Yields:
        First the prefill's pass (one token), then one pass a verify.

    Raises:
        ConfigError: the prompt is empty.

    Source: arXiv 2602.06036, section 3 (drafter and target in turn).
    """
    if len(prompt) == 0:
        raise ConfigError(
            explain("prompt", "no tokens", "at least one token", remedy="Begin with BOS.", clause="DL-1")
        )
    scores = target.prefill(prompt)
    anchor, position, features = judge.first(scores, len(prompt) - 1), len(prompt), scores.features
    left = limits.max_new_tokens
    step = _emit((anchor,), None, 0, left, limits)
    while True:
        left -= len(step.tokens)
        yield step
        if step.finish is not None:
            return
        found = one_pass(target, drafter, judge, anchor, position, features)
        position += len(found.tokens)
        anchor, features = found.tokens[-1], found.features
        step = _emit(found.tokens, len(found.tokens) - 1, found.n_drafted, left, limits)


def _emit(tokens: Sequence[int], n_accepted: int | None, n_drafted: int, left: int, limits: Limits) -> Pass:
    """Cut at the first end token within the budget, else at the budget (RS-14)."""
    tokens = tuple(tokens)[:left]
    for i, token in enumerate(tokens):
        if token in limits.eos_ids:
            return Pass(tokens[: i + 1], n_accepted, n_drafted, "eos")
    return Pass(tokens, n_accepted, n_drafted, "length" if len(tokens) == left else None)

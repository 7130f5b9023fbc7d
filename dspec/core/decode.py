"""The decode loop, written once: prefill, then propose, score, judge, rewind, emit.

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
        finish: None while the request goes on, else "eos", "length" or, in a batch, "error".
        error: what ended the request, where finish is "error".
    """

    tokens: tuple[int, ...]
    n_accepted: int | None
    n_drafted: int
    finish: str | None
    error: Exception | None = None

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


def decode(target: Any, drafter: Any, judge: Judge, prompt: Sequence[int], limits: Limits) -> Iterator[Pass]:
    """Yield what each pass emits until a stop or limit.

    Between two passes both caches hold the positions before the anchor, the last emitted token;
    its own features do not exist yet, so the drafter sees what lies strictly before it.

    Spec: DL-1, DL-2, DL-3, DL-4, DL-5, DL-6, RS-14, RS-15.

    Args:
        target: a `TargetSession`, empty.
        drafter: a `DrafterSession`, empty.
        judge: the request's policy, settings and uniforms.
        prompt: token ids, at least one.
        limits: when to end.

    Yields:
        First the prefill's pass (one token), then one pass a verify.

    Raises:
        ConfigError: the prompt is empty.

    Source: arXiv 2602.06036, section 3 (drafter and target in turn).
    """
    check_prompt(prompt)
    scores = target.prefill(prompt)
    anchor, position = judge.first(scores, len(prompt) - 1), len(prompt)
    left = limits.max_new_tokens
    step = emit((anchor,), None, 0, left, limits)
    while True:
        left -= len(step.tokens)
        yield step
        if step.finish is not None:
            return
        draft = drafter.propose(anchor, position, scores.features, judge.rule(position))
        scores = target.score(anchor, draft.tokens)
        n_accepted, tokens = judge.verdict(scores, draft, position)
        position += n_accepted + 1
        target.rewind(position)
        anchor = tokens[n_accepted]
        step = emit(tokens[: n_accepted + 1], n_accepted, len(tokens) - 1, left, limits)


def emit(tokens: Sequence[int], n_accepted: int | None, n_drafted: int, left: int, limits: Limits) -> Pass:
    """Return what a pass emits: cut at the first end token within the budget, else at the budget.

    Spec: DL-3, RS-14.

    Args:
        tokens: accepted drafts and the closing token; at least one.
        n_accepted: of them; None for the prefill.
        n_drafted: drafted slots of the pass.
        left: tokens that the request may still emit; >= 1.
        limits: end tokens.

    Returns:
        The pass.

    Example:
        >>> emit((4, 9, 4), 2, 2, 5, Limits(8, frozenset({9}))).tokens
        (4, 9)
    """
    tokens = tuple(tokens)[:left]
    for i, token in enumerate(tokens):
        if token in limits.eos_ids:
            return Pass(tokens[: i + 1], n_accepted, n_drafted, "eos")
    return Pass(tokens, n_accepted, n_drafted, "length" if len(tokens) == left else None)


def check_prompt(prompt: Sequence[int]) -> None:
    """Raise unless there is a token to begin with.

    Spec: DL-1.

    Raises:
        ConfigError: the prompt is empty.

    Example:
        >>> check_prompt([0])
    """
    if len(prompt) == 0:
        raise ConfigError(
            explain("prompt", "no tokens", "at least one token", remedy="Begin with BOS.", clause="DL-1")
        )

"""The whole generation, several blocks, with stops and limits: the reading of the DL clauses.

Target and drafter are functions from contexts to laws, so there is no cache here and nothing to
rewind: what this loop emits is what a loop with caches must emit.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from dspec.oracle.policies import Policy
from dspec.oracle.rejection import Draw, Law, Number, argmax, draw

Target = Callable[[tuple[int, ...]], Law]
"""Context (prompt and tokens so far) -> law of the next token."""

Drafter = Callable[[tuple[int, ...], tuple[int, ...]], Law]
"""Context (its last token is the anchor), drafts so far -> law of the next draft."""

UniformsOf = Callable[..., Any]
"""(purpose, anchor position, slot) -> uniforms in the form that `draw` takes."""

Length = Callable[[tuple[int, ...], tuple[int, ...]], int]
"""Tokens emitted so far, `n_emitted` of the passes so far -> drafts of the next pass."""


@dataclass(frozen=True)
class Generation:
    """What was generated.

    Args:
        tokens: cut at the first stop token (kept) or at the limit.
        n_emitted: tokens of each verify pass, uncut; the prefill's token is in none of them.
    """

    tokens: tuple[int, ...]
    n_emitted: tuple[int, ...]


def cut(tokens: Sequence[int], *, max_new_tokens: int, eos: Collection[int] = ()) -> tuple[int, ...]:
    """Return the tokens up to the limit or the first stop token inside it, which is kept.

    Spec: DL-3, RS-14.

    Example:
        >>> cut([5, 9, 5, 9], max_new_tokens=3, eos={9}), cut([5, 5, 9], max_new_tokens=2, eos={9})
        ((5, 9), (5, 5))
    """
    kept: list[int] = []
    for token in tokens[:max_new_tokens]:
        kept.append(token)
        if token in eos:
            break
    return tuple(kept)


def propose(
    drafter: Drafter,
    context: tuple[int, ...],
    num_drafts: int,
    policy: Policy,
    uniforms: UniformsOf,
    *,
    draw: Draw = draw,
) -> tuple[list[int], list[Law] | None]:
    """Return K drafts after the anchor and the laws they were drawn from (None: argmax, one-hot).

    Spec: RS-2.
    """
    tokens: list[int] = []
    rows: list[Law] = []
    for slot in range(num_drafts):
        law = drafter(context, tuple(tokens))
        rows.append(law)
        if policy.samples_drafts:
            tokens.append(draw(law, uniforms("draft", len(context) - 1, slot)))
        else:
            tokens.append(argmax(law))
    return tokens, rows if policy.samples_drafts else None


def generate(
    target: Target,
    drafter: Drafter,
    policy: Policy,
    uniforms: UniformsOf,
    *,
    prompt: tuple[int, ...],
    num_drafts: int | Length,
    max_new_tokens: int,
    eos: Collection[int] = (),
    draw: Draw = draw,
) -> Generation:
    """Return one generation.

    Spec: DL-1, DL-2, DL-3, DL-13, RN-1.

    Args:
        target: see `Target`.
        drafter: see `Drafter`.
        policy: one of `dspec.oracle.policies.POLICIES`.
        uniforms: see `UniformsOf`; purposes "draft", "accept", "close".
        prompt: at least one token.
        num_drafts: K >= 0, or see `Length`.
        max_new_tokens: >= 1.
        eos: stop tokens.
        draw: map from a law and uniforms to a token.

    Returns:
        Tokens and per-pass counts.

    Example:
        >>> from dspec.oracle.policies import POLICIES
        >>> flat = lambda *_: [0.5, 0.5]
        >>> generate(flat, flat, POLICIES["rejection"], lambda *key: 0.7, prompt=(0,), num_drafts=2,
        ...          max_new_tokens=5)
        Generation(tokens=(1, 1, 1, 1, 1), n_emitted=(3, 3))
    """
    emitted = [draw(target(prompt), uniforms("close", len(prompt) - 1, 0))]
    counts: list[int] = []
    while len(emitted) < max_new_tokens and not set(emitted) & set(eos):
        context = prompt + tuple(emitted)
        anchor = len(context) - 1
        length = num_drafts if isinstance(num_drafts, int) else num_drafts(tuple(emitted), tuple(counts))
        tokens, rows = propose(drafter, context, length, policy, uniforms, draw=draw)
        targets = [target(context + tuple(tokens[:k])) for k in range(length + 1)]
        accept = [uniforms("accept", anchor, slot) for slot in range(length)]
        close = [uniforms("close", anchor, slot) for slot in range(length + 1)]
        block = policy.verify(targets, tokens, rows, accept, close, draw=draw)
        counts.append(len(block))
        emitted += block
    return Generation(cut(emitted, max_new_tokens=max_new_tokens, eos=eos), tuple(counts))


def log_probs(target: Target, tokens: Sequence[int], *, prompt: tuple[int, ...]) -> tuple[float, ...]:
    """Return the log-probability that the target gives each token after those before it.

    Of nothing but the text: no pass, draft or verdict is known here.

    Spec: RS-19.

    Args:
        target: see `Target`; raw or warped, as its laws are.
        tokens: of an output.
        prompt: at least one token.

    Returns:
        As many floats, nats; -inf for a token of probability 0.

    Example:
        >>> log_probs(lambda context: [Fraction(1), Fraction(0)], (0, 1), prompt=(0,))
        (0.0, -inf)
    """
    chances = [target((*prompt, *tokens[:i]))[token] for i, token in enumerate(tokens)]
    return tuple(math.log(chance) if chance > 0 else -math.inf for chance in chances)


def sequence_law(
    target: Target, *, prompt: tuple[int, ...], max_new_tokens: int, eos: Collection[int] = ()
) -> dict[tuple[int, ...], Number]:
    """Return the target's own law of whole generations, by recursion: what every sampler must have.

    Spec: RS-1.

    Returns:
        Token tuple -> probability; only tuples of positive probability.

    Example:
        >>> coin = lambda context: [Fraction(1, 3), Fraction(2, 3)]
        >>> sequence_law(coin, prompt=(0,), max_new_tokens=2, eos={0})
        {(0,): Fraction(1, 3), (1, 0): Fraction(2, 9), (1, 1): Fraction(4, 9)}
    """
    law: dict[tuple[int, ...], Number] = {}

    def extend(tokens: tuple[int, ...], chance: Number) -> None:
        if len(tokens) == max_new_tokens or (tokens and tokens[-1] in eos):
            law[tokens] = chance
            return
        for token, mass in enumerate(target(prompt + tokens)):
            if mass > 0:
                extend((*tokens, token), chance * mass)

    extend((), Fraction(1))
    return law

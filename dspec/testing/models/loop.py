"""A generation in replaceable parts: what wrong and right samplers are put together from.

The defaults are right; it is checked against the oracle's own loop by the controls.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from dspec.oracle.decode import cut
from dspec.oracle.enumerate import Source
from dspec.oracle.rejection import (
    argmax,
    draw,
    one_hot,
    residual,
    verify_sample_match,
    verify_tokens,
)
from dspec.testing.models.worlds import World

Block = list[int]
HALF = Fraction(1, 2)


@dataclass(frozen=True, kw_only=True)
class Loop:
    """A generation in parts, each of which a mutant replaces; the defaults are right.

    Args:
        target: (world, context) -> law that verification uses; the first token is always right.
        propose: (world, context, uniforms) -> drafts and the laws it reports (None: one-hot).
        verify: (target rows, drafts, drafter rows, accept, close) -> emitted block.
        key: (purpose, position, slot) -> key of the uniform that is really used.
        keep: (block, number of drafts) -> what is appended of it.
        end: (tokens, world) -> what is returned.
        rewinds: whether rejected drafts leave the target's cache.
    """

    target: Callable[[World, tuple[int, ...]], Any] = lambda world, context: world.target(context)
    propose: Callable[..., Any] = lambda world, context, uniforms: sampled(world, context, uniforms)
    verify: Callable[..., Block] = verify_tokens
    key: Callable[..., Any] = lambda *key: key
    keep: Callable[[Block, int], Block] = lambda block, drafted: block
    end: Callable[[Block, World], tuple[int, ...]] = lambda tokens, world: stop(tokens, world)
    rewinds: bool = True

    def __call__(self, world: World, source: Source) -> tuple[int, ...]:
        """Run one generation; also passes as a `dspec.testing.checks.laws.Sampler`."""

        def uniforms(*key: Any) -> Any:
            return source(*self.key(*key))

        context = world.prompt
        stale: tuple[int, ...] = ()
        tokens = [draw(world.target(context), uniforms("close", len(context) - 1, 0))]
        while len(tokens) < world.max_new_tokens and world.eos not in tokens:
            context = world.prompt + tuple(tokens)
            anchor = len(context) - 1
            drafts, rows = self.propose(world, context, uniforms)
            seen = (*stale, *context)  # a cache that kept rejected drafts shifts every position
            laws = [self.target(world, seen + tuple(drafts[:k])) for k in range(len(drafts) + 1)]
            accept = [uniforms("accept", anchor, slot) for slot in range(len(drafts))]
            close = [uniforms("close", anchor, slot) for slot in range(len(drafts) + 1)]
            block = self.verify(laws, drafts, rows, accept, close)
            if not self.rewinds:
                stale += tuple(drafts[len(block) - 1 :])
            tokens += self.keep(block, len(drafts))
        return self.end(tokens, world)


def stop(tokens: Block, world: World) -> tuple[int, ...]:
    """Return the tokens cut at the first stop or the limit."""
    return cut(tokens, max_new_tokens=world.max_new_tokens, eos={world.eos})


# Proposals ------------------------------------------------------------------------------------------


def drafts_by(
    world: World, context: Any, choose: Callable[[Any, int], int], slots: int
) -> tuple[Block, list[Any]]:
    """Return drafts chosen slot by slot, and the laws that the drafter reports for them."""
    drafts: Block = []
    rows = []
    for slot in range(slots):
        rows.append(world.drafter(context, tuple(drafts)))
        drafts.append(choose(world.drawn(context, tuple(drafts)), slot))
    return drafts, rows


def sampled(world: World, context: Any, uniforms: Any) -> tuple[Block, list[Any]]:
    """Return drafts drawn from the drafter's law, and that law; they agree if the drafter is honest."""
    anchor = len(context) - 1

    def choose(law: Any, slot: int) -> int:
        return draw(law, uniforms("draft", anchor, slot))

    return drafts_by(world, context, choose, world.num_drafts)


def greedy(world: World, context: Any, uniforms: Any) -> tuple[Block, None]:
    """Return argmax drafts, reported as one-hot."""
    return drafts_by(world, context, lambda law, slot: argmax(law), world.num_drafts)[0], None


# Verification ---------------------------------------------------------------------------------------


def verifier(
    *,
    accepts: Callable[..., bool] = lambda p, q, x, u: u * q[x] < p[x],
    closing: Callable[..., Any] = lambda p, q, x: residual(p, q),
    pick: Callable[..., int] = lambda law, k, accept, close: draw(law, close[0]),
    ratio_row: int = 0,
    residual_row: int = 0,
    bonus: Callable[[Any, Any], Any] = lambda targets, rows: targets[-1],
    goes_on: bool = False,
) -> Callable[..., Block]:
    """Return token verification with the given parts; the defaults are right."""

    def verify(targets: Any, drafts: Block, rows: Any, accept: Any, close: Any) -> Block:
        rows = rows or [one_hot(token, len(targets[0])) for token in drafts]
        block: Block = []
        for k, token in enumerate(drafts):
            if accepts(targets[k + ratio_row], rows[k], token, accept[k]):
                block.append(token)
                continue
            law = closing(targets[k + residual_row], rows[k], token)
            block.append(pick(law, k, accept, close))
            if not goes_on:
                return block
            close = close[1:]
        return [*block, draw(bonus(targets, rows), close[0])]

    return verify


def match(targets: Any, drafts: Block, rows: Any, accept: Any, close: Any) -> Block:
    """Sample-match, right."""
    return verify_sample_match(targets, drafts, close)


def whole_block(targets: Any, drafts: Block, rows: Any, accept: Any, close: Any) -> Block:
    """Block verification, right: the longest prefix whose joint test passes stands, looked at from all.

    Source: Sun et al., arXiv 2403.10444, algorithm 2.
    """
    ratio, kept, law = Fraction(1), 0, residual(targets[0], rows[0]) if rows else targets[0]
    for k, token in enumerate(drafts):
        ratio = min(Fraction(1), ratio * targets[k][token] / rows[k][token])
        if k + 1 == len(drafts):
            stands, left = accept[k] < ratio, targets[-1]
        else:
            left = [max(ratio * p - q, 0) for p, q in zip(targets[k + 1], rows[k + 1])]
            stands = accept[k] * (sum(left) + 1 - ratio) < sum(left)
        if stands:
            kept, law = k + 1, left if sum(left) else targets[k + 1]
    return [*drafts[:kept], draw(law, close[0])]

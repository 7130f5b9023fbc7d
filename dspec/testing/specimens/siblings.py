"""Several drafts for one place, tried one after another: right and wrong, on a world's first drafter row.

No policy of the library's loop does it; these stand for the field's loops, so that enumeration is known to
see their faults and to let the right ones pass. `faulty_slots` has the verifiers of one slot on arrays.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from dspec.oracle.decode import cut
from dspec.oracle.rejection import draw, one_hot, residual
from dspec.oracle.warp import normalised
from dspec.testing.models.worlds import World

Law = Any  # V numbers
Child = tuple[int, Law]


@dataclass(frozen=True, kw_only=True)
class Siblings:
    """A generation that drafts K children of the last token and keeps one of them, or none.

    Child x_j of law q_j stands iff u * q_j(x_j) < p_j(x_j), where p_1 is the target's law and p_{j+1} the
    residual that rejecting x_j leaves. After a child that stands one more token is drawn.

    Args:
        children: (drafter's law, K, uniforms of the drafts) -> children and their reported laws.
        left: (law so far, law of the child, child) -> law after its rejection.

    Source: arXiv 2310.15141, recursive rejection; the laws of RS-4 and RS-5 for each child.
    """

    children: Callable[..., list[Child]] = lambda law, count, uniforms: independent(law, count, uniforms)
    left: Callable[..., Law] = lambda p, q, x: remaining(p, q, x)

    def __call__(self, world: World, source: Any) -> tuple[int, ...]:
        """Run one generation; passes as a `dspec.testing.checks.laws.Sampler`."""
        context = world.prompt
        tokens = [draw(world.target(context), source("close", len(context) - 1, 0))]
        while len(tokens) < world.max_new_tokens and world.eos not in tokens:
            context = world.prompt + tuple(tokens)
            tokens += self._block(world, context, source)
        return cut(tokens, max_new_tokens=world.max_new_tokens, eos={world.eos})

    def _block(self, world: World, context: tuple[int, ...], source: Any) -> list[int]:
        at = len(context) - 1
        uniforms = [source("draft", at, slot) for slot in range(world.num_drafts)]
        law = world.target(context)
        for slot, (token, q) in enumerate(
            self.children(world.drafter(context, ()), world.num_drafts, uniforms)
        ):
            if source("accept", at, slot) * q[token] < law[token]:
                return [token, draw(world.target((*context, token)), source("close", at, 1))]
            law = self.left(law, q, token)
        return [draw(law, source("close", at, 0))]


def remaining(p: Law, q: Law, x: int) -> Law:
    """Return the residual as a law; a target that lies under the child's law stays."""
    return normalised(residual(p, q))


def independent(law: Law, count: int, uniforms: Any) -> list[Child]:
    """Return children drawn from the drafter's law, each for itself."""
    return [(draw(law, uniform), law) for uniform in uniforms[:count]]


def without_replacement(law: Law, count: int, uniforms: Any, *, conditional: bool = True) -> list[Child]:
    """Return different children; the law of each is conditional on the earlier ones, if so reported."""
    children: list[Child] = []
    rest = list(law)
    for uniform in uniforms[:count]:
        if not sum(rest):
            break
        token = draw(rest, uniform)
        children.append((token, normalised(rest) if conditional else law))
        rest[token] = Fraction(0)
    return children


def likeliest(law: Law, count: int, uniforms: Any, *, soft: bool = False) -> list[Child]:
    """Return the `count` likeliest tokens as children: their laws are one-hot, whatever `soft` reports."""
    order = sorted(range(len(law)), key=lambda token: (-law[token], token))[:count]
    return [(token, law if soft else one_hot(token, len(law))) for token in order]


def soft_likeliest(law: Law, count: int, uniforms: Any) -> list[Child]:
    """Wrong: deterministic children with the drafter's soft law."""
    return likeliest(law, count, uniforms, soft=True)


def unconditional(law: Law, count: int, uniforms: Any) -> list[Child]:
    """Wrong: drawn without replacement, reported as if with."""
    return without_replacement(law, count, uniforms, conditional=False)

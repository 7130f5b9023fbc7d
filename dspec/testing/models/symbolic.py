"""The library's own decode loop on exact fractions: what makes it possible to enumerate its law."""

from collections.abc import Callable, Sequence
from typing import Any

from dspec.core.decode import Limits, decode
from dspec.core.types import Draft, Scores
from dspec.oracle.enumerate import Source
from dspec.oracle.policies import POLICIES
from dspec.oracle.rejection import argmax, draw
from dspec.testing.models.worlds import World


def decode_sampler(policy: str, *, rewinds: bool = True) -> Callable[[World, Source], tuple[int, ...]]:
    """Return `core.decode` as a sampler of worlds: exact sessions, oracle verdicts, symbolic uniforms.

    Spec: RS-1, DL-1, DL-3, DL-4.

    Args:
        policy: a key of `dspec.oracle.policies.POLICIES`.
        rewinds: whether the target's cache forgets rejected drafts, as it must.

    Returns:
        A `dspec.testing.checks.laws.Sampler`.

    Example:
        >>> from dspec.testing.models.worlds import make_worlds
        >>> decode_sampler("greedy")(make_worlds(1, seed=0, warps=("greedy",))[0], lambda *key: 0.5)
        (2,)
    """

    def sampler(world: World, source: Source) -> tuple[int, ...]:
        judge = ExactJudge(POLICIES[policy], source, world.num_drafts)
        sessions = ExactTarget(world, rewinds=rewinds), ExactDrafter(world)
        limits = Limits(world.max_new_tokens, frozenset({world.eos}))
        passes = decode(*sessions, judge, world.prompt, limits)
        return tuple(token for step in passes for token in step.tokens)

    return sampler


class ExactTarget:
    """`TargetSession` on a world's exact laws; its cache is the list of tokens it has read."""

    def __init__(self, world: World, *, rewinds: bool = True) -> None:
        self.world, self.rewinds = world, rewinds
        self.cache: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Committed positions."""
        return len(self.cache)

    def prefill(self, tokens: Sequence[int]) -> Scores:
        """Read the prompt; the law after its last token stands where logits would."""
        self.cache += tuple(tokens)
        return Scores([self.world.target(self.cache)])

    def score(self, anchor: int, draft_tokens: Any) -> Scores:
        """Read anchor and drafts; the law after each."""
        laws = []
        for token in [anchor, *draft_tokens]:
            self.cache += (token,)
            laws.append(self.world.target(self.cache))
        return Scores(laws, self.cache)

    def rewind(self, length: int) -> None:
        """Forget every position >= length."""
        if self.rewinds:
            self.cache = self.cache[:length]


class ExactDrafter:
    """`DrafterSession` on a world's exact laws."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.length = 0
        self.seen: list[int] = []

    def propose(
        self, anchor: int, position: int, features: Any, rule: Any, n_slots: int | None = None
    ) -> Draft:
        """Return K drafts, or the first of them, and the laws they were drawn from."""
        self.length = position
        self.seen.append(position)
        drafts: list[int] = []
        context = (*(0,) * position, anchor)  # a world's drafter reads the last token only
        rows = []
        for slot in range(self.world.num_drafts)[:n_slots]:
            rows.append(self.world.drafter(context, tuple(drafts)))
            drafts.append(rule(rows[-1], slot))
        return Draft(drafts, rows)

    def rewind(self, length: int) -> None:
        """Forget every position >= length."""
        self.length = length


class ExactJudge:
    """`core.decode.Judge` by the oracle's rules on symbolic uniforms, by the keys of RN-1."""

    def __init__(self, policy: Any, uniforms: Any, num_drafts: int) -> None:
        self.policy, self.uniforms, self.num_drafts = policy, uniforms, num_drafts
        self.counts: list[int] = []

    def first(self, scores: Scores, position: int) -> int:
        """Return the token after the prompt."""
        return draw(scores.logits[-1], self.uniforms("close", position, 0))

    def rule(self, position: int) -> Any:
        """Return what draws a draft from a law, or takes its argmax."""
        if not self.policy.samples_drafts:
            return lambda law, slot: argmax(law)
        return lambda law, slot: draw(law, self.uniforms("draft", position, slot))

    def verdict(self, scores: Scores, draft: Draft, position: int) -> tuple[int, list[int]]:
        """Return n_accepted and K + 1 tokens, -1 behind the closing one."""
        rows = draft.probs if self.policy.samples_drafts else None
        accept = [self.uniforms("accept", position, slot) for slot in range(len(draft.tokens))]
        close = [self.uniforms("close", position, slot) for slot in range(len(draft.tokens) + 1)]
        block = self.policy.verify(scores.logits, draft.tokens, rows, accept, close)
        self.counts.append(len(block))
        return len(block) - 1, [*block, *[-1] * (len(draft.tokens) + 1 - len(block))]

"""One request that is filled block by block: its tokens, masks among them, and how it is filled."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from dspec.core.decode import Limits
from dspec.core.estimates import Estimator
from dspec.core.layouts import Layout, blocked, causal, join, together
from dspec.core.routing import Decider, Route
from dspec.core.selection import Selection, budget_of
from dspec.core.trace import Commit, Event, cut


@dataclass(frozen=True)
class Editing:
    """Replacing tokens that are decided already.

    Spec: SS-21.

    Args:
        threshold: least confidence of a replacement, not reached by it; >= 1 never edits.
        max_passes: most passes after a block's last mask is filled; >= 0.
    """

    threshold: float = 0.9
    max_passes: int = 4


@dataclass(frozen=True)
class Review:
    """Verification of the drafts of a denoising step.

    Spec: SS-11, SS-12, SS-13, SS-19, SS-20.

    Args:
        route: when to verify.
        estimator: guess of the acceptance.
        cost: c of the score.
        dynamic: whether the score's cost is per confident position.
        threshold: above which a position counts as confident.
        min_commit: tokens a step commits at least, by the fallback's rule; None: as the schedule says.
        power: exponent of the ratio.
    """

    route: Route
    estimator: Estimator
    cost: float = 1.0
    dynamic: bool = False
    threshold: float = 0.85
    min_commit: int | None = 1
    power: float = 1.0


@dataclass(frozen=True)
class WideNarrow:
    """WINO's two thresholds: commit widely, keep narrowly.

    Spec: SS-25.

    Args:
        commit: confidence above which a masked position is committed.
        keep: confidence below which a decided one is masked again.
    """

    commit: float = 0.6
    keep: float = 0.9


@dataclass(frozen=True, kw_only=True)
class Filling:
    """How blocks are filled.

    Spec: SS-4, SS-5, SS-8, SS-9, SS-26.

    Args:
        mask_id: the mask token.
        vocab_size: V.
        shifted: alignment of the family.
        block_size: B.
        steps: S, of the schedule.
        selection: which positions a step commits.
        sub_block: positions that take part at a time; divides B.
        cache_mask, draft_mask: who sees whom.
        commit: "fused", "separate" or "always"; a shifted family's pass that keeps a block is never fused.
        editing, review, wino: what else a step does; None: nothing.
    """

    mask_id: int
    vocab_size: int
    shifted: bool
    block_size: int
    steps: int
    selection: Selection
    sub_block: int
    cache_mask: str = "block"
    draft_mask: str = "block"
    commit: str = "fused"
    editing: Editing | None = None
    review: Review | None = None
    wino: WideNarrow | None = None

    @property
    def fused(self) -> bool:
        """Whether the next block's first pass keeps a block."""
        return self.commit == "fused" and not self.shifted

    def known(self, tokens: Sequence[int], start: int) -> Layout:
        """Return the layout of decided tokens from a block's start on, as the cache is to hold them.

        Example:
            >>> rule, size = Selection("static"), {"block_size": 2, "steps": 2, "sub_block": 2}
            >>> plan = Filling(mask_id=9, vocab_size=10, shifted=False, selection=rule, **size)
            >>> plan.known((5, 6, 7), 2).reads
            (0, 0, 1)
        """
        size = self.block_size if self.cache_mask == "block" else 1
        return blocked(tuple(tokens), start=start, block_size=size, reach=start)


@dataclass
class Canvas:
    """The state of one row.

    Args:
        number: of the row in its batch.
        tokens: prompt, what was generated, and the current block with its masks.
        limits: when it ends.
        plan: how it is filled.
        stopped: rows that the caller wants no more of.
    """

    number: int
    tokens: list[int]
    limits: Limits
    plan: Filling
    stopped: AbstractSet[int] = frozenset()
    passes: int = 0
    step: int = 0
    extra: int = 0  # editing passes of the block since its last mask was filled
    done: bool = False  # the block needs no pass any more, but the one that keeps it
    finish: str | None = None
    prompt: int = field(init=False)
    start: int = field(init=False)
    emitted: int = field(init=False)
    decider: Decider | None = field(init=False)

    def __post_init__(self) -> None:
        self.prompt = self.emitted = len(self.tokens)
        self.start = self.prompt // self.plan.block_size * self.plan.block_size
        self.decider = None if self.plan.review is None else self.plan.review.route.open()

    @property
    def open(self) -> bool:
        """Whether the row goes on."""
        return self.finish is None and self.number not in self.stopped

    @property
    def end(self) -> int:
        """One past the current block."""
        return self.start + self.plan.block_size

    def fill_up(self) -> None:
        """Put masks where the current block has no token."""
        self.tokens += [self.plan.mask_id] * (self.end - len(self.tokens))

    def next_block(self) -> None:
        """Go on to the next block."""
        self.start, self.step, self.extra, self.done = self.end, 0, 0, False

    def is_masked(self, position: int) -> bool:
        """Whether a position of the block holds a mask; a prompt's own mask token is a token."""
        return position >= self.prompt and self.tokens[position] == self.plan.mask_id

    def masked(self) -> list[int]:
        """Return the masked positions that take part: those of the leftmost sub-block that has any."""
        found = [i for i in range(self.start, len(self.tokens)) if self.is_masked(i)]
        if not found:
            return []
        size = self.plan.sub_block
        edge = self.start + ((found[0] - self.start) // size + 1) * size
        return [i for i in found if i < edge]

    def settled(self) -> list[int]:
        """Return the generated positions of the block that hold a token and whose slot is in the pass."""
        first = max(self.start + self.plan.shifted, self.prompt)
        return [i for i in range(first, len(self.tokens)) if not self.is_masked(i)]

    def decided(self) -> int:
        """Return the length of the prefix without a mask."""
        masked = self.masked()
        return masked[0] if masked else len(self.tokens)

    def budget(self) -> int:
        """Return how many positions this step commits."""
        return budget_of(self.step, self.plan.steps, self.plan.block_size)

    def drafting(self, cached: int) -> Layout:
        """Return the layout of a denoising pass: blocks that are not kept yet, then the current one."""
        plan, split = self.plan, self.start
        before = plan.known(self.tokens[cached : self.start], cached)
        if plan.draft_mask == "partially_causal":
            split = self.decided()
            before = join(before, causal(tuple(self.tokens[self.start : split]), start=self.start))
        return join(before, together(tuple(self.tokens[split:]), start=split))

    def put(self, position: int, token: int, kind: str) -> Commit:
        """Decide one position by the last pass."""
        self.tokens[position] = token
        return Commit(position, token, kind, self.passes)

    def emit(self, commits: Sequence[Commit], *, n_accepted: int | None = None, n_drafted: int = 0) -> Event:
        """Return what became final, and end the row where that ends it."""
        until = self.decided()
        if not self.done and (self.plan.editing or self.plan.wino):
            until = max(self.emitted, self.start)  # what may still be replaced is not final
        left = self.limits.max_new_tokens - (self.emitted - self.prompt)
        kept, self.finish = cut(self.tokens[self.emitted : until], left, self.limits.eos_ids)
        self.emitted += len(kept)
        return Event(self.number, kept, tuple(commits), n_accepted, n_drafted, self.passes, self.finish)

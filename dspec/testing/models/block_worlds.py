"""Block-diffusion models whose law is known as fractions, and the library's own loop on them.

The model is the oracle's `HashedModel`: who saw what is written into its laws, cached entries included,
so that a wrong mask, position or cache content changes the law of what the loop emits.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from dspec.core.decode import Limits
from dspec.core.layouts import SHARED, Layout
from dspec.core.plans import Plan
from dspec.core.self_speculation import speculate
from dspec.core.types import Draft
from dspec.oracle.decode import sequence_law
from dspec.oracle.enumerate import Source
from dspec.oracle.hashed import Entry, HashedModel, Reading, Slot
from dspec.oracle.policies import POLICIES
from dspec.oracle.rejection import argmax, draw, one_hot
from dspec.oracle.self_speculation import without_mask

# (layout, window, commit, bonus, draft mask, guesses): every way that rounds can be laid out.
FORMS = (
    ("separate", "sliding", "fused", True, "partially_causal", 0),
    ("separate", "aligned", "fused", True, "block", 0),
    ("separate", "aligned", "fused", False, "partially_causal", 0),
    ("separate", "aligned", "separate", False, "block", 0),
    ("separate", "aligned", "always", True, "partially_causal", 0),
    ("fused", "sliding", "fused", True, "partially_causal", 0),
    ("fused", "sliding", "fused", True, "partially_causal", 2),
)


@dataclass(frozen=True)
class BlockWorld:
    """One block-diffusion model and one generation of it.

    Args:
        seed: of the model.
        shifted: alignment of the family.
        policy: a key of `dspec.oracle.policies.POLICIES`.
        form: index of `FORMS`.
        block_size: B.
        vocab_size: V, the mask token included, which is the last id.
        max_new_tokens: limit.
        prompt: token ids.

    Example:
        >>> sum(BlockWorld(seed=0, shifted=False).law().values())
        Fraction(1, 1)
    """

    seed: int
    shifted: bool
    policy: str = "rejection"
    form: int = 0
    block_size: int = 3
    vocab_size: int = 4
    max_new_tokens: int = 4
    prompt: tuple[int, ...] = (0, 1)

    @property
    def eos(self) -> int:
        """The end token: the last one before the mask."""
        return self.vocab_size - 2

    @property
    def plan(self) -> Plan:
        """How its rounds are laid out."""
        layout, window, commit, bonus, draft_mask, guesses = FORMS[self.form]
        return Plan(
            mask_id=self.vocab_size - 1,
            shifted=self.shifted,
            block_size=self.block_size,
            draft_mask=draft_mask,
            window=window,
            commit=commit,
            bonus=bonus,
            layout=layout,
            guesses=guesses,
        )

    def model(self) -> HashedModel:
        """Return its model."""
        return HashedModel(self.vocab_size, self.seed, self.shifted, eos=(self.eos,))

    def law(self) -> dict[tuple[int, ...], Any]:
        """Return the law of its outputs at block size one, by recursion."""
        model = self.model()
        limits = {"prompt": self.prompt, "max_new_tokens": self.max_new_tokens, "eos": {self.eos}}
        if self.policy != "greedy":
            return sequence_law(model.law, **limits)

        def greedy(context: tuple[int, ...]) -> list[Fraction]:
            law = model.law(context)
            return [Fraction(mass) for mass in one_hot(argmax(law), len(law))]

        return sequence_law(greedy, **limits)

    def plain(self) -> dict[str, Any]:
        """Return its fields in JSON types."""
        return {**asdict(self), "prompt": list(self.prompt)}


def read_block_world(plain: dict[str, Any]) -> BlockWorld:
    """Return the world that `BlockWorld.plain` wrote."""
    return BlockWorld(**{**plain, "prompt": tuple(plain["prompt"])})


def make_block_worlds(count: int, *, seed: int, policy: str) -> list[BlockWorld]:
    """Return worlds of both alignments, every form, blocks of 2 and 3, prompts of 1 to 4 tokens.

    Args:
        count: how many.
        seed: of the models.
        policy: of all of them.

    Returns:
        The worlds; 14 in a row have every form in both alignments.

    Example:
        >>> len({(w.form, w.shifted) for w in make_block_worlds(14, seed=0, policy="rejection")})
        14
    """
    worlds = []
    for index in range(count):
        round_, form = divmod(index, len(FORMS))
        size = 2 + (form + round_ + round_ // 2) % 2  # both sizes for every form and alignment in 28 worlds
        # A fused round drafts on a branch only where more is to come; outputs of larger blocks are dear.
        limit = (5 if FORMS[form][0] == "fused" else 4) if size == 2 else 3
        worlds.append(
            BlockWorld(
                seed=seed + index,
                shifted=round_ % 2 == 1,
                policy=policy,
                form=form,
                block_size=size,
                max_new_tokens=limit,
                prompt=(0, 1, 1, 0)[: 1 + index // 5 % 4],
            )
        )
    return worlds


class HashedSession:
    """`BlockSession` over hashed models; hidden states are readings, logits are laws with the mask token."""

    def __init__(self, model: HashedModel, rows: int = 1) -> None:
        self.model = model
        self.caches: list[list[Entry]] = [[] for _ in range(rows)]
        self.pending: list[list[Entry]] = [[] for _ in range(rows)]
        self.passes = 0

    @property
    def lengths(self) -> list[int]:
        """Committed positions of each row."""
        return [len(cache) for cache in self.caches]

    def read(self, layouts: Sequence[Layout | None], drafts: Any = None) -> list[Reading | None]:
        """Run one pass."""
        self.passes += 1
        readings = []
        for row, layout in enumerate(layouts):
            if layout is None:
                readings.append(None)
                self.pending[row] = []
                continue
            slots = slots_of(layout, len(self.caches[row]), [] if drafts is None else drafts[row])
            readings.append(self.model.read(slots, dict(enumerate(self.caches[row]))))
            self.pending[row] = readings[-1].entries
        return readings

    def logits(self, hidden: list[Reading | None], slots: Sequence[Sequence[int]]) -> list[Any]:
        """Return the laws of some slots."""
        pairs = zip(hidden, slots, strict=True)
        return [None if read is None else [read.law(slot) for slot in own] for read, own in pairs]

    def commit(self, counts: Sequence[int]) -> None:
        """Keep the first slots of the last pass."""
        for cache, pending, count in zip(self.caches, self.pending, counts, strict=True):
            cache += pending[:count]


def slots_of(layout: Layout, length: int, drafts: Sequence[int]) -> list[Slot]:
    """Return a layout's slots with what each sees, by the words of SS-3."""
    reach = length if layout.reach is None else min(layout.reach, length)
    size = range(layout.size)
    slots = []
    for i in size:
        shared = {j for j in size if layout.groups[j] == SHARED and layout.ranks[j] <= layout.reads[i]}
        own = {j for j in size if layout.groups[j] == layout.groups[i] != SHARED}
        token = layout.tokens[i] if layout.tokens[i] >= 0 else drafts[-1 - layout.tokens[i]]
        seen = sorted((shared | own) - {layout.skips[i]})
        slots.append(Slot(token, layout.positions[i], tuple(range(reach)), tuple(seen)))
    return slots


class ExactBlockJudge:
    """The judge of `core.self_speculation` by the oracle's rules on symbolic uniforms, for one row."""

    def __init__(self, policy: str, uniforms: Any, mask: int) -> None:
        self.policy, self.uniforms, self.mask = POLICIES[policy], uniforms, mask

    def propose(self, logits: Any, anchors: Sequence[int], counts: Sequence[int]) -> Draft:
        """Return drafts and the laws they were drawn from."""
        laws = [without_mask(law, self.mask) for law in logits[0][: counts[0]]]
        if not self.policy.samples_drafts:
            return Draft([[argmax(law) for law in laws]])
        keys = [self.uniforms("draft", anchors[0], slot) for slot in range(counts[0])]
        return Draft([[draw(law, key) for law, key in zip(laws, keys, strict=True)]], [laws])

    def guess(self, logits: Any, draft: Draft, count: int) -> list[list[int]]:
        """Return drafts, then of each of the first slots the likeliest other tokens."""
        tokens, guesses = draft.tokens[0], []
        for law, token in zip(logits[0][:count], tokens):
            left = [-1 if i in (token, self.mask) else mass for i, mass in enumerate(law)]
            guesses += sorted(range(len(left)), key=lambda i: -left[i])[:count]
        return [[*tokens, *guesses]]

    def read(self, tokens: list[list[int]]) -> list[list[int]]:
        """Return the tokens."""
        return tokens

    def verdicts(
        self, logits: Any, draft: Draft | None, anchors: Sequence[int]
    ) -> list[tuple[int, list[int]]]:
        """Return n_accepted and K + 1 tokens, -1 behind the closing one."""
        drafts = [] if draft is None else draft.tokens[0]
        laws = [without_mask(law, self.mask) for law in logits[0]]
        rows = None if draft is None or draft.probs is None else draft.probs[0]
        rows = [] if rows is None and self.policy.samples_drafts else rows
        accept = [self.uniforms("accept", anchors[0], slot) for slot in range(len(drafts))]
        close = [self.uniforms("close", anchors[0], slot) for slot in range(len(drafts) + 1)]
        block = self.policy.verify(laws, drafts, rows, accept, close)
        return [(len(block) - 1, [*block, *[-1] * (len(drafts) + 1 - len(block))])]


def speculate_once(world: BlockWorld, source: Source) -> tuple[int, ...]:
    """Return one output of the library's loop in a world, on symbolic uniforms.

    Spec: SS-14, SS-15, SS-16, SS-17, SS-18.

    Example:
        >>> speculate_once(BlockWorld(seed=0, shifted=True, policy="greedy"), lambda *key: 0.5)
        (2,)
    """
    model = world.model()
    judge = ExactBlockJudge(world.policy, source, model.mask)
    limits = Limits(world.max_new_tokens, frozenset({world.eos}))
    events = speculate(HashedSession(model), judge, [world.prompt], limits, world.plan)
    return tuple(token for event in events for token in event.tokens)

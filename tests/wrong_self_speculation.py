"""Loops of self-speculation that are wrong in one place, as patches of the right one, and harmless ones."""

from dataclasses import dataclass, replace
from fractions import Fraction

from dspec.core import plans
from dspec.core import self_speculation as loop
from dspec.core.layouts import SHARED, together
from dspec.core.types import Draft
from dspec.oracle.rejection import argmax
from dspec.oracle.self_speculation import without_mask
from dspec.oracle.warp import normalised
from dspec.testing.models import block_worlds
from dspec.testing.models.block_worlds import FORMS, ExactBlockJudge, HashedSession


def in_verifying(change):
    """Replace the layout of the verify pass."""

    def patch(monkeypatch):
        def wrong(*args):
            return change(plans.verifying(*args))

        monkeypatch.setattr(loop, "verifying", wrong)

    return patch


def seen_masks(layout):
    return replace(layout, groups=tuple(min(group, 1) for group in layout.groups))


def own_draft(layout):
    reads = zip(layout.reads, layout.groups, strict=True)
    return replace(layout, reads=tuple(read + (group != SHARED) for read, group in reads))


def one_further(layout):
    places = zip(layout.positions, layout.groups, strict=True)
    return replace(layout, positions=tuple(place + (group != SHARED) for place, group in places))


def in_branching(change):
    """Replace the one layout of a fused round."""

    def patch(monkeypatch):
        def wrong(*args, **settings):
            return change(plans.branching(*args, **settings))

        monkeypatch.setattr(loop, "branching", wrong)

    return patch


def in_judged(change):
    """Replace the slots whose laws are judged; `change` has a row's slots and how many drafts it has."""

    def patch(monkeypatch):
        plain = loop._judged

        def wrong(layouts, pending, counts, plan):
            slots = plain(layouts, pending, counts, plan)
            return [change(own, count) for own, count in zip(slots, counts, strict=True)]

        monkeypatch.setattr(loop, "_judged", wrong)

    return patch


def stale_bonus(own, count):
    return [*own[:count], *([own[count - 1]] if count else own)]


def slot_before(own, count):
    return [max(slot - 1, 0) for slot in own]


def mask_drawn(monkeypatch):
    monkeypatch.setattr(block_worlds, "without_mask", lambda law, mask: normalised(law))


class KeysOfTheDraftPass(HashedSession):
    """Keeps the closing token's position as the draft pass saw it: as a mask."""

    def read(self, layouts, drafts=None):
        hidden = super().read(layouts, drafts)
        if drafts is None:
            self.drafted = dict(zip(layouts[0].positions, hidden[0].entries, strict=True))
        return hidden

    def commit(self, counts):
        super().commit(counts)
        if len(self.caches[0]) in self.drafted:
            self.caches[0].append(self.drafted[len(self.caches[0])])
            self.drafted = {}


class OneKeyTooMany(HashedSession):
    """After a rejection keeps the keys of the rejected draft, where the correction stands."""

    def read(self, layouts, drafts=None):
        self.shared = sum(group == SHARED for group in layouts[0].groups)
        self.verified = drafts is not None
        return super().read(layouts, drafts)

    def commit(self, counts):
        super().commit([min(counts[0] + 1, self.shared)] if self.verified else counts)


def with_session(session):
    return lambda monkeypatch: monkeypatch.setattr(block_worlds, "HashedSession", session)


def blockwise(name):
    """Read what a function keeps so that all of it sees all of it."""

    def patch(monkeypatch):
        plain = getattr(loop, name)

        def wrong(*args, **settings):
            with monkeypatch.context() as inner:
                inner.setattr(loop, "causal", together)
                return plain(*args, **settings)

        monkeypatch.setattr(loop, name, wrong)

    return patch


class OneUniformForBoth(ExactBlockJudge):
    """Accepts a draft by the uniform that drew it."""

    def __init__(self, policy, uniforms, mask):
        kept = {}

        def shared(kind, *key):
            kind = "draft" if kind == "accept" else kind
            if (kind, *key) not in kept:
                kept[kind, *key] = uniforms(kind, *key)
            return kept[kind, *key]

        super().__init__(policy, shared, mask)


class AnotherLaw(ExactBlockJudge):
    """Says that drafts come from the uniform law."""

    def propose(self, logits, anchors, counts):
        draft = super().propose(logits, anchors, counts)
        flat = [Fraction(token != self.mask, self.mask) for token in range(self.mask + 1)]
        return Draft(draft.tokens, [[flat] * counts[0]])


class UnwarpedLaw(ExactBlockJudge):
    """Says that drafts come from the law that still has the mask token."""

    def propose(self, logits, anchors, counts):
        return Draft(super().propose(logits, anchors, counts).tokens, [logits[0][: counts[0]]])


class GreedyByChance(ExactBlockJudge):
    """Accepts a greedy draft with chance p / q, corrects and closes by the argmax: SS-15's warning."""

    def verdicts(self, logits, draft, anchors):
        found = super().verdicts(logits, draft, anchors)
        tokens = [] if draft is None else draft.tokens[0]
        laws = [without_mask(law, self.mask) for law in logits[0]]
        stood = 0
        while (
            stood < len(tokens)
            and self.uniforms("chance", anchors[0], stood) * 1 < laws[stood][tokens[stood]]
        ):
            stood += 1
        block = [*tokens[:stood], argmax(laws[stood])]
        return [(stood, block + [-1] * (len(found[0][1]) - len(block)))]


def with_judge(judge):
    return lambda monkeypatch: monkeypatch.setattr(block_worlds, "ExactBlockJudge", judge)


def another_branch(monkeypatch):
    """Draft on the branch of one accepted draft more than there were."""

    def wrong(held, count, n_accepted, width, plan, *, guess):
        return plans.branch_slots(held, count, min(n_accepted + 1, count), width, plan)

    monkeypatch.setattr(loop, "branch_slots", wrong)


def forgotten_reach(monkeypatch):
    """The draft pass sees the cached keys of what it reads again."""
    monkeypatch.setattr(loop, "drafting", lambda *args: replace(plans.drafting(*args), reach=None))


def other_drafts(monkeypatch):
    """The draft pass holds its slots one position further."""

    def wrong(*args):
        layout = plans.drafting(*args)
        return replace(layout, positions=tuple(place + 1 for place in layout.positions))

    monkeypatch.setattr(loop, "drafting", wrong)


@dataclass(frozen=True)
class Mutant:
    """A wrong loop: what replaces what, the policy it is seen under, the worlds where it can show."""

    patch: object
    policy: str = "one_hot"
    shows: object = lambda world: True


def aligned(world):
    return not world.shifted


def separate(world):
    return FORMS[world.form][2] != "fused"


def fused(world):
    return FORMS[world.form][0] == "fused"


MUTANTS = {
    "mask slots of the verify pass see each other": Mutant(in_verifying(seen_masks), shows=aligned),
    "a mask slot sees the draft of its own position": Mutant(in_verifying(own_draft), shows=aligned),
    "mask slots stand one position further": Mutant(in_verifying(one_further), shows=aligned),
    "the mask token is not excluded": Mutant(mask_drawn),
    "the bonus has the law of the last draft": Mutant(in_judged(stale_bonus)),
    "laws are read one slot before": Mutant(in_judged(slot_before)),
    "the closing token keeps the draft pass's keys": Mutant(with_session(KeysOfTheDraftPass), shows=aligned),
    "keys of a rejected draft are kept": Mutant(with_session(OneKeyTooMany)),
    "branches are seen by the verifier": Mutant(in_branching(seen_masks), shows=fused),
    "keys of a rejected draft are kept in the fused layout": Mutant(with_session(OneKeyTooMany), shows=fused),
    "blocks are kept as blocks": Mutant(blockwise("_commit_blocks"), shows=separate),
    "the prompt is kept as a block": Mutant(blockwise("_prefill")),
    "one uniform draws and accepts": Mutant(with_judge(OneUniformForBoth), policy="rejection"),
    "another law is reported than was drawn from": Mutant(with_judge(AnotherLaw), policy="rejection"),
    "the law with the mask token is reported": Mutant(with_judge(UnwarpedLaw), policy="rejection"),
    "greedy drafts are accepted by chance": Mutant(with_judge(GreedyByChance), policy="greedy"),
}
# What the drafts saw changes how many stand, not the law: these must pass.
HARMLESS = {
    "a branch of another number of accepted drafts": Mutant(another_branch),
    "reach is forgotten in draft passes": Mutant(forgotten_reach),
    "draft passes stand one position further": Mutant(other_drafts),
}

"""Sessions and a judge on exact fractions, so that the real decode loop can be enumerated."""

from dspec.core.types import Draft, Scores
from dspec.oracle.rejection import argmax, draw


class ExactTarget:
    """`TargetSession` on a world's exact laws; its cache is the list of tokens it has read."""

    def __init__(self, world, *, rewinds=True):
        self.world, self.rewinds = world, rewinds
        self.cache = ()

    @property
    def length(self):
        return len(self.cache)

    def prefill(self, tokens):
        self.cache += tuple(tokens)
        return Scores([self.world.target(self.cache)])

    def score(self, anchor, draft_tokens):
        laws = []
        for token in [anchor, *draft_tokens]:
            self.cache += (token,)
            laws.append(self.world.target(self.cache))
        return Scores(laws, self.cache)

    def rewind(self, length):
        if self.rewinds:
            self.cache = self.cache[:length]


class ExactDrafter:
    """`DrafterSession` on a world's exact laws."""

    def __init__(self, world):
        self.world = world
        self.length = 0
        self.seen = []

    def propose(self, anchor, position, features, rule):
        self.length = position
        self.seen.append(position)
        drafts = []
        context = (*(0,) * position, anchor)  # a world's drafter reads the last token only
        rows = []
        for slot in range(self.world.num_drafts):
            rows.append(self.world.drafter(context, tuple(drafts)))
            drafts.append(rule(rows[-1], slot))
        return Draft(drafts, rows)

    def rewind(self, length):
        self.length = length


class ExactJudge:
    """`core.decode.Judge` by the oracle's rules on symbolic uniforms, by the keys of RN-1."""

    def __init__(self, policy, uniforms, num_drafts):
        self.policy, self.uniforms, self.num_drafts = policy, uniforms, num_drafts
        self.counts = []

    def first(self, scores, position):
        return draw(scores.logits[-1], self.uniforms("close", position, 0))

    def rule(self, position):
        if not self.policy.samples_drafts:
            return lambda law, slot: argmax(law)
        return lambda law, slot: draw(law, self.uniforms("draft", position, slot))

    def verdict(self, scores, draft, position):
        rows = draft.probs if self.policy.samples_drafts else None
        accept = [self.uniforms("accept", position, slot) for slot in range(len(draft.tokens))]
        close = [self.uniforms("close", position, slot) for slot in range(len(draft.tokens) + 1)]
        block = self.policy.verify(scores.logits, draft.tokens, rows, accept, close)
        self.counts.append(len(block))
        return len(block) - 1, [*block, *[-1] * (self.num_drafts + 1 - len(block))]

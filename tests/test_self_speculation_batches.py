"""Self-speculation in batches of arrays: rows as alone, decisions as the oracle's, and how many passes."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from dspec.backends.block_judge import BlockJudge, streams_of
from dspec.backends.numpy import NumpyOps
from dspec.core import self_speculation as loop
from dspec.core.decode import Limits
from dspec.core.policies import POLICIES
from dspec.core.types import Draft, Sampling
from dspec.oracle.hashed import HashedModel
from dspec.oracle.rejection import argmax, draw_two_level
from dspec.oracle.self_speculation import without_mask
from dspec.rng import Purpose, Stream
from dspec.testing.models.block_worlds import FORMS, BlockWorld, ExactBlockJudge, HashedSession

ALIGNMENTS = pytest.mark.parametrize("shifted", [False, True], ids=["aligned", "shifted"])


class ArraySession(HashedSession):
    """Hashed models whose laws are logits of numpy: what a `BlockJudge` reads."""

    def read(self, layouts, drafts=None):
        return super().read(layouts, None if drafts is None else drafts.tolist())

    def commit(self, counts):
        for count, pending in zip(counts, self.pending, strict=True):
            assert 0 <= count <= len(pending), "only what a pass has read can be kept"
        super().commit(counts)

    def logits(self, hidden, slots):
        empty = [[1.0] * self.model.vocab_size] * len(slots[0])
        laws = [empty if law is None else law for law in super().logits(hidden, slots)]
        return np.log(np.array(laws, dtype=np.float64))


PROMPTS = ((0, 1, 1, 0, 1), (2,), (1, 0, 3))


def plan_of(form, shifted, block_size=4, vocab_size=6):
    return BlockWorld(0, shifted, form=form, block_size=block_size, vocab_size=vocab_size).plan


def events_of(judge, model, prompts, plan, limit):
    """The events of each row, without its number."""
    session, limits = ArraySession(model, len(prompts)), Limits(limit, frozenset({4}))
    rows = [[] for _ in prompts]
    for event in loop.speculate(session, judge, prompts, limits, plan):
        rows[event.row].append(replace(event, row=0))
    return rows


def judge_of(policy, numbers, mask):
    sampling = Sampling(temperature=0.0 if policy == "greedy" else 1.0)
    return BlockJudge(NumpyOps(), POLICIES[policy], sampling, streams_of(7, numbers), mask)


@pytest.mark.clause("SS-22")
@ALIGNMENTS
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("form", range(len(FORMS)))
def test_rows_decoded_together_give_what_each_gives_alone(form, policy, shifted):
    """Tokens, passes and trace; rows differ in length, in drafts a round, and in when they end."""
    drafted = 0
    for seed in range(3):
        model = HashedModel(6, seed, shifted)
        numbers = range(len(PROMPTS))
        plan = plan_of(form, shifted)
        together_ = events_of(judge_of(policy, numbers, model.mask), model, PROMPTS, plan, 9)
        for row, prompt in enumerate(PROMPTS):
            (alone,) = events_of(judge_of(policy, [row], model.mask), model, [prompt], plan, 9)
            assert together_[row] == alone
            assert alone[-1].finish is not None and all(event.finish is None for event in alone[:-1])
        drafted += sum(event.n_drafted for events in together_ for event in events)
    assert drafted > 0


class ScriptedJudge(ExactBlockJudge):
    """The oracle's judge on the uniforms of a stream, drawing at two levels as arrays do."""

    def __init__(self, policy, stream, mask):
        super().__init__(policy, None, mask)
        self.stream = stream

    def propose(self, logits, anchors, counts):
        laws = [without_mask(law, self.mask) for law in self.laws[0][: counts[0]]]
        if not self.policy.samples_drafts:
            return Draft(np.array([[argmax(law) for law in laws]]))
        u = self.stream.uniforms(Purpose.DRAFT, anchors[0], (counts[0], 2)).tolist()
        tokens = [draw_two_level(law, pair) for law, pair in zip(laws, u, strict=True)]
        return Draft(np.array([tokens]), [laws])

    def guess(self, logits, draft, count):
        return np.array(super().guess(self.laws, Draft(draft.tokens.tolist()), count))

    def read(self, tokens):
        return tokens.tolist()

    def verdicts(self, logits, draft, anchors):
        drafts = [] if draft is None else draft.tokens[0].tolist()
        laws = [without_mask(law, self.mask) for law in self.laws[0]]
        rows = [] if draft is None and self.policy.samples_drafts else None
        rows = draft.probs[0] if draft is not None and draft.probs is not None else rows
        accept = self.stream.uniforms(Purpose.ACCEPT, anchors[0], (len(drafts), 1))[:, 0].tolist()
        close = self.stream.uniforms(Purpose.CLOSE, anchors[0], (len(drafts) + 1, 2)).tolist()
        block = self.policy.verify(laws, drafts, rows, accept, close, draw=draw_two_level)
        return [(len(block) - 1, [*block, *[-1] * (len(drafts) + 1 - len(block))])]


@pytest.mark.clause("SS-7", "SS-14", "SS-15", "RN-1")
@ALIGNMENTS
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("form", range(len(FORMS)))
def test_the_judge_of_arrays_decides_as_the_oracles_rules_do(form, policy, shifted):
    """In fractions, on the same uniforms; these are multiples of 2^-24, so float64 decides alike."""
    plan = plan_of(form, shifted)
    for seed in range(3):
        model, prompt = HashedModel(6, seed, shifted), PROMPTS[seed]
        (found,) = events_of(judge_of(policy, [seed], model.mask), model, [prompt], plan, 9)
        witness = ScriptedJudge(policy, Stream(7, seed), model.mask)

        class Session(HashedSession):
            def read(self, layouts, drafts=None):
                return super().read(layouts, None if drafts is None else drafts.tolist())

            def logits(self, hidden, slots, witness=witness):
                witness.laws = super().logits(hidden, slots)
                return witness.laws

        limits = Limits(9, frozenset({4}))
        needed = list(loop.speculate(Session(model), witness, [prompt], limits, plan))
        assert found == needed
        if policy == "greedy":
            emitted = tuple(token for event in found for token in event.tokens)
            assert emitted == greedy_tokens(model, prompt, 9, eos=4)


def greedy_tokens(model, prompt, limit, *, eos):
    """Block-size-one decoding at temperature 0."""
    tokens = ()
    while len(tokens) < limit and eos not in tokens:
        tokens += (argmax(model.law(prompt + tokens)),)
    return tokens


def commits_after(lengths, plan):
    """How many passes of their own keep blocks, where `lengths` are the known tokens after each round."""
    blocks = [length // plan.block_size for length in lengths]
    crossed = [after > before for before, after in pairwise(blocks)]
    return {"fused": 0, "separate": sum(crossed[:-1]), "always": sum(crossed)}[plan.commit]


@pytest.mark.clause("SS-16", "SS-17", "SS-24")
@ALIGNMENTS
@pytest.mark.parametrize("form", range(len(FORMS)))
def test_passes_drafts_and_kept_keys_of_one_request(form, shifted):
    """Rounds of two passes, or one if fused; the trace counts them; the cache is one causal pass's."""
    for seed, prompt in enumerate(PROMPTS):
        model, plan = HashedModel(6, seed, shifted), plan_of(form, shifted)
        limit = 16 - len(prompt)  # the last round fills a block
        session, judge = ArraySession(model), judge_of("rejection", [seed], model.mask)
        events = list(loop.speculate(session, judge, [prompt], Limits(limit, frozenset()), plan))
        commits = [commit for event in events for commit in event.commits]
        lengths = np.cumsum([len(prompt), *(len(event.commits) for event in events)]).tolist()

        assert [commit.position for commit in commits] == list(range(len(prompt), lengths[-1]))
        steps = [commit.step for commit in commits]
        assert steps == sorted(steps) and steps[-1] <= session.passes == events[-1].passes
        prefill = len(prompt) - shifted > 0
        drafted = sum(event.n_drafted > 0 for event in events) if plan.layout == "separate" else 0
        assert session.passes == prefill + len(events) + drafted + commits_after(lengths, plan)

        for n, event in zip(lengths, events):
            span = plan.block_size - (n % plan.block_size if plan.window == "aligned" else 0)
            left = limit - (n - len(prompt))
            if plan.layout == "fused":
                assert event.n_drafted == (0 if n == len(prompt) else min(plan.block_size - 1, left - 1))
            elif plan.bonus:
                # What is left alone is drawn without a draft; a bonus beyond the limit is not judged.
                assert event.n_drafted == (min(span, left - 1) if span > 1 else 0)
            else:
                assert event.n_drafted == min(span, left)
            closes = plan.bonus or event.n_drafted == 0 or event.n_accepted < event.n_drafted
            assert len(event.commits) == (event.n_accepted or 0) + closes

        tokens = [*prompt, *(commit.token for commit in commits)]
        kept = session.caches[0]
        assert kept == list(model.known(tokens)[0].values())[: len(kept)]
        if plan.commit == "fused":
            assert len(kept) == len(tokens) - (closes or shifted), "all but the closing token"

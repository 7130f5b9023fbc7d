"""What a denoising step decides, held against the oracle: editing, leave-one-out, the hybrid's fallback.

The session is a stand-in and the judge is scripted: random ids and confidences by pass and position, so
that every decision of the loop can be made again from what it was told.
"""

from dataclasses import replace

import array_api_compat.numpy as npx
import numpy as np
import pytest

from dspec.core.canvas import Editing, Filling, Review, WideNarrow
from dspec.core.decode import Limits
from dspec.core.denoising import denoise
from dspec.core.estimates import Estimator
from dspec.core.looks import BEST, DRAWN
from dspec.core.measures import Measures
from dspec.core.routing import Route
from dspec.core.selection import Selection, select
from dspec.core.types import Draft
from dspec.oracle import self_speculation as oracle

MASK, VOCABULARY, SIZE = 9, 10, 6


class Session:
    """Counts what is kept; hidden states are the layouts."""

    def __init__(self, rows):
        self.lengths = [0] * rows
        self.layouts = []

    def read(self, layouts, drafts=None):
        self.layouts.append(layouts)
        return layouts

    def logits(self, hidden, slots):
        return None

    def commit(self, counts):
        self.lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]


class Scripted:
    """Ids and confidences that depend on pass and place alone; remembers what was asked."""

    def __init__(self, seed, accepts=1):
        self.seed, self.accepts, self.seen = seed, accepts, []

    def measure(self, logits, given, slots, passes):
        given, slots = np.array(given), np.array(slots)
        ids, values = np.zeros(given.shape, int), np.zeros(given.shape)
        for at in np.ndindex(given.shape):
            rng = np.random.default_rng([self.seed, passes[at[0]], int(slots[at]), int(given[at] >= 0)])
            ids[at], values[at] = rng.integers(0, MASK), np.round(rng.random(), 1)  # ties are common
        ids = np.where(given >= 0, given, ids)
        self.seen.append((list(passes), given, slots, ids, values))
        return ids, Measures(values, values, 1 - values, values), Draft(ids)

    def choose(self, rule, measures, masked, budgets):
        masked, budgets = np.array(masked), np.array(budgets)
        return select(rule, measures.confidence, measures.entropy, masked, budgets, xp=npx)

    def expect(self, estimator, measures, in_run, vocab_size):
        return [1.0] * len(in_run)

    def review(self, logits, draft, counts, passes, *, power, block_size):
        found = []
        for row, count in enumerate(counts):
            stood = min(self.accepts, count)
            tokens = draft.tokens[row][:stood].tolist()
            found.append((stood, [*tokens, 7][: stood + (stood < count)]))
        return found


def plan(**settings):
    facts = {"mask_id": MASK, "vocab_size": VOCABULARY, "shifted": False, "block_size": SIZE}
    rule = {"steps": SIZE, "selection": Selection("dynamic", 0.6), "sub_block": SIZE}
    return Filling(**{**facts, **rule, **settings})


def run(judge, filling, prompts=((1, 2, 3, 4),), new=14):
    session = Session(len(prompts))
    events = list(denoise(session, judge, prompts, Limits(new), filling))
    return session, events


def steps_of(events, row=0):
    """Step -> the decisions of a row in it."""
    found = {}
    for event in events:
        for commit in event.commits if event.row == row else ():
            found.setdefault(commit.step, []).append(commit)
    return found


def told(judge, row):
    """Pass -> what a row was told: places of masks, what was given, places, ids, confidences."""
    found = {}
    for passes, given, slots, ids, values in judge.seen:
        masked = {int(s): k for k, s in enumerate(slots[row]) if given[row][k] == DRAWN}
        found[passes[row]] = (masked, given[row], slots[row], ids[row], values[row])
    return found


@pytest.mark.clause("SS-25")
@pytest.mark.parametrize("seed", range(8))
def test_a_wino_step_is_the_oracles(seed):
    judge = Scripted(seed)
    _, events = run(judge, plan(wino=WideNarrow(0.6, 0.5), selection=Selection("dynamic", 0.6)))
    steps, remasked = steps_of(events), 0
    for number, (masked, given, slots, _, values) in told(judge, 0).items():
        if not masked:
            continue
        start = (steps[number][0].position // SIZE) * SIZE
        confidence = {start + int(slots[k]): values[k] for k in masked.values()}
        review = {
            start + int(s): values[k]
            for k, s in enumerate(slots)
            if given[k] >= 0 and given[k] != MASK and start + int(s) >= 4
        }
        committed, again = oracle.wino(confidence, review, commit_above=0.6, remask_below=0.5)
        ours = steps[number]
        assert sorted(c.position for c in ours if c.kind == "selected") == committed
        assert sorted(c.position for c in ours if c.kind == "remasked") == again
        remasked += len(again)
    assert seed or remasked > 0  # something was masked again, or nothing was shown


@pytest.mark.clause("SS-21")
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("max_passes", [0, 1, 3])
def test_edits_are_what_lies_above_the_threshold_and_differs(seed, max_passes):
    judge = Scripted(seed)
    session, events = run(judge, plan(editing=Editing(0.4, max_passes)))
    steps, tokens, extra, edited = steps_of(events), {}, 0, 0
    for number, (masked, given, slots, ids, values) in told(judge, 0).items():
        start = session.layouts[number - 1][0].positions[-SIZE]  # the block is the last of a pass
        ours = steps.get(number, [])
        needed = {
            start + int(s): int(ids[k])
            for k, s in enumerate(slots)
            if given[k] == BEST and start + int(s) in tokens and values[k] > 0.4
        }
        needed = {i: token for i, token in needed.items() if tokens[i] != token}
        assert {c.position: c.token for c in ours if c.kind == "edited"} == needed
        edited += len(needed)
        tokens |= {c.position: c.token for c in ours}
        extra = extra + 1 if not masked else 0
        assert extra <= max_passes
        assert all(position >= 4 for position in needed)  # the prompt stays
    assert edited > 0 or max_passes == 0


@pytest.mark.clause("SS-19")
@pytest.mark.parametrize("accepts", [0, 1, 3])
@pytest.mark.parametrize("least", [1, 2, 4])
def test_the_fallback_fills_up_what_verification_did_not_bring(accepts, least):
    review = Review(Route("span", (1,)), Estimator("margin", 0.05), min_commit=least)
    judge = Scripted(3, accepts)
    _, events = run(judge, plan(review=review, selection=Selection("static")), prompts=((1,) * 6,), new=12)
    for event in events:
        kinds = [commit.kind for commit in event.commits]
        span = event.n_drafted
        stood = min(accepts, span)
        assert kinds[:stood] == ["accepted"] * stood and event.n_accepted == stood
        verified = stood + (stood < span)
        assert kinds[stood:verified] == ["correction"] * (stood < span)
        left = sum(flag == DRAWN for flag in judge.seen[0][1][0]) if event is events[0] else None
        assert kinds[verified:] == ["selected"] * len(kinds[verified:])
        if left is not None:
            assert len(kinds) == min(max(least, verified), left)


@pytest.mark.clause("SS-13", "SS-19")
def test_a_route_is_asked_once_a_step_and_told_what_it_brought(monkeypatch):
    asked, learned = [], []

    class Spy:
        def decide(self, facts):
            asked.append(facts)
            return len(asked) % 2 == 0

        def learn(self, committed):
            learned.append(committed)

    monkeypatch.setattr(Route, "open", lambda self: Spy())
    review = Review(Route("span", (1,)), Estimator("margin", 0.05), dynamic=True, cost=2.0, threshold=0.6)
    judge = Scripted(5)
    _, events = run(judge, plan(review=review), prompts=((1,) * 6,), new=12)
    assert len(asked) == len(learned) == len(judge.seen)
    assert sum(learned) == 12 and [len(event.commits) for event in events] == learned
    for facts, (_, given, _, _, values) in zip(asked, judge.seen, strict=True):
        confident = [v for v, g in zip(values[0], given[0], strict=True) if g == DRAWN and v > 0.6]
        assert facts.n_confident == len(confident)
        assert facts.score == 1.0 - 2.0 * len(confident)
        assert facts.decided + sum(g == DRAWN for g in given[0]) == SIZE


@pytest.mark.clause("SS-8", "SS-26")
@pytest.mark.parametrize("seed", range(4))
def test_only_the_leftmost_sub_block_takes_part(seed):
    """Sub-blocks lie on the block's own grid: the prompt ends inside one."""
    judge = Scripted(seed)
    _, events = run(judge, plan(sub_block=2, selection=Selection("static")), prompts=((1,) * 7,), new=11)
    positions = [commit.position for event in events for commit in event.commits]
    assert [position // 2 for position in positions] == [3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8]


@pytest.mark.clause("SS-5", "SS-24", "SS-26")
@pytest.mark.parametrize(("commit", "extra"), [("fused", 0), ("separate", 1), ("always", 2)])
def test_a_block_is_kept_by_a_pass_of_its_own_or_by_the_next_one(commit, extra):
    prompts = ((1,) * 6,)
    session, events = run(Scripted(1), plan(commit=commit, selection=Selection("static")), prompts, new=12)
    assert events[-1].passes == 1 + 12 + extra  # the prompt, a position a pass, two blocks
    kept = {"fused": 12, "separate": 12, "always": 18}[commit]
    assert session.lengths == [kept]
    assert len(session.layouts) == events[-1].passes


@pytest.mark.clause("SS-22")
def test_rows_at_their_own_pace_share_passes():
    judge = Scripted(4)
    prompts = ((1,) * 6, (1, 2), (1,) * 11)
    session, events = run(judge, plan(), prompts, new=9)
    for row, prompt in enumerate(prompts):
        alone = Scripted(4)
        _, own = run(alone, plan(), (prompt,), new=9)
        together = [replace(event, row=0) for event in events if event.row == row]
        assert together == own
    assert len(session.layouts) < sum(max(e.passes for e in events if e.row == row) for row in range(3))

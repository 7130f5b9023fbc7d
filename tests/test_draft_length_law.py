"""Cut blocks keep the law: enumerated with lengths of history; and one cut by its own tokens does not."""

from fractions import Fraction

import pytest

from dspec.core.batch import Entry, decode_batch
from dspec.core.cut_pass import CutPass
from dspec.core.decode import Limits, decode
from dspec.core.draft_length import AutoLength, Costs
from dspec.core.types import Draft, Scores
from dspec.oracle.decode import generate
from dspec.oracle.policies import POLICIES
from dspec.testing.checks.laws import check_exact_law
from dspec.testing.models.symbolic import ExactDrafter, ExactJudge, ExactTarget
from dspec.testing.models.worlds import make_worlds, mixed_worlds

pytestmark = pytest.mark.clause("DL-13", "RS-1", "RS-3")
SAMPLED = ("plain", "half", "third", "top_p", "top_k", "mixed")


class ListArrays:
    """`core.unseen.DraftArrays` of a world: tokens in lists; features are the target's whole cache."""

    def nothing(self):
        return Draft([], [])

    def join(self, parts):
        return parts[-1][0]


class DoubtfulDrafter(ExactDrafter):
    """Wrong: ends the draft before a drawn token whose own probability is small."""

    def propose(self, *asked, n_slots):
        draft = super().propose(*asked, n_slots)
        doubtful = [q[x] < Fraction(1, 2) for x, q in zip(draft.tokens, draft.probs)]
        end = doubtful.index(True) if True in doubtful else n_slots
        return Draft(draft.tokens[:end], draft.probs[:end])


class Scripted:
    """A length that is a function of what earlier passes drafted and accepted."""

    def __init__(self, function):
        self.function, self.history = function, []

    def choose(self):
        return self.function(self.history)

    def observe(self, n_drafted, n_accepted):
        self.history.append((n_drafted, n_accepted))


class Watched(AutoLength):
    """Notes the lengths chosen."""

    seen = None

    def choose(self):
        chosen = super().choose()
        self.seen.add(chosen)
        return chosen


def auto(seen):
    def make():
        # Two drafts pay while they stand and none after one failure; then the second pass drafts again.
        length = Watched(Costs(verify=(1.0, 1.3, 1.6), draft=0.1), prior=0.9, idle_passes=1)
        length.seen = seen
        return length

    return make


LENGTHS = {
    "none": lambda: Scripted(lambda history: 0),
    "one": lambda: Scripted(lambda history: 1),
    "alternate": lambda: Scripted(lambda history: len(history) % 3),
    "after_success": lambda: Scripted(lambda history: min(2, 1 + history[-1][1]) if history else 1),
    "after_failure": lambda: Scripted(lambda history: 2 - history[-1][1] if history else 2),
}


def sampler_of(policy, make, drafter=ExactDrafter):
    def sampler(world, source):
        judge = ExactJudge(POLICIES[policy], source, world.num_drafts)
        one_pass = CutPass(make(), ListArrays())
        limits = Limits(world.max_new_tokens, frozenset({world.eos}))
        sessions = ExactTarget(world), drafter(world)
        passes = decode(*sessions, judge, world.prompt, limits, one_pass=one_pass)
        return tuple(token for step in passes for token in step.tokens)

    return sampler


class Rows:
    """Exact sessions of one world, a row each: `TargetBatch` and `DrafterBatch` at once."""

    def __init__(self, kind, world, rows):
        self.sessions = [kind(world) for _ in range(rows)]

    def prefill(self, row, given):
        return self.sessions[row].prefill(given) if isinstance(self.sessions[row], ExactTarget) else None

    def propose(self, anchors, positions, features, rule, *, first, n_slots):
        part = self.sessions[first:]
        drafts = [
            one.propose(anchor, at, None, own, n_slots)
            for one, anchor, at, own in zip(part, anchors, positions, rule, strict=False)
        ]
        return Draft([one.tokens for one in drafts], [one.probs for one in drafts])

    def score(self, anchors, drafts, *, first):
        part = self.sessions[first:]
        return Scores([one.score(*of).logits for one, *of in zip(part, anchors, drafts, strict=False)], None)

    def rewind(self, lengths):
        for one, length in zip(self.sessions, lengths, strict=True):
            one.rewind(length)


class RowsJudge:
    """`core.batch.BatchJudge` of exact judges, each row's verdict by its own drafts."""

    def __init__(self, judges):
        self.judges = judges

    def first(self, logits, who, positions):
        given = zip(logits, who, positions, strict=True)
        return [(0, [self.judges[one].first(Scores(law), at)]) for law, one, at in given]

    def opened(self, who, positions, lengths):
        self.rows = list(zip(who, positions, lengths, strict=True))
        self.rule = [None if one is None else self.judges[one].rule(at) for one, at, _ in self.rows]
        self.rule = [(lambda law, slot: 0) if rule is None else rule for rule in self.rule]
        return self

    def verdict(self, scores, draft):
        found = []
        for (one, at, k), laws, tokens, probs in zip(
            self.rows, scores.logits, draft.tokens, draft.probs, strict=True
        ):
            own = Draft(tokens[:k], probs[:k])
            found.append((0, ()) if one is None else self.judges[one].verdict(Scores(laws[: k + 1]), own, at))
        return found


def sampler_beside(policy, make, row, neighbour):
    """A request in a row of a batch, beside one that asks for other lengths."""

    def sampler(world, source):
        limits = Limits(world.max_new_tokens, frozenset({world.eos}))
        lengths = [Scripted(neighbour)] * 2
        sources = [lambda purpose, at, slot: Fraction(1 + at % 3, 4)] * 2
        lengths[row], sources[row] = make(), source
        judges = [ExactJudge(POLICIES[policy], one, world.num_drafts) for one in sources]
        entries = [Entry(world.prompt, limits, length) for length in lengths]
        sessions = Rows(ExactTarget, world, 2), Rows(ExactDrafter, world, 2)
        steps = decode_batch(*sessions, RowsJudge(judges), entries, rows=2)
        return tuple(token for who, step in steps if who == row for token in step.tokens)

    return sampler


def worlds_of(policy):
    if policy == "greedy":
        return mixed_worlds(seed=7, warps=("greedy", "ties"))
    found = mixed_worlds(seed=7, warps=SAMPLED, size=1)
    return [world for world in found if world.num_drafts == 2][:4] or found[:4]


@pytest.mark.clause("RS-18", "RS-21", "DL-1", "DL-4")
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", LENGTHS)
def test_lengths_of_history_keep_the_law(policy, name):
    report = check_exact_law(sampler_of(policy, LENGTHS[name]), worlds_of(policy))
    assert report.passed, report


@pytest.mark.clause("DL-12", "RS-18", "RS-21")
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ["alternate", "after_success", "after_failure"])
def test_lengths_of_history_keep_the_law_beside_a_row_that_asks_for_others(policy, name):
    for row, neighbour in ((0, lambda history: 2), (1, lambda history: 1 - len(history) % 2)):
        report = check_exact_law(sampler_beside(policy, LENGTHS[name], row, neighbour), worlds_of(policy))
        assert report.passed, report


def test_a_verdict_cut_after_the_drafts_were_seen_is_seen():
    """A row's own k, chosen when its drafts are known: they are dropped for what they are."""
    worlds = make_worlds(6, seed=13, num_drafts=2, max_new_tokens=3)

    def sampler(world, source):
        own = sampler_beside("rejection", lambda: Scripted(lambda history: 2), 0, lambda history: 2)
        with pytest.MonkeyPatch.context() as patch:
            plain = RowsJudge.verdict

            def peeking(self, scores, draft):
                for i, (tokens, probs) in enumerate(zip(draft.tokens, draft.probs, strict=True)):
                    doubtful = [q[x] < Fraction(1, 2) for x, q in zip(tokens, probs, strict=True)]
                    k = doubtful.index(True) if True in doubtful else 2
                    self.rows[i] = (*self.rows[i][:2], k)
                return plain(self, scores, draft)

            patch.setattr(RowsJudge, "verdict", peeking)
            return own(world, source)

    assert not check_exact_law(sampler, worlds).passed


@pytest.mark.clause("RS-18", "RS-21")
@pytest.mark.parametrize("policy", POLICIES)
def test_lengths_by_acceptance_and_costs_keep_the_law(policy):
    seen = set()
    if policy == "greedy":  # one path a world: longer, to see lengths change
        found = make_worlds(6, seed=11, num_drafts=2, max_new_tokens=12, warps=("greedy",))
    else:
        found = make_worlds(3, seed=11, num_drafts=2, max_new_tokens=4)
    report = check_exact_law(sampler_of(policy, auto(seen)), found)
    assert report.passed, report
    assert len(seen) >= 2  # lengths changed within the runs


@pytest.mark.parametrize("policy", POLICIES)
def test_the_oracles_loop_keeps_the_law_with_lengths_of_history(policy):
    def sampler(world, source):
        def length(emitted, counts):
            return (emitted[-1] + sum(counts)) % (world.num_drafts + 1)

        loop = {**world.loop(), "num_drafts": length}
        return generate(world.target, world.drafter, POLICIES[policy], source, **loop).tokens

    assert check_exact_law(sampler, worlds_of(policy)).passed


@pytest.mark.parametrize("policy", ("rejection", "block", "sampled_match"))
def test_a_draft_dropped_for_its_probability_changes_the_law(policy):
    found = make_worlds(6, seed=13, num_drafts=2, max_new_tokens=3)
    honest, wrong = (
        check_exact_law(sampler_of(policy, lambda: Scripted(lambda history: 2), drafter), found)
        for drafter in (ExactDrafter, DoubtfulDrafter)
    )
    assert honest.passed, honest
    # The target's own draw does not look at the draft, so that no cut can bend it.
    assert wrong.passed == (policy == "sampled_match")
    if not wrong.passed:
        assert "tv" in wrong.counterexample


@pytest.mark.clause("DL-4", "DL-5", "DL-2")
def test_counts_and_caches_of_cut_passes():
    world = make_worlds(1, seed=2, num_drafts=2, max_new_tokens=14)[0]
    target, drafter = ExactTarget(world), ExactDrafter(world)
    judge = ExactJudge(POLICIES["rejection"], lambda *key: 0.5, 2)
    length = Scripted(lambda history: (2, 0, 1, 0)[len(history) % 4])
    position, asked = len(world.prompt), 0
    steps = decode(target, drafter, judge, world.prompt, Limits(14), one_pass=CutPass(length, ListArrays()))
    next(steps)
    for i, step in enumerate(steps):
        assert step.n_drafted == (2, 0, 1, 0)[i % 4] >= step.n_accepted
        asked += step.n_drafted > 0
        assert len(drafter.seen) == asked  # nobody drafts for a pass without drafts
        assert not step.n_drafted or drafter.seen[-1] == position
        position += step.n_accepted + 1
        assert target.length == position
    assert i > 4

"""Rows of a batch with draft lengths and windows of their own: each request is what it is alone."""

import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import dspec.batching as batching
from dspec.backends import table_batch
from dspec.backends.batch_judge import BatchJudge
from dspec.backends.draft_window import WindowedDrafter
from dspec.core import batch as loop
from dspec.core.draft_length import FixedLength
from dspec.core.types import Draft
from dspec.decoders import Costs, Speculative
from dspec.request import parse_request
from dspec.testing.models.table_engine import on_backend
from dspec.testing.models.wrapping import Wrapped, WrappedModel
from tests.batches import SETTINGS, alone, mixed, ragged, tables, together
from tests.test_batch import Counting
from tests.test_batch_rooms import engine_of, prompts_of

pytestmark = pytest.mark.clause("DL-12", "DL-13")
K = 3
# At which all drafts pay, some do, one is as good as another, and none does for long.
COSTS = [
    Costs(verify=(1, 1, 1, 1), draft=0.1),
    Costs(verify=(1, 1.3, 1.6, 1.9), draft=0.2),
    Costs(verify=(1, 2, 3, 4), draft=2),
]
BLOCKS = [{"block": "auto", "costs": costs} for costs in COSTS] + [{"block": 1}, {"block": 2}, {}]


def drafting(settings, *, dice, blocks=BLOCKS, **more):
    """The settings, each with a draft length."""
    made = []
    for one in settings:
        own = {key: value for key, value in one.items() if key != "policy"}
        block = {**dice.choice(blocks), **more}
        made.append({**own, "decoder": Speculative(policy=one.get("policy"), **block)})
    return made


@pytest.fixture
def widths(monkeypatch):
    """Of every pass: how wide it was, and the lengths that its rows asked for."""
    log, plain = [], BatchJudge.opened

    def opened(self, who, positions, lengths):
        log.append([k for one, k in zip(who, lengths, strict=True) if one is not None])
        return plain(self, who, positions, lengths)

    monkeypatch.setattr(BatchJudge, "opened", opened)
    return log


@pytest.mark.clause("RS-9")
@pytest.mark.parametrize("rows", [2, 3, 8])
@pytest.mark.parametrize("chained", [True, False], ids=["chained", "one pass"])
def test_rows_of_unlike_lengths_are_bitwise_what_they_are_alone(rows, chained, widths):
    engine, prompts, dice = tables(chained=chained), ragged(42, seed=rows), random.Random(rows)
    settings = drafting(mixed(42, ignore_eos=True), dice=dice)
    found = together(engine, prompts, settings, rows)
    uneven = [ks for ks in widths if len(set(ks)) > 1]
    assert len(uneven) > len(widths) / 3 and {k for ks in widths for k in ks} == {0, 1, 2, 3}
    assert found == alone(engine, prompts, settings)
    stood = [c for chunks in found for c in chunks if c.n_accepted == c.n_drafted > 0]
    assert {c.n_drafted for c in stood} == {1, 2, 3}, "also cut blocks stand whole, and close by a draw"


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_requests_that_choose_their_lengths_share_a_batch(settings, widths):
    engine, prompts = tables(), ragged(9)
    settings = drafting([settings] * 9, dice=random.Random(0), blocks=BLOCKS[:3])
    shared = [{**one, "max_new_tokens": 40, "ignore_eos": True} for one in settings]
    assert together(engine, prompts, shared, 4) == alone(engine, prompts, shared)
    assert any(len(ks) == 4 for ks in widths)


@pytest.mark.clause("DL-5")
def test_a_pass_is_as_wide_as_its_longest_and_drafts_nothing_where_nobody_asks(widths, monkeypatch):
    passes, propose = [], table_batch.TableDrafterBatch.propose

    def noted(self, anchors, positions, features, rule, **rows):
        drawn = []
        watching = lambda logits, *slot: drawn.append(logits.shape[1]) or rule(logits, *slot)  # noqa: E731
        draft = propose(self, anchors, positions, features, watching, **rows)
        passes.append((draft.tokens.shape[1], sum(drawn)))
        return draft

    monkeypatch.setattr(table_batch.TableDrafterBatch, "propose", noted)
    settings = drafting(mixed(30, ignore_eos=True), dice=random.Random(3), blocks=BLOCKS[2:5])
    together(tables(), ragged(30), settings, 3)
    assert passes == [(max(ks), max(ks)) for ks in widths], "no law of a slot that nobody verifies"
    assert {0, 1, 2} <= {width for width, _ in passes}


@pytest.mark.clause("DL-6")
def test_a_pass_of_unlike_lengths_reads_once_and_sends_two_indices_more(monkeypatch):
    ops, log, plain = Counting(), [], loop._pass

    def counted(table, judge):
        before = ops.reads, ops.sent
        found = plain(table, judge)
        log.append((ops.reads - before[0], ops.sent - before[1]))
        return found

    monkeypatch.setattr(loop, "_pass", counted)
    settings = drafting([{**SETTINGS[2], "max_new_tokens": 30}] * 9, dice=random.Random(1))
    together(tables(ops=ops), ragged(9), settings, 3)
    assert {reads for reads, _ in log} == {1} and {sent for _, sent in log} == {1, 3}


def wide_verdicts(patch):
    """Each row is judged by all drafts of the pass, and its verdict cut to its own k after that."""
    plain = BatchJudge.opened

    class Cut:
        def __init__(self, inner, lengths):
            self.inner, self.lengths, self.rule = inner, lengths, inner.rule

        def verdict(self, scores, draft):
            found = self.inner.verdict(scores, draft)
            return [(min(n, k), tokens) for (n, tokens), k in zip(found, self.lengths, strict=True)]

    def opened(self, who, positions, lengths):
        return Cut(plain(self, who, positions, [max(lengths)] * len(who)), lengths)

    patch.setattr(BatchJudge, "opened", opened)


def longest_for_all(patch):
    plain = BatchJudge.opened
    patch.setattr(BatchJudge, "opened", lambda self, who, at, ks: plain(self, who, at, [max(ks)] * len(who)))


def lengths_of_neighbours(patch):
    plain = BatchJudge.opened
    patch.setattr(BatchJudge, "opened", lambda self, who, at, ks: plain(self, who, at, [*ks[1:], ks[0]]))


def one_length_for_all_requests(patch):
    shared = FixedLength(2)
    patch.setattr(loop._Rows, "__init__", with_length(loop._Rows.__init__, shared))


def with_length(plain, length):
    def wrong(self, target, drafter, entries, rows):
        plain(self, target, drafter, [replace(one, length=length) for one in entries], rows)

    return wrong


def never_told(patch):
    plain = loop._Rows.settle

    def wrong(self, row, found, n_drafted):
        entry = self.entries[self.seats[row].who]
        with patch.context() as inner:
            inner.setattr(type(entry.length), "observe", lambda *_: None)
            return plain(self, row, found, n_drafted)

    patch.setattr(loop._Rows, "settle", wrong)


MUTANTS = [wide_verdicts, longest_for_all, lengths_of_neighbours, one_length_for_all_requests, never_told]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_lengths_that_mix_are_seen(mutant, monkeypatch):
    engine, prompts = tables(), ragged(16, seed=7)
    settings = drafting(mixed(16, ignore_eos=True), dice=random.Random(5))
    own = alone(engine, prompts, settings)
    mutant(monkeypatch)
    assert together(engine, prompts, settings, 4) != own


@pytest.mark.clause("RS-16")
def test_a_law_behind_a_rows_own_drafts_is_not_read():
    """NaN in slots that another row asked for is none of its business; in its own it is its error."""
    engine, prompts = tables(), [[1], [2]]
    for policy in ("one_hot", "rejection", "block", "sample_match", None):
        temperature = 0.0 if policy is None else 1.0
        requests = [parse_request({"temperature": temperature, "policy": policy, "seed": 4})] * 2
        jobs = engine._jobs(prompts, requests)
        for broken in range(K + 1):
            judge = BatchJudge(engine.ops, [job.judge for job in jobs]).opened((0, 1), (5, 5), (1, K))
            logits = np.zeros((2, K + 1, 6))
            draft = judge.rule(logits[:, :K])
            logits[0, broken] = np.nan
            found = judge.verdict(SimpleNamespace(logits=logits), draft)
            assert isinstance(found[0], Exception) == (broken <= 1), (policy, broken)
            assert not isinstance(found[1], Exception)


@pytest.mark.clause("RS-9", "RS-10")
def test_lengths_on_the_rooms_arrays(room):
    engine, prompts = on_backend(tables(), room.operations), ragged(21)
    settings = drafting(mixed(21, ignore_eos=True), dice=random.Random(2))
    assert together(engine, prompts, settings, 5) == alone(engine, prompts, settings)


@pytest.mark.clause("DL-7", "DL-5", "RS-3")
@pytest.mark.parametrize("window", [None, 1, 4])
def test_networks_decode_with_lengths_and_windows_what_they_do_alone(room, window, widths):
    """Greedy and sampled, float32: no near tie among these seeds falls the other way."""
    engine, prompts, dice = engine_of(room), prompts_of(12, seed=4), random.Random(8)
    slots = engine.drafter.block_size - 1
    blocks = [
        {"block": "auto", "costs": Costs(verify=tuple(1 + rise * k for k in range(slots + 1)), draft=0.1)}
        for rise in (0, 0.2, 1)
    ]
    blocks += [{"block": 1}, {}]
    settings = [{**one, "max_new_tokens": 6 + 5 * i % 17} for i, one in enumerate(mixed(12, ignore_eos=True))]
    settings = drafting(settings, dice=dice, blocks=blocks, draft_window=window)
    assert together(engine, prompts, settings, 4) == alone(engine, prompts, settings)
    assert any(len(set(ks)) > 1 for ks in widths) and max(map(len, widths)) == 4


def test_rows_that_draft_nothing_take_their_features_in(room, widths):
    """A pass of no drafts at all, then drafts: the context is what it is alone, where features waited."""
    engine, prompts = engine_of(room), prompts_of(4, seed=1)
    slots = engine.drafter.block_size - 1
    costs = Costs(verify=tuple(1 + k for k in range(slots + 1)), draft=1)
    settings = [{"max_new_tokens": 44, "ignore_eos": True, "decoder": Speculative(block="auto", costs=costs)}]
    assert together(engine, prompts, settings * 4, 4) == alone(engine, prompts, settings * 4)
    wide = [max(ks) for ks in widths]
    assert wide.count(0) > 20 and max(wide[wide.index(0) :]) > 0, "and tries again"


@pytest.mark.clause("DL-6")
@pytest.mark.parametrize("rows", [1, 2])
def test_the_head_sees_the_slots_that_are_asked_for(room, rows):
    engine, seen = engine_of(room), []
    plain = engine.target.logits

    def logits(hidden):
        seen.append(tuple(hidden.shape[:2]))
        return plain(hidden)

    def rule(logits, first_slot=0):
        seen.append(tuple(logits.shape[:2]))
        xp = room.xp
        return Draft(xp.astype(xp.argmax(logits, axis=-1), xp.int32))

    object.__setattr__(engine.target, "logits", logits)
    features = engine.target.session(layer_ids=engine.drafter.layer_ids, capacity=9).prefill([5, 9]).features
    seen.clear()
    if rows == 1:
        session = engine.drafter.session(engine.target, capacity=30)
        drafts = [session.propose(4, 2, features, rule, n_slots=k).tokens for k in (2, None)]
    else:
        session = engine.drafter.batch(engine.target, rows=2, capacity=30)
        for row in range(2):
            session.prefill(row, features)
        drafts = [session.propose([4, 4], [2, 2], None, rule, n_slots=k).tokens for k in (2, None, 0)]
        assert tuple(drafts[2].shape) == (2, 0)
    slots = engine.drafter.block_size - 1
    assert seen == [(rows, 2)] * 2 + [(rows, slots)] * 2
    assert (room.numpy(drafts[0]) == room.numpy(drafts[1])[:, :2]).all()


def test_which_requests_share_a_batch(room):
    engine = engine_of(room)
    decoders = [
        {},
        {"block": 1},
        {"draft_window": 4},
        {"block": "auto", "costs": Costs(verify=(1.0,) * engine.drafter.block_size)},
        {"draft_window": 4, "block": 2},
        {"draft_window": 5},
    ]
    requests = [parse_request({"max_new_tokens": 9, "decoder": Speculative(**one)}) for one in decoders]
    jobs = engine._jobs([[5]] * len(requests), requests)
    assert batching.alike(jobs) == [[0, 1, 3], [2, 4], [5]]
    for places, window in zip(batching.alike(jobs), (None, 4, 5), strict=True):
        part = [jobs[i] for i in places]
        _, drafter = batching.open_batch(engine.target, engine.ops, part, 2)
        assert drafter.window == window


def test_a_drafter_without_batches_has_none_of_a_window(room):
    engine = engine_of(room)
    wrapped = WindowedDrafter(WrappedModel(engine.drafter, Wrapped), 3)
    assert engine.drafter.windowed(3).batch(engine.target, rows=2, capacity=9).window == 3
    assert wrapped.batch(engine.target, rows=2, capacity=9) is None

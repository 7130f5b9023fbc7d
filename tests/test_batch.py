"""Batches of a target and drafter: each request is what it is alone, in any company, order and row."""

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest

import dspec.batching as batching
from dspec.backends import table_batch
from dspec.backends.numpy import NumpyOps, TableTarget
from dspec.core import batch as loop
from dspec.core.policies import POLICIES
from dspec.decoders import Autoregressive
from dspec.engine import Engine
from dspec.errors import NumericsError
from dspec.request import parse_request
from dspec.rng import Purpose, Stream
from dspec.testing.models.wrapping import Wrapped, WrappedModel
from tests.batches import HOT, SETTINGS, alone, gathered, letters, mixed, ragged, tables, together


@pytest.mark.clause("DL-12", "RS-9")
@pytest.mark.parametrize("rows", range(1, 9))
@pytest.mark.parametrize("chained", [True, False], ids=["chained", "one pass"])
def test_a_list_is_bitwise_what_its_prompts_are_alone(rows, chained):
    engine, prompts = tables(chained=chained), ragged(11)
    for settings in SETTINGS:
        own = alone(engine, prompts, [{**settings, "max_new_tokens": 19}] * len(prompts))
        outs = engine.generate(prompts, batch_size=rows, max_new_tokens=19, **settings)
        assert [list(out.chunks) for out in outs] == own, settings
        assert {out.finish for out in outs} <= {"eos", "length"}


@pytest.mark.clause("DL-12", "RS-9")
@pytest.mark.parametrize("rows", [2, 3, 8, 40])
def test_rows_of_unlike_settings_are_judged_as_if_alone(rows):
    engine, prompts = tables(), ragged(24, seed=1)
    settings = mixed(24, ignore_eos=True)
    assert together(engine, prompts, settings, rows) == alone(engine, prompts, settings)


@pytest.mark.clause("DL-12", "RN-4")
def test_the_order_of_the_rows_changes_nothing():
    engine, prompts, settings = tables(), ragged(4, seed=2), mixed(6)[2:]
    own = alone(engine, prompts, settings)
    jobs = [
        lambda i=i: engine._job(prompts[i], replace(parse_request(settings[i]), number=i)) for i in range(4)
    ]
    for order in itertools.permutations(range(4)):
        for rows in (2, 3, 4):
            part = [jobs[i]() for i in order]
            sessions = batching.open_batch(engine.target, engine.ops, part, rows)
            found = gathered(4, batching.batch_chunks(sessions, engine.ops, part, rows))
            assert [found[order.index(i)] for i in range(4)] == own, (order, rows)


@pytest.mark.clause("DL-12", "DL-9", "DL-3")
def test_two_hundred_requests_lose_and_mix_nothing():
    engine, dice = letters(), random.Random(8)
    prompts = ["".join(dice.choices("abcd", k=dice.randint(1, 12))) for _ in range(200)]
    settings = [
        {
            **dice.choice(SETTINGS),
            "seed": dice.randrange(3),
            "max_new_tokens": dice.randint(1, 30),
            "stop": dice.choice([None, "ab", ["dd", "cab"], "bcd"]),
            "ignore_eos": dice.random() < 0.3,
            "decoder": None,
        }
        for _ in prompts
    ]
    found = together(engine, prompts, settings, rows=7)
    assert found == alone(engine, prompts, settings)
    ends = [chunks[-1].finish for chunks in found]
    assert min(ends.count(end) for end in ("eos", "stop", "length")) > 20, "each end comes up"
    for chunks, own in zip(found, settings, strict=True):
        assert all(chunk.finish is None for chunk in chunks[:-1])
        stops = own["stop"] or []
        text = "".join(chunk.text for chunk in chunks)
        assert not any(stop in text for stop in ([stops] if isinstance(stops, str) else stops))


@pytest.mark.clause("DL-12")
def test_a_stopped_row_is_free_for_the_next_and_rows_fill_in_the_order_asked(monkeypatch):
    engine, seated, passes = letters(), [], []
    prefill, score = table_batch.TableTargetBatch.prefill, table_batch.TableTargetBatch.score
    monkeypatch.setattr(
        table_batch.TableTargetBatch,
        "prefill",
        lambda self, row, ids: [seated.append((row, len(ids))), prefill(self, row, ids)][1],
    )
    monkeypatch.setattr(
        table_batch.TableTargetBatch,
        "score",
        lambda self, *a, **k: [passes.append(0), score(self, *a, **k)][1],
    )
    prompts = ["a" * n for n in range(1, 8)]
    settings = {**HOT, "max_new_tokens": 60, "ignore_eos": True}
    out = engine.generate(prompts, batch_size=2, stop=["a", "b", "c"], **settings)
    assert [n for _, n in seated] == list(range(1, 8)) and {row for row, _ in seated} == {0, 1}
    assert all(one.finish == "stop" for one in out)
    longest = [len(one.stats.n_accepted) for one in out]
    assert sum(longest) / 2 <= len(passes) <= sum(longest), "no pass goes on for a row that has stopped"


@pytest.mark.clause("DL-12")
def test_a_pass_runs_over_the_rows_from_the_first_taken_to_the_last(monkeypatch):
    widths, score = [], table_batch.TableTargetBatch.score
    monkeypatch.setattr(
        table_batch.TableTargetBatch,
        "score",
        lambda self, anchors, *a, **k: [widths.append(len(anchors)), score(self, anchors, *a, **k)][1],
    )
    limits = [{"max_new_tokens": n} for n in (4, 4, 30, 12)]
    list(tables().stream_many(ragged(4), settings=limits, ignore_eos=True, decoder=Autoregressive()))
    assert widths == [4] * 3 + [2] * 8 + [1] * 18


@pytest.mark.clause("DL-12", "RS-16")
@pytest.mark.filterwarnings("ignore:invalid value")  # numpy's, where a law is truncated
@pytest.mark.parametrize("rows", [2, 3])
def test_a_request_of_nan_fails_alone(rows):
    engine, prompts = tables(), ragged(12, seed=5)
    engine.target.table[:, 4] = np.nan  # after its own check: a model that breaks after this token
    settings = mixed(12)
    found = together(engine, prompts, settings, rows)
    own = alone(engine, prompts, settings)
    failed = [i for i, chunks in enumerate(own) if chunks[-1].finish == "error"]
    assert 0 < len(failed) < 12
    for i, (mine, theirs) in enumerate(zip(found, own, strict=True)):
        if i not in failed:
            assert mine == theirs
            continue
        assert mine[:-1] == theirs[:-1] and mine[-1].finish == "error" and not mine[-1].tokens
        assert isinstance(mine[-1].error, NumericsError) and str(mine[-1].error) == str(theirs[-1].error)
        assert f"request {i}, pass at position" in str(mine[-1].error)
    with pytest.raises(NumericsError, match=r"request \d+, pass at position \d+.*\[RS-16\]"):
        engine.generate(prompts, batch_size=rows, max_new_tokens=20, **HOT)


@pytest.mark.clause("DL-12", "DL-8")
def test_any_other_failure_ends_all_and_the_next_call_begins_anew(monkeypatch):
    engine, prompts = tables(), ragged(5)
    before = engine.generate(prompts, max_new_tokens=12)
    with monkeypatch.context() as patch:
        patch.setattr(table_batch.TableDrafterBatch, "propose", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.generate(prompts, max_new_tokens=12)
    assert [o.tokens for o in engine.generate(prompts, max_new_tokens=12)] == [o.tokens for o in before]


class Counting(NumpyOps):
    """Counts transfers each way."""

    def __init__(self):
        self.reads = self.sent = 0

    def to_host(self, array):
        self.reads += 1
        return super().to_host(array)

    def from_host(self, array):
        self.sent += 1
        return super().from_host(array)


@pytest.mark.clause("DL-6", "DL-12")
@pytest.mark.parametrize("mixes", [False, True], ids=["alike", "mixed"])
def test_a_pass_reads_once_and_sends_its_uniforms_once(mixes, monkeypatch):
    passes, taken = [], []
    plain_pass, plain_admit = loop._pass, loop._admit

    def counted(plain, log):
        def call(table, judge):
            before = ops.reads, ops.sent
            found = plain(table, judge)
            log.append((ops.reads - before[0], ops.sent - before[1]))
            return found

        return call

    ops = Counting()
    monkeypatch.setattr(loop, "_pass", counted(plain_pass, passes))
    monkeypatch.setattr(loop, "_admit", counted(plain_admit, taken))
    settings = mixed(8, ignore_eos=True) if mixes else [{**SETTINGS[2], "max_new_tokens": 20}] * 8
    list(tables(ops=ops).stream_many(ragged(8), settings=settings, batch_size=4))
    assert {reads for reads, _ in passes + taken} == {1} and len(passes) > 6
    # Of unlike rows also an index of the groups and one back, where who sits in them has changed.
    assert {sent for _, sent in passes + taken} == ({1, 3} if mixes else {1})
    ops.sent = 0
    list(tables(ops=ops).stream_many(ragged(8), batch_size=4, max_new_tokens=9))
    assert ops.sent == 0, "greedy requests draw nothing"


@pytest.mark.clause("RN-2", "RN-4", "DL-12")
def test_a_batch_reads_the_keys_that_its_requests_read_alone(monkeypatch):
    logs = []
    plain = Stream.uniforms

    def noted(self, purpose, position, shape):
        logs[-1].append((self.seed, self.request, purpose, position, int(np.prod(shape))))
        return plain(self, purpose, position, shape)

    monkeypatch.setattr(Stream, "uniforms", noted)
    engine, prompts, settings = tables(), ragged(9), mixed(9)
    for run in (lambda: together(engine, prompts, settings, 4), lambda: alone(engine, prompts, settings)):
        logs.append([])
        run()
    assert sorted(logs[0]) == sorted(logs[1]) and len(set(logs[0])) == len(logs[0])
    assert {key[2] for key in logs[0]} == {Purpose.DRAFT, Purpose.ACCEPT, Purpose.CLOSE}


@pytest.mark.clause("DL-12")
def test_requests_that_draft_and_those_that_do_not_share_a_call():
    engine, prompts = tables(), ragged(8)
    settings = [{**one, "decoder": Autoregressive()} if i % 2 else one for i, one in enumerate(mixed(8))]
    settings = [{k: v for k, v in s.items() if k != "policy" or "decoder" not in s} for s in settings]
    found = together(engine, prompts, settings, 3)
    assert found == alone(engine, prompts, settings)
    assert {c.n_drafted for i in (1, 3) for c in found[i]} == {0} and found[0][1].n_drafted == 3
    bare = Engine(engine.target, None, engine.ops)
    outs = bare.generate(prompts, max_new_tokens=9, **HOT)
    assert [list(out.chunks) for out in outs] == alone(bare, prompts, [{**HOT, "max_new_tokens": 9}] * 8)


@pytest.mark.clause("DL-12")
def test_a_model_that_changes_its_sessions_has_no_batches_of_the_one_inside():
    engine = tables()
    assert batching.batch_of(engine.target) and batching.batch_of(engine.drafter)
    wrapped = WrappedModel(engine.target, Wrapped)

    class Own(TableTarget):
        def session(self, **options):
            return super().session(**options)

    class Both(Own):
        def batch(self, **options):
            return None

    own, both = Own(engine.target.table), Both(engine.target.table)
    assert [batching.batch_of(one) for one in (wrapped, own, None)] == [None] * 3
    for target in (wrapped, own, both):
        other = Engine(target, engine.drafter, engine.ops)
        outs = other.generate(ragged(4), max_new_tokens=8, ignore_eos=True)
        same = engine.generate(ragged(4), max_new_tokens=8, ignore_eos=True)
        assert [o.tokens for o in outs] == [o.tokens for o in same]
        assert "target" in outs[0].stats.seconds and "target" not in same[0].stats.seconds


def test_the_time_of_a_batch_is_shared_out_by_passes():
    outs = tables().generate(ragged(6), max_new_tokens=30, ignore_eos=True, **HOT)
    assert all(set(out.stats.seconds) == {"total"} for out in outs)
    a_pass = {round(out.stats.seconds["total"] / len(out.chunks), 12) for out in outs}
    assert len(a_pass) == 1 and a_pass.pop() > 0


def test_every_policy_was_among_the_settings():
    assert {parse_request(one).rule().name for one in SETTINGS} == set(POLICIES)

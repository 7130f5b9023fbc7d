"""The engine: streams, lists, stats, time; requests, prompts and text have files of their own."""

import json
import math

import numpy as np
import pytest

import dspec
from dspec.core.stats import Stats, pool
from dspec.decoders import Autoregressive
from dspec.engine import Engine
from dspec.errors import ConfigError
from dspec.stopwatch import Stopwatch
from dspec.testing.checks.engines import check_outputs
from tests.small_engines import small_engine


@pytest.fixture
def engine():
    return small_engine()


def test_a_stream_holds_what_generate_returns(engine):
    settings = {"max_new_tokens": 30, "temperature": 1.0, "seed": 3, "ignore_eos": True}
    chunks = list(engine.stream([0, 1], **settings))
    out = engine.generate([0, 1], **settings)
    assert [t for c in chunks for t in c.tokens] == list(out.tokens) and len(out.tokens) == 30
    assert [c.n_accepted for c in chunks[1:]] == list(out.stats.n_accepted)
    assert out.stats.tau == np.mean(out.n_emitted) > 1.5
    assert [c.finish for c in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert out.text is None


@pytest.mark.clause("RN-4")
@pytest.mark.clause("RS-9")
def test_a_request_of_a_list_does_not_depend_on_its_neighbours(engine):
    settings = {"max_new_tokens": 12, "temperature": 1.0, "seed": 3}
    many = engine.generate([[0, 1], [2], [0, 1]], **settings)
    assert many[0].tokens == engine.generate([0, 1], **settings).tokens
    assert many[1].tokens == engine.generate([[4, 4], [2]], **settings)[1].tokens
    assert many[0].tokens != many[2].tokens, "requests of one seed share their uniforms"


def test_without_a_drafter_one_token_a_pass(engine):
    out = engine.generate([0], max_new_tokens=9, decoder=Autoregressive(), ignore_eos=True)
    assert out.n_emitted == (1,) * 8 and out.stats.tau == 1
    alone = Engine(engine.target, None, engine.ops)
    assert alone.generate([0], max_new_tokens=9, ignore_eos=True).tokens == out.tokens


def test_chunks_say_which_tokens_were_accepted(engine):
    chunks = list(engine.stream([0], max_new_tokens=40, temperature=1.0, seed=8, ignore_eos=True))
    assert chunks[0].accepted == (False,)
    assert all(c.accepted == (True,) * c.n_accepted + (False,) for c in chunks[1:-1])


@pytest.mark.clause("DL-2")
def test_stats_count_what_was_reached():
    stats = Stats(n_accepted=(3, 0, 1, 1), n_drafted=(3, 3, 3, 3), n_tokens=9, seconds={"total": 3.0})
    assert stats.tau == 9 / 4 and stats.tokens_per_second == 3
    assert stats.alpha == (3 / 4, 1 / 3, 1.0)
    assert math.isnan(Stats().tau) and Stats().alpha == ()
    both = pool([stats, Stats((0,), (3,), 1, {"total": 1.0})])
    assert both.tau == 10 / 5 and both.seconds == {"total": 4.0} and both.alpha[0] == 3 / 5


def test_time_is_shared_out_between_target_drafter_and_loop(engine):
    seconds = engine.generate([0], max_new_tokens=30, ignore_eos=True).stats.seconds
    assert set(seconds) == {"target", "drafter", "loop", "total"} and min(seconds.values()) > 0
    assert math.isclose(seconds["target"] + seconds["drafter"] + seconds["loop"], seconds["total"])


def test_a_stream_is_not_timed_and_a_clock_in_seconds_keeps_no_marks(engine, monkeypatch):
    marks = []
    monkeypatch.setattr(type(engine.ops), "mark", lambda self: float(len(marks) + bool(marks.append(0))))
    list(engine.stream([0], max_new_tokens=20, ignore_eos=True))
    assert not marks, "nobody reads the time of a stream"
    watch = Stopwatch(engine.ops)
    target = watch.target(engine.target.session())
    target.prefill([0])
    for _ in range(10):
        target.score(0, np.zeros((1, 0), dtype=int))
    assert not watch._parts["target"].unread and watch.read()["target"] == 11


def test_marks_of_a_queue_are_read_at_the_end_and_once(engine):
    class Event(int):
        """Stands for an event of a device: no float."""

    class Ops:
        now = 0

        def mark(self):
            self.now += 1
            return Event(self.now)

        def seconds(self, start, end):
            return float(end - start)

    watch = Stopwatch(Ops())
    watch.target(engine.target.session()).prefill([0])
    assert len(watch._parts["target"].unread) == 1
    assert watch.read()["target"] == watch.read()["target"] == 1


def test_a_generation_is_short_to_print(engine):
    assert "Chunk" not in repr(engine.generate([0], max_new_tokens=3))


def test_public_names_are_there_and_others_are_named():
    assert all(getattr(dspec, name) is not None for name in dspec.__all__)
    with pytest.raises(AttributeError, match=r"public names: .*train"):
        dspec.tarin  # noqa: B018


def test_the_exactness_check_passes_an_engine_and_fails_a_biased_one(engine):
    report = dspec.check_exactness(engine)
    assert report.passed and json.loads(report.to_json())["passed"]

    class Biased(Engine):
        def generate(self, prompt, **settings):
            outs = super().generate(prompt, **settings)
            rare = min(outs, key=lambda out: [o.tokens for o in outs].count(out.tokens))
            return [rare] * (len(outs) // 2) + outs[len(outs) // 2 :]

    report = check_outputs(Biased(engine.target, engine.drafter, engine.ops))
    assert not report.passed and report.counterexample["check"] == "distribution"
    with pytest.raises(ConfigError, match="level: got 'deep'"):
        dspec.check_exactness(engine, level="deep")

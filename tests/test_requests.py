"""Requests: every setting is held to type and range when the call is made."""

from fractions import Fraction

import numpy as np
import pytest

from dspec.core.types import Sampling
from dspec.decoders import Autoregressive, Speculative
from dspec.engine import Engine
from dspec.errors import ConfigError
from dspec.request import Request, parse_request
from tests.small_engines import small_engine

BAD = [
    ({"repetition_penalty": 1.2}, "repetition_penalty.*needs one of max_new_tokens"),
    ({"temperature": -1.0}, "temperature: got -1.0"),
    ({"temperature": float("nan")}, "temperature: got nan"),
    ({"temperature": float("inf")}, "temperature: got inf"),
    ({"temperature": 10**400}, "temperature: got 1000"),
    ({"temperature": "hot"}, "temperature: got 'hot'; needs a finite number"),
    ({"temperature": "0.5"}, "temperature: got '0.5'"),
    ({"temperature": None}, "temperature: got None"),
    ({"temperature": True}, "temperature: got True"),
    ({"temperature": 1j}, "temperature: got 1j"),
    ({"top_p": 0.0}, r"top_p: got 0.0; needs a number in \(0, 1\]"),
    ({"top_p": None}, "top_p: got None"),
    ({"top_p": [0.5]}, r"top_p: got \[0.5\]"),
    ({"top_k": -1}, "top_k: got -1; needs an integer >= 0"),
    ({"top_k": None}, "top_k: got None"),
    ({"top_k": 2.0}, "top_k: got 2.0"),
    ({"top_k": True}, "top_k: got True"),
    ({"min_p": 2}, "min_p: got 2"),
    ({"min_p": "0"}, "min_p: got '0'"),
    ({"policy": "typical"}, "policy: got 'typical'; needs one of greedy, one_hot"),
    ({"policy": ["one_hot"]}, "policy: got .*needs one of greedy, one_hot"),
    ({"policy": "greedy", "temperature": 1.0}, "policy='greedy'"),
    ({"policy": "one_hot", "decoder": Speculative()}, "policy: got one_hot; needs to stand alone"),
    ({"decoder": Speculative(policy="typical")}, "policy: got 'typical'"),
    ({"decoder": Speculative(policy={})}, "policy: got .*needs one of greedy"),
    (
        {"decoder": "autoregressive"},
        r"decoder: got 'autoregressive'; needs one of dspec.decoders, such as Autoreg",
    ),
    ({"decoder": Autoregressive}, "decoder: got <class"),
    ({"decoder": Speculative}, "decoder: got <class"),
    ({"decoder": False}, "decoder: got False"),
    ({"seed": -1}, "seed: got -1"),
    ({"seed": 2**64}, "seed: got 18446744073709551616; needs an integer in"),
    ({"seed": None}, "seed: got None"),
    ({"seed": 1.5}, "seed: got 1.5"),
    ({"seed": "1"}, "seed: got '1'"),
    ({"max_new_tokens": 0}, "max_new_tokens: got 0"),
    ({"max_new_tokens": None}, "max_new_tokens: got None"),
    ({"max_new_tokens": 2.5}, "max_new_tokens: got 2.5; needs an integer >= 1"),
    ({"max_new_tokens": "5"}, "max_new_tokens: got '5'"),
    ({"ignore_eos": "no"}, "ignore_eos: got 'no'; needs True or False"),
    ({"ignore_eos": 1}, "ignore_eos: got 1"),
    ({"stop": "x"}, "stop: got .*the target has no tokenizer"),
    ({"stop": 5}, "stop: got 5; needs a string, a list of strings, or None"),
    ({"stop": [5]}, "stop: got 5; needs a string"),
    ({"stop": ["a", None]}, "stop: got None; needs a string"),
    ({"stop": b"x"}, "stop: got b'x'; needs a string"),
    ({"stop": ["a", ""]}, "stop: got an empty string"),
    ({"stop": "a\ufffd"}, "stop: got 'a.'; needs readable text"),
]


@pytest.mark.clause("RS-13")
@pytest.mark.parametrize("call", ["generate", "stream"])
@pytest.mark.parametrize(("settings", "message"), BAD, ids=lambda v: repr(v)[:50])
def test_a_setting_that_cannot_be_honoured_raises_at_the_call(call, settings, message):
    with pytest.raises(ConfigError, match=message) as error:
        getattr(small_engine(), call)([0], **settings)  # a stream is not even iterated
    assert "got" in str(error.value) and "needs" in str(error.value)


@pytest.mark.parametrize("call", ["generate", "stream"])
def test_a_request_longer_than_the_model_reads_is_refused_at_the_call(call, monkeypatch):
    engine = small_engine()
    monkeypatch.setattr(type(engine.target), "max_positions", 8)
    with pytest.raises(ConfigError, match=r"prompt \+ max_new_tokens: got 9; needs at most 8"):
        getattr(engine, call)([0, 1], max_new_tokens=7)
    assert len(engine.generate([0, 1], max_new_tokens=6, ignore_eos=True).tokens) == 6


@pytest.mark.parametrize("call", ["generate", "stream"])
def test_a_speculative_decoder_asked_for_needs_a_drafter(call):
    engine = small_engine()
    alone = Engine(engine.target, None, engine.ops)
    with pytest.raises(
        ConfigError, match=r"decoder: got Speculative.*; needs a drafter: this engine has none"
    ):
        getattr(alone, call)([0], decoder=Speculative())


@pytest.mark.parametrize("settings", [{}, {"policy": "rejection"}, {"decoder": None}, {"stop": None}])
def test_without_a_drafter_other_settings_stand(settings):
    engine = small_engine()
    alone = Engine(engine.target, None, engine.ops)
    assert alone.generate([0], max_new_tokens=5, ignore_eos=True, **settings).n_emitted == (1,) * 4


def test_a_decoder_is_used_as_asked():
    engine, settings = small_engine(), {"max_new_tokens": 9, "ignore_eos": True}
    assert engine.generate([0], decoder=Autoregressive(), **settings).n_emitted == (1,) * 8
    assert engine.generate([0], decoder=Speculative(), **settings).stats.n_drafted[0] == 3
    assert parse_request({"decoder": Speculative(policy="rejection"), "temperature": 1}).rule().name == (
        "rejection"
    )


def test_a_policy_is_checked_before_there_is_an_engine():
    with pytest.raises(ConfigError, match="policy: got 'typical'"):
        parse_request({"policy": "typical"})


def test_numbers_of_numpy_are_numbers():
    request = parse_request(
        {
            "max_new_tokens": np.int64(5),
            "seed": np.uint64(2**64 - 1),
            "top_k": np.int32(3),
            "temperature": np.float32(0.5),
            "top_p": np.float64(0.5),
            "min_p": np.int8(0),
        }
    )
    assert request == Request(
        max_new_tokens=5, seed=2**64 - 1, sampling=Sampling(temperature=0.5, top_k=3, top_p=0.5)
    )
    assert type(request.seed) is int and type(request.sampling.temperature) is float
    assert Sampling(temperature=Fraction(1, 2)).temperature == 0.5


def test_stop_strings_come_as_none_one_or_several():
    stops = [parse_request({"stop": stop}).stops for stop in (None, (), "ab", ["a", "b"], ("a",))]
    assert stops == [(), (), ("ab",), ("a", "b"), ("a",)]

"""The engine: prompts, settings, streams, stop strings, stats, text."""

import json
import math

import numpy as np
import pytest

import dspec
from dspec.backends.numpy import NumpyOps, TableDrafter, TableTarget
from dspec.core.stats import Stats, pool
from dspec.decoders import Autoregressive, Speculative
from dspec.engine import Engine
from dspec.errors import ConfigError, ShapeError
from dspec.testing.engines import check_outputs
from dspec.text import TextStream

V = 6


@pytest.fixture
def engine():
    rng = np.random.default_rng(1)
    law = rng.dirichlet(np.full(V, 0.5), (2, V))
    return Engine(
        TableTarget(law, frozenset([5])), TableDrafter(law[[0, 1, 0]], autoregressive=True), NumpyOps()
    )


@pytest.fixture(scope="module")
def tokenizer():
    """Bytes as tokens, as `tokenizers` makes them; 256 is the end token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer, inner.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    inner.add_special_tokens(["<|end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>")


def script(engine_text, tokenizer, *, drafts=True):
    """An engine that says one fixed text: a table of certain successors over the text's positions."""
    ids = [*tokenizer(engine_text)["input_ids"], tokenizer.eos_token_id]
    table = np.zeros((len(ids), len(tokenizer), len(tokenizer)))
    for i, token in enumerate(ids):
        table[i, :, token] = 1.0
    target = TableTarget(table, frozenset([tokenizer.eos_token_id]))
    object.__setattr__(target, "tokenizer", tokenizer)
    drafter = (
        TableDrafter(np.full((3, len(tokenizer), len(tokenizer)), 1 / len(tokenizer))) if drafts else None
    )
    return Engine(target, drafter, NumpyOps())


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


@pytest.mark.clause("RS-13")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repetition_penalty": 1.2}, "repetition_penalty.*needs one of max_new_tokens"),
        ({"temperature": -1.0}, "temperature: got -1.0"),
        ({"temperature": float("nan")}, "temperature: got nan"),
        ({"top_p": 0.0}, r"top_p: got 0.0; needs a number in \(0, 1\]"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"policy": "typical"}, "policy: got 'typical'; needs one of greedy, one_hot"),
        ({"policy": "greedy", "temperature": 1.0}, "policy='greedy'"),
        ({"policy": "one_hot", "decoder": Speculative()}, "policy: got one_hot; needs to stand alone"),
        ({"seed": -1}, "seed: got -1"),
        ({"max_new_tokens": 0}, "max_new_tokens: got 0"),
        ({"stop": "x"}, "stop: got"),
    ],
)
def test_a_setting_that_cannot_be_honoured_raises(engine, settings, message):
    with pytest.raises(ConfigError, match=message):
        engine.generate([0], **settings)


def test_settings_of_a_stream_are_checked_at_the_call(engine):
    with pytest.raises(ConfigError, match="top_k"):
        engine.stream([0], top_k=-2)


@pytest.mark.clause("NT-3")
def test_prompts_that_cannot_be_read_are_refused(engine):
    with pytest.raises(ShapeError, match=r"prompt\[1\]: got 6; needs an id in \[0, 6\)"):
        engine.generate([0, 6])
    with pytest.raises(ConfigError, match="prompt: got no tokens"):
        engine.generate([])
    with pytest.raises(ConfigError, match="prompt: got str; needs token ids: the target has no tokenizer"):
        engine.generate("text")


@pytest.mark.clause("DL-9")
@pytest.mark.parametrize(
    ("stops", "text", "kept", "finish"),
    [
        (["wor"], "héllo ", "héllo wor", "stop"),
        (["xyz"], "héllo world", "héllo world", "eos"),
        (["worm", "ld"], "héllo wor", "héllo world", "stop"),
        (["é"], "h", "hé", "stop"),
        (["o", "lo"], "hél", "héllo", "stop"),
    ],
)
def test_text_is_cut_before_the_first_stop_string(tokenizer, stops, text, kept, finish):
    out = script("héllo world", tokenizer).generate([0], stop=stops)
    assert (out.text, out.finish) == (text, finish)
    tokens = out.tokens[:-1] if finish == "eos" else out.tokens
    assert tokenizer.decode(tokens) == kept


@pytest.mark.clause("DL-9")
def test_text_that_begins_a_stop_string_is_held_back_until_it_cannot(tokenizer):
    stream = TextStream(tokenizer, ["abcd"])
    pieces = [stream.feed(i)[0] for i in tokenizer("xabcabd")["input_ids"]]
    assert pieces == ["x", "", "", "", "abc", "", "abd"]
    assert "".join(pieces) + stream.flush() == "xabcabd"


def test_an_empty_stop_string_is_refused(tokenizer):
    with pytest.raises(ConfigError, match="stop: got an empty string"):
        TextStream(tokenizer, [""])


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

"""Log-probabilities of emitted tokens: the target's, however a token came, and nothing else changes."""

import math

import numpy as np
import pytest

import dspec.backends.ledger as ledger
import dspec.decoders as decoders
from dspec.backends.numpy import NumpyOps
from dspec.core.log_probs import log_probs
from dspec.core.policies import POLICIES
from dspec.core.types import Sampling
from dspec.core.warp import warp
from dspec.engine import Engine
from dspec.errors import ConfigError, SpecViolation
from dspec.oracle.decode import log_probs as witness
from dspec.oracle.warp import warp_logits
from dspec.testing.checks.requests import CountingOps
from dspec.testing.models.table_engine import on_backend
from tests import tiny_models
from tests.batches import SETTINGS, alone, letters, mixed, ragged, tables, together
from tests.namespaces import place, to_numpy, widest
from tests.no_waiting import NoWaiting
from tests.reference_model import whole
from tests.rooms import ROOMS
from tests.tiny_drafters import config_for, fresh
from tests.tolerances import FLOAT32, FLOAT64, FORWARD_F32, LOG_PROB

pytestmark = pytest.mark.clause("RS-19")
CUTS = {"temperature": 0.7, "top_k": 4, "top_p": 0.9, "min_p": 0.02}
LAWS = [{"temperature": 1.0}, {"temperature": 0.3}, CUTS, {"temperature": 0.0}]
COSTS = decoders.Costs(verify=(1.0, 1.1, 1.2, 1.3), draft=0.2)  # of `tables()`: K = 3
TREE_COSTS = decoders.TreeCosts(passes={0: 1.0, 2: 1.2, 9: 1.5})
WAYS = {
    "plain": lambda policy: decoders.Autoregressive(),
    "block": lambda policy: decoders.Speculative(policy=policy),
    "short": lambda policy: decoders.Speculative(policy=policy, block=2),
    "auto": lambda policy: decoders.Speculative(policy=policy, block="auto", costs=COSTS),
    "tree": lambda policy: decoders.Tree(budget=9),
    "sampled tree": lambda policy: decoders.Tree(budget=9, drafts="sampled"),
    "sized tree": lambda policy: decoders.Tree(budget="auto", costs=TREE_COSTS),
}


def law_of(settings):
    """The witness's law of float64 logits: what "warped" means; of `{}` "raw"."""
    return lambda logits: warp_logits(logits, **{"temperature": 1.0, **settings})


def of_table(target, prompt, tokens, settings):
    """What the table itself says of an output, by the oracle."""

    def law(context):
        row = target.table[(len(context) - 1) % len(target.table), context[-1]]
        return law_of(settings)([math.log(p) if p > 0 else -math.inf for p in row.tolist()])

    return witness(law, tokens, prompt=tuple(prompt))


@pytest.mark.clause("NU-2", "NU-5")
@pytest.mark.parametrize("settings", LAWS, ids=str)
def test_core_is_the_witness(xp, settings):
    """Of every token of every row, impossible and cut ones too; a row that asks nothing gets 0."""
    rng = np.random.default_rng(1)
    logits = 3 * rng.standard_normal((5, 7, 11)).astype(widest(xp))
    logits[2, :, 3] = -np.inf
    tokens = rng.integers(0, 11, (5, 7)).astype(np.int32)
    tokens[1, 4:], tokens[2, 0] = -1, 3
    tokens[3] = logits[3].argmax(axis=-1)
    given = place([logits, tokens], xp)
    found = to_numpy(log_probs(*given, Sampling(**settings), xp=xp))
    needed = [
        [witness(lambda _, row=row: law_of(settings)(row), (token,), prompt=(0,))[0] if token >= 0 else 0.0]
        for row, token in zip(logits.reshape(35, 11).astype(float).tolist(), tokens.reshape(-1).tolist())
    ]
    needed = np.reshape(needed, (5, 7))
    assert np.isinf(needed).any() and np.isfinite(needed).any()
    bound = {"float32": FLOAT32, "float64": FLOAT64}[widest(xp)]
    np.testing.assert_allclose(found, needed, atol=bound, rtol=bound)


@pytest.mark.clause("NU-2")
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_error_at_a_real_vocabulary(room, temperature):
    """Both core's operation and the room's own; a token of probability 1e-90 has its log-probability."""
    rng = np.random.default_rng(2)
    logits = 4 * rng.standard_normal((1, 4, 151_936), dtype=np.float32)
    logits[0, 1] = 0.25  # equal terms: sums that lose small ones come out short
    logits[0, 3, 9] = -200.0
    tokens = np.array([[5, 151_935, -1, 9]], dtype=np.int32)
    scaled = logits[0].astype(float) / temperature
    mass = scaled.max(axis=-1) + np.log(np.exp(scaled - scaled.max(axis=-1, keepdims=True)).sum(axis=-1))
    needed = np.where(tokens[0] < 0, 0, np.take_along_axis(scaled, tokens.T, axis=-1)[:, 0] - mass)
    for function in (log_probs, room.operations.operation("log_probs")):
        found = function(
            room.array(logits), room.array(tokens), Sampling(temperature=temperature), xp=room.xp
        )
        assert room.numpy(found).dtype == np.float32
        # Numbers of size 200 have steps of 1.5e-5 in float32.
        np.testing.assert_allclose(room.numpy(found)[0], needed, atol=LOG_PROB, rtol=2.0**-23)


def test_half_precision_logits_are_widened_first(room):
    logits = room.array(np.full((1, 1, 4096), 3.0), "bfloat16")
    for function in (log_probs, room.operations.operation("log_probs")):
        found = function(logits, room.array([[7]], "int32"), Sampling(temperature=1.0), xp=room.xp)
        assert abs(room.numpy(found).item() + math.log(4096)) < LOG_PROB


@pytest.mark.clause("RS-1", "RS-5", "RS-6", "DL-1", "DL-11", "DL-13")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("asked", ["raw", "warped"])
def test_tables_report_what_the_text_says(way, asked):
    """Every policy and setting, against the table alone; tokens of each kind come up."""
    engine, kinds = tables(chained="tree" not in way), set()
    for number, settings in enumerate(SETTINGS):
        policy = settings.get("policy")
        own = {k: v for k, v in settings.items() if k != "policy"}
        for seed in range(6):
            prompt, count = [seed % 6, 1], 0
            out = engine.generate(
                prompt,
                max_new_tokens=17,
                seed=10 * number + seed,
                decoder=WAYS[way](policy),
                log_probs=asked,
                **own,
            )
            needed = of_table(engine.target, prompt, out.tokens, own if asked == "warped" else {})
            np.testing.assert_allclose(out.log_probs, needed, atol=FLOAT64, rtol=0)
            assert all(math.isfinite(p) and p <= 0 for p in out.log_probs)
            assert out.log_probs == sum((chunk.log_probs for chunk in out.chunks), ())
            for chunk in out.chunks:
                assert len(chunk.log_probs) == len(chunk.tokens)
                count += len(chunk.tokens)
                if chunk.n_accepted:
                    kinds.add("accepted")
                if chunk.n_accepted is not None and len(chunk.tokens) > chunk.n_accepted:
                    kinds.add("bonus" if chunk.n_accepted == chunk.n_drafted else "corrected")
            assert count == len(out.tokens)
    assert kinds == ({"bonus"} if way == "plain" else {"accepted", "corrected", "bonus"})


def test_at_temperature_0_the_warped_law_is_the_argmax():
    engine = tables()
    out = engine.generate([0, 1], max_new_tokens=9, log_probs="warped", ignore_eos=True)
    assert out.log_probs == (0.0,) * 9
    raw = engine.generate([0, 1], max_new_tokens=9, log_probs="raw", ignore_eos=True)
    assert raw.tokens == out.tokens and max(raw.log_probs) < 0


@pytest.mark.clause("DL-3", "DL-9", "RS-14")
def test_they_are_cut_with_the_tokens():
    """At an end token, a limit, or a stop string that ends inside a pass."""
    engine, ends, inside = letters(), set(), 0
    for seed in range(40):
        settings = {"temperature": 1.0, "seed": seed, "max_new_tokens": 30, "policy": "rejection"}
        settings["stop"] = [["ab"], ["ca", "dd"], None][seed % 3]
        out = engine.generate([97, 98], log_probs="raw", **settings)
        needed = of_table(engine.target, [97, 98], out.tokens, {})
        np.testing.assert_allclose(out.log_probs, needed, atol=FLOAT64, rtol=0)
        streamed = list(engine.stream([97, 98], log_probs="raw", **settings))
        assert [c.log_probs for c in streamed] == [c.log_probs for c in out.chunks]
        ends.add(out.finish)
        last = out.chunks[-1]
        inside += out.finish == "stop" and len(last.tokens) <= (last.n_accepted or 0)
    assert ends == {"eos", "stop", "length"} and inside > 2


@pytest.mark.clause("DL-12", "RS-9")
@pytest.mark.parametrize("rows", [2, 3, 8])
def test_batches_report_bitwise_what_requests_do_alone(rows):
    """Rows that ask for nothing, raw and warped ones beside each other, of every policy and setting."""
    engine, prompts = tables(), ragged(24, seed=1)
    settings = [
        {**one, "log_probs": (None, "raw", "warped", "raw")[i % 4]} for i, one in enumerate(mixed(24))
    ]
    found = together(engine, prompts, settings, rows)
    assert found == alone(engine, prompts, settings)
    for i, chunks in enumerate(found):
        assert all((c.log_probs is None) == (i % 4 == 0) for c in chunks)
    outs = engine.generate(prompts, batch_size=rows, log_probs="raw", max_new_tokens=9, temperature=1.0)
    for prompt, out in zip(prompts, outs, strict=True):
        needed = of_table(engine.target, prompt, out.tokens, {})
        np.testing.assert_allclose(out.log_probs, needed, atol=FLOAT64, rtol=0)


@pytest.mark.clause("RS-16", "DL-12")
def test_a_request_that_fails_reports_nothing_more():
    engine = tables()
    engine.target.table[:, 4] = np.nan
    settings = {"temperature": 1.0, "ignore_eos": True, "max_new_tokens": 60, "log_probs": "raw"}
    found = together(engine, [[0], [1], [2], [3]], [{**settings, "seed": i} for i in range(4)], 2)
    assert any(chunks[-1].finish == "error" and chunks[-1].log_probs == () for chunks in found)


@pytest.mark.clause("DL-6")
@pytest.mark.parametrize("decoder", [None, decoders.Tree(budget=9)], ids=["block", "tree"])
def test_they_change_no_token_and_cost_no_wait_and_nothing_if_not_asked_for(monkeypatch, decoder):
    ops, seen = CountingOps(NumpyOps()), []
    engine = tables(ops=ops, chained=decoder is None)
    settings = {"max_new_tokens": 40, "ignore_eos": True, "decoder": decoder}
    for policy in ({"temperature": 1.0}, {}):
        for asked in (None, "raw", "warped"):
            ops.reads = 0
            outs = engine.generate([[0, 1], [3]], log_probs=asked, **settings, **policy)
            seen.append(([out.tokens for out in outs], ops.reads))
    assert seen[0] == seen[1] == seen[2] and seen[3] == seen[4] == seen[5]

    def never(*args, **options):
        raise AssertionError("log-probabilities that nobody asked for")

    own = ops.operation
    monkeypatch.setattr(
        ops, "operation", lambda name: never if name == "log_probs" else own(name), raising=False
    )
    out = engine.generate([0, 1], **settings)
    assert out.log_probs is None and {chunk.log_probs for chunk in out.chunks} == {None}
    assert engine.generate([[0], [1]], **settings)[0].log_probs is None
    with pytest.raises(AssertionError, match="nobody"):
        engine.generate([0, 1], log_probs="raw", **settings)


@pytest.mark.clause("DL-6")
@pytest.mark.parametrize("settings", LAWS, ids=str)
def test_the_device_is_not_waited_for_until_the_transfer(settings):
    room = ROOMS["torch"]
    logits = room.array(np.random.default_rng(0).standard_normal((2, 3, 50), dtype=np.float32))
    ids = room.array([[1, 4, 7, -1], [0, 9, -1, -1]], "int32")
    with NoWaiting():  # core's own, which every device but a CPU runs
        told = log_probs(logits, ids[:, 1:], Sampling(**settings), xp=room.xp)
        ledger.pack(ids, told, xp=room.xp)


def engine_of(room, kind="qwen3"):
    target = tiny_models.opened(kind, room)
    return Engine(target, fresh(room, config_for(target)), room.operations)


def of_model(kind, prompt, tokens, settings):
    """What transformers' model says of the whole text in one pass, without a cache or drafts."""
    logits = whole(kind, [*prompt, *tokens])[0].astype(float)[len(prompt) - 1 : -1]
    laws = [law_of(settings)(row) for row in logits.tolist()]
    return [math.log(law[token]) for law, token in zip(laws, tokens, strict=True)]


MODES = {
    "greedy": {},
    "one_hot": {"temperature": 1.0},
    "rejection": {"temperature": 1.3, "policy": "rejection"},
    "cut": {"temperature": 0.8, "top_k": 12, "top_p": 0.9, "policy": "rejection"},
    "block": {"temperature": 1.0, "min_p": 0.01, "policy": "block"},
    "sample_match": {"temperature": 0.9, "policy": "sample_match"},
}


@pytest.mark.clause("RS-12", "RS-13", "DL-12")
@pytest.mark.parametrize("asked", ["raw", "warped"])
@pytest.mark.parametrize("mode", MODES)
def test_models_report_what_a_fresh_pass_over_the_text_says(room, mode, asked):
    """One by one and side by side; the drafter is random, so that most of its drafts fall."""
    engine, prompts = engine_of(room), [[5, 9, 17, 3, 30], [3], [40, 41, 42, 43, 44, 45, 46]]
    settings = {"max_new_tokens": 20, "ignore_eos": True, "log_probs": asked, **MODES[mode]}
    law = {k: v for k, v in MODES[mode].items() if k != "policy"} or {"temperature": 0.0}
    for rows in (1, 3):
        for prompt, out in zip(prompts, engine.generate(prompts, batch_size=rows, **settings), strict=True):
            needed = of_model("qwen3", prompt, out.tokens, law if asked == "warped" else {})
            np.testing.assert_allclose(out.log_probs, needed, atol=FORWARD_F32, rtol=0)
            assert len(out.log_probs) == 20 and set(map(type, out.log_probs)) == {float}
            assert set(map(type, out.tokens)) == {int}


@pytest.mark.clause("DL-7")
@pytest.mark.parametrize("kind", ["qwen3", "mistral_sliding"])
def test_greedy_output_has_those_of_plain_decoding(room, kind):
    engine, settings = engine_of(room, kind), {"max_new_tokens": 24, "ignore_eos": True, "log_probs": "raw"}
    ways = [decoders.Speculative(), decoders.Speculative(block=2)]
    ways += [decoders.Tree(budget=12)]
    plain = engine.generate([5, 9, 17], decoder=decoders.Autoregressive(), **settings)
    for decoder in ways:
        out = engine.generate([5, 9, 17], decoder=decoder, **settings)
        assert out.tokens == plain.tokens
        np.testing.assert_allclose(out.log_probs, plain.log_probs, atol=FORWARD_F32, rtol=0)


@pytest.mark.clause("DL-11", "RS-23")
@pytest.mark.parametrize("asked", ["raw", "warped"])
@pytest.mark.parametrize("drafts", ["likeliest", "sampled"])
def test_trees_of_models_report_it_too(asked, drafts, room):
    engine, decoder = engine_of(room), decoders.Tree(budget=40, drafts=drafts)
    for seed in range(4):
        for law in ({"temperature": 1.0}, {"temperature": 0.8, "top_p": 0.9}):
            out = engine.generate(
                [5, 9], max_new_tokens=24, seed=seed, decoder=decoder, log_probs=asked, **law
            )
            needed = of_model("qwen3", [5, 9], out.tokens, law if asked == "warped" else {})
            np.testing.assert_allclose(out.log_probs, needed, atol=FORWARD_F32, rtol=0)


@pytest.mark.clause("RS-9", "DL-12")
def test_tables_on_the_rooms_arrays_report_the_table_s(room):
    """float32 on the way: ids and log-probabilities share one array, and ids stay whole."""
    engine, prompts = on_backend(tables(), room.operations), ragged(14)
    settings = [{**one, "log_probs": (None, "raw", "warped")[i % 3]} for i, one in enumerate(mixed(14))]
    found, own = together(engine, prompts, settings, 5), alone(engine, prompts, settings)
    for prompt, one, chunks, lonely in zip(prompts, settings, found, own, strict=True):
        assert [c.tokens for c in chunks] == [c.tokens for c in lonely]
        if one["log_probs"] is None:
            assert {c.log_probs for c in chunks} == {None}
            continue
        tokens = [token for chunk in chunks for token in chunk.tokens]
        law = {k: v for k, v in one.items() if k in CUTS} if one["log_probs"] == "warped" else {}
        needed = of_table(tables().target, prompt, tokens, law)
        for those in (chunks, lonely):
            got = [p for chunk in those for p in chunk.log_probs]
            np.testing.assert_allclose(got, needed, atol=LOG_PROB, rtol=0)


def test_a_pass_whose_judge_wrote_none_is_told_apart_from_an_older_one():
    kept = ledger.Ledger(Sampling(temperature=1.0))
    kept.write([-1.0, -2.0])
    assert kept.read(2) == (-1.0, -2.0)
    with pytest.raises(SpecViolation, match=r"log_probs: got 0 of a pass; needs 1.*RS-19"):
        kept.read(1)


def test_ids_of_the_largest_vocabularies_survive_the_shared_array(room):
    ids = np.array([[3, 2**24 - 1, 262_143, -1]], dtype=np.int32)
    told = room.array(np.array([[-0.5, -math.inf, -1e-30, 0.0]], dtype=np.float32))
    row = room.operations.to_host(ledger.pack(room.array(ids), told, xp=room.xp))[0]
    assert ledger.unpack(row, 4) == (ids[0].tolist(), [-0.5, -math.inf, np.float32(-1e-30), 0.0])


@pytest.mark.parametrize("asked", ["Raw", "", True, 5, ["raw"], b"raw"])
def test_another_name_is_refused_at_the_call(asked):
    engine, message = tables(), r"log_probs: got .*needs 'raw' .*'warped' .* or None.*\[RS-19\]"
    for call in (engine.generate, engine.stream):
        with pytest.raises(ConfigError, match=message):
            call([0, 1], log_probs=asked)
    with pytest.raises(ConfigError, match=message):
        engine.stream_many([[0], [1]], settings=[{}, {"log_probs": asked}])


def test_every_policy_was_tried():
    assert {one.get("policy", "one_hot") for one in SETTINGS} | {"greedy"} == set(POLICIES)


def test_the_sum_is_the_chance_of_the_output():
    """By the law's own product, not by any log-probability."""
    engine, chance = tables(), 1.0
    out = engine.generate([2], temperature=0.7, top_p=0.9, seed=3, max_new_tokens=6, log_probs="warped")
    text = [2]
    for token in out.tokens:
        row = engine.target.table[(len(text) - 1) % 2, text[-1]]
        law = warp(np.log(row), Sampling(temperature=0.7, top_p=0.9), xp=NumpyOps.xp)
        chance *= law[token]
        text.append(token)
    assert sum(out.log_probs) == pytest.approx(math.log(chance), abs=FLOAT64)

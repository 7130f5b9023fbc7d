"""Draft lengths of requests: what is chosen, what stays the same, what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dspec import cli, pass_costs
from dspec.backends.numpy import NumpyOps, TableDrafter, TableTarget
from dspec.cli_decoders import build_decoder, parse_decoder
from dspec.core.draft_length import IDLE_PASSES, AutoLength, Costs
from dspec.decoders import Autoregressive, Speculative, Tree
from dspec.engine import Engine
from dspec.errors import ConfigError
from dspec.evaluation.scripted import Scripted
from dspec.testing.checks.requests import CountingOps
from tests import tiny_models
from tests.tiny_drafters import config_for, fresh

pytestmark = pytest.mark.clause("DL-13")
GOLDEN = Path(__file__).parent / "golden" / "dflash_tiny"
V, K = 6, 4
PROMPT = [0, 1]
FLAT = Costs(verify=(1.0,) * (K + 1), draft=0.3)  # a wide pass costs what a narrow one does
MILD = Costs(verify=(1.0, 1.2, 1.4, 1.6, 1.8), draft=0.2)
STEEP = Costs(verify=(1.0, 1.5, 2.0, 2.5, 3.0), draft=0.5)


def tables(seed=1, share=0.7, ops=None, autoregressive=False):
    rng = np.random.default_rng(seed)
    law = rng.dirichlet(np.full(V, 0.4), (2, V))
    blend = share * law[[0, 1, 0, 1]] + (1 - share) * rng.dirichlet(np.full(V, 0.4), (K, V))
    drafter = TableDrafter(blend, autoregressive=autoregressive)
    return Engine(TableTarget(law, frozenset([5])), drafter, ops or NumpyOps())


def auto(costs=FLAT, **settings):
    return Speculative(block="auto", costs=costs, **settings)


def scripted(tau, *, tokens=120):
    """A greedy engine whose drafter is right so often, and the text it is right about."""
    inner = tables()
    out = inner.generate(PROMPT, max_new_tokens=tokens + K, ignore_eos=True, decoder=Autoregressive())
    drafter = Scripted(None, [*PROMPT, *out.tokens], tau=tau, n_slots=K, ops=inner.ops)
    return replace(inner, drafter=drafter), out.tokens[:tokens]


@pytest.mark.parametrize("costs", (FLAT, STEEP))
def test_drafts_that_never_stand_are_given_up_and_tried_now_and_then(costs):
    engine, text = scripted(1.0)
    out = engine.generate(PROMPT, max_new_tokens=120, ignore_eos=True, decoder=auto(costs))
    lengths = out.stats.n_drafted
    assert out.tokens == text
    assert lengths[0] > 0  # what drafts are worth is seen at once
    tail = lengths[40:]
    assert 0 < sum(k > 0 for k in tail) <= len(tail) // IDLE_PASSES + 1
    tried = [i for i, k in enumerate(lengths) if k]
    assert tried[-1] - tried[-2] == IDLE_PASSES + 1  # by schedule, not by chance


def test_drafts_that_always_stand_are_all_taken():
    engine, text = scripted(1.0 + K)
    out = engine.generate(PROMPT, max_new_tokens=120, ignore_eos=True, decoder=auto(STEEP))
    assert out.tokens == text
    assert set(out.stats.n_drafted[10:]) == {K} and out.stats.n_accepted[10:-1] == (K,) * (
        len(out.stats.n_drafted) - 11
    )


def test_the_length_goes_to_where_drafts_end():
    """Two drafts of four stand, always: the third is not worth what it costs."""
    engine, text = scripted(3.0)
    # A wider pass costs next to nothing up to two drafts.
    costs = Costs(verify=(1.0, 1.01, 1.02, 1.6, 2.2), draft=0.2)
    out = engine.generate(PROMPT, max_new_tokens=120, ignore_eos=True, decoder=auto(costs))
    assert out.tokens == text and set(out.stats.n_drafted[-10:]) == {2}


def test_it_follows_a_text_that_changes():
    length = AutoLength(STEEP)
    for right in (K, 0, K):
        for _ in range(200):
            k = length.choose()
            length.observe(k, min(k, right))
        assert length.choose() == right or (right == 0 and length.choose() <= 1)


def test_choices_are_the_best_of_all_by_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(50):
        costs = Costs(verify=tuple(np.cumsum(rng.uniform(0.1, 1, K + 1))), draft=float(rng.uniform(0, 1)))
        length = AutoLength(costs)
        for _ in range(int(rng.integers(0, 30))):
            k = int(rng.integers(1, K + 1))
            length.observe(k, int(rng.integers(0, k + 1)))
        length.observe(1, 0)  # not rested, so that no drafts is a choice
        alpha = np.array(length.acceptance)
        rates = [(1 + np.cumprod(alpha)[:k].sum()) / costs.of(k) for k in range(K + 1)]
        assert length.choose() == int(np.argmax(rates))


def test_acceptance_counts_slots_that_were_reached():
    length = AutoLength(FLAT, memory=1.0, prior=0.5)
    for accepted in (0, 1, 3, 3):
        length.observe(3, accepted)
    pooled = (7 + 4 * 0.5) / (9 + 4)  # slots 1, 2, 3 reached 4, 3, 2 times; 3, 2, 2 stood
    wanted = [(stood + 4 * pooled) / (reached + 4) for stood, reached in ((3, 4), (2, 3), (2, 2), (0, 0))]
    assert length.acceptance == pytest.approx(wanted)


@pytest.mark.clause("RS-10")
@pytest.mark.parametrize("policy", ("one_hot", "rejection", "block", "sample_match"))
def test_given_costs_tokens_are_a_function_of_the_key(policy):
    settings = {"max_new_tokens": 60, "temperature": 1.0, "ignore_eos": True}
    outs = [tables().generate(PROMPT, seed=3, decoder=auto(MILD, policy=policy), **settings) for _ in "ab"]
    assert outs[0].tokens == outs[1].tokens and outs[0].stats.n_drafted == outs[1].stats.n_drafted
    assert len(set(outs[0].stats.n_drafted)) > 1
    other = tables().generate(PROMPT, seed=4, decoder=auto(MILD, policy=policy), **settings)
    assert other.tokens != outs[0].tokens


@pytest.mark.clause("RS-10", "RN-4")
@pytest.mark.parametrize("policy", ("one_hot", "rejection", "block", "sample_match"))
@pytest.mark.parametrize("autoregressive", (False, True))
def test_a_cut_block_is_that_of_a_drafter_of_fewer_slots(policy, autoregressive):
    """Slots keep their keys, so that the tokens are the same to the bit; in batches too."""
    engine = tables(autoregressive=autoregressive)
    short = replace(engine, drafter=replace(engine.drafter, table=engine.drafter.table[:2]))
    settings = {"max_new_tokens": 40, "temperature": 0.8, "ignore_eos": True}
    prompts = [[0], [1, 2], [3, 4, 0]]
    cut = engine.generate(prompts, batch_size=1, decoder=Speculative(policy=policy, block=2), **settings)
    side = engine.generate(prompts, batch_size=3, decoder=Speculative(policy=policy, block=2), **settings)
    other = short.generate(prompts, batch_size=1, decoder=Speculative(policy=policy), **settings)
    for a, b, c in zip(cut, side, other):
        assert a.tokens == b.tokens == c.tokens and a.stats.n_accepted == c.stats.n_accepted
        assert set(a.stats.n_drafted) == {2} == set(b.stats.n_drafted)


@pytest.mark.clause("DL-12")
def test_lists_give_what_each_gives_alone():
    """Requests of all kinds in one list: those that choose their length are decoded one by one."""
    engine = tables()
    own = [auto(), Speculative(block=2), Speculative(), auto(STEEP), Speculative(block=2), Tree(budget=4)]
    prompts = [[i % V] for i in range(len(own))]
    settings = {"max_new_tokens": 30, "temperature": 1.0, "ignore_eos": True}
    found = [[] for _ in own]
    runs = engine.stream_many(prompts, settings=[{"decoder": one} for one in own], batch_size=4, **settings)
    for i, chunk in runs:
        found[i].extend(chunk.tokens)
    alone = [[] for _ in own]
    runs = engine.stream_many(prompts, settings=[{"decoder": one} for one in own], batch_size=1, **settings)
    for i, chunk in runs:
        alone[i].extend(chunk.tokens)
    assert found == alone and all(len(tokens) == 30 for tokens in found)
    many = engine.generate(prompts, decoder=auto(), **settings)
    assert many[0].tokens == engine.generate(prompts[0], decoder=auto(), **settings).tokens


@pytest.mark.clause("DL-6")
def test_one_host_read_a_pass():
    ops = CountingOps(NumpyOps())
    out = tables(ops=ops).generate(PROMPT, max_new_tokens=40, ignore_eos=True, decoder=auto(STEEP))
    assert ops.reads == 1 + len(out.stats.n_drafted)


def test_costs_are_measured_once_an_engine(monkeypatch):
    measured = []
    real = pass_costs.measure_costs
    monkeypatch.setattr(pass_costs, "measure_costs", lambda engine: measured.append(1) or real(engine))
    engine = tables(autoregressive=True)
    running = engine.stream(PROMPT, max_new_tokens=30, seed=2, temperature=1.0, ignore_eos=True)
    first = [next(running), next(running)]
    for _ in range(3):
        out = engine.generate(PROMPT, max_new_tokens=20, decoder=Speculative(block="auto"), ignore_eos=True)
        assert len(out.tokens) == 20
    assert len(measured) == 1
    whole = engine.generate(PROMPT, max_new_tokens=30, seed=2, temperature=1.0, ignore_eos=True)
    assert (*first[0].tokens, *first[1].tokens, *(t for c in running for t in c.tokens)) == whole.tokens
    costs = engine._costs.blocks[K]
    assert costs.n_slots == K and costs.draft > 0 and min(costs.verify) > 0
    other = replace(engine, drafter=replace(engine.drafter, table=engine.drafter.table[:2]))
    other.generate(PROMPT, max_new_tokens=5, decoder=Speculative(block="auto"))
    assert len(measured) == 2 and other._costs.blocks[2].n_slots == 2 and engine == engine


@pytest.mark.clause("DL-7", "DL-4", "DL-5")
def test_greedy_output_of_tiny_models_is_that_of_plain_decoding(room):
    engine = tiny_engine(room)
    slots = engine.drafter.block_size - 1
    plain = engine.generate([5, 9, 2], max_new_tokens=40, ignore_eos=True, decoder=Autoregressive())
    # Costs at which nothing pays for long, so that features wait for the drafter; and at which all does.
    for verify in (np.linspace(1, 1 + slots, slots + 1), np.ones(slots + 1)):
        decoder = auto(Costs(verify=tuple(verify), draft=0.1))
        out = engine.generate([5, 9, 2], max_new_tokens=40, ignore_eos=True, decoder=decoder)
        assert out.tokens == plain.tokens
        assert len(set(out.stats.n_drafted)) > 1
    for block in (1, slots):
        decoder = Speculative(block=block)
        outs = engine.generate([[5, 9, 2]] * 2, max_new_tokens=40, ignore_eos=True, decoder=decoder)
        assert [out.tokens for out in outs] == [plain.tokens] * 2
        assert set(outs[0].stats.n_drafted) == {block}


@pytest.mark.clause("RS-10")
@pytest.mark.parametrize("policy", ("one_hot", "rejection", "block", "sample_match"))
def test_sampled_passes_of_tiny_models_of_every_length(room, policy):
    """From no drafts to all of them, by every policy's verdict on the room's arrays; the same again."""
    engine = tiny_engine(room)
    slots = engine.drafter.block_size - 1
    costs = Costs(verify=tuple(1 + 0.1 * k for k in range(slots + 1)), draft=0.05)
    settings = {"max_new_tokens": 40, "temperature": 1.0, "seed": 5, "ignore_eos": True}
    outs = [engine.generate([5, 9, 2], decoder=auto(costs, policy=policy), **settings) for _ in "ab"]
    assert outs[0].tokens == outs[1].tokens and len(outs[0].tokens) == 40
    assert {0, slots} <= set(outs[0].stats.n_drafted)


def tiny_engine(room):
    target = tiny_models.opened("qwen3", room)
    drafter = fresh(room, config_for(target))
    return Engine(target, drafter, room.operations)


BAD = [
    (lambda: Speculative(block=0), "block: got 0; needs an integer >= 1, 'auto' or None.*DL-13"),
    (lambda: Speculative(block="four"), "block: got 'four'"),
    (lambda: Speculative(block=True), "block: got True"),
    (lambda: Speculative(block=2.0), "block: got 2.0"),
    (lambda: Speculative(costs=FLAT), "costs: got .*needs block='auto'"),
    (lambda: Speculative(block=4, costs=FLAT), "costs: got .*needs block='auto'"),
    (lambda: Speculative(block="auto", costs=(1, 2)), r"costs: got \(1, 2\); needs dspec.decoders.Costs"),
    (lambda: Costs(verify=()), r"costs.verify: got \(\)"),
    (lambda: Costs(verify=1.0), "costs.verify: got 1.0"),
    (lambda: Costs(verify=(1.0, 0.0)), "costs.verify: got 0.0"),
    (lambda: Costs(verify=(1.0, float("nan"))), "costs.verify: got nan"),
    (lambda: Costs(verify=(1.0, "2")), "costs.verify: got '2'"),
    (lambda: Costs(verify=(1.0,), draft=-1), "costs.draft: got -1"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_refused_where_it_is_made(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


@pytest.mark.parametrize("call", ("generate", "stream"))
def test_what_does_not_fit_the_drafter_is_refused_at_the_call(call):
    engine = tables()
    with pytest.raises(ConfigError, match=r"block: got 5; needs at most 4, the drafts K.*DL-13"):
        getattr(engine, call)(PROMPT, decoder=Speculative(block=5))
    with pytest.raises(ConfigError, match=r"costs.verify: got 2 costs; needs 5.*DL-13"):
        getattr(engine, call)(PROMPT, decoder=auto(Costs(verify=(1, 2))))
    with pytest.raises(ConfigError, match="a drafter: this engine has none"):
        getattr(replace(engine, drafter=None), call)(PROMPT, decoder=auto())


def test_the_command_line_names_lengths():
    assert build_decoder("speculative", {"block": "auto"}) == Speculative(block="auto")
    assert build_decoder("speculative", {"block": "4"}, "rejection") == Speculative(
        policy="rejection", block=4
    )
    assert parse_decoder("speculative(block=auto)")[1] == Speculative(block="auto")
    assert parse_decoder("speculative(policy=block, block=3)")[1] == Speculative(policy="block", block=3)
    with pytest.raises(ConfigError, match="block: got 'many'"):
        build_decoder("speculative", {"block": "many"})
    with pytest.raises(ConfigError, match=r"--block: got '3' with --decoder tree|--block: got 3 with"):
        build_decoder("tree", {"block": "3"})


def test_lengths_at_the_command_line(capsys):
    words = ["generate", str(GOLDEN / "target"), "--prompt-ids", "101 101 100", "--json", "--backend", "cpu"]
    words += ["--max-new-tokens", "24", "--ignore-eos"]
    assert cli.run(words) == 0
    plain = json.loads(capsys.readouterr().out)["tokens"]
    words += ["--drafter", str(GOLDEN / "drafter"), "--decoder", "speculative"]
    for more in (["--block", "auto"], ["--block", "2"], ["--draft-window", "4"]):
        assert cli.run([*words, *more]) == 0
        assert json.loads(capsys.readouterr().out)["tokens"] == plain
    assert cli.run([*words, "--block", "99"]) == 2
    assert "block: got 99; needs at most" in capsys.readouterr().err

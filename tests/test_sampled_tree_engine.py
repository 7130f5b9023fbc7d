"""Requests decoded by sampled trees: output, forms, waits and refusals."""

import json

import numpy as np
import pytest

from dspec import cli
from dspec.backends.judge import RequestJudge
from dspec.backends.numpy import NumpyOps, TableDrafter
from dspec.backends.sampled_judge import SampledTreeJudge, tree_judge
from dspec.cli_decoders import build_decoder, parse_decoder
from dspec.core.decode import Limits, decode
from dspec.core.policies import GREEDY, REJECTION
from dspec.core.tree_decode import tree_pass
from dspec.core.types import Sampling
from dspec.core.warp import warp
from dspec.decoders import Tree
from dspec.engine import Engine
from dspec.errors import BackendUnavailable, ConfigError, NumericsError
from dspec.oracle.decode import cut
from dspec.oracle.rejection import draw_two_level
from dspec.oracle.sampled_tree import fixed_form, rank_cost, walk_sampled_tree
from dspec.rng import Purpose, Stream
from dspec.testing.checks.requests import CountingOps, LoggedStream
from dspec.testing.models.table_engine import on_backend
from tests import tiny_models
from tests.rooms import ROOMS
from tests.test_tree_engine import GOLDEN, PROMPT, K, V, tables
from tests.tiny_drafters import config_for, fresh

pytestmark = pytest.mark.clause("RS-24", "DL-11")


def Sampled(budget=12):
    return Tree(budget=budget, drafts="sampled")


@pytest.fixture
def engine():
    return Engine(*tables(), NumpyOps())


def oracle_tokens(target, drafter, settings, budget, limit, seed):
    """The request by the oracle's rules, on the uniforms of its keys; and the trees' forms."""
    sampling, stream = Sampling(**settings), Stream(seed)
    forms, first = [], []

    def law(table):
        with np.errstate(divide="ignore"):
            return warp(np.log(table), sampling, xp=NumpyOps.xp).tolist()

    def after(tokens):
        return law(target.table[(len(tokens) - 1) % len(target.table), tokens[-1]])

    def of(purpose, position, back, draws):
        """Node -> its uniforms: row n - back of the pass's."""
        return lambda n: stream.uniforms(purpose, position, (n - back + 1, draws))[n - back].tolist()

    emitted = [draw_two_level(after(PROMPT), of(Purpose.CLOSE, len(PROMPT) - 1, 0, 2)(0))]
    while len(emitted) < limit and 5 not in emitted:
        context = [*PROMPT, *emitted]
        at, raw = len(context) - 1, drafter.table[:, context[-1]]
        forms.append(fixed_form(budget, K, V, rank_cost(sum(first), len(first))))
        accept = of(Purpose.ACCEPT, at, 1, 1)
        walk = walk_sampled_tree(
            lambda drafts, context=context: after([*context, *drafts]),
            law(raw),
            forms[-1],
            of(Purpose.DRAFT, at, 1, 2),
            lambda n, accept=accept: accept(n)[0],
            of(Purpose.CLOSE, at, 0, 2),
            raw=raw.tolist(),
            draw=draw_two_level,
        )
        emitted += walk.tokens
        first += walk.first
    return cut(emitted, max_new_tokens=limit, eos={5}), forms


SETTINGS = [
    {"temperature": 1.0},
    {"temperature": 0.7, "top_p": 0.9, "min_p": 0.02},
    {"temperature": 1.0, "top_k": 2},
    {"temperature": 1.5, "top_k": 1},
]


@pytest.mark.clause("RS-1", "RS-2", "RS-10", "RS-13", "RS-22", "RN-1")
@pytest.mark.parametrize("budget", [1, 3, 12, 40])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_requests_are_the_oracles_token_by_token(engine, settings, budget):
    seen = set()
    for seed in range(10):
        out = engine.generate(PROMPT, max_new_tokens=20, seed=seed, decoder=Sampled(budget), **settings)
        tokens, forms = oracle_tokens(*tables(), settings, budget, 20, seed)
        assert out.tokens == tokens
        assert len(out.stats.n_drafted) == len(forms)
        seen |= set(map(tuple, forms))
    # With top-k 1 all seeds give the same tokens: its one chain of forms may be one form.
    assert len(seen) > 1 or budget == 1 or settings.get("top_k") == 1, "forms follow what stood"


@pytest.mark.clause("RS-10")
@pytest.mark.mlx
@pytest.mark.parametrize("name", ["torch", "mlx"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_backend_gives_the_tokens_of_numpy(engine, name, settings):
    """Seeds are fixed: none of them has a uniform next to an edge."""
    there = on_backend(engine, ROOMS[name].operations)
    for seed in range(4):
        asked = {"max_new_tokens": 30, "seed": seed, "ignore_eos": True, "decoder": Sampled(20)}
        assert (
            there.generate(PROMPT, **asked, **settings).tokens
            == engine.generate(PROMPT, **asked, **settings).tokens
        )


@pytest.mark.clause("DL-7", "RS-11")
@pytest.mark.parametrize("budget", [1, 8, 40])
def test_at_temperature_0_it_is_the_tree_of_the_likeliest(engine, budget):
    asked = {"max_new_tokens": 40, "ignore_eos": True}
    sampled = engine.generate(PROMPT, decoder=Sampled(budget), **asked)
    likeliest = engine.generate(PROMPT, decoder=Tree(budget=budget), **asked)
    assert sampled.tokens == likeliest.tokens and sampled.n_emitted == likeliest.n_emitted
    request = RequestJudge(NumpyOps(), GREEDY, Sampling(), Stream(0), K)
    assert type(tree_judge(request, 3, sampled=True)) is type(tree_judge(request, 3, sampled=False))


def test_more_nodes_stand_deeper_and_the_likeliest_stay_the_default(engine):
    assert Tree() == Tree(drafts="likeliest") != Sampled(32)
    taus, asked = [], {"max_new_tokens": 80, "temperature": 1.0, "ignore_eos": True}
    for budget in (1, 4, 16):
        many = engine.generate([PROMPT] * 6, decoder=Sampled(budget), **asked)
        for one in (out.stats for out in many):
            assert all(
                0 <= n <= k <= min(K, budget) for n, k in zip(one.n_accepted, one.n_drafted, strict=True)
            )
        taus.append(np.mean([out.stats.tau for out in many]))
    assert taus == sorted(taus)
    chain = engine.generate([PROMPT] * 6, policy="rejection", **asked)
    assert taus[2] > np.mean([out.stats.tau for out in chain])


@pytest.mark.clause("DL-6", "RN-2", "RS-8")
def test_a_pass_waits_twice_and_reads_no_key_twice():
    target, drafter = tables()
    ops, stream = CountingOps(NumpyOps()), LoggedStream(4)
    judge = SampledTreeJudge(RequestJudge(ops, REJECTION, Sampling(temperature=1.0), stream, K), 12)
    sessions = target.session(), drafter.session(target)
    steps = list(decode(*sessions, judge, PROMPT, Limits(30), one_pass=tree_pass))
    assert len(steps) > 5 and ops.reads == 1 + 2 * (len(steps) - 1)
    assert len(set(stream.log)) == len(stream.log)
    assert judge.seen.reached >= len(steps) - 1


@pytest.mark.clause("RS-2")
def test_a_tree_carries_the_laws_that_it_was_drawn_from():
    target, drafter = tables()
    sampling = Sampling(temperature=0.7, top_k=3)
    judge = SampledTreeJudge(RequestJudge(NumpyOps(), REJECTION, sampling, Stream(0), K), 12)
    tree = drafter.session(target).propose(3, 7, None, judge.rule(7))
    np.testing.assert_array_equal(tree.probs, warp(np.log(drafter.table[:, 3]), sampling, xp=NumpyOps.xp))
    assert len(tree.tokens) == 12


def test_forms_follow_the_drafter():
    """A drafter that is the target gets chains, one that knows nothing bushes."""
    rng = np.random.default_rng(0)
    law = np.broadcast_to(rng.dirichlet(np.ones(V)), (1, V, V))
    depths = []
    for table in (law, np.roll(law, 1, axis=-1) ** 4):
        table = table / table.sum(axis=-1, keepdims=True)
        drafter = TableDrafter(np.broadcast_to(table, (8, V, V)).copy())
        engine = Engine(type(tables()[0])(law, frozenset()), drafter, NumpyOps())
        out = engine.generate([0], max_new_tokens=120, temperature=1.0, decoder=Sampled(8))
        depths.append(out.stats.n_drafted[-1])
    assert depths[0] >= 7 > 3 >= depths[1]


@pytest.mark.clause("RN-4", "DL-12")
def test_a_request_does_not_hang_on_others(engine):
    """What stood in one request is not what another's forms go by."""
    asked = {"max_new_tokens": 24, "temperature": 1.0, "seed": 3, "ignore_eos": True, "decoder": Sampled()}
    many = engine.generate([PROMPT, [2], PROMPT], **asked)
    assert engine.generate(PROMPT, **asked).tokens == many[0].tokens
    assert many[0].tokens != many[2].tokens
    streamed = {0: [], 1: [], 2: []}
    for i, chunk in engine.stream_many([PROMPT, [2], PROMPT], **asked):
        streamed[i] += chunk.tokens
    assert [tuple(streamed[i]) for i in range(3)] == [out.tokens for out in many]


@pytest.mark.mlx
@pytest.mark.parametrize("name", ["torch", "mlx"])
def test_real_models_decode_by_sampled_trees(name):
    room = ROOMS[name]
    target = tiny_models.opened("qwen3", room)
    engine = Engine(target, fresh(room, config_for(target)), room.operations)
    try:
        target.check_trees()
    except BackendUnavailable:  # refused at the call, as the likeliest are
        with pytest.raises(BackendUnavailable, match="DL-11"):
            engine.stream([5], temperature=1.0, decoder=Sampled())
        return
    asked = {"max_new_tokens": 24, "temperature": 1.0, "seed": 6, "ignore_eos": True}
    outs = [engine.generate([5, 9, 17], decoder=Sampled(16), **asked) for _ in "ab"]
    assert outs[0].tokens == outs[1].tokens and len(outs[0].tokens) == 24
    assert max(outs[0].stats.n_accepted) > 0
    assert outs[0].tokens != engine.generate([5, 9, 17], decoder=Tree(budget=16), **asked).tokens


@pytest.mark.clause("RS-16")
@pytest.mark.parametrize("who", ["target", "drafter"])
def test_nan_emits_nothing_and_names_the_pass(who):
    engine = Engine(*tables(), NumpyOps())
    asked = {"temperature": 1.0, "seed": 0}
    first = engine.generate(PROMPT, max_new_tokens=1, **asked).tokens[0]
    table = getattr(engine, who).table
    assert first not in (1, 5), "the prompt's last token has a law, and the request goes on"
    table[..., first, :] = np.nan
    with pytest.raises(NumericsError, match=r"request 0, pass at position 2.*RS-16"):
        engine.generate(PROMPT, max_new_tokens=9, decoder=Sampled(), **asked)


def test_what_cannot_be_done_is_refused(engine):
    for word in ("", "greedy", None, 3):
        with pytest.raises(ConfigError, match=r"drafts.*likeliest, sampled.*RS-24"):
            Tree(drafts=word)
    target, drafter = tables()
    slots = Engine(target, TableDrafter(drafter.table, autoregressive=True), NumpyOps())
    with pytest.raises(ConfigError, match=r"slot by slot.*Speculative.*DL-11"):
        slots.generate(PROMPT, max_new_tokens=9, temperature=1.0, decoder=Sampled())


def test_the_command_line_knows_them(capsys):
    assert build_decoder("tree", {"budget": 8, "drafts": "sampled"}) == Sampled(8)
    assert parse_decoder("tree(budget=8, drafts=sampled)")[1] == Sampled(8)
    with pytest.raises(ConfigError, match="--drafts"):
        build_decoder("speculative", {"drafts": "sampled"})
    words = ["generate", str(GOLDEN / "target"), "--prompt-ids", "101 101 100", "--json", "--backend", "cpu"]
    words += ["--max-new-tokens", "24", "--temperature", "1", "--drafter", str(GOLDEN / "drafter")]
    found = []
    for drafts in ("sampled", "likeliest"):
        assert cli.run([*words, "--decoder", "tree", "--budget", "16", "--drafts", drafts]) == 0
        found.append(json.loads(capsys.readouterr().out)["tokens"])
    assert found[0] != found[1]
    assert cli.run([*words, "--decoder", "tree", "--drafts", "soft"]) == 2
    assert "likeliest, sampled" in capsys.readouterr().err

"""Requests decoded by draft trees: output, counts, waits and refusals."""

import json
from pathlib import Path

import numpy as np
import pytest

import dspec.decoders
from dspec import cli
from dspec.backends.judge import RequestJudge
from dspec.backends.numpy import NumpyOps, TableDrafter, TableTarget
from dspec.backends.tree_judge import RequestTreeJudge
from dspec.cli_decoders import build_decoder, parse_decoder
from dspec.core.decode import Limits, decode
from dspec.core.policies import GREEDY
from dspec.core.tree_decode import tree_pass
from dspec.core.types import Sampling
from dspec.core.warp import warp
from dspec.decoders import Autoregressive
from dspec.engine import Engine
from dspec.errors import BackendUnavailable, ConfigError, NumericsError
from dspec.oracle.decode import cut
from dspec.oracle.rejection import draw_two_level
from dspec.oracle.several import best_first, walk_tree
from dspec.rng import Purpose, Stream
from dspec.testing.checks.requests import CountingOps, LoggedStream
from tests import tiny_models
from tests.rooms import ROOMS
from tests.test_tree_law import Keyed
from tests.tiny_drafters import config_for, fresh

pytestmark = pytest.mark.clause("RS-23", "DL-11")
GOLDEN = Path(__file__).parent / "golden" / "dflash_tiny"
V, K = 6, 4
PROMPT = [0, 1]


def Tree(budget=12):
    return dspec.decoders.Tree(budget=budget)


def tables(seed=1, sharp=0.5):
    """A target and a drafter that often agree, slots drawn independently."""
    rng = np.random.default_rng(seed)
    law = rng.dirichlet(np.full(V, sharp), (2, V))
    blend = 0.7 * law[[0, 1, 0, 1]] + 0.3 * rng.dirichlet(np.full(V, sharp), (K, V))
    return TableTarget(law, frozenset([5])), TableDrafter(blend)


@pytest.fixture
def engine():
    return Engine(*tables(), NumpyOps())


def oracle_tokens(target, drafter, settings, budget, limit, seed):
    """The request by the oracle's rules, on the uniforms of its keys."""
    sampling, stream = Sampling(**settings), Stream(seed)

    def laws(tokens):
        table = target.table[(len(tokens) - 1) % len(target.table), tokens[-1]]
        return warp(np.log(table), sampling, xp=NumpyOps.xp).tolist()

    def close(position, node):
        return stream.uniforms(Purpose.CLOSE, position, (node + 1, 2))[node].tolist()

    emitted = [draw_two_level(laws(PROMPT), close(len(PROMPT) - 1, 0))]
    while len(emitted) < limit and 5 not in emitted:
        context = [*PROMPT, *emitted]
        tokens, parents = best_first(drafter.table[:, context[-1]].tolist(), budget)
        emitted += walk_tree(
            lambda drafts, context=context: laws([*context, *drafts]),
            tokens,
            parents,
            Keyed(lambda node, context=context: close(len(context) - 1, node)),
            draw=draw_two_level,
        )
    return cut(emitted, max_new_tokens=limit, eos={5})


@pytest.mark.clause("RS-1", "RS-10", "RS-13", "RN-1")
@pytest.mark.parametrize("budget", [1, 3, 12])
@pytest.mark.parametrize(
    "settings", [{"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.9, "min_p": 0.02}]
)
def test_sampled_requests_are_the_oracles_token_by_token(engine, settings, budget):
    for seed in range(12):
        out = engine.generate(PROMPT, max_new_tokens=20, seed=seed, decoder=Tree(budget), **settings)
        assert out.tokens == oracle_tokens(*tables(), settings, budget, 20, seed)


@pytest.mark.clause("DL-7", "RS-11")
@pytest.mark.parametrize("budget", [1, 2, 8, 40, 400])
def test_greedy_output_is_that_of_plain_decoding(engine, budget):
    plain = engine.generate(PROMPT, max_new_tokens=40, ignore_eos=True, decoder=Autoregressive())
    out = engine.generate(PROMPT, max_new_tokens=40, ignore_eos=True, decoder=Tree(budget))
    assert out.tokens == plain.tokens and out.finish == plain.finish


@pytest.mark.clause("DL-2")
def test_n_drafted_is_the_depth_and_more_nodes_never_emit_less(engine):
    taus = []
    for budget in (1, 4, 16, 64):
        many = engine.generate(
            [PROMPT] * 8, max_new_tokens=60, temperature=1.0, ignore_eos=True, decoder=Tree(budget)
        )
        stats = [out.stats for out in many]
        for one in stats:
            assert all(
                0 <= n <= k <= min(K, budget) for n, k in zip(one.n_accepted, one.n_drafted, strict=True)
            )
            assert len(one.alpha) <= K and all(0 <= a <= 1 for a in one.alpha if a == a)
        taus.append(np.mean([one.tau for one in stats]))
    assert taus[0] < taus[1] < taus[2] < taus[3]
    chain = engine.generate([PROMPT] * 8, max_new_tokens=60, temperature=1.0, ignore_eos=True)
    assert taus[2] > np.mean([out.stats.tau for out in chain])


@pytest.mark.clause("DL-6", "RN-2", "RS-8")
def test_a_pass_waits_twice_and_reads_no_key_twice():
    target, drafter = tables()
    ops, stream = CountingOps(NumpyOps()), LoggedStream(4)
    judge = RequestTreeJudge(RequestJudge(ops, GREEDY, Sampling(temperature=1.0), stream, K), 12)
    steps = list(
        decode(target.session(), drafter.session(target), judge, PROMPT, Limits(30), one_pass=tree_pass)
    )
    assert len(steps) > 5 and ops.reads == 1 + 2 * (len(steps) - 1)
    assert len(set(stream.log)) == len(stream.log)


def test_the_tree_does_not_hang_on_the_settings():
    """The same laws, the same tree, at any temperature and however few tokens are kept."""
    target, drafter = tables()
    made = []
    for sampling in (Sampling(), Sampling(temperature=1.0, top_k=1), Sampling(temperature=2.0)):
        judge = RequestTreeJudge(RequestJudge(NumpyOps(), GREEDY, sampling, Stream(0), K), 12)
        made.append(drafter.session(target).propose(3, 7, None, judge.rule(7)))
    assert made[0] == made[1] == made[2] and len(made[0].tokens) == 12


class Knowing:
    """A drafter that knows what the target will say but for a wrong favourite every few slots."""

    layer_ids, block_size = (0, 2), 5

    def __init__(self, room, text, wrong_every):
        self.room, self.text, self.wrong_every, self.length, self.taken = room, text, wrong_every, 0, []

    def session(self, target, *, capacity):
        self.vocabulary, self.length, self.taken = target.vocab_size, 0, []
        return self

    def propose(self, anchor, position, features, rule):
        self.taken.append((self.length, self.room.numpy(features)))
        logits = np.zeros((1, self.block_size - 1, self.vocabulary), dtype=np.float32)
        for slot in range(self.block_size - 1):
            place = position + 1 + slot
            if place < len(self.text):
                logits[0, slot, self.text[place]] = 5.0
                if place % self.wrong_every == 0:
                    logits[0, slot, (self.text[place] + 7) % self.vocabulary] = 6.0
        self.length = position
        return rule(self.room.array(logits))


@pytest.mark.clause("DL-4", "DL-5", "DL-7", "RS-15")
@pytest.mark.parametrize("kind", ["qwen3", "mistral_sliding", "gemma3"])
def test_deep_paths_of_real_models_keep_the_output_and_hand_on_the_features(kind, room):
    """Trees stand where the drafter's favourite is wrong; the features are those of the text."""
    target = tiny_models.opened(kind, room)
    prompt = [5, 9, 17, 3, 30, 12, 8]
    settings = {"max_new_tokens": 40, "ignore_eos": True}
    plain = Engine(target, None, room.operations).generate(prompt, **settings)
    text = [*prompt, *plain.tokens]
    drafter = Knowing(room, text, wrong_every=3)
    engine = Engine(target, drafter, room.operations)
    chain = engine.generate(prompt, **settings)
    tree = engine.generate(prompt, decoder=Tree(16), **settings)
    assert tree.tokens == chain.tokens == plain.tokens
    assert tree.stats.tau > 4 > 3 > chain.stats.tau, "what stands lies behind siblings that fell"
    states = room.numpy(target.tap(room.array([text], "int64"), drafter.layer_ids))[0]
    for start, features in drafter.taken:
        rows = features[0]
        np.testing.assert_allclose(rows, states[start : start + len(rows)], atol=1e-3, rtol=0)
    assert drafter.length + len(drafter.taken[-1][1]) <= len(text)


@pytest.mark.clause("DL-7")
def test_a_drafter_of_the_library_makes_trees(room):
    target = tiny_models.opened("qwen3", room)
    engine = Engine(target, fresh(room, config_for(target)), room.operations)
    prompts = [[5, 9, 17], [3], [40, 41, 42, 43, 44, 45]]
    for plain, tree, one in zip(
        engine.generate(prompts, max_new_tokens=24, ignore_eos=True, decoder=Autoregressive()),
        engine.generate(prompts, max_new_tokens=24, ignore_eos=True, decoder=Tree(32)),
        engine.generate(prompts, max_new_tokens=24, ignore_eos=True, decoder=Tree(1)),
        strict=True,
    ):
        assert plain.tokens == tree.tokens == one.tokens
        parts = () if room.name == "mlx" else ("target", "drafter")  # timing a part there would be a wait
        assert all(tree.stats.seconds[part] > 0 for part in (*parts, "total"))
    again = [
        engine.generate(prompts[0], max_new_tokens=24, temperature=1.0, seed=6, decoder=Tree()) for _ in "ab"
    ]
    assert again[0].tokens == again[1].tokens
    assert engine.generate(prompts[0], max_new_tokens=1, decoder=Tree()).stats.n_drafted == ()


def test_the_longest_request_fits(room):
    """Positions of a tree end K after its anchor, however many nodes it has."""
    target = tiny_models.opened("qwen3", room)
    engine = Engine(target, fresh(room, config_for(target)), room.operations)
    out = engine.generate([5] * 200, max_new_tokens=56, ignore_eos=True, decoder=Tree(100))
    assert len(out.tokens) == 56


@pytest.mark.clause("RS-16")
@pytest.mark.parametrize("who", ["target", "drafter"])
def test_nan_emits_nothing_and_names_the_pass(who):
    target, drafter = tables()
    engine = Engine(target, drafter, NumpyOps())
    first = engine.generate(PROMPT, max_new_tokens=1).tokens[0]
    table = getattr(engine, who).table
    table[..., first, :] = np.nan
    table[..., 1, :] = table[..., 1, :] if first != 1 else np.nan
    with pytest.raises(NumericsError, match=r"request 0, pass at position 2.*RS-16"):
        engine.generate(PROMPT, max_new_tokens=9, decoder=Tree())


def test_what_cannot_be_done_is_refused_at_the_call(engine):
    target, drafter = tables()
    alone = Engine(target, None, NumpyOps())
    with pytest.raises(ConfigError, match="a drafter: this engine has none"):
        alone.stream(PROMPT, decoder=Tree())
    for budget in (0, -1, 4097, 1.5, True, "8", None):
        with pytest.raises(ConfigError, match=r"budget.*\[1, 4096\].*RS-23"):
            dspec.decoders.Tree(budget=budget)
    with pytest.raises(ConfigError, match="alone"):
        engine.generate(PROMPT, decoder=Tree(), policy="one_hot")
    slots = Engine(target, TableDrafter(drafter.table, autoregressive=True), NumpyOps())
    with pytest.raises(ConfigError, match=r"slot by slot.*Speculative.*DL-11"):
        slots.generate(PROMPT, max_new_tokens=9, decoder=Tree())


@pytest.mark.clause("DL-8")
@pytest.mark.mlx
def test_a_target_that_reads_no_trees_is_refused_before_decoding():
    room = ROOMS["mlx"]
    target = tiny_models.opened("qwen3_5", room)
    engine = Engine(target, fresh(room, config_for(target)), room.operations)
    with pytest.raises(BackendUnavailable, match="recurrent state"):
        engine.stream([5], decoder=Tree())
    assert engine.generate([5], max_new_tokens=3).tokens


@pytest.mark.mlx
@pytest.mark.parametrize("name", ["torch", "mlx"])
@pytest.mark.parametrize("count", [1, 5, 12])
def test_every_backend_finds_the_likeliest(name, count):
    room = ROOMS[name]
    values = np.random.default_rng(3).permutation(4 * 12).reshape(4, 12).astype(np.float32)
    found, ids = map(room.numpy, room.operations.top(room.array(values), count))
    assert np.array_equal(np.sort(found), np.sort(values)[:, -count:])
    assert np.array_equal(np.take_along_axis(values, ids.astype(np.int64), -1), found)


def test_the_command_line_knows_trees():
    assert build_decoder("tree", {"budget": 8}) == parse_decoder("tree(budget=8)")[1] == Tree(8)
    assert build_decoder("tree", {}).budget == 32
    with pytest.raises(ConfigError, match="--budget"):
        build_decoder("speculative", {"budget": 8})


def test_trees_at_the_command_line(capsys, room):
    words = ["generate", str(GOLDEN / "target"), "--prompt-ids", "101 101 100", "--json"]
    words += ["--max-new-tokens", "24", "--backend", room.device]
    tree = ["--drafter", str(GOLDEN / "drafter"), "--decoder", "tree", "--budget", "16"]
    assert cli.run([*words, *tree]) == 0
    found = json.loads(capsys.readouterr().out)
    assert cli.run(words) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == found["tokens"]
    assert sum(found["n_emitted"]) >= 23 and len(found["n_emitted"]) < 23
    assert cli.run([*words, "--decoder", "tree"]) == 2
    assert "a drafter: this engine has none" in capsys.readouterr().err

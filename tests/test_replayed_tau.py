"""Tau by replay against decoding itself, in both rooms: equal when greedy, the same mean when sampled."""

import dataclasses

import numpy as np
import pytest

from dspec.core.policies import POLICIES
from dspec.core.types import Draft, Sampling
from dspec.core.warp import warp
from dspec.decoders import Autoregressive
from dspec.demo.settings import shipped_target
from dspec.engine import Engine
from dspec.errors import CheckpointError, ConfigError, DataError
from dspec.evaluation.bench import run_suite
from dspec.evaluation.replay import replay
from dspec.evaluation.suites import Suite, load_suite
from dspec.evaluation.texts import Texts, write_texts
from dspec.io.examples import Example
from dspec.oracle.replay import stand_chance
from tests import tiny_drafters
from tests.tiny_training import make_config, make_learner, make_target
from tests.tolerances import FLOAT32, FORWARD_F32

pytestmark = pytest.mark.clause("DL-10", "DL-2")
# Prompts of uneven length, so that rows are still in their prompts while others write.
SUITE = Suite("walks", tuple(list(range(i, i + 2 + i % 5)) for i in range(0, 60, 5)))
LIMIT = 24
SEEDS = 100
# At 1 the tiny target is nearly sure of itself, and so is a drafter that learnt from its texts.
SAMPLED = {"max_new_tokens": 13, "temperature": 1.5}
# Two-sided chance of a standard normal beyond it: 2.0e-7. With 1,500 seeds |z| was at most 0.6.
Z = 5.2


@pytest.fixture(scope="module")
def engine(room):
    """The tiny target, which stops at a few tokens of its own, and a drafter that has learnt from it."""
    target = make_target(room)
    plain = Engine(target, None, room.operations)
    texts = [[*p, *plain.generate(p, max_new_tokens=40).tokens] for p in SUITE.prompts]
    examples = [Example(np.array(text), np.arange(len(text)) >= 2) for text in texts]
    config = make_config(steps=120, lr=1e-2, anchors=12)
    learner = make_learner(room, target, config, "ltr")
    room.train.fit(target, {"ltr": learner}, examples, config, quiet=True)
    written = [text[len(prompt) :] for text, prompt in zip(texts, SUITE.prompts)]
    early = {int(token) for text in written for token in text[:4]}
    target.eos_ids = frozenset([int(t) for text in written for t in text[6:20] if int(t) not in early][:3])
    return Engine(target, learner.drafter, room.operations)


@pytest.fixture(scope="module")
def texts(engine):
    return write_texts(engine, SUITE, max_new_tokens=LIMIT, batch=5)


def counts_of(found):
    """What decoding counted: emitted tokens and passes of each prompt."""
    return [[sum(p.stats.n_emitted), len(p.stats.n_emitted)] for p in found.prompts]


def test_texts_are_those_of_decoding_token_by_token(engine):
    for settings in ({}, {"temperature": 1.0, "top_k": 9}):
        found = write_texts(engine, SUITE, max_new_tokens=LIMIT, batch=5, seed=3, **settings)
        alone = {"decoder": Autoregressive(), "seed": 3, "max_new_tokens": LIMIT, **settings}
        assert list(found.outputs()) == [p.tokens for p in run_suite(engine, SUITE, **alone).prompts]
        assert 1 < min(found.lengths) < max(found.lengths) == LIMIT, "some end at a stop, some at the limit"
        longer = {**alone, "ignore_eos": True, "max_new_tokens": LIMIT + 16}
        needed = [p.tokens for p in run_suite(engine, SUITE, **longer).prompts]
        assert [tuple(row) for row in found.tokens.tolist()] == needed, "what is beyond the end"


def test_greedy_replay_counts_what_decoding_counts(engine, texts):
    found = replay(engine.target, engine.drafter, texts, batch=5)
    decoded = run_suite(engine, SUITE, max_new_tokens=LIMIT)
    assert found.counts.tolist() == counts_of(decoded)
    assert found.tau == decoded.stats.tau > 1.3, "a drafter that is never right shows little"
    np.testing.assert_array_equal(found.alpha, decoded.stats.alpha)
    assert tuple(found.replayed.reached.sum(axis=0)) == decoded.reached
    whole = [n for p in decoded.prompts for n in p.stats.n_accepted]
    assert set(whole) >= {0, 3}
    beyond = [1 + sum(p.stats.n_emitted) - len(p.tokens) for p in decoded.prompts]
    assert max(beyond) > 0, "no pass emitted beyond the end: its uncut count was not needed"


def test_greedy_replay_on_the_shipped_target(room):
    target = room.target.Target.load(shipped_target(), device=room.device)
    config = dataclasses.replace(make_config(), block_size=5, layers=1)
    drafter = room.front.new_learner(target, config).drafter
    engine = Engine(target, drafter, room.operations)
    suite = Suite("tiny", load_suite("tiny").prompts[::5])
    found = replay(target, drafter, write_texts(engine, suite, max_new_tokens=16))
    assert found.counts.tolist() == counts_of(run_suite(engine, suite, max_new_tokens=16))


def test_a_block_that_sees_its_anchors_features_is_found(room, engine, texts, monkeypatch):
    right = room.block_scores.attention_mask
    wrong = lambda anchors, keep, **sizes: right(anchors + 1, keep, **sizes)  # noqa: E731
    needed = replay(engine.target, engine.drafter, texts).counts
    monkeypatch.setattr(room.block_scores, "attention_mask", wrong)
    assert replay(engine.target, engine.drafter, texts).counts.tolist() != needed.tolist()


@pytest.mark.parametrize("policy", ["one_hot", "rejection"])
def test_sampled_replay_has_the_mean_of_decoding(engine, decoded, policy):
    """Passes and emitted tokens: a z test each, of independent seeds. It fails a right replay in 4e-7.

    For "rejection" q(x) in place of min(1, q / p) passes both with a chance below 1e-9: see the next test.
    """
    z = z_of(replayed_sample(engine, policy), decoded[policy])
    assert abs(z).max() < Z, z


def test_the_z_test_finds_a_wrong_chance(room, engine, decoded, monkeypatch):
    """q(x) for min(1, q / p). The z of a wrong formula is normal with standard deviation 1 around about
    what is seen here: 11 or more is 6 away from passing, chance 1e-9."""
    right = room.block_scores._written_probs
    monkeypatch.setattr(room.block_scores, "_written_probs", lambda *given: 0 * right(*given) + 1)
    z = z_of(replayed_sample(engine, "rejection"), decoded["rejection"])
    assert abs(z).max() > Z + 6, z


def replayed_sample(engine, policy):
    suite = Suite("same", (SUITE.prompts[1],) * 4 * SEEDS)
    texts = write_texts(engine, suite, **SAMPLED, seed=10**6, batch=4 * SEEDS)
    return replay(engine.target, engine.drafter, texts, policy=policy, batch=SEEDS).counts


@pytest.fixture(scope="module")
def decoded(engine):
    """Counts of decoding one prompt under many seeds, by policy."""

    def counts(policy):
        settings = {**SAMPLED, "policy": policy}
        runs = [engine.generate(SUITE.prompts[1], seed=seed, **settings).stats for seed in range(SEEDS)]
        return np.array([(sum(run.n_emitted), len(run.n_emitted)) for run in runs], dtype=np.float64)

    return {policy: counts(policy) for policy in ("one_hot", "rejection")}


def z_of(first, second):
    spread = sum(sample.var(axis=0, ddof=1) / len(sample) for sample in (first, second))
    return (first.mean(axis=0) - second.mean(axis=0)) / np.sqrt(spread)


def session_chances(engine, prompt, text, anchor, sampling):
    """The chances of one pass from the sessions that decode: its laws, given that all drafts are the text."""
    target, xp = engine.target, engine.ops.xp
    n_slots = engine.drafter.block_size - 1
    scored = target.session(layer_ids=engine.drafter.layer_ids, capacity=128)
    scores = scored.prefill([*prompt, *text[:anchor]])
    seen = []

    def rule(logits):
        seen.append(warp(logits, sampling, xp=xp))
        return Draft(xp.zeros((1, n_slots), dtype=xp.int32))

    position = len(prompt) + anchor
    drafter = engine.drafter.session(target, capacity=128)
    drafter.propose(text[anchor], position, scores.features, rule)
    gold = text[anchor + 1 : anchor + 1 + n_slots]
    logits = scored.score(text[anchor], engine.ops.from_host(np.array([gold], dtype=np.int32))).logits
    q, p = (engine.ops.to_host(law)[0] for law in (seen[0], warp(logits, sampling, xp=xp)))
    return [stand_chance(p[slot][token], q[slot][token]) for slot, token in enumerate(gold)]


def test_chances_are_those_of_the_sessions_laws(room, engine):
    sampling = Sampling(temperature=0.8, top_k=12)
    texts = write_texts(engine, SUITE, max_new_tokens=LIMIT, temperature=0.8, top_k=12)
    (rows, written), *_ = texts.batches(3, 3)
    settings = {"policy": POLICIES["rejection"], "sampling": sampling}
    found = room.block_scores.block_scores(engine.target, engine.drafter, written, anchors=7, **settings)
    needed = np.zeros_like(found)
    for i, row in enumerate(rows):
        prompt = texts.prompts[row, : texts.prompt_lengths[row]].tolist()
        for anchor in range(int(texts.lengths[row]) - 1):
            needed[i, anchor] = session_chances(engine, prompt, texts.tokens[row].tolist(), anchor, sampling)
    np.testing.assert_allclose(found, needed, atol=FORWARD_F32, rtol=0)
    assert ((found > 0) & (found < 1)).mean() > 0.05


def test_batches_and_chunks_change_nothing_but_rounding(engine):
    texts = write_texts(engine, SUITE, max_new_tokens=LIMIT, temperature=1.0)
    sizes = [{}, {"batch": 1}, {"batch": 5, "anchors": 7, "chunk": 10}]
    found = [replay(engine.target, engine.drafter, texts, policy="rejection", **s).counts for s in sizes]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=FORWARD_F32, rtol=FORWARD_F32)


def test_texts_come_back_from_their_file(engine, texts, tmp_path):
    texts.save(tmp_path / "walks.npz")
    again = Texts.load(tmp_path / "walks.npz")
    assert again.settings == texts.settings and again.sampling == Sampling()
    found, other = (replay(engine.target, engine.drafter, t).as_dict() for t in (texts, again))
    assert found == other and found["n_prompts"] == len(found["prompts"]) == 12
    assert found["n_tokens"] == sum(texts.lengths) and found["settings"]["policy"] == "greedy"
    low, high = found["tau_interval"]
    assert low <= found["tau"] <= high
    (tmp_path / "other.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"Texts\.save"):
        Texts.load(tmp_path / "other.npz")


def test_texts_of_another_target_or_too_short_are_refused(room, engine, texts):
    with pytest.raises(ConfigError, match="this target"):
        replay(engine.target, engine.drafter, dataclasses.replace(texts, target="0" * 64))
    short = write_texts(engine, SUITE.take(1), max_new_tokens=4, beyond=1)
    with pytest.raises(ConfigError, match="beyond=2"):
        replay(engine.target, engine.drafter, short)
    enough = write_texts(engine, SUITE.take(1), max_new_tokens=4, beyond=2)
    longer = write_texts(engine, SUITE.take(1), max_new_tokens=4, beyond=9)
    found = [replay(engine.target, engine.drafter, t).counts for t in (enough, longer)]
    np.testing.assert_allclose(*found, rtol=FLOAT32)


@pytest.mark.parametrize("wrong", [{"max_new_tokens": 0}, {"beyond": -1}, {"batch": 0}, {"top_p": 0.0}])
def test_settings_out_of_range_are_refused(engine, wrong):
    with pytest.raises(ConfigError):
        write_texts(engine, SUITE, **wrong)


def test_texts_of_one_token_have_no_pass(room, engine):
    found = replay(engine.target, engine.drafter, write_texts(engine, SUITE, max_new_tokens=1))
    assert np.isnan(found.tau) and found.counts.tolist() == [[0.0, 0.0]] * 12


def test_a_drafter_of_another_target_is_refused_as_in_decoding(room, engine, texts):
    other = tiny_drafters.fresh(room, tiny_drafters.PLAIN)
    with pytest.raises(CheckpointError):
        replay(engine.target, other, texts)

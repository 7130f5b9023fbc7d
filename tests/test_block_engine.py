"""The engine of block-diffusion models: every decoder in every family, alone and in batches."""

import json
from pathlib import Path

import numpy as np
import pytest

import dspec
from dspec.block_engine import BlockDiffusion
from dspec.block_plans import plan_of
from dspec.core.layouts import causal
from dspec.core.trace import KINDS
from dspec.decoders import Autoregressive, Diffusion, Editing, SelfSpeculative, Speculative, Tree, Wino
from dspec.errors import ConfigError, NumericsError
from tests import block_models
from tests.block_models import MASK, VOCABULARY
from tests.tolerances import FORWARD_F32

FOLDER = Path(__file__).parent / "golden"
RUNS = json.loads((FOLDER / "sdar_tiny" / "baseline_runs.json").read_text())
PROMPTS = [RUNS[i]["prompt"] for i in (0, 10, 20, 30)]  # of 24, 17, 32 and 5 tokens
FAMILIES = ("sdar", "fast_dllm_v2", "llada2")
FORMS = {
    "sliding": {},
    "official": {"window": "aligned", "bonus": False, "commit": "always"},
    "aligned fused": {"window": "aligned", "bonus": False},
    "block draft": {"window": "aligned", "draft_mask": "block"},
    "separate": {"window": "aligned", "commit": "separate"},
    "fused layout": {"layout": "fused"},
    "no guesses": {"layout": "fused", "guesses": 0},
}
HYBRIDS = {
    "hybrid": {},
    "hysteresis": {"route": "hysteresis(0, -1)", "estimator": "entropy_exp"},
    "bandit": {"route": "ucb"},
    "cost": {"route": "cost(2)"},
    "edited": {"edit": Editing(threshold=0.3), "sub_block": 4},
    "block cache": {"cache_mask": "block", "draft_mask": "block", "commit": "separate"},
}
FILLINGS = {
    "static": Diffusion(block_size=8, select="static", steps=4),
    "entropy": Diffusion(block_size=8, select="entropy"),
    "factor": Diffusion(block_size=8, select="factor", threshold=1.5),
    "frechet": Diffusion(block_size=8, select="frechet", threshold=0.2),
    "edited": Diffusion(block_size=8, threshold=0.3, edit=Editing(threshold=0.3)),
    "causal": Diffusion(block_size=8, threshold=0.3, cache_mask="causal", draft_mask="partially_causal"),
    "wino": Wino(block_size=8, commit_above=0.3, keep_above=0.5),
}


@pytest.fixture(params=FAMILIES)
def lm(room, request):
    return engine(room, request.param)


def engine(room, family):
    return BlockDiffusion(block_models.model(room, family), room.operations)


def exact(form, size=8, **settings):
    return SelfSpeculative(block_size=size, exact=True, **FORMS[form], **settings)


def every_decoder(lm):
    """All of them, but what the family cannot do."""
    decoders = {"autoregressive": Autoregressive(), **FILLINGS}
    decoders |= {name: exact(name) for name in FORMS}
    decoders |= {f"hybrid {k}": SelfSpeculative(block_size=8, **v) for k, v in HYBRIDS.items()}
    return {name: d for name, d in decoders.items() if not (lm.model.shifted and isinstance(d, Wino))}


# Exactness.
@pytest.mark.clause("SS-15", "SS-16", "SS-17", "SS-18")
@pytest.mark.parametrize("size", [2, 8])
@pytest.mark.parametrize("form", FORMS)
def test_greedy_is_block_size_one_decoding(lm, form, size):
    settings = {"max_new_tokens": 20, "ignore_eos": True}
    plain = lm.generate(PROMPTS, decoder=Autoregressive(), **settings)
    ours = lm.generate(PROMPTS, decoder=exact(form, size), **settings)
    assert [out.tokens for out in ours] == [out.tokens for out in plain]
    assert sum(out.stats.accepted_per_verify for out in ours) > 0.1  # some drafts stood: it was no plain run


@pytest.mark.clause("SS-2", "SS-6")
@pytest.mark.parametrize("family", FAMILIES)
def test_one_verify_pass_gives_the_laws_of_passes_of_block_size_one(room, family):
    """All laws of a span at once, and token after token with a cache of its own."""
    lm = engine(room, family)
    context, drafts = tuple(PROMPTS[0]), tuple(RUNS[0]["output_ids"][24:31])
    plan = plan_of(exact("sliding"), lm.model)
    session = lm.model.session(rows=1, capacity=64)
    at_once = room.numpy(verify_logits(session, context, drafts, plan, room))
    for k in range(len(drafts) + 1):
        alone = lm.model.session(rows=1, capacity=64)
        one = verify_logits(alone, context + drafts[:k], (), plan, room)
        np.testing.assert_allclose(room.numpy(one)[0], at_once[k], atol=FORWARD_F32, rtol=0)


def verify_logits(session, context, drafts, plan, room):
    """The laws of the positions after a context, drafts before each; keys and values of the context kept."""
    from dspec.core.plans import verifying

    session.read([causal(context[:-1], start=0)])
    session.commit([len(context) - 1])
    layout = verifying(context[-1:], len(context), len(drafts), plan)
    handle = room.array(np.array([drafts], dtype=np.int32).reshape(1, -1)) if drafts else None
    first = 0 if plan.shifted else 1 + len(drafts)
    slots = [list(range(first, first + len(drafts) + 1))]
    return session.logits(session.read([layout], handle), slots)[0]


@pytest.mark.clause("SS-5", "SS-16")
@pytest.mark.parametrize("form", ["sliding", "aligned fused", "fused layout"])
@pytest.mark.parametrize("family", FAMILIES)
def test_kept_keys_and_values_are_those_of_a_fresh_causal_pass(room, family, form, monkeypatch):
    lm = engine(room, family)
    sessions, opened = [], lm.model.session
    model = type(lm.model)
    monkeypatch.setattr(model, "session", lambda self, **size: kept(sessions, opened(**size)))
    out = lm.generate(PROMPTS[1], max_new_tokens=24, decoder=exact(form), ignore_eos=True)
    used = sessions[0]
    text = (*PROMPTS[1], *out.tokens)[: used.lengths[0]]
    assert len(text) > len(PROMPTS[1]) + 16
    fresh = opened(rows=1, capacity=64)
    fresh.read([causal(text, start=0)])
    for ours, theirs in zip(buffers(room, used, text), buffers(room, fresh, text), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=FORWARD_F32, rtol=0)


def kept(sessions, session):
    sessions.append(session)
    return session


def buffers(room, session, text):
    """Keys and values of every layer, up to the end of a text."""
    for buffer in (session._cache._keys, session._cache._values):
        for layer in buffer:
            yield room.numpy(layer)[0, :, : len(text)]


# Counts.
@pytest.mark.clause("SS-16", "SS-24")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("size", [4, 8])
def test_fusion_saves_one_pass_a_block(lm, size, temperature):
    """On the same drafts: 2 r passes a block of r rounds, and 2 r + 1 with a pass that keeps it."""
    settings = {"max_new_tokens": 24, "ignore_eos": True, "temperature": temperature, "seed": 5}
    prompt = PROMPTS[0]  # 24 tokens: blocks begin where it ends
    official = lm.generate(prompt, decoder=exact("official", size), **settings)
    fused = lm.generate(prompt, decoder=exact("aligned fused", size), **settings)
    rounds, blocks = len(fused.stats.n_accepted), 24 // size
    assert official.tokens == fused.tokens and official.stats.n_accepted == fused.stats.n_accepted
    assert fused.stats.forward_passes == 1 + 2 * rounds  # 1: the prompt
    assert official.stats.forward_passes == 1 + 2 * rounds + blocks


@pytest.mark.clause("SS-17", "SS-18")
def test_a_bonus_and_the_fused_layout_save_more(lm):
    settings = {"max_new_tokens": 32, "ignore_eos": True}
    passes = {
        form: sum(o.stats.forward_passes for o in lm.generate(PROMPTS, decoder=exact(form), **settings))
        for form in FORMS
    }
    order = ("fused layout", "no guesses", "sliding", "aligned fused", "official")
    assert [passes[form] for form in order] == sorted(passes[form] for form in order)
    assert len({passes[form] for form in order}) == len(order)
    out = lm.generate(PROMPTS[0], decoder=exact("sliding", 2), **settings)
    kinds = {commit.kind for commit in out.trace}
    assert {"bonus", "accepted", "correction"} <= kinds <= set(KINDS)


@pytest.mark.clause("SS-2")
def test_block_size_one_takes_one_pass_a_token(lm):
    out = lm.generate(PROMPTS[0], max_new_tokens=9, decoder=Autoregressive(), ignore_eos=True)
    assert out.stats.forward_passes == 1 + 9
    assert [commit.kind for commit in out.trace] == ["autoregressive"] * 9
    alone = lm.generate(PROMPTS[0][:1], max_new_tokens=4, decoder=Autoregressive(), ignore_eos=True)
    # Shifted, a prompt of one token needs no pass of its own.
    assert alone.stats.forward_passes == 4 + (not lm.model.shifted)


# Hybrid rounds.
@pytest.mark.clause("SS-19")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("settings", [{"threshold": 0.3}, {"select": "static", "steps": 3}])
def test_never_verifying_is_the_fallback_alone(lm, settings, temperature):
    masks = {"cache_mask": "causal", "draft_mask": "partially_causal"}
    common = {"max_new_tokens": 24, "temperature": temperature, "seed": 2, "ignore_eos": True}
    hybrid = SelfSpeculative(block_size=8, route="never", **settings)
    ours = lm.generate(PROMPTS, decoder=hybrid, **common)
    plain = lm.generate(PROMPTS, decoder=Diffusion(block_size=8, **masks, **settings), **common)
    assert [(o.tokens, o.trace, o.stats.forward_passes) for o in ours] == [
        (o.tokens, o.trace, o.stats.forward_passes) for o in plain
    ]


@pytest.mark.clause("SS-19")
def test_always_verifying_with_causal_keys_is_greedy_block_size_one(lm):
    """Every step commits what stood and the correction, so that nothing else decides."""
    settings = {"max_new_tokens": 24, "ignore_eos": True}
    ours = lm.generate(PROMPTS, decoder=SelfSpeculative(block_size=8), **settings)
    plain = lm.generate(PROMPTS, decoder=Autoregressive(), **settings)
    assert [out.tokens for out in ours] == [out.tokens for out in plain]


@pytest.mark.clause("SS-19", "SS-20")
def test_a_power_below_one_accepts_more(lm):
    settings = {"max_new_tokens": 40, "ignore_eos": True, "temperature": 1.0}

    def accepted(power):
        decoder = SelfSpeculative(block_size=8, lossy_ratio_power=power)
        outs = [o for seed in range(3) for o in lm.generate(PROMPTS, decoder=decoder, seed=seed, **settings)]
        return sum(sum(o.stats.n_accepted) for o in outs) / sum(len(o.stats.n_accepted) for o in outs)

    assert accepted(0.2) > accepted(1.0) + 0.3


# What holds of every decoder.
@pytest.mark.clause("SS-22")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_is_what_it_is_alone(lm, temperature):
    settings = {"max_new_tokens": 16, "temperature": temperature, "seed": 4, "ignore_eos": True}
    for name, decoder in every_decoder(lm).items():
        together = lm.generate(PROMPTS, batch_size=4, decoder=decoder, **settings)
        in_pairs = lm.generate(PROMPTS, batch_size=2, decoder=decoder, **settings)
        alone = lm.generate(PROMPTS[0], decoder=decoder, **settings)
        for one, other in [*zip(together, in_pairs, strict=True), (together[0], alone)]:
            assert (one.tokens, one.trace) == (other.tokens, other.trace), name
            assert one.stats.forward_passes == other.stats.forward_passes, name


class LovesMask:
    """A model that puts nearly all mass on the mask token, whatever it is asked."""

    def __init__(self, inner, ops):
        self.inner, self.xp = inner, ops.xp

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def session(self, **size):
        session = self.inner.session(**size)
        logits, xp = session.logits, self.xp

        def loving(hidden, slots):
            found = logits(hidden, slots)
            column = xp.astype(xp.cumulative_sum(xp.ones_like(found), axis=-1), xp.float32) == MASK + 1
            return xp.where(column, xp.full_like(found, 60.0), found)

        session.logits = loving
        return session


@pytest.mark.clause("SS-7")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_that_loves_the_mask_token_ends_without_it(lm, temperature):
    loving = BlockDiffusion(LovesMask(lm.model, lm.ops), lm.ops)
    for name, decoder in every_decoder(lm).items():
        out = loving.generate(
            PROMPTS[3], max_new_tokens=12, decoder=decoder, temperature=temperature, ignore_eos=True
        )
        assert len(out.tokens) == 12 and MASK not in out.tokens, name


@pytest.mark.clause("SS-24")
def test_the_trace_names_every_token_once(lm):
    for name, decoder in every_decoder(lm).items():
        out = lm.generate(PROMPTS[1], max_new_tokens=20, decoder=decoder, ignore_eos=True)
        last = {}
        for commit in out.trace:
            assert commit.kind in KINDS and 1 <= commit.step <= out.stats.forward_passes, name
            last[commit.position] = commit.token
        start = len(PROMPTS[1])
        assert tuple(last[i] for i in range(start, start + 20)) == out.tokens, name
        replaced = sum(commit.kind in ("edited", "remasked") for commit in out.trace)
        assert len(out.trace) - replaced >= len(last), name


@pytest.mark.clause("SS-24", "RS-14")
@pytest.mark.parametrize("place", [0, 5, 11])
def test_an_output_ends_at_its_first_end_token(lm, place):
    """The end token is one that the model writes: the output is cut there, in the middle of a block too."""
    for name, decoder in every_decoder(lm).items():
        free = lm.generate(PROMPTS[0], max_new_tokens=16, decoder=decoder, ignore_eos=True)
        eos = free.tokens[place]
        ending = BlockDiffusion(EndsWith(lm.model, eos), lm.ops)
        out = ending.generate(PROMPTS[0], max_new_tokens=16, decoder=decoder)
        first = free.tokens.index(eos)
        assert out.tokens == free.tokens[: first + 1] and out.finish == "eos", name
        assert out.stats.forward_passes <= free.stats.forward_passes, name


class EndsWith:
    """A model with another end token."""

    def __init__(self, inner, eos):
        self.inner, self.eos_ids = inner, frozenset({eos})

    def __getattr__(self, name):
        return getattr(self.inner, name)


@pytest.mark.clause("SS-24")
def test_a_stream_is_the_output_in_pieces(lm):
    for name, decoder in every_decoder(lm).items():
        settings = {"max_new_tokens": 13, "decoder": decoder, "ignore_eos": True, "seed": 9}
        whole = lm.generate(PROMPTS[2], temperature=0.7, **settings)
        chunks = list(lm.stream(PROMPTS[2], temperature=0.7, **settings))
        assert tuple(token for chunk in chunks for token in chunk.tokens) == whole.tokens, name
        assert tuple(commit for chunk in chunks for commit in chunk.commits) == whole.trace, name
        assert [chunk.finish for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"], name


@pytest.mark.clause("RN-6")
def test_a_seed_decides_and_another_one_differs(lm):
    decoder = Diffusion(block_size=8, threshold=0.3)
    outs = [
        lm.generate(PROMPTS[0], max_new_tokens=24, temperature=1.0, decoder=decoder, seed=seed).tokens
        for seed in (1, 1, 2)
    ]
    assert outs[0] == outs[1] != outs[2]


@pytest.mark.clause("RS-16")
def test_a_model_that_returns_nan_is_named(lm):
    class Broken(LovesMask):
        def session(self, **size):
            session = self.inner.session(**size)
            logits = session.logits
            session.logits = lambda hidden, slots: logits(hidden, slots) * float("nan")
            return session

    broken = BlockDiffusion(Broken(lm.model, lm.ops), lm.ops)
    for name, decoder in every_decoder(lm).items():
        with pytest.raises(NumericsError, match=r"request 0, pass at \d+: got a law with NaN"):
            broken.generate(PROMPTS[3], max_new_tokens=4, decoder=decoder)
            raise AssertionError(name)


# Refusals.
def hybrid(**settings):
    return lambda: SelfSpeculative(**settings)


REFUSED = [
    (hybrid(route="hysteresis(-1, 0)"), r"route.*on-threshold above the off-threshold.*SS-13"),
    (hybrid(route="hysteresis(1, 1)"), r"route.*above.*SS-13"),
    (hybrid(route="sometimes"), r"route.*one of span\(length\), score"),
    (hybrid(estimator="margin(2)"), r"estimator.*\[0, 1\].*SS-11"),
    (hybrid(threshold=1.5), r"select.*\[0, 1\].*SS-8"),
    (hybrid(exact=True, threshold=0.5), r"threshold: got 0.5 with exact=True.*SS-23"),
    (hybrid(exact=True, route="span(2)"), r"route.*exact=True.*SS-23"),
    (hybrid(exact=True, lossy_ratio_power=0.5), r"lossy_ratio_power.*exact=True.*SS-23"),
    (hybrid(exact=True, edit=Editing()), r"edit.*exact=True.*SS-23"),
    (hybrid(exact=True, min_commit=2), r"min_commit.*exact=True.*SS-23"),
    (hybrid(exact=True, cache_mask="block"), r"cache_mask: got 'block' with exact=True; needs 'causal'"),
    (hybrid(window="aligned"), r"window.*needs exact=True"),
    (
        hybrid(exact=True, draft_mask="block"),
        r"draft_mask: got 'block' with window='sliding'; needs 'partially_causal'.*SS-23",
    ),
    (
        hybrid(exact=True, layout="fused", draft_mask="block"),
        r"draft_mask: got 'block' with window='sliding'",
    ),
    (hybrid(layout="fused"), r"layout.*needs exact=True"),
    (hybrid(exact=True, guesses=2), r"guesses: got 2 with layout='separate'; needs layout='fused'"),
    (hybrid(guesses=2), r"guesses.*needs exact=True"),
    (hybrid(exact=True, layout="fused", bonus=False), r"bonus.*layout='fused'.*SS-18"),
    (hybrid(block_size=8, sub_block=3), r"block_size: got 8; needs a multiple of sub_block=3.*SS-23"),
    (hybrid(lossy_ratio_power=-1), r"lossy_ratio_power.*>= 0"),
    (lambda: Diffusion(block_size=8, sub_block=5), r"multiple of sub_block=5"),
    (lambda: Diffusion(block_size=4, steps=5), r"steps: got 5; needs at most block_size=4.*SS-9"),
    (lambda: Diffusion(block_size=0), r"block_size: got 0; needs an integer >= 1"),
    (lambda: Diffusion(threshold=-0.1), r"select.*\[0, 1\]"),
    (lambda: Diffusion(select="best"), r"select: got 'best'; needs one of static, sequential"),
    (lambda: Diffusion(cache_mask="full"), r"cache_mask: got 'full'; needs one of block, causal"),
    (lambda: Diffusion(edit=0.5), r"edit: got 0.5; needs dspec.decoders.Editing"),
    (lambda: Editing(threshold=-1), r"threshold.*>= 0.*SS-21"),
    (lambda: Wino(keep_above=1.1), r"keep_above.*\[0, 1\].*SS-25"),
]


@pytest.mark.clause("SS-13", "SS-23")
@pytest.mark.parametrize(("make", "words"), REFUSED, ids=range(len(REFUSED)))
def test_settings_that_contradict_are_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


@pytest.mark.clause("SS-23")
def test_what_a_model_cannot_do_is_refused_before_a_pass(lm):
    refused = [
        ({"decoder": Speculative()}, r"decoder: got Speculative"),
        ({"decoder": Tree()}, r"decoder: got Tree"),
        ({"policy": "rejection"}, r"policy.*Put it into the decoder"),
        ({"log_probs": "raw"}, r"log_probs: got 'raw'; needs None.*dspec.load\(target, drafter\).*SS-23"),
        ({"log_probs": "both"}, r"log_probs: got 'both'; needs 'raw'.*RS-19"),
        ({"decoder": SelfSpeculative(exact=True, policy="typical")}, r"policy: got 'typical'"),
        ({"decoder": Diffusion(sub_block=3)}, r"multiple of sub_block=3"),
        ({"decoder": SelfSpeculative(exact=True, layout="fused", block_size=1)}, r"at least 2"),
        ({"max_new_tokens": 10**6}, r"prompt \+ max_new_tokens.*1024 positions"),
        ({"stop": "x"}, r"stop.*no tokenizer"),
        ({"steps": 3}, r"generate: got the setting 'steps'"),
    ]
    refused += [({"decoder": Wino()}, r"Wino.*position-aligned")] if lm.model.shifted else []
    for settings, words in refused:
        with pytest.raises(ConfigError, match=words):
            lm.stream(PROMPTS[0], **settings)  # at the call, not at the first chunk
    with pytest.raises(ConfigError, match="batch_size"):
        lm.generate(PROMPTS, batch_size=0)
    with pytest.raises(ConfigError, match="block_size"):
        lm.logits(PROMPTS[0], block_size=0)


@pytest.mark.clause("SS-23", "DL-8")
def test_the_front_door_opens_what_the_config_says(room):
    folder = block_models.FOLDERS["llada2"]
    lm = dspec.load_block_diffusion(folder, mask_token_id=MASK, backend=room.device)
    assert lm.model.config.family == "llada2" and lm.model.vocab_size == VOCABULARY
    with pytest.raises(ConfigError, match="family"):
        dspec.load_block_diffusion(folder, family="sdar", mask_token_id=MASK, backend=room.device)
    with pytest.raises(ConfigError, match="mask_token_id"):
        dspec.load_block_diffusion(folder, backend=room.device)


@pytest.mark.clause("SS-13")
def test_the_measured_cost_is_a_ratio_of_two_passes(lm):
    decoder = SelfSpeculative(block_size=8, route="cost")
    out = lm.generate(PROMPTS[0], max_new_tokens=8, decoder=decoder, ignore_eos=True)
    assert len(out.tokens) == 8
    assert set(lm._costs) == {8} and 1 < lm._costs[8] < 50

"""Batches of networks, in both rooms: rows score what a fresh pass does and decode what they do alone."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers as tf

from dspec.backends.batch_judge import BatchJudge
from dspec.backends.torch.target import Target
from dspec.batching import open_batch
from dspec.core import batch as loop
from dspec.core.draft_length import FixedLength
from dspec.decoders import Speculative
from dspec.engine import Engine
from dspec.errors import NumericsError
from dspec.request import parse_request
from dspec.testing.models.table_engine import on_backend
from tests import tiny_models
from tests.batches import SETTINGS, alone, mixed, ragged, tables, together
from tests.no_waiting import NoWaiting
from tests.reference_model import TAPS, assert_near, side_by_side, whole
from tests.rooms import ROOMS, of_rooms
from tests.tiny_drafters import config_for, fresh

IDS = range(3, 59)
LENGTHS = [{"temperature": 1.0, "decoder": Speculative(block=k, draft_window=2)} for k in (1, 2)]
MIXED = [("target_batch", "TargetBatch", "score"), ("drafter_batch", "DrafterBatch", "propose")]
# Attention of Gemma 2 takes no mask of several rows on MLX.
ROWS = [
    pytest.param(name, kind, marks=param.marks, id=f"{name}-{kind}")
    for param in of_rooms()
    for name in param.values
    for kind in tiny_models.DRIVEN
    if (name, kind) != ("mlx", "gemma2")
]


def engine_of(room, kind="qwen3"):
    target = tiny_models.opened(kind, room)
    return Engine(target, fresh(room, config_for(target)), room.operations)


def prompts_of(count, seed=0, longest=14):
    dice = random.Random(seed)
    return [dice.choices(IDS, k=dice.randint(1, longest)) for _ in range(count)]


@pytest.mark.clause("DL-12", "DL-4", "RS-9")
@pytest.mark.parametrize(("name", "kind"), ROWS)
def test_rows_after_random_rewinds_equal_the_model_without_a_cache(name, kind):
    """Past the sliding windows, forth and back, rows taken and left: every score equals a fresh pass."""
    room, dice, rows = ROOMS[name], random.Random(12), 3
    batch = tiny_models.opened(kind, room).batch(rows=rows, layer_ids=TAPS, capacity=40)
    read = [[] for _ in range(rows)]
    for _ in range(9):
        for row in range(rows):
            if not read[row] and dice.random() < 0.6:
                read[row] = dice.choices(IDS, k=dice.randint(1, 11))
                scores = batch.prefill(row, read[row])
                logits, states = whole(kind, read[row])
                assert_near(room, scores.logits[0], logits[-1:])
                assert_near(room, scores.features[0], side_by_side(states))
        count, first = dice.randint(1, 5), dice.randrange(rows)
        blocks = [dice.choices(IDS, k=count) for _ in range(dice.randint(1, rows - first))]
        drafts = np.array([block[1:] for block in blocks], dtype=np.int32).reshape(len(blocks), -1)
        scores = batch.score([block[0] for block in blocks], room.array(drafts), first=first)
        for i, block in enumerate(blocks):
            row = first + i
            if read[row]:
                logits, states = whole(kind, read[row] + block)
                assert_near(room, scores.logits[i], logits[len(read[row]) :])
                assert_near(room, scores.features[i], side_by_side(states)[len(read[row]) :])
                keep = dice.randint(max(0, len(read[row]) - 3), min(len(read[row]) + count, 30))
                read[row] = [] if dice.random() < 0.2 else (read[row] + block)[:keep]
        batch.rewind([len(one) for one in read])
        assert batch.lengths == [len(one) for one in read]


@pytest.mark.clause("DL-12", "DL-7", "RS-9")
@pytest.mark.parametrize("kind", ["qwen3", "qwen2_sliding", "qwen3_moe"])
def test_a_batch_decodes_what_its_requests_do_alone(room, kind):
    """Greedy and sampled, float32: no near tie among these seeds falls the other way."""
    engine, prompts = engine_of(room, kind), prompts_of(10)
    settings = [{**one, "max_new_tokens": 6 + 3 * i % 11} for i, one in enumerate(mixed(10))]
    assert together(engine, prompts, settings, 4) == alone(engine, prompts, settings)


@pytest.mark.clause("DL-12", "DL-3")
def test_many_ragged_requests_lose_and_mix_nothing(room):
    engine, dice = engine_of(room), random.Random(5)
    prompts = prompts_of(40, seed=2)
    settings = [
        {**dice.choice(SETTINGS), "max_new_tokens": dice.randint(1, 14), "seed": dice.randrange(3)}
        for _ in prompts
    ]
    object.__setattr__(engine.target, "eos_ids", frozenset(range(3, 9)))  # ends come up
    found = together(engine, prompts, settings, 5)
    assert found == alone(engine, prompts, settings)
    ends = [chunks[-1].finish for chunks in found]
    assert min(ends.count("eos"), ends.count("length")) > 4


@pytest.mark.clause("DL-12", "RS-9", "RS-10")
def test_tables_on_the_rooms_arrays_decode_as_they_do_alone(room):
    engine, prompts, settings = on_backend(tables(), room.operations), ragged(14), mixed(14)
    assert engine.target.batch(rows=2) is not None
    assert together(engine, prompts, settings, 5) == alone(engine, prompts, settings)


class Watched:
    """Array operations that count what is brought to the host."""

    def __init__(self, inner):
        self.inner, self.reads = inner, 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def to_host(self, array):
        self.reads += 1
        return self.inner.to_host(array)


def unread(patch, kind, name):
    """A method inside of which nothing may be read back."""
    inner = getattr(kind, name)

    def call(self, *args, **rows):
        with NoWaiting():
            return inner(self, *args, **rows)

    patch.setattr(kind, name, call)


@pytest.mark.clause("DL-6", "DL-12")
@pytest.mark.parametrize(
    "settings",
    [SETTINGS[:1], SETTINGS[2:3], SETTINGS, LENGTHS],
    ids=["greedy", "one", "mixed", "own lengths"],
)
def test_a_pass_waits_once_for_all_rows(room, monkeypatch, settings):
    """Drafting and scoring read nothing back; the verdicts of all rows are one transfer."""
    engine, passes = engine_of(room), []
    ops, plain = Watched(engine.ops), loop._pass

    def counted(table, judge):
        before = ops.reads
        found = plain(table, judge)
        passes.append(ops.reads - before)
        return found

    monkeypatch.setattr(loop, "_pass", counted)
    if room.name == "torch":  # MLX begins drafts early, which its scene would take for a read
        unread(monkeypatch, room.target_batch.TargetBatch, "score")
        unread(monkeypatch, room.drafter_batch.DrafterBatch, "propose")
    watched = Engine(engine.target, engine.drafter, ops)
    own = [{**settings[i % len(settings)], "max_new_tokens": 9, "ignore_eos": True} for i in range(6)]
    list(watched.stream_many(prompts_of(6), settings=own, batch_size=3))
    assert set(passes) == {1} and len(passes) > 3


@pytest.mark.clause("DL-12", "DL-6")
def test_buffers_are_allocated_once():
    """Neither passes, nor rows taken and left, nor a growing length make another buffer."""
    room = ROOMS["torch"]
    engine = engine_of(room)
    jobs = engine._jobs(prompts_of(8), [loop_request()] * 8)
    target, drafter = open_batch(engine.target, engine.ops, jobs, 3)
    seen = set()
    entries = [loop.Entry(job.ids, job.limits, FixedLength(job.ahead)) for job in jobs]
    judge = BatchJudge(engine.ops, [job.judge for job in jobs])
    for _ in loop.decode_batch(target, drafter, judge, entries, rows=3):
        stores = [layer.store for layer in target._cache.layers] + drafter._stores
        seen.add(tuple(buffer.data_ptr() for store in stores for buffer in (store.keys, store.values)))
        assert {store.keys.shape[2] for store in stores} == {max(job.capacity for job in jobs)}
    assert len(seen) == 1


def loop_request():
    return parse_request({"max_new_tokens": 12, "ignore_eos": True})


def poisoned(room):
    """An engine that breaks on the token 58: its embedding is NaN."""
    model = tiny_models.make("qwen3")
    with torch.no_grad():
        model.get_input_embeddings().weight[58] = torch.nan
    target = Target(model)
    return Engine(target, fresh(room, config_for(target)), room.operations)


@pytest.mark.clause("DL-12", "RS-16", "DL-8")
def test_a_request_of_nan_leaves_nothing_in_its_row(monkeypatch):
    room = ROOMS["torch"]
    engine = poisoned(room)
    prompts = [one[:6] for one in prompts_of(8)]
    prompts[1], prompts[4] = [5, 58, 7, 9, 11, 13, 15, 17], [6, 58]
    settings = mixed(8, ignore_eos=True)
    own = alone(engine, prompts, settings)
    assert [chunks[-1].finish for chunks in own].count("error") >= 2 and own[5][-1].finish == "length"

    def same():
        found = together(engine, prompts, settings, 2)
        return [[c.tokens for c in chunks] for chunks in found] == [
            [c.tokens for c in chunks] for chunks in own
        ]

    assert same()
    with pytest.raises(NumericsError, match="request 1"):
        engine.generate(prompts, max_new_tokens=8, batch_size=2)
    for part in open_batch(engine.target, engine.ops, engine._jobs(prompts, [loop_request()] * 8), 2):
        monkeypatch.setattr(type(part), "clear", lambda self, row: self.lengths.__setitem__(row, 0))
    assert not same(), "NaN behind a mask reaches a sum"


@pytest.mark.clause("DL-12", "DL-4")
@pytest.mark.parametrize(("module", "kind", "name"), MIXED)
def test_rows_that_swap_their_lengths_in_a_pass_are_seen(room, module, kind, name, monkeypatch):
    engine, prompts, settings = engine_of(room), prompts_of(6), mixed(6, ignore_eos=True)
    own = alone(engine, prompts, settings)
    kind = getattr(getattr(room, module), kind)
    plain = getattr(kind, name)

    def wrong(self, *args, **rows):
        with monkeypatch.context() as patch:
            patch.setattr(room.row_cache, "Places", lambda *a, **k: rolled(room, places(*a, **k)))
            patch.setattr(getattr(room, module), "Places", room.row_cache.Places)
            return plain(self, *args, **rows)

    places = room.row_cache.Places
    monkeypatch.setattr(kind, name, wrong)
    assert together(engine, prompts, settings, 3) != own


def rolled(room, places):
    """The places of each row's neighbour."""
    if places.positions is None:
        return places
    return replace(places, positions=room.xp.roll(places.positions, 1, axis=0))


@pytest.mark.clause("DL-12")
@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}},
        {"_attn_implementation": "flash_attention_2"},
        {"_attn_implementation": "flex_attention"},
        {"use_bidirectional_attention": True},
    ],
    ids=str,
)
def test_a_model_whose_rows_cannot_share_a_pass_decodes_one_after_another(changes):
    model = tiny_models.make("llama")
    target = Target(model)
    for name, value in changes.items():
        setattr(model.get_decoder().config, name, value)
    assert target.batch(rows=2, capacity=9) is None


def test_eager_attention_shares_passes_too():
    model = tiny_models.make("qwen2_sliding")
    model.set_attn_implementation("eager")
    engine = Engine(Target(model), None, ROOMS["torch"].operations)
    prompts, settings = prompts_of(5), [{"max_new_tokens": 8, "ignore_eos": True}] * 5
    assert engine.target.batch(rows=2, capacity=9) is not None
    assert together(engine, prompts, settings, 3) == alone(engine, prompts, settings)


@pytest.mark.mlx
@pytest.mark.clause("DL-12")
@pytest.mark.parametrize("kind", ["gemma2", "qwen3_5"])
def test_kinds_without_rows_on_mlx_decode_one_after_another(kind):
    target = tiny_models.opened(kind, ROOMS["mlx"])
    assert target.batch(rows=2, capacity=9) is None
    engine = Engine(target, None, ROOMS["mlx"].operations)
    outs = engine.generate(prompts_of(2, longest=4), max_new_tokens=3, ignore_eos=True)
    assert [len(out.tokens) for out in outs] == [3, 3]


@pytest.mark.mlx
@pytest.mark.clause("BD-6", "DL-12")
@pytest.mark.parametrize("scaling", ["llama3", "yarn"])
def test_scaled_positions_of_rows_on_mlx(scaling, tmp_path):
    rope = {"rope_theta": 5000.0, **tiny_models.SCALED[scaling]}
    folder = tiny_models.changed("llama", tmp_path / "scaled", rope_parameters=rope)
    room, dice = ROOMS["mlx"], random.Random(1)
    batch = room.target.Target.load(folder, device=room.device).batch(rows=2, capacity=40)
    model = tf.AutoModelForCausalLM.from_pretrained(folder).eval()
    read = [dice.choices(IDS, k=n) for n in (21, 6)]
    for row, tokens in enumerate(read):
        batch.prefill(row, tokens)
    blocks = [dice.choices(IDS, k=4) for _ in read]
    scores = batch.score([b[0] for b in blocks], room.array([b[1:] for b in blocks], "int32"))
    for row, (tokens, block) in enumerate(zip(read, blocks, strict=True)):
        with torch.no_grad():
            own = model(input_ids=torch.tensor([tokens + block]), use_cache=False).logits[0].numpy()
        assert_near(room, scores.logits[row], own[len(tokens) :])

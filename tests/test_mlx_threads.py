"""MLX ties what is lazy to the thread that laid it out: what dspec keeps between two calls is not lazy.

A web server reads a generator in one thread after another, and loads in a third.
"""

import threading
from dataclasses import replace

import numpy as np
import pytest

import dspec
from dspec.backends.examples import init_generator
from dspec.config import TrainConfig
from dspec.core.layouts import causal
from dspec.core.tree import Tree
from dspec.decoders import Costs, Speculative
from dspec.demo.settings import shipped_target
from tests import tiny_models
from tests.block_models import every, model
from tests.reference_model import TAPS
from tests.rooms import ROOMS
from tests.test_mlx_hybrid import score
from tests.tiny_training import make_drafter, make_target
from tests.tolerances import FORWARD_F32

mx = pytest.importorskip("mlx.core")
pytestmark = pytest.mark.mlx
MLX = ROOMS["mlx"]


def elsewhere(call, *words, **settings):
    """What a call returns, or raises, in a thread of its own."""
    found = {}

    def run():
        try:
            found["value"] = call(*words, **settings)
        except BaseException as error:
            found["error"] = error

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if "error" in found:
        raise found["error"]
    return found["value"]


def test_what_is_lazy_belongs_to_its_thread():
    """Why this file is there; a version of MLX that lifts it makes the care needless."""
    lazy = mx.ones(3) + 1
    with pytest.raises(RuntimeError, match="no Stream"):
        elsewhere(lazy.tolist)


def read(kind, call):
    """Features of four passes, each with its verdict and rewind in one call, as in a generator."""
    session, states = tiny_models.opened(kind, MLX).session(layer_ids=TAPS, capacity=24), []

    def one_pass(block):
        length = session.length
        scores = score(session, block) if length else session.prefill(block)
        mx.eval(scores.logits)
        if length:
            session.rewind(length + len(block) - 1)
        return scores.features

    for block in ([4, 5, 6], [7, 8, 9, 10], [11, 12], [13, 14, 15]):
        states.append(MLX.numpy(call(one_pass, block)))
    return states


@pytest.mark.clause("DL-4")
@pytest.mark.parametrize("kind", ["qwen3", *tiny_models.HYBRID])
def test_a_session_goes_on_in_any_thread(kind):
    here = read(kind, lambda one_pass, block: one_pass(block))
    for found, expected in zip(read(kind, elsewhere), here, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.clause("DL-4", "DL-11")
def test_a_tree_is_kept_in_one_thread_and_read_on_in_another():
    """What a path moves is under way when its call ends, or not laid out."""
    found = []
    for call in (lambda one_pass: one_pass(), elsewhere):
        session = tiny_models.opened("qwen3", MLX).session(layer_ids=TAPS, capacity=24)

        def one_pass(path, session=session):
            mx.eval(session.score_tree(4, Tree((8, 9, 10, 11), (0, 0, 2, 3))).logits)
            return session.keep(path)

        call(lambda session=session: mx.eval(session.prefill([5, 6, 7]).logits))
        kept = [
            MLX.numpy(call(lambda path=path, run=one_pass: run(path))) for path in ((2, 3), (1,), (2,), ())
        ]
        found.append(np.concatenate(kept, axis=1))
    np.testing.assert_array_equal(*found)


def test_fresh_weights_are_used_in_any_thread():
    drafter = make_drafter(MLX, make_target(MLX))
    elsewhere(drafter.initialise, init_generator(0))
    assert all(np.isfinite(MLX.numpy(weight)).all() for weight in drafter.weights().values())


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 1.0, "policy": "rejection"}, {"decoder": dspec.decoders.Tree(budget=8)}],
    ids=str,
)
def test_a_stream_is_read_by_one_thread_after_another(settings):
    engine = dspec.load(shipped_target(), backend="mlx")
    config = TrainConfig(block_size=4, layers=1, seq_len=64)
    fresh = MLX.front.new_learner(engine.target, config).drafter.eval()
    engine = replace(engine, drafter=fresh)
    settings = {"max_new_tokens": 8, "ignore_eos": True, **settings}
    stream, tokens = engine.stream([11, 24, 7, 300], **settings), []
    while chunk := elsewhere(next, stream, None):
        tokens += chunk.tokens
    assert tuple(tokens) == engine.generate([11, 24, 7, 300], **settings).tokens and len(tokens) == 8


@pytest.mark.clause("DL-12")
@pytest.mark.parametrize("block", [None, "auto"])
def test_a_batch_is_read_by_one_thread_after_another(block):
    """Its rows are taken, left and judged in groups, each chunk in a thread of its own."""
    engine = dspec.load(shipped_target(), backend="mlx")
    config = TrainConfig(block_size=4, layers=1, seq_len=64)
    engine = replace(engine, drafter=MLX.front.new_learner(engine.target, config).drafter.eval())
    # Mostly no drafts pay at such costs: features are taken in by themselves.
    costs = None if block is None else Costs(verify=(1, 2, 3, 4), draft=2)
    drafting = {"block": block, "costs": costs, "draft_window": block and 2}
    settings = [{"max_new_tokens": n, "decoder": Speculative(**drafting)} for n in (3, 9, 6)]
    settings[1] |= {"temperature": 1.0, "decoder": Speculative(policy="rejection", **drafting)}
    asked = {"settings": settings, "batch_size": 2, "ignore_eos": True}
    prompts = [[11, 24, 7], [300], [5, 6]]
    stream, found = engine.stream_many(prompts, **asked), []
    while event := elsewhere(next, stream, None):
        found.append(event)
    assert found == list(engine.stream_many(prompts, **asked))
    assert sum(len(chunk.tokens) for _, chunk in found) == 18


def test_a_block_session_goes_from_thread_to_thread():
    layouts = [causal((1, 2, 3), start=0), causal((4,), start=0)]
    later = [causal((5,), start=3), causal((6, 7), start=1)]
    session = elsewhere(model(MLX, "llada2").session, rows=2, capacity=16)
    elsewhere(session.read, layouts)
    elsewhere(session.commit, [3, 1])
    hidden = elsewhere(session.read, later)
    found = elsewhere(lambda: session.logits(hidden, [[0], [0]]).tolist())
    session.rewind([0, 0])
    session.read(layouts)
    session.commit([3, 1])
    np.testing.assert_allclose(found, every(session, later)[:, :1], atol=FORWARD_F32)

"""The target's calls: what cannot be driven is refused, bad calls change nothing, nothing waits."""

import dataclasses
import threading

import numpy as np
import pytest
import torch

from dspec.backends.torch.ops import exact_inference
from dspec.backends.torch.target import Target
from dspec.errors import BackendUnavailable, ConfigError, ShapeError
from tests import tiny_models
from tests.no_waiting import lazy, no_waiting
from tests.reference_model import TAPS, TOKENS, assert_near, ids_of, side_by_side, whole
from tests.rooms import ROOMS
from tests.tolerances import FORWARD_F32, TWO_FRAMEWORKS

MLX = ROOMS["mlx"]


@pytest.fixture(scope="module")
def qwen(room):
    return tiny_models.opened("qwen3", room)


@pytest.mark.parametrize("kind", tiny_models.REFUSED)
def test_models_that_would_be_driven_wrongly_are_refused(kind):
    with pytest.raises(BackendUnavailable, match=tiny_models.REFUSED[kind][1]):
        Target(tiny_models.make(kind))


@pytest.mark.mlx
@pytest.mark.clause("DL-8")
@pytest.mark.parametrize("kind", [kind for kind in tiny_models.REFUSED if kind != "t5"])
def test_kinds_that_were_not_compared_are_refused_on_mlx(kind):
    with pytest.raises(BackendUnavailable, match=r"target: got model_type '.*'; needs one of llama"):
        tiny_models.opened(kind, MLX)


class Elsewhere:
    """Attention that keeps its keys and values nowhere."""

    def __init__(self, attention):
        self.attention = attention

    def __call__(self, x, mask=None, cache=None):
        return self.attention(x, mask, None)


def spoiled(room, layer_id):
    """A model of the room, one of whose layers does not write the cache it is given."""
    if room.name == "mlx":
        model = tiny_models.opened("qwen3", room).model
        model.layers[layer_id].self_attn = Elsewhere(model.layers[layer_id].self_attn)
        return model
    model = tiny_models.make("qwen3")
    attention = model.get_decoder().layers[layer_id].self_attn
    own = attention.forward
    attention.forward = lambda *args, **kwargs: own(*args, **{**kwargs, "past_key_values": None})
    return model


@pytest.mark.clause("DL-8")
def test_a_layer_that_keeps_its_state_elsewhere_is_refused(room):
    with pytest.raises(BackendUnavailable, match=r"layers \[2\] that keep no keys and values"):
        room.target.Target(spoiled(room, 2))


def watched(room, target, seen):
    """The target, with `seen(i)` called after every layer i."""
    if room.name == "torch":
        layers = target.model.get_decoder().layers
        for i, layer in enumerate(layers):
            layer.register_forward_hook(lambda *a, i=i: seen(i))
        return target

    def after(i, layer):
        def call(*args):
            out = layer(*args)
            seen(i)
            return out

        return call

    layers = tuple(after(i, layer) for i, layer in enumerate(target.body.layers))
    target.body = dataclasses.replace(target.body, layers=layers)
    return target


def hooks_of(target):
    names = ("_forward_hooks", "_forward_pre_hooks")
    return [len(getattr(module, name, ())) for module in target.model.modules() for name in names]


@pytest.mark.clause("DL-8")
def test_a_failing_pass_leaves_neither_hooks_nor_half_a_prompt(room):
    calls = []

    def fail_in_the_second_chunk(layer_id):
        calls.append(layer_id)
        if calls.count(1) == 3 and layer_id == 1:
            raise RuntimeError("out of memory")

    target = watched(room, tiny_models.opened("qwen3", room), fail_in_the_second_chunk)
    session = room.target_session.TargetSession(target, layer_ids=TAPS, capacity=24, chunk=4)
    before = hooks_of(target)
    session.prefill([5, 6])
    with pytest.raises(RuntimeError, match="out of memory"):
        session.prefill(list(range(3, 14)))
    assert hooks_of(target) == before
    assert session.length == 2
    assert_near(room, session.prefill([7]).logits[0], whole("qwen3", [5, 6, 7])[0][-1:])


def test_a_tap_runs_no_layer_after_the_deepest(room):
    ran = []
    target = watched(room, tiny_models.opened("qwen3", room), ran.append)
    before = hooks_of(target)
    target.tap(ids_of(room, TOKENS), [1, 0])
    assert hooks_of(target) == before
    assert ran == [0, 1]


def test_taps_can_take_part_in_training(room, qwen):
    weight = room.array(np.ones(2 * tiny_models.WIDTH, dtype=np.float32))
    features = qwen.tap(ids_of(room, TOKENS), TAPS)
    found = room.gradient(lambda w: (features @ w).sum(), weight)
    assert np.allclose(found, room.numpy(features).sum(axis=(0, 1)), rtol=FORWARD_F32)
    hidden = room.array(np.ones((1, tiny_models.WIDTH), dtype=np.float32))
    assert np.abs(room.gradient(lambda h: (qwen.logits(h) ** 2).sum(), hidden)).sum() > 0
    if room.name == "torch":
        assert qwen.head_weight.grad is None


@pytest.mark.mlx
def test_taps_and_embeddings_are_constants_to_a_gradient():
    """MLX has no leaf that needs no gradient: one that reached the target's weights would be computed."""
    target = tiny_models.opened("qwen3", MLX)
    table = target.model.model.embed_tokens

    def total(weight):
        table.weight = weight
        ids = ids_of(MLX, TOKENS)
        return target.tap(ids, TAPS).sum() + target.embed(ids).sum()

    assert not MLX.gradient(total, table.weight).any()
    assert target.model.trainable_parameters()["model"]["norm"] == {}, "frozen"


def assert_scored_without_waiting(room, kind):
    session = tiny_models.opened(kind, room).session(layer_ids=TAPS, capacity=24)
    room.numpy(session.prefill([4, 5, 6]).logits)
    drafts = lazy(room, [[8, 9]])
    with no_waiting(room):
        scores = session.score(7, drafts)
    assert_near(room, scores.logits[0], whole(kind, [4, 5, 6, 7, 8, 9])[0][3:])


# transformers dispatches experts by their counts, which it reads: its mixtures wait.
@pytest.mark.clause("DL-6")
@pytest.mark.parametrize("dense", [kind for kind in tiny_models.DRIVEN if "moe" not in kind])
def test_scoring_reads_nothing_back(room, dense):
    assert_scored_without_waiting(room, dense)


@pytest.mark.mlx
@pytest.mark.clause("DL-6")
def test_a_mixture_of_experts_reads_nothing_back_on_mlx():
    assert_scored_without_waiting(MLX, "qwen3_moe")


@pytest.mark.mlx
@pytest.mark.clause("DL-6")
def test_the_scene_sees_a_value_that_is_read():
    with pytest.raises(AssertionError, match="it was evaluated"), no_waiting(MLX):
        lazy(MLX, [[8, 9]]).tolist()


@pytest.mark.mlx
@pytest.mark.clause("DL-8")
def test_sessions_of_two_threads_do_not_see_each_others_taps():
    """Both run layer by layer in turn: what one catches must not land with the other."""
    turn, out = threading.Barrier(2, timeout=20), {}
    target = watched(MLX, tiny_models.opened("qwen3", MLX), lambda layer_id: turn.wait())
    prompts = {"a": [4, 5, 6, 7], "b": [8, 9, 10, 11]}

    def read(name):
        scores = target.session(layer_ids=TAPS, capacity=8).prefill(prompts[name])
        out[name] = (MLX.numpy(scores.features), MLX.numpy(scores.logits))

    threads = [threading.Thread(target=read, args=(name,)) for name in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, tokens in prompts.items():
        logits, states = whole("qwen3", tokens)
        assert np.abs(out[name][0][0] - side_by_side(states)).max() <= TWO_FRAMEWORKS * 100
        assert np.abs(out[name][1][0] - logits[-1:]).max() <= TWO_FRAMEWORKS * 100


@pytest.mark.mlx
@pytest.mark.parametrize(("chunk", "evaluated"), [(2, True), (8, False)])
def test_a_long_prompt_is_evaluated_chunk_by_chunk(chunk, evaluated):
    """Else the passes of all chunks would be in memory together; the last is left to who reads it."""
    import mlx.core as mx

    target = tiny_models.opened("qwen3", MLX)
    # No taps: features are begun, up to the deepest, whatever the chunk.
    session = MLX.target_session.TargetSession(target, layer_ids=(), capacity=20_000, chunk=chunk)
    buffers = 2 * 4 * 2 * 20_000 * 16 * 4  # keys and values, layers, heads, positions, width, bytes
    mx.synchronize()
    before = mx.get_active_memory()
    session.prefill([4, 5, 6])
    assert (mx.get_active_memory() - before > buffers / 2) is evaluated


def test_no_taps_give_no_features(room, qwen):
    session = qwen.session(capacity=4)
    assert session.prefill([4, 5]).features is None
    scores = session.score(6, room.array(np.zeros((1, 0), dtype=np.int32)))
    assert scores.features is None and tuple(scores.logits.shape) == (1, 1, tiny_models.VOCABULARY)


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (ShapeError, "at least one token", lambda s, array: s.prefill([])),
        (ShapeError, r"tokens\[1\]: got 60", lambda s, array: s.prefill([3, 60])),
        (ShapeError, r"tokens\[0\]: got -1", lambda s, array: s.prefill([-1])),
        (ShapeError, r"anchor\[0\]: got 60", lambda s, array: s.score(60, array([[4, 5]]))),
        (ShapeError, r"draft_tokens: got \(2,\)", lambda s, array: s.score(3, array([4, 5]))),
        (ConfigError, "capacity: got 6; needs at most 4", lambda s, array: s.prefill([3, 4, 5, 6])),
        (ConfigError, "capacity: got 5; needs at most 4", lambda s, array: s.score(3, array([[4, 5]]))),
    ],
)
@pytest.mark.clause("DL-8", "NT-3", "NT-4")
def test_bad_calls_are_named_and_change_nothing(room, qwen, error, words, call):
    session = qwen.session(layer_ids=TAPS, capacity=4)
    session.prefill([7, 8])
    with pytest.raises(error, match=words):
        call(session, lambda ids: room.array(ids, "int32"))
    assert session.length == 2
    assert_near(room, session.prefill([9]).logits[0], whole("qwen3", [7, 8, 9])[0][-1:])


@pytest.mark.parametrize("layer_ids", [(4,), (-1,)])
def test_layer_ids_outside_the_model_are_refused(room, qwen, layer_ids):
    with pytest.raises(ConfigError, match=rf"layer_ids: got {layer_ids[0]}; needs ids in \[0, 4\)"):
        qwen.session(layer_ids=layer_ids, capacity=4)
    with pytest.raises(ConfigError, match=r"layer_ids"):
        qwen.tap(ids_of(room, TOKENS), layer_ids)
    with pytest.raises(ConfigError, match="layer_ids: got none"):
        qwen.tap(ids_of(room, TOKENS), ())


# What only torch has: settings of float32 products that a caller may have changed.
PRODUCTS = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)


@pytest.fixture
def precision():
    """Puts every setting of float32 products back."""
    yield
    for setting in (torch.backends, torch.backends.mkldnn, *PRODUCTS):
        setting.fp32_precision = "none"


@pytest.mark.clause("NU-6")
@pytest.mark.parametrize("setting", [*PRODUCTS, torch.backends])
def test_tf32_is_off_in_exact_paths_and_back_afterwards(setting, precision):
    setting.fp32_precision = "tf32"
    before = [products.fp32_precision for products in PRODUCTS]
    with exact_inference():
        assert {products.fp32_precision for products in PRODUCTS} <= {"none", "ieee"}
        assert torch.is_inference_mode_enabled()
    assert [products.fp32_precision for products in PRODUCTS] == before
    setting.fp32_precision = "none"
    assert [products.fp32_precision for products in PRODUCTS] == ["none", "none"], "nothing was left behind"


@pytest.mark.clause("NU-6")
def test_the_older_setting_of_tf32_is_off_in_exact_paths_and_back_afterwards(precision):
    torch.set_float32_matmul_precision("high")
    with exact_inference():
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert torch.get_float32_matmul_precision() == "high"
    torch.set_float32_matmul_precision("highest")

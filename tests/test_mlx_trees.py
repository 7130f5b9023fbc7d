"""What only MLX's trees do: layers that turn by node beside the model's own, rows moved a pass later."""

import mlx.core as mx
import mlx.nn as nn
import mlx_lm.utils
import numpy as np
import pytest
from mlx_lm.models.rope_utils import DynamicNTKScalingRoPE

from dspec.backends.mlx.cache import KeyValueCache
from dspec.backends.mlx.target import Target
from dspec.backends.mlx.trees import tree_body
from dspec.core.tree import Tree
from dspec.errors import BackendUnavailable
from tests import tiny_models
from tests.reference_model import TAPS, assert_near, ids_of
from tests.rooms import ROOMS
from tests.tolerances import FORWARD_F32

pytestmark = [pytest.mark.mlx, pytest.mark.clause("DL-11")]
MLX = ROOMS["mlx"]
TREE, WAYS = Tree((8, 9, 10, 11, 12), (0, 0, 2, 2, 4)), [(), (1,), (2,), (2, 3), (2, 4), (2, 4, 5)]
PROMPT = [5, 6, 7, 30, 31, 32, 40, 41, 42]


def assert_paths(target):
    """Every node's scores are those of its path alone, on the target itself; and so is what follows."""
    target.check_trees()
    session = target.session(layer_ids=TAPS, capacity=32)
    session.prefill(PROMPT)
    scores = session.score_tree(4, TREE)
    for node, way in enumerate(WAYS):
        alone = target.session(layer_ids=TAPS, capacity=32)
        alone.prefill(PROMPT)
        block = [TREE.tokens[other - 1] for other in way]
        read = alone.score(4, MLX.array(np.array(block, dtype=np.int64)[None]))
        assert_near(MLX, scores.logits[0, node], MLX.numpy(read.logits[0, -1]))
        assert_near(MLX, scores.features[0, node], MLX.numpy(read.features[0, -1]))
    session.keep((2, 4, 5))
    after = ids_of(MLX, [13, 14])
    assert_near(MLX, session.score(3, after).logits, MLX.numpy(alone.score(3, after).logits))


@pytest.mark.parametrize("scaling", tiny_models.SCALED)
def test_scaled_rotary_positions(scaling, tmp_path):
    rope = {"rope_theta": 5000.0, **tiny_models.SCALED[scaling]}
    assert_paths(Target.load(tiny_models.changed("llama", tmp_path / "new", rope_parameters=rope)))


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_models(bits, tmp_path):
    model, config = mlx_lm.utils.load_model(tiny_models.folder("qwen3"))
    model, config = mlx_lm.utils.quantize_model(model, config, group_size=32, bits=bits)
    mlx_lm.utils.save_model(tmp_path, model)
    mlx_lm.utils.save_config(config, tmp_path / "config.json")
    target = Target.load(tmp_path)
    assert target.head.quantised
    assert_paths(target)


def test_models_in_bfloat16():
    """Seen by the probe, whose bound stands between rounding and a fault."""
    Target.load(tiny_models.folder("qwen3"), dtype="bfloat16").check_trees()


@pytest.mark.clause("DL-8")
def test_recurrent_states_are_refused_wherever_they_are_met():
    target = tiny_models.opened("qwen3_5", MLX)
    words = r"target: got layers with a recurrent state.*Speculative.*DL-11"
    with pytest.raises(BackendUnavailable, match=words):
        target.check_trees()
    session = target.session(capacity=16)
    session.prefill(PROMPT)
    with pytest.raises(BackendUnavailable, match=words):
        session.score_tree(4, TREE)
    assert session.length == len(PROMPT)


def test_a_rotary_embedding_that_takes_one_offset_is_refused_by_name():
    model = mlx_lm.utils.load_model(tiny_models.folder("qwen3"))[0]
    rope = DynamicNTKScalingRoPE(16, 256, False, 1e4, 2.0)
    model.layers[2].self_attn.rope = rope
    with pytest.raises(BackendUnavailable, match=r"rotary embedding DynamicNTKScalingRoPE.*RoPE, Llama3RoPE"):
        Target(model).check_trees()


def test_the_model_is_not_changed_and_its_weights_are_shared():
    """A tree pass that is half way, here its layout, leaves every other pass as it is."""
    target = tiny_models.opened("qwen3", MLX)
    before = [dict(layer.self_attn) for layer in target.body.layers]
    turned = tree_body(target.body)
    for layer, other, parts in zip(target.body.layers, turned.layers, before, strict=True):
        assert dict(layer.self_attn) == parts and isinstance(layer.self_attn.rope, nn.RoPE)
        assert other.mlp is layer.mlp and other.self_attn.q_proj is layer.self_attn.q_proj
        assert other.self_attn.rope is not layer.self_attn.rope
    target.check_trees()
    assert target.tree_body is target.tree_body, "made once"


def buffers(session):
    """The addresses of a session's keys and values, once they are there."""
    mx.eval(session._cache.arrays)
    return [np.array(array, copy=False).ctypes.data for array in session._cache.arrays]


@pytest.mark.clause("DL-4")
def test_what_is_kept_is_moved_in_place():
    """As in a decode: the verdict is read, the path kept, and something waited for before the next pass."""
    target = tiny_models.opened("qwen3", MLX)
    session = target.session(layer_ids=TAPS, capacity=4096)
    session.prefill(PROMPT)
    places = buffers(session)
    mx.reset_peak_memory()
    base = mx.get_active_memory()
    for path in ((2, 4, 5), (), (1,), (2, 3)) * 3:
        mx.eval(session.score_tree(4, TREE).logits)
        mx.eval(session.keep(path))
    assert mx.get_peak_memory() - base < 4096 * 2 * 16 * 4, "no buffer of keys stood beside the others"
    assert buffers(session) == places


def test_at_most_the_path_is_moved():
    cache = KeyValueCache(1, capacity=8)
    rows = mx.arange(6.0)[None, None, :, None]
    cache.layers[0].update_and_fetch(rows, -rows)
    for path, moved in (((), 0), ((1, 2), 0), ((1, 3, 5), 2), ((4,), 1)):
        cache.layers[0]._moved = None
        cache.gather(path)
        taken = cache.layers[0]._moved
        assert sum(array.shape[2] for array in taken[1]) == 2 * moved if moved else taken is None


def test_what_was_moved_stands_under_what_is_read_after_a_rewind():
    """The rows wait for the next pass; one that begins before their place goes over them."""
    target = tiny_models.opened("qwen3", MLX)
    for length in range(len(PROMPT), len(PROMPT) + 4):
        one, other = (target.session(capacity=32) for _ in range(2))
        one.prefill(PROMPT)
        one.score_tree(4, TREE)
        one.keep((2, 4, 5))
        one.rewind(length)
        other.prefill([*PROMPT, 4, 9, 11][:length])
        block = ids_of(MLX, [20, 21])
        for _ in range(2):  # the second time over what the first pass wrote
            ours, theirs = (MLX.numpy(session.score(19, block).logits) for session in (one, other))
            np.testing.assert_allclose(ours, theirs, atol=FORWARD_F32, rtol=0)
            one.rewind(length + 1)
            other.rewind(length + 1)


def test_a_request_by_trees_has_memory_that_does_not_grow():
    """Freed buffers are given back every so many positions, as in a request by blocks."""
    target = tiny_models.opened("qwen3", MLX)
    cleared = []
    session = target.session(capacity=300)
    session.prefill(PROMPT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dspec.backends.mlx.target_session.TIDY", 16)
        patch.setattr(mx, "clear_cache", lambda: cleared.append(session.length))
        for _ in range(12):
            session.score_tree(4, TREE)
            session.keep((2, 4))
    assert cleared == [18, 36], cleared

"""The chunked gold operation on MLX only: the most memory held at once, and heads that are not arrays."""

import numpy as np
import pytest

from dspec.core.gold import gold_log_probs as core_gold_log_probs
from dspec.errors import ShapeError
from tests.rooms import ROOMS
from tests.test_gold import assert_close, gradient, problem
from tests.tolerances import FLOAT32_LOG_PROB, MLX_GOLD_GRADIENT

MLX = ROOMS["mlx"]
pytestmark = [
    pytest.mark.mlx,
    pytest.mark.skipif(not MLX.installed, reason="mlx is not installed"),
]

CHUNK_BYTES = 4 * 64 * 4096


def peak(function, *arrays, softcap=None, gradient=True, in_stages=True):
    """Most bytes above those held before, over those of one chunk of 64 rows by 4,096 logits."""
    import mlx.core as mx

    hidden, head, labels, weights = arrays
    mx.eval(*arrays)
    stages, options = [], {"softcap": softcap, "xp": MLX.xp}
    if function is not core_gold_log_probs:
        options |= {"chunk": 64, "gradient": gradient, "stages": stages}
    mx.clear_cache()
    mx.reset_peak_memory()
    held = mx.get_active_memory()

    def value(hidden):
        return (weights * function(hidden, head, labels, **options)[0]).sum()

    results = mx.value_and_grad(value)(hidden) if gradient else (value(hidden),)
    if in_stages:
        MLX.gold.run_stages(stages)
    mx.eval(*results)
    return (mx.get_peak_memory() - held) / CHUNK_BYTES


@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize(("dtype", "softcap", "chunks"), [("float32", None, 1), ("bfloat16", 3.0, 2.5)])
def test_memory_is_one_chunk_whatever_the_number_of_rows(dtype, softcap, chunks, gradient):
    for rows in (128, 1024):
        sizes = {"rows": rows, "width": 8, "vocab": 4096}
        arrays = problem(MLX, dtype, **sizes)
        ours = peak(MLX.gold.gold_log_probs, *arrays, softcap=softcap, gradient=gradient)
        # Besides: hidden states, unit gradients and their like, R x D, a twentieth of a chunk a copy.
        assert ours < chunks + 0.05 + 5 * rows * 8 * 4 / CHUNK_BYTES
    assert peak(core_gold_log_probs, *arrays, softcap=softcap) > 40  # the instrument sees what core keeps


def test_memory_is_bounded_without_stages_too():
    arrays = problem(MLX, rows=2048, width=8, vocab=4096)
    assert peak(MLX.gold.gold_log_probs, *arrays, in_stages=False) < 16  # of 32 chunks


@pytest.mark.parametrize("gradient", [True, False])
def test_stages_change_no_number(gradient):
    hidden, head, labels, _ = problem(MLX)
    stages = []
    ours = MLX.gold.gold_log_probs(hidden, head, labels, chunk=8, stages=stages, gradient=gradient)
    assert len(stages) >= 2 * 5
    MLX.gold.run_stages(stages)
    assert not stages
    plain = MLX.gold.gold_log_probs(hidden, head, labels, chunk=8)
    assert all((MLX.numpy(a) == MLX.numpy(b)).all() for a, b in zip(ours, plain))


def test_without_gradient_there_is_no_product_with_the_head_of_mlx():
    """Seen by the head's own methods: a stand-in for a quantised one, which has no dense array."""
    _, head, labels, _ = problem(MLX)
    calls = []

    class Head:
        dtype, shape = head.dtype, head.shape

        def logits(self, hidden):
            calls.append("logits")
            return hidden @ head.T

        def back(self, weights):
            calls.append("back")
            return weights @ head

    hidden = problem(MLX)[0]
    kept, _ = MLX.gold.gold_log_probs(hidden, Head(), labels)
    assert calls == ["logits", "back"]
    log_prob, _ = MLX.gold.gold_log_probs(hidden, Head(), labels, gradient=False)
    assert calls == ["logits", "back", "logits"]
    assert (MLX.numpy(kept) == MLX.numpy(log_prob)).all()


def test_a_gradient_of_the_head_is_never_a_number_on_mlx():
    hidden, head, labels, weights = problem(MLX)
    found = MLX.gradient(lambda w: (weights * MLX.gold.gold_log_probs(hidden, w, labels)[0]).sum(), head)
    assert np.isnan(found).all()


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_a_quantised_head_is_multiplied_as_it_is(softcap):
    """Against its unpacked matrix: the products round differently, the codes are the same."""
    from mlx import nn

    hidden, head, labels, weights = problem(MLX, width=64, vocab=128, scale=0.2)
    linear = nn.Linear(64, 128, bias=False)
    linear.weight = head
    packed = MLX.head.Head(nn.QuantizedLinear.from_linear(linear, group_size=32, bits=4))
    ours = gradient(MLX, MLX.gold.gold_log_probs, hidden, packed, labels, weights, softcap=softcap, chunk=8)
    plain = gradient(MLX, core_gold_log_probs, hidden, packed.weight, labels, weights, softcap=softcap)
    dense = gradient(MLX, core_gold_log_probs, hidden, head, labels, weights, softcap=softcap)
    assert_close(ours[0], plain[0], FLOAT32_LOG_PROB)
    assert_close(ours[2], plain[2], MLX_GOLD_GRADIENT)
    assert np.abs(ours[0] - dense[0]).max() > 1e-3  # 4 bits are not the matrix they were made of


@pytest.mark.parametrize("wrong", ["narrower", "shorter"])
def test_a_quantised_head_that_does_not_fit_is_refused(wrong):
    from mlx import nn

    packed = MLX.head.Head(nn.QuantizedLinear(64, 128, bias=False, group_size=32, bits=4))
    hidden = MLX.array(np.ones((3, 32 if wrong == "narrower" else 64), dtype=np.float32))
    labels = MLX.array([0, 1] if wrong == "shorter" else [0, 1, 2])
    with pytest.raises(ShapeError, match=r"\(128, 64\)"):
        MLX.gold.gold_log_probs(hidden, packed, labels)

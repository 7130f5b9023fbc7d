"""The chunked gold operation on MLX only: the most memory held at once, and heads that are not arrays."""

import numpy as np
import pytest

from dspec.core.gold import gold_log_probs as core_gold_log_probs
from dspec.errors import ConfigError, ShapeError
from tests.rooms import ROOMS
from tests.test_gold import assert_close, gradient, problem
from tests.tolerances import BF16_GRADIENT, FLOAT32_LOG_PROB, MLX_GOLD_GRADIENT

MLX, TORCH = ROOMS["mlx"], ROOMS["torch"]
pytestmark = [
    pytest.mark.mlx,
    pytest.mark.skipif(not MLX.installed, reason="mlx is not installed"),
]

CHUNK_BYTES = 4 * 64 * 4096


def peak(function, *arrays, softcap=None, gradient=True, in_stages=True, of_head=False):
    """Most bytes above those held before, over those of one chunk of 64 rows by 4,096 logits."""
    import mlx.core as mx

    hidden, head, labels, weights = arrays
    mx.eval(*arrays)
    stages, options = [] if in_stages else None, {"softcap": softcap, "xp": MLX.xp}
    if function is not core_gold_log_probs:
        options |= {"chunk": 64, "gradient": gradient, "stages": stages, "head_gradient": of_head}
    mx.clear_cache()
    mx.reset_peak_memory()
    held = mx.get_active_memory()

    def value(hidden, head):
        return (weights * function(hidden, head, labels, **options)[0]).sum()

    differentiated = mx.value_and_grad(value, argnums=(0, 1) if of_head else 0)
    results = differentiated(hidden, head) if gradient else (value(hidden, head),)
    MLX.gold.run_stages(stages or [])
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


def of_head(function, hidden, head, labels, weights, **options):
    """Gradient of the weighted sum of log-probabilities with respect to the head."""
    return MLX.gradient(
        lambda w: (weights * function(hidden, w, labels, xp=MLX.xp, **options)[0]).sum(), head
    )


def test_a_gradient_of_the_head_that_was_not_asked_for_is_never_a_number_on_mlx():
    assert np.isnan(of_head(MLX.gold.gold_log_probs, *problem(MLX))).all()


@pytest.mark.clause("OB-1")
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("chunk", [1, 8, 64])
def test_the_gradient_of_the_head_is_that_of_core_in_float64(chunk, softcap):
    import torch

    hidden, head, labels, weights = problem(TORCH, "float64")
    value = (
        weights * core_gold_log_probs(hidden, head.requires_grad_(), labels, softcap=softcap, xp=TORCH.xp)[0]
    )
    (exact,) = torch.autograd.grad(value.sum(), head)
    asked = {"softcap": softcap, "chunk": chunk, "head_gradient": True}
    found = of_head(MLX.gold.gold_log_probs, *problem(MLX), **asked)
    assert_close(found, exact.numpy(), MLX_GOLD_GRADIENT)
    both = gradient(MLX, MLX.gold.gold_log_probs, *problem(MLX), **asked)[2]
    alone = gradient(MLX, MLX.gold.gold_log_probs, *problem(MLX), softcap=softcap, chunk=chunk)[2]
    assert (both == alone).all()


@pytest.mark.clause("NU-2")
def test_the_gradient_of_a_narrow_head_is_summed_wide():
    """1,024 equal rows: a bfloat16 sum would stop growing at 2^8 of them."""
    hidden, head, labels, _ = problem(MLX, "bfloat16", rows=1, vocab=1001)
    rows = [MLX.xp.concat([x] * 1024) for x in (hidden, labels)]
    ones = MLX.array(np.ones(1024, dtype=np.float32))
    one = of_head(MLX.gold.gold_log_probs, hidden, head, labels, ones[:1], head_gradient=True)
    found = of_head(MLX.gold.gold_log_probs, rows[0], head, rows[1], ones, head_gradient=True, chunk=1)
    assert np.abs(one).max() > 0.1
    assert np.linalg.norm(found - 1024 * one) / np.linalg.norm(1024 * one) < BF16_GRADIENT
    core = of_head(core_gold_log_probs, hidden, head, labels, ones[:1])
    assert np.linalg.norm(one - core) / np.linalg.norm(core) < BF16_GRADIENT


def test_a_gradient_of_the_head_holds_one_chunk_of_logits_too():
    for rows in (128, 1024):
        arrays = problem(MLX, rows=rows, width=8, vocab=4096)
        ours = peak(MLX.gold.gold_log_probs, *arrays, of_head=True)
        # Two float32 copies of the head, an eighth of a chunk each, and what the operation holds anyway.
        assert ours < 1.3 + 5 * rows * 8 * 4 / CHUNK_BYTES
    arrays = problem(MLX, rows=2048, width=8, vocab=4096)
    assert peak(MLX.gold.gold_log_probs, *arrays, of_head=True, in_stages=False) < 16  # of 32 chunks


@pytest.mark.clause("OB-1")
def test_a_gradient_of_a_quantised_head_or_one_that_nobody_takes_is_refused():
    from mlx import nn

    linear = nn.Linear(64, 128, bias=False)
    packed = MLX.head.Head(nn.QuantizedLinear.from_linear(linear, group_size=32, bits=4))
    hidden, head, labels, _ = problem(MLX, width=64, vocab=128)
    with pytest.raises(ConfigError, match="quantised"):
        MLX.gold.gold_log_probs(hidden, packed, labels, head_gradient=True)
    with pytest.raises(ConfigError, match="gradient=False"):
        MLX.gold.gold_log_probs(hidden, head, labels, head_gradient=True, gradient=False)


def test_a_dense_head_in_a_layer_gets_the_gradient_of_its_matrix():
    from mlx import nn

    hidden, matrix, labels, weights = problem(MLX)
    layer = nn.Linear(12, 101, bias=False)

    def value(matrix, asked):
        layer.weight = matrix
        head = MLX.head.Head(layer)
        return (weights * MLX.gold.gold_log_probs(hidden, head, labels, head_gradient=asked)[0]).sum()

    found, unasked = (MLX.gradient(lambda w, asked=asked: value(w, asked), matrix) for asked in (True, False))
    assert np.isnan(unasked).all()
    core = of_head(MLX.gold.gold_log_probs, hidden, matrix, labels, weights, head_gradient=True)
    assert (found == core).all()


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

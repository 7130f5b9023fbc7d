"""The chunked gold operation against core and against plain autograd, and what it allocates."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dspec.core.gold import gold_log_probs as core_gold_log_probs
from dspec.errors import ShapeError
from tests.rooms import ROOMS
from tests.tolerances import BF16_GRADIENT, FLOAT32_LOG_PROB, FLOAT64, MLX_GOLD_GRADIENT

TORCH = ROOMS["torch"]
# MLX is judged in float32: its exp is float32's in float64 too (tests/namespaces.py).
FINEST = {"torch": ("float64", FLOAT64), "mlx": ("float32", FLOAT32_LOG_PROB)}


def problem(room, dtype="float32", *, rows=37, width=12, vocab=101, scale=1.0, seed=0):
    """Hidden states, head, labels and weights of rows, as the room's arrays."""
    random = np.random.default_rng(seed)
    hidden = scale * random.normal(size=(rows, width)).astype(np.float32)
    head = random.normal(size=(vocab, width)).astype(np.float32)
    labels, weights = random.integers(0, vocab, rows), random.random(rows, dtype=np.float32)
    narrow = (room.array(x, dtype) for x in (hidden, head))
    return *narrow, room.array(labels), room.array(weights)


def gradient(room, function, hidden, head, labels, weights, **options):
    """Log-probabilities and hits, and the gradient of the weighted sum of the former, as numpy."""

    def value(hidden):
        return (weights * function(hidden, head, labels, xp=room.xp, **options)[0]).sum()

    log_prob, hit = function(hidden, head, labels, xp=room.xp, **options)
    return room.numpy(log_prob), room.numpy(hit), room.gradient(value, hidden)


def assert_close(found, expected, atol):
    np.testing.assert_allclose(found, expected, atol=atol, rtol=0)


@pytest.mark.clause("OB-1")
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("chunk", [1, 8, 37, 64])
def test_equals_core(room, softcap, chunk):
    dtype, bound = FINEST[room.name]
    arguments = problem(room, dtype)
    ours = gradient(room, room.gold.gold_log_probs, *arguments, softcap=softcap, chunk=chunk)
    core = gradient(room, core_gold_log_probs, *arguments, softcap=softcap)
    assert_close(ours[0], core[0], bound)
    assert_close(ours[2], core[2], bound)
    assert (ours[1] == core[1]).all()


@pytest.mark.clause("OB-10")
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_float32_log_probabilities_against_float64(room, softcap):
    arguments = problem(room, vocab=4001)
    ours = gradient(room, room.gold.gold_log_probs, *arguments, softcap=softcap, chunk=8)
    exact = gradient(TORCH, core_gold_log_probs, *problem(TORCH, "float64", vocab=4001), softcap=softcap)
    assert ours[0].dtype == np.float32
    assert_close(ours[0], exact[0], FLOAT32_LOG_PROB)
    assert_close(ours[2], exact[2], FLOAT32_LOG_PROB if room is TORCH else MLX_GOLD_GRADIENT)


@pytest.mark.clause("OB-10")
@pytest.mark.parametrize("vocab", [151_936, 151_937])
def test_log_probabilities_keep_their_digits_over_a_real_vocabulary(room, vocab):
    """Terms added one by one in float32 would be 9e-5 off."""
    sizes = {"rows": 3, "width": 4, "vocab": vocab}
    ours, _ = room.gold.gold_log_probs(*problem(room, **sizes)[:3])
    exact, _ = core_gold_log_probs(*problem(TORCH, "float64", **sizes)[:3], xp=TORCH.xp)
    assert_close(room.numpy(ours), exact.numpy(), FLOAT32_LOG_PROB)


@pytest.mark.clause("NU-2")
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_bfloat16_statistics_are_float32(room, softcap):
    arguments = problem(room, "bfloat16", vocab=1001)
    ours = gradient(room, room.gold.gold_log_probs, *arguments, softcap=softcap, chunk=8)
    # Core makes the same bfloat16 logits: what differs is the arithmetic after them.
    core = gradient(room, core_gold_log_probs, *arguments, softcap=softcap)
    assert ours[0].dtype == np.float32
    assert_close(ours[0], core[0], FLOAT32_LOG_PROB)
    assert np.linalg.norm(ours[2] - core[2]) / np.linalg.norm(core[2]) < BF16_GRADIENT


@pytest.mark.clause("NU-2")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_float32_hidden_states_over_a_narrow_head_keep_a_float32_gradient(room, dtype):
    function = room.gold.gold_log_probs
    hidden, head, labels, weights = problem(room, dtype, vocab=1001)
    wide = room.array(room.numpy(hidden))
    tiny = weights * 1e-9  # as of one block among many: below float16's smallest number
    narrow, ours, core = (
        gradient(room, function, x, head, labels, tiny)
        for function, x in ((function, hidden), (function, wide), (core_gold_log_probs, wide))
    )
    assert (ours[0] == narrow[0]).all()
    assert_close(ours[0], core[0], FLOAT32_LOG_PROB)
    assert (ours[2] != 0).all() and (ours[2] != room.numpy(room.array(ours[2], dtype))).any()
    if dtype == "float16":
        assert (narrow[2] == 0).all()  # what the wide hidden states are for


@pytest.mark.clause("NU-2")
def test_a_narrow_head_keeps_the_gradient_of_rows_it_is_sure_of(room):
    """Softmax minus one-hot comes before the narrow product: after it, 2^-9 of the head would remain."""
    _, head, labels, weights = problem(room, "bfloat16", rows=8)
    hidden = room.array(room.numpy(head)[room.numpy(labels)])
    ours = gradient(room, room.gold.gold_log_probs, hidden, head, labels, weights)
    core = gradient(room, core_gold_log_probs, hidden, head, labels, weights)
    assert ours[0].max() > -1e-3
    errors = np.linalg.norm(ours[2] - core[2], axis=1) / np.linalg.norm(core[2], axis=1)
    assert errors.max() < 2 * BF16_GRADIENT


@pytest.mark.clause("NU-2")
def test_a_float16_product_does_not_overflow_over_a_real_vocabulary(room):
    """Equal logits: the row sum, 70,000, is beyond float16."""
    _, head, labels, weights = problem(room, "float16", rows=2, width=2, vocab=70_000)
    hidden = room.array(np.zeros((2, 2), dtype=np.float32))
    _, _, grad = gradient(room, room.gold.gold_log_probs, hidden, head, labels, weights)
    expected = room.numpy(weights)[:, None] * room.numpy(head)[room.numpy(labels)]  # the mean row is near 0
    assert_close(grad, expected, 0.05)


@pytest.mark.clause("NU-5")
def test_equal_logits_hit_at_the_lowest_index_only(room):
    arrays = [room.array(np.ones(shape, dtype=np.float32)) for shape in ((2, 3), (5, 3))]
    _, hit = room.gold.gold_log_probs(*arrays, room.array([0, 4]))
    assert room.numpy(hit).tolist() == [True, False]


@pytest.mark.clause("OB-10")
def test_finite_at_extreme_logits(room):
    log_prob, _, grad = gradient(room, room.gold.gold_log_probs, *problem(room, scale=1e4), chunk=8)
    assert log_prob.min() < -1e4  # far below what exp can represent
    assert np.isfinite(log_prob).all() and np.isfinite(grad).all()


def test_no_rows(room):
    labels = room.array(np.zeros(0, dtype=np.int64))
    arrays = [room.array(np.ones(shape, dtype=np.float32)) for shape in ((0, 4), (3, 4))]
    log_prob, hit, grad = gradient(room, room.gold.gold_log_probs, *arrays, labels, 1.0)
    assert log_prob.shape == hit.shape == (0,) and grad.shape == (0, 4)


@pytest.mark.parametrize("fused", [True, False])
def test_shapes_and_dtypes_that_do_not_agree_are_refused_as_in_core(room, fused):
    function = room.gold.gold_log_probs if fused else core_gold_log_probs
    hidden, head, labels, _ = problem(room)
    for wrong in (
        (hidden[:, :-1], head, labels),
        (hidden, head, labels[:-1]),
        (room.array(room.numpy(hidden), "float64"), head, labels),
        (hidden, head, room.array(room.numpy(labels), "float32")),
    ):
        with pytest.raises(ShapeError):
            function(*wrong, xp=room.xp)


# What only torch can show: every array that an operation returns, and who wants a gradient.


class Watch(TorchDispatchMode):
    """Notes the most elements of any tensor that any operation returns, and counts products."""

    def __init__(self):
        super().__init__()
        self.elements = self.products = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        self.products += function.overloadpacket is torch.ops.aten.mm
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_array_of_rows_by_vocabulary(dtype):
    arguments = problem(TORCH, dtype, rows=64, vocab=997)
    with Watch() as largest:
        gradient(TORCH, TORCH.gold.gold_log_probs, *arguments, chunk=16)
    assert largest.elements == max(16 * 997, arguments[1].numel())
    with Watch() as largest:  # the instrument sees what core keeps
        gradient(TORCH, core_gold_log_probs, *arguments)
    assert largest.elements == 64 * 997


def test_without_gradient_there_is_no_second_product():
    hidden, head, labels, _ = problem(TORCH)
    hidden.requires_grad_()
    with Watch() as learning:
        kept, _ = TORCH.gold.gold_log_probs(hidden, head, labels)
    with torch.no_grad(), Watch() as watching:
        log_prob, _ = TORCH.gold.gold_log_probs(hidden, head, labels)
    assert (learning.products, watching.products) == (2, 1)
    assert torch.equal(log_prob, kept.detach()) and not log_prob.requires_grad

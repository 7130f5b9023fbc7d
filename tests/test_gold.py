"""The chunked gold operation against core and against plain autograd, and what it allocates."""

import array_api_compat.torch as xp
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dspec.backends.torch.gold import gold_log_probs
from dspec.core.gold import gold_log_probs as core_gold_log_probs
from dspec.errors import ConfigError, ShapeError
from tests.tolerances import BF16_GRADIENT, FLOAT32_LOG_PROB, FLOAT64


def problem(dtype=torch.float64, *, rows=37, width=12, vocab=101, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = (scale * torch.randn(rows, width, generator=generator)).to(dtype).requires_grad_()
    head = torch.randn(vocab, width, generator=generator).to(dtype)
    labels = torch.randint(0, vocab, (rows,), generator=generator)
    weights = torch.rand(rows, generator=generator)
    return hidden, head, labels, weights


def gradient(function, hidden, head, labels, weights, **options):
    log_prob, hit = function(hidden, head, labels, xp=xp, **options)
    (grad,) = torch.autograd.grad((weights.to(log_prob.dtype) * log_prob).sum(), hidden)
    return log_prob.detach(), hit, grad


@pytest.mark.clause("OB-1")
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("chunk", [1, 8, 37, 64])
def test_equals_core_in_float64(softcap, chunk):
    arguments = problem()
    ours = gradient(gold_log_probs, *arguments, softcap=softcap, chunk=chunk)
    core = gradient(core_gold_log_probs, *arguments, softcap=softcap)
    torch.testing.assert_close(ours[0], core[0], atol=FLOAT64, rtol=0)
    torch.testing.assert_close(ours[2], core[2], atol=FLOAT64, rtol=0)
    assert torch.equal(ours[1], core[1])


@pytest.mark.clause("OB-10")
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_float32_log_probabilities_against_float64(softcap):
    hidden, head, labels, weights = problem(torch.float32, vocab=4001)
    ours = gradient(gold_log_probs, hidden, head, labels, weights, softcap=softcap, chunk=8)
    wide = hidden.detach().double().requires_grad_()
    exact = gradient(core_gold_log_probs, wide, head.double(), labels, weights, softcap=softcap)
    assert ours[0].dtype == torch.float32
    torch.testing.assert_close(ours[0].double(), exact[0], atol=FLOAT32_LOG_PROB, rtol=0)
    torch.testing.assert_close(ours[2].double(), exact[2], atol=FLOAT32_LOG_PROB, rtol=0)


@pytest.mark.clause("NU-2")
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_bfloat16_statistics_are_float32(softcap):
    hidden, head, labels, weights = problem(torch.bfloat16, vocab=1001)
    ours = gradient(gold_log_probs, hidden, head, labels, weights, softcap=softcap, chunk=8)
    # Core makes the same bfloat16 logits: what differs is the arithmetic after them.
    core = gradient(core_gold_log_probs, hidden, head, labels, weights, softcap=softcap)
    assert ours[0].dtype == torch.float32
    torch.testing.assert_close(ours[0], core[0], atol=FLOAT32_LOG_PROB, rtol=0)
    error = (ours[2].float() - core[2].float()).norm() / core[2].float().norm()
    assert error < BF16_GRADIENT


@pytest.mark.clause("NU-2")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_float32_hidden_states_over_a_narrow_head_keep_a_float32_gradient(dtype):
    hidden, head, labels, weights = problem(dtype, vocab=1001)
    wide = hidden.detach().float().requires_grad_()
    tiny = weights * 1e-9  # as of one block among many: below float16's smallest number
    narrow, ours, core = (
        gradient(function, x, head, labels, tiny)
        for function, x in ((gold_log_probs, hidden), (gold_log_probs, wide), (core_gold_log_probs, wide))
    )
    assert torch.equal(ours[0], narrow[0]) and torch.equal(ours[0], core[0])
    assert ours[2].dtype == torch.float32 and (ours[2] != 0).all()
    if dtype == torch.float16:
        assert (narrow[2] == 0).all()  # what the wide hidden states are for


@pytest.mark.clause("NU-5")
def test_equal_logits_hit_at_the_lowest_index_only():
    hidden, head = torch.ones(2, 3), torch.ones(5, 3)
    _, hit = gold_log_probs(hidden, head, torch.tensor([0, 4]))
    assert hit.tolist() == [True, False]


@pytest.mark.clause("OB-10")
def test_finite_at_extreme_logits():
    hidden, head, labels, weights = problem(torch.float32, scale=1e4)
    log_prob, _, grad = gradient(gold_log_probs, hidden, head, labels, weights, chunk=8)
    assert log_prob.min() < -1e4  # far below what exp can represent
    assert torch.isfinite(log_prob).all() and torch.isfinite(grad).all()


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_array_of_rows_by_vocabulary(dtype):
    hidden, head, labels, weights = problem(dtype, rows=64, vocab=997)
    with Watch() as largest:
        gradient(gold_log_probs, hidden, head, labels, weights, chunk=16)
    assert largest.elements == max(16 * 997, head.numel())
    with Watch() as largest:  # the instrument sees what core keeps
        gradient(core_gold_log_probs, hidden, head, labels, weights)
    assert largest.elements == 64 * 997


def test_without_gradient_there_is_no_second_product():
    hidden, head, labels, _ = problem(torch.float32)
    with Watch() as learning:
        kept, _ = gold_log_probs(hidden, head, labels)
    with torch.no_grad(), Watch() as watching:
        log_prob, _ = gold_log_probs(hidden, head, labels)
    assert (learning.products, watching.products) == (2, 1)
    assert torch.equal(log_prob, kept) and not log_prob.requires_grad


def test_no_rows():
    hidden = torch.zeros(0, 4, requires_grad=True)
    log_prob, hit = gold_log_probs(hidden, torch.ones(3, 4), torch.zeros(0, dtype=torch.int64))
    log_prob.sum().backward()
    assert log_prob.shape == hit.shape == (0,) and hidden.grad.shape == (0, 4)


def test_a_head_that_wants_a_gradient_is_refused():
    hidden, head, labels, _ = problem(torch.float32)
    with pytest.raises(ConfigError, match="frozen"):
        gold_log_probs(hidden, head.requires_grad_(), labels)


@pytest.mark.parametrize("function", [gold_log_probs, core_gold_log_probs])
def test_shapes_and_dtypes_that_do_not_agree_are_refused_as_in_core(function):
    hidden, head, labels, _ = problem(torch.float32)
    for wrong in (
        (hidden[:, :-1], head, labels),
        (hidden, head, labels[:-1]),
        (hidden.double(), head, labels),
    ):
        with pytest.raises(ShapeError):
            function(*wrong, xp=xp)

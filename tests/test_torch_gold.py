"""What only torch's gold operation has: a head that learns, rows left out, chunks of whole blocks."""

import pytest
import torch

from dspec.backends.torch.cuda import gold as cuda_gold
from dspec.backends.torch.gold import gold_log_probs
from dspec.core.gold import gold_log_probs as core_gold_log_probs
from dspec.errors import BackendUnavailable, ConfigError
from tests.rooms import ROOMS
from tests.test_gold import Watch, problem
from tests.tolerances import BF16_GRADIENT, FLOAT32, FLOAT64

TORCH = ROOMS["torch"]
ROWS = 37


def both_gradients(function, hidden, head, labels, weights, **options):
    """Gradients of the weighted sum of log-probabilities with respect to hidden states and head."""
    leaves = [x.detach().clone().requires_grad_() for x in (hidden, head)]
    log_prob, _ = function(leaves[0], leaves[1], labels, xp=TORCH.xp, **options)
    return torch.autograd.grad((weights * log_prob).sum(), leaves)


@pytest.mark.clause("OB-1")
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("chunk", [8, 64])
def test_a_head_that_learns_gets_core_s_gradient(softcap, chunk):
    arguments = problem(TORCH, "float64")
    ours = both_gradients(gold_log_probs, *arguments, softcap=softcap, chunk=chunk)
    core = both_gradients(core_gold_log_probs, *arguments, softcap=softcap)
    for found, expected in zip(ours, core):
        torch.testing.assert_close(found, expected, atol=FLOAT64, rtol=0)


@pytest.mark.clause("OB-1")
def test_a_head_alone_can_learn_without_unit_gradients():
    hidden, head, labels, weights = problem(TORCH, "float64")
    head.requires_grad_()
    with Watch() as watch:
        log_prob, _ = gold_log_probs(hidden, head, labels, chunk=64)
    assert watch.products == 1
    (found,) = torch.autograd.grad((weights * log_prob).sum(), head)
    expected = both_gradients(core_gold_log_probs, hidden, head, labels, weights)[1]
    torch.testing.assert_close(found, expected, atol=FLOAT64, rtol=0)


@pytest.mark.clause("NU-2")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_narrow_head_s_gradient_is_added_up_wide(dtype):
    """Equal rows: a 16-bit sum would stop growing, and weights of 1e-6 would be float16's last bits."""
    hidden, head, labels, _ = (x[:1] if i != 1 else x for i, x in enumerate(problem(TORCH, dtype)))
    many, ids = hidden.expand(2048, -1), labels.expand(2048)
    found = both_gradients(gold_log_probs, many, head, ids, torch.full((2048,), 1e-3), chunk=8)[1]
    assert found.dtype == head.dtype
    wide = both_gradients(core_gold_log_probs, hidden.double(), head.double(), labels, torch.tensor([2.048]))[
        1
    ]
    assert (found.double() - wide).norm() / wide.norm() < 2 * BF16_GRADIENT
    tiny = both_gradients(gold_log_probs, many, head, ids, torch.full((2048,), 1e-6), chunk=8)[1]
    assert (tiny.double() * 1e3 - wide).norm() / wide.norm() < 2 * BF16_GRADIENT


def test_a_head_that_learns_costs_no_array_of_rows_by_vocabulary():
    arguments = problem(TORCH, rows=64, width=4, vocab=997)
    with Watch() as watch:
        both_gradients(gold_log_probs, *arguments, chunk=16)
    assert watch.elements == 16 * 997


def chosen(rows, log_prob, hit):
    """Keep every third row, and none of rows 8..16."""
    places = torch.arange(rows.start, rows.stop)
    return (places % 3 == 0) & ((places < 8) | (places >= 16))


@pytest.mark.clause("OB-21")
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_rows_left_out_have_no_gradient_and_the_rest_keep_theirs(softcap, dtype):
    arguments = problem(TORCH, dtype)
    kept = chosen(slice(0, ROWS), None, None)
    exact = both_gradients(gold_log_probs, *arguments[:3], arguments[3] * kept, softcap=softcap, chunk=8)
    some = both_gradients(gold_log_probs, *arguments, softcap=softcap, chunk=8, keep=chosen)
    assert (some[0][~kept] == 0).all() and (some[0][kept] != 0).any(dim=1).all()
    bound = {"float32": FLOAT32, "float64": FLOAT64}.get(dtype)
    for found, expected in zip(some, exact):
        if bound is None:
            assert (found - expected).norm() / expected.norm() < BF16_GRADIENT
        else:
            torch.testing.assert_close(found, expected, atol=bound, rtol=0)


@pytest.mark.clause("OB-21")
def test_rows_left_out_cost_no_product_and_change_no_value():
    class Sizes(Watch):
        rows = 0

        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            if function.overloadpacket is torch.ops.aten.mm:
                self.rows += len(arguments[0])
            return super().__torch_dispatch__(function, types, arguments, keywords)

    hidden, head, labels, _ = problem(TORCH, rows=120)
    hidden.requires_grad_()
    with Sizes() as watch:
        some = gold_log_probs(hidden, head, labels, chunk=60, keep=lambda rows, *_: torch.arange(60) % 2 == 0)
    assert watch.rows == 120 + 60
    for found, expected in zip(some, gold_log_probs(hidden, head, labels, chunk=60)):
        assert torch.equal(found, expected)


@pytest.mark.clause("OB-21")
def test_chunks_hold_whole_blocks_and_the_rule_sees_their_statistics():
    seen = []

    def keep(rows, log_prob, hit):
        seen.append((rows, log_prob.clone(), hit.clone()))
        return hit

    hidden, head, labels, _ = problem(TORCH)
    hidden.requires_grad_()
    log_prob, hit = gold_log_probs(hidden, head, labels, keep=keep, bounds=[4, 4, 30, ROWS], chunk=1)
    assert [(rows.start, rows.stop) for rows, *_ in seen] == [(0, 4), (4, 30), (30, ROWS)]
    assert torch.equal(torch.cat([x for _, x, _ in seen]), log_prob.detach())
    assert torch.equal(torch.cat([x for *_, x in seen]), hit)


def test_one_row_more_than_is_moved_at_once_lands_where_it_should():
    """45 of 50 rows kept: the front is packed in groups that read rows behind what they write."""
    arguments = problem(TORCH, "float64", rows=50)
    kept = torch.arange(50) % 10 != 0
    exact = both_gradients(gold_log_probs, *arguments[:3], arguments[3] * kept)
    some = both_gradients(gold_log_probs, *arguments, keep=lambda *_: kept, softcap=None)
    torch.testing.assert_close(some[0], exact[0], atol=FLOAT64, rtol=0)


@pytest.mark.parametrize("bounds", [[], [4, 3, ROWS], [4], [ROWS, ROWS + 1]])
def test_bounds_that_do_not_cover_the_rows_are_refused(bounds):
    with pytest.raises(ConfigError, match="bounds"):
        gold_log_probs(*problem(TORCH)[:3], bounds=bounds)
    with pytest.raises(ConfigError, match="chunk"):
        gold_log_probs(*problem(TORCH)[:3], chunk=0)


def test_the_kernel_is_refused_where_it_cannot_run():
    assert "runs on cuda" in cuda_gold.available("cpu")
    with pytest.raises(BackendUnavailable, match="tensors are on cpu"):
        cuda_gold.gold_log_probs_triton(*problem(TORCH)[:3])

"""What runs on CUDA alone: the Triton kernels against the eager operations, the choice of a mask."""

import numpy as np
import pytest
import torch

from dspec.backends.torch import attention_mask, gold, overlap, overrides
from dspec.backends.torch.cuda import gold as cuda_gold
from dspec.backends.torch.cuda import overlap as cuda_overlap
from dspec.core.signals import SIGNALS
from dspec.errors import BackendUnavailable, ConfigError
from tests.tolerances import BF16_GRADIENT, FLOAT32_LOG_PROB

WHY_NOT = cuda_gold.available("cuda") or ("" if torch.cuda.is_available() else "no CUDA device here")
on_cuda = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "runs")


def rows(dtype=torch.float32, device="cuda"):
    """Hidden states, head, target states and labels; the first label is the argmax."""
    torch.manual_seed(0)
    head = (torch.randn(5001, 64, device=device) / 8).to(dtype)
    hidden = 2 * torch.randn(45, 64, device=device).to(dtype).float()
    target = (0.6 * hidden + torch.randn_like(hidden)).to(dtype)
    labels = torch.randint(0, 5001, (45,), device=device)
    labels[0] = (hidden[0].to(dtype) @ head.T).argmax()
    return hidden, head, target, labels


def gradient(function, hidden, *others, weights=(1.0, 1.0, 1.0), **options):
    """The statistics of rows and the gradient of a weighted sum of their losses."""
    hidden = hidden.clone().requires_grad_()
    found = function(hidden, *others, **options)
    losses = (-found[0], *(() if len(found) == 2 else (-found[2], found[3])))
    sum(w * x.sum() for w, x in zip(weights, losses)).backward()
    return found, hidden.grad


@on_cuda
@pytest.mark.clause("OB-1", "OB-10", "NU-5")
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gold_kernel_is_the_eager_operation(dtype, softcap):
    hidden, head, _, labels = rows(dtype)
    ours, slope = gradient(cuda_gold.gold_log_probs_triton, hidden, head, labels, softcap=softcap, chunk=20)
    theirs, expected = gradient(gold.gold_log_probs, hidden, head, labels, softcap=softcap)
    assert (ours[0] - theirs[0]).abs().max() <= FLOAT32_LOG_PROB
    assert torch.equal(ours[1], theirs[1]) and ours[1][0]
    assert (slope - expected).norm() <= (1e-5 if dtype == torch.float32 else BF16_GRADIENT) * expected.norm()


@on_cuda
@pytest.mark.clause("OB-12")
@pytest.mark.parametrize("signals", [SIGNALS, ("divergence",), ("gold", "overlap")])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_overlap_kernel_is_the_eager_operation(dtype, softcap, signals):
    arrays, options = rows(dtype), {"temperature": 0.8, "softcap": softcap, "signals": signals}
    ours, slope = gradient(cuda_overlap.overlap_statistics_triton, *arrays, chunk=20, **options)
    theirs, expected = gradient(overlap.overlap_statistics, *arrays, **options)
    for a, b in zip(ours, theirs):
        assert (a.float() - b.float()).abs().max() <= 2e-5
    assert (slope - expected).norm() <= (1e-5 if dtype == torch.float32 else BF16_GRADIENT) * expected.norm()


@pytest.mark.clause("OB-12")
def test_the_kernels_refuse_what_is_not_on_cuda():
    hidden, head, target, labels = rows(device="cpu")
    with pytest.raises(BackendUnavailable, match="cpu"):
        cuda_gold.gold_log_probs_triton(hidden, head, labels)
    with pytest.raises(BackendUnavailable, match="cpu"):
        cuda_overlap.overlap_statistics_triton(hidden, head, target, labels)
    with pytest.raises(ConfigError, match="signals"):
        overlap.overlap_statistics(hidden, head, target, labels, signals=("golden",))


def test_the_table_names_them_only_where_triton_is():
    for entry in overrides.ON_CUDA:
        assert entry.devices == ("cuda",) and entry.clauses and "H200" in entry.reason
    chosen = overrides.operation("gold_log_probs", device="cuda")
    triton = cuda_gold.available("cuda") is None
    assert chosen is (cuda_gold.gold_log_probs_triton if triton else gold.gold_log_probs)
    assert overrides.operation("gold_log_probs", device="cpu") is gold.gold_log_probs


@pytest.mark.clause("BD-2")
def test_the_form_of_the_mask_follows_the_size_of_the_pass():
    def form(device, rows, anchors, seq_len):
        return attention_mask._takes_flex(device, rows, anchors, seq_len=seq_len, block_size=16)

    assert form("cuda", 1, 512, 3072)
    assert not form("cuda", 16, 32, 384)
    assert not form("cpu", 1, 512, 3072)


@on_cuda
@pytest.mark.clause("BD-2")
def test_both_masks_attend_alike_on_cuda():
    from dspec.backends.torch.drafter_layers import attend

    anchors = torch.tensor([[3, 9, 20], [5, 0, 0]], device="cuda", dtype=torch.int32)
    keep = torch.tensor([[True] * 3, [True, False, False]], device="cuda")
    torch.manual_seed(0)
    queries, keys = (torch.randn(2, h, n, 32, device="cuda") for h, n in ((4, 48), (2, 48 + 37)))
    both = [
        attend(queries, keys, keys, attention_mask.attention_mask(anchors, keep, flex=flex, **sizes))
        for sizes in ({"seq_len": 37, "block_size": 16},)
        for flex in (False, True)
    ]
    np.testing.assert_allclose(both[1].cpu(), both[0].cpu(), atol=1e-2)

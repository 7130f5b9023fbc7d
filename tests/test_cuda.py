"""What runs on CUDA alone: the Triton kernels against the eager operations, the choice of a mask."""

import inspect
import re

import numpy as np
import pytest
import torch

from dspec.backends.override import CORE
from dspec.backends.torch import attention_mask, gold, overlap, overrides
from dspec.backends.torch.cuda import gold as cuda_gold
from dspec.backends.torch.cuda import overlap as cuda_overlap
from dspec.core.signals import SIGNALS
from dspec.errors import BackendUnavailable, ConfigError
from tests.rooms import Room
from tests.test_law_learner import read
from tests.test_learner import check_equal
from tests.test_learner import gradient as step_gradient
from tests.tiny_training import make_config, make_learner, make_target
from tests.tolerances import (
    BF16_GRADIENT,
    DIVERGENCE_F32,
    FLOAT32,
    FLOAT32_LOG_PROB,
    FORWARD_F32,
    OVERLAP_BF16,
    TRAINING_GRADIENT,
)

WHY_NOT = cuda_gold.available("cuda") if torch.cuda.is_available() else "no CUDA device"
on_cuda = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
KERNELS = {
    "gold_log_probs": cuda_gold.gold_log_probs_triton,
    "overlap_statistics": cuda_overlap.overlap_statistics_triton,
}
# Largest error of a gradient, as a share of its norm.
SLOPES = {torch.float32: (FLOAT32, FLOAT32), torch.bfloat16: (BF16_GRADIENT, OVERLAP_BF16)}


def rows(dtype=torch.float32, device="cuda"):
    """Hidden states, head, target states and labels; the first label is the argmax."""
    torch.manual_seed(0)
    head = (torch.randn(5001, 64, device=device) / 8).to(dtype)
    hidden = 2 * torch.randn(45, 64, device=device).to(dtype).float()
    target = (0.6 * hidden + torch.randn_like(hidden)).to(dtype)
    labels = torch.randint(0, 5001, (45,), device=device)
    labels[0] = (hidden[0].to(dtype) @ head.T).argmax()
    return hidden, head, target, labels


def gradient(function, hidden, *others, weights=(1.0, 1.0, 1.0, 1.0), **options):
    """The statistics of rows and the gradient of a weighted sum of their losses."""
    hidden = hidden.clone().requires_grad_()
    found = function(hidden, *others, **options)
    losses = (-found[0], *(() if len(found) == 2 else (-found[2], found[3], found[4])))
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
    assert (slope - expected).norm() <= SLOPES[dtype][0] * expected.norm()


@on_cuda
@pytest.mark.clause("OB-12")
@pytest.mark.parametrize("signals", [SIGNALS, ("divergence",), ("gold", "overlap"), ("mixed",)])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_overlap_kernel_is_the_eager_operation(dtype, softcap, signals):
    arrays, options = rows(dtype), {"temperature": 0.8, "softcap": softcap, "signals": signals}
    options["eta"] = 2.0
    ours, slope = gradient(cuda_overlap.overlap_statistics_triton, *arrays, chunk=20, **options)
    theirs, expected = gradient(overlap.overlap_statistics, *arrays, **options)
    assert torch.equal(ours.hit, theirs.hit) and ours.hit[0]
    for field in ("log_prob", "overlap", "divergence", "mixed"):
        assert (getattr(ours, field) - getattr(theirs, field)).abs().max() <= DIVERGENCE_F32, field
    assert (slope - expected).norm() <= SLOPES[dtype][1] * expected.norm()


@on_cuda
@pytest.mark.clause("OB-1", "OB-12")
@pytest.mark.parametrize("chunk", [1, 7, 45, 100])
def test_the_chunk_changes_no_row_of_a_kernel(chunk):
    hidden, head, target, labels = rows()
    for function, others in zip(KERNELS.values(), ((head, labels), (head, target, labels))):
        ours, slope = gradient(function, hidden, *others, chunk=chunk)
        theirs, expected = gradient(function, hidden, *others)
        for a, b in zip(ours, theirs):
            assert (a.float() - b.float()).abs().max() <= FLOAT32_LOG_PROB
        assert (slope - expected).norm() <= FLOAT32 * expected.norm()


@on_cuda
@pytest.mark.clause("NU-5")
def test_the_first_of_equal_logits_is_the_argmax_of_a_kernel():
    ones = [torch.ones(n, 16, device="cuda") for n in (3, 5001, 3)]
    labels = torch.tensor([0, 1, 5000], device="cuda")
    for function, arrays in zip(KERNELS.values(), (ones[:2], ones)):
        assert function(*arrays, labels)[1].tolist() == [True, False, False]


def room_on(device):
    room = Room("torch")
    room.device = device
    return room


@on_cuda
@pytest.mark.clause("OB-8", "OB-12")
@pytest.mark.parametrize("objective", ["ltr", "reach", "lk(3, 10)+reach+decay(10)"])
def test_a_step_on_cuda_learns_as_on_a_cpu(objective):
    found = []
    for room in map(room_on, ("cuda", "cpu")):
        target, config = make_target(room), make_config()
        learner = make_learner(room, target, config, objective)
        parts = read(room, target, config)
        found.append((*step_gradient(room, learner, parts), learner.train_step(parts).loss))
    assert found[0][0] == pytest.approx(found[1][0], abs=TRAINING_GRADIENT, rel=TRAINING_GRADIENT)
    assert found[0][2] == pytest.approx(found[1][2], abs=TRAINING_GRADIENT, rel=TRAINING_GRADIENT)
    check_equal(found[0][1], found[1][1])


@pytest.mark.clause("OB-12")
def test_the_kernels_refuse_what_is_not_on_cuda():
    hidden, head, target, labels = rows(device="cpu")
    with pytest.raises(BackendUnavailable, match="cpu"):
        cuda_gold.gold_log_probs_triton(hidden, head, labels)
    with pytest.raises(BackendUnavailable, match="cpu"):
        cuda_overlap.overlap_statistics_triton(hidden, head, target, labels)
    assert "cpu" in cuda_gold.available("cpu") and "cuda" in cuda_gold.available(torch.device("cpu"))


@pytest.mark.clause("OB-12")
@pytest.mark.parametrize(
    ("match", "options"),
    [
        ("signals", {"signals": ("golden",)}),
        ("temperature", {"temperature": 0.0}),
        ("temperature", {"temperature": -1.0}),
        ("eta", {"eta": -1.0}),
        ("head", {"head": torch.float64}),
    ],
)
def test_the_overlap_kernel_refuses_what_it_cannot_take(monkeypatch, match, options):
    """Before anything runs, so that a CPU can show it."""
    monkeypatch.setattr(cuda_overlap, "available", lambda device: None)
    hidden, head, target, labels = rows(options.pop("head", torch.float32), device="cpu")
    with pytest.raises(ConfigError, match=match):
        cuda_overlap.overlap_statistics_triton(hidden.to(head.dtype), head, target, labels, **options)


@pytest.mark.clause("NU-2")
def test_the_gold_kernel_refuses_a_float64_head(monkeypatch):
    monkeypatch.setattr(cuda_gold, "available", lambda device: None)
    hidden, head, _, labels = rows(torch.float64, device="cpu")
    with pytest.raises(ConfigError, match="float64"):
        cuda_gold.gold_log_probs_triton(hidden.double(), head, labels)


@pytest.mark.clause("OB-10")
def test_the_gold_kernel_refuses_a_head_that_learns(monkeypatch):
    monkeypatch.setattr(cuda_gold, "available", lambda device: None)
    hidden, head, _, labels = rows(device="cpu")
    with pytest.raises(ConfigError, match="frozen"):
        cuda_gold.gold_log_probs_triton(hidden, head.requires_grad_(), labels)


@pytest.mark.parametrize("entry", overrides.ON_CUDA, ids=lambda entry: entry.operation)
def test_an_entry_for_cuda_keeps_core_s_signature_and_says_what_it_gains(entry):
    assert entry.function is KERNELS[entry.operation] and entry.devices == ("cuda",) and entry.clauses
    assert re.search(r"H200: \d.* ms ", entry.reason) and "benchmarks/results/" in entry.reason
    core, ours = (inspect.signature(f).parameters for f in (CORE[entry.operation], entry.function))
    assert list(ours)[: len(core)] == list(core)
    assert all(p.default is not inspect.Parameter.empty for p in list(ours.values())[len(core) :])


@pytest.mark.parametrize("triton", [True, False])
def test_the_table_takes_the_kernels_only_where_triton_is(monkeypatch, triton):
    anywhere = tuple(entry for entry in overrides.OVERRIDES if entry not in overrides.ON_CUDA)
    if triton != (cuda_gold.available("cuda") is None):  # the machine that this one is not
        monkeypatch.setattr(overrides, "OVERRIDES", (*(overrides.ON_CUDA if triton else ()), *anywhere))
    eager = {"gold_log_probs": gold.gold_log_probs, "overlap_statistics": overlap.overlap_statistics}
    for name, function in eager.items():
        assert overrides.operation(name, device="cuda") is (KERNELS[name] if triton else function)
        assert overrides.operation(name, device="cpu") is function


@pytest.mark.clause("BD-2")
def test_the_form_of_the_mask_follows_the_size_of_the_pass():
    def form(device, rows, anchors, seq_len):
        return attention_mask._takes_flex(device, rows, anchors, seq_len=seq_len, block_size=16)

    assert form("cuda", 1, 512, 3072)
    assert not form("cuda", 16, 32, 384)
    assert not form("cpu", 1, 512, 3072)
    assert form("cuda", 1, 256, 2**13 - 2**12 + 1) and not form(
        "cuda", 1, 256, 2**12
    )  # DENSE itself is dense


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
    np.testing.assert_allclose(both[1].cpu(), both[0].cpu(), atol=FORWARD_F32, rtol=0)

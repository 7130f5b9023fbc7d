"""Triton's kernel of `cuda.gold`; importing this file needs Triton."""

from typing import Any

import torch
import triton  # type: ignore[import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, unused-ignore]
from torch import Tensor

# Columns a step, and warps a program: 8 numbers a thread, whose maxima, sums and places stay in registers.
BLOCK, WARPS = 2048, 8


def gold_rows(
    logits: Tensor,
    labels: Tensor,
    softcap: float | None,
    write: bool,
    *,
    block: int = BLOCK,
    warps: int = WARPS,
) -> tuple[Tensor, Tensor]:
    """Return log_prob and hit of each row; write (softmax - onehot) * slope over the logits if asked.

    Args:
        logits: (rows, V) of at most float32, each row contiguous, before the softcap; written over.
        labels: (rows,) int64.
        softcap: None: no cap.
        write: whether the second product follows.
        block: columns a step, a power of 2.
        warps: warps a program.

    Returns:
        log_prob (rows,) float32, hit (rows,) bool.
    """
    rows, vocab = logits.shape
    log_prob = torch.empty(rows, dtype=torch.float32, device=logits.device)
    hit = torch.empty(rows, dtype=torch.int8, device=logits.device)
    sizes = (logits.stride(0), vocab, 1.0 if softcap is None else float(softcap))
    flags: dict[str, Any] = {"CAPPED": softcap is not None, "WRITE": write, "BLOCK": block}
    _gold_rows[(rows,)](logits, labels, log_prob, hit, *sizes, **flags, num_warps=warps)
    return log_prob, hit.bool()


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _ratio(x, softcap):  # type: ignore[no-untyped-def]
    """tanh(x / softcap), to 1e-7: by an exponential of a number <= 0, which cannot overflow."""
    e = tl.exp(-2.0 * tl.abs(x) / softcap)
    t = (1.0 - e) / (1.0 + e)
    return tl.where(x < 0, -t, t)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _gold_rows(  # type: ignore[no-untyped-def]
    logits,
    labels,
    log_prob,
    hit,
    stride,
    vocab,
    softcap,
    CAPPED: tl.constexpr,
    WRITE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * stride
    label = tl.load(labels + row)
    # Before the reductions, whose barriers keep it ahead of the writes below.
    gold = tl.load(start + label).to(tl.float32)
    if CAPPED:
        gold = softcap * _ratio(gold, softcap)
    lane = tl.arange(0, BLOCK)
    # Each lane has its own maximum, sum and place of the maximum: nothing crosses lanes until the end.
    # Not -inf, whose difference with itself is NaN.
    top = tl.full((BLOCK,), -1e30, dtype=tl.float32)
    z = tl.zeros((BLOCK,), dtype=tl.float32)
    best = tl.full((BLOCK,), 2147483647, dtype=tl.int32)
    for first in range(0, vocab, BLOCK):
        column = first + lane
        inside = column < vocab
        x = tl.load(start + column, mask=inside, other=0.0).to(tl.float32)
        if CAPPED:
            x = softcap * _ratio(x, softcap)
        x = tl.where(inside, x, -float("inf"))
        best = tl.where(x > top, column, best)  # strictly: the first of equal maxima stays (NU-5)
        higher = tl.maximum(x, top)
        z = z * tl.exp(top - higher) + tl.exp(x - higher)
        top = higher
    peak = tl.max(top, axis=0)
    total = tl.sum(z * tl.exp(top - peak), axis=0)
    place = tl.min(tl.where(top == peak, best, 2147483647), axis=0)
    # Label minus maximum first: logsumexp minus gold has the error of the large number.
    tl.store(log_prob + row, gold - peak - tl.log(total))
    tl.store(hit + row, (place == label).to(tl.int8))
    if WRITE:
        for first in range(0, vocab, BLOCK):
            column = first + lane
            inside = column < vocab
            x = tl.load(start + column, mask=inside, other=0.0).to(tl.float32)
            if CAPPED:
                ratio = _ratio(x, softcap)
                x = softcap * ratio
            w = tl.exp(x - peak) / total - (column == label).to(tl.float32)
            if CAPPED:
                w = w * (1.0 - ratio * ratio)
            tl.store(start + column, w.to(logits.dtype.element_ty), mask=inside)

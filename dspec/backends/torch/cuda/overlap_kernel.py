"""Triton's kernel of `cuda.overlap`; importing this file needs Triton."""

from typing import Any

import torch
import triton  # type: ignore[import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, unused-ignore]
from torch import Tensor

from dspec.backends.torch.cuda.kernels import BLOCK, WARPS, _ratio
from dspec.core.signals import SIGNALS


def overlap_rows(
    logits: Tensor,
    target_logits: Tensor,
    labels: Tensor,
    temperature: float,
    softcap: float | None,
    eta: float,
    slopes: dict[str, Tensor],
    *,
    block: int = BLOCK,
    warps: int = WARPS,
) -> tuple[Tensor, ...]:
    """Return log_prob, hit, overlap and divergence of each row; write the slopes that are asked for.

    Args:
        logits: (rows, V) of at most float32, each row contiguous, the drafter's before the softcap.
        target_logits: (rows, V) likewise, the target's, before softcap and temperature.
        labels: (rows,) int64.
        temperature: of the target's law.
        softcap: None: no cap.
        eta: of the mix of overlap and divergence.
        slopes: by signal where to write the derivative of -log_prob, -overlap, divergence and their mix with
            respect to the drafter's logits, (rows, V); one may be `logits`, another `target_logits`.
        block: columns a step, a power of 2.
        warps: warps a program.

    Returns:
        log_prob (rows,) float32, hit (rows,) bool, overlap (rows,) float32, divergence (rows,) float32.
    """
    rows, vocab = logits.shape
    found = [torch.empty(rows, dtype=torch.float32, device=logits.device) for _ in range(3)]
    hit = torch.empty(rows, dtype=torch.int8, device=logits.device)
    places = [slopes.get(signal, logits) for signal in SIGNALS]
    wanted = {signal.upper(): signal in slopes for signal in SIGNALS}
    strides = [x.stride(0) for x in (logits, target_logits, *places)]
    sizes = (vocab, 1.0 if softcap is None else float(softcap), float(temperature), float(eta))
    flags: dict[str, Any] = {"CAPPED": softcap is not None, "BLOCK": block, **wanted}
    arrays = (logits, target_logits, *places, labels, found[0], hit, *found[1:])
    _overlap_rows[(rows,)](*arrays, *strides, *sizes, **flags, num_warps=warps)
    return found[0], hit.bool(), found[1], found[2]


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _capped(x, softcap, CAPPED: tl.constexpr):  # type: ignore[no-untyped-def]
    if CAPPED:
        x = softcap * _ratio(x, softcap)
    return x


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _read(start, column, inside, softcap, CAPPED: tl.constexpr):  # type: ignore[no-untyped-def]
    return _capped(tl.load(start + column, mask=inside, other=0.0).to(tl.float32), softcap, CAPPED)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _peaks(  # type: ignore[no-untyped-def]
    ours, theirs, vocab, softcap, temperature, CAPPED: tl.constexpr, BLOCK: tl.constexpr
):
    """The maximum of a row, the logarithm of its sum over it and its place, and the target's first two."""
    lane = tl.arange(0, BLOCK)
    # Each lane has its own maxima and sums: nothing crosses lanes until the end. Not -inf, see `kernels`.
    top = tl.full((BLOCK,), -1e30, dtype=tl.float32)
    z = tl.zeros((BLOCK,), dtype=tl.float32)
    best = tl.full((BLOCK,), 2147483647, dtype=tl.int32)
    target_top = tl.full((BLOCK,), -1e30, dtype=tl.float32)
    target_z = tl.zeros((BLOCK,), dtype=tl.float32)
    for first in range(0, vocab, BLOCK):
        column = first + lane
        inside = column < vocab
        x = tl.where(inside, _read(ours, column, inside, softcap, CAPPED), -float("inf"))
        y = tl.where(inside, _read(theirs, column, inside, softcap, CAPPED) / temperature, -float("inf"))
        best = tl.where(x > top, column, best)  # strictly: the first of equal maxima stays (NU-5)
        higher = tl.maximum(x, top)
        z = z * tl.exp(top - higher) + tl.exp(x - higher)
        top = higher
        higher = tl.maximum(y, target_top)
        target_z = target_z * tl.exp(target_top - higher) + tl.exp(y - higher)
        target_top = higher
    peak = tl.max(top, axis=0)
    log_z = tl.log(tl.sum(z * tl.exp(top - peak), axis=0))
    place = tl.min(tl.where(top == peak, best, 2147483647), axis=0)
    target_peak = tl.max(target_top, axis=0)
    target_log_z = tl.log(tl.sum(target_z * tl.exp(target_top - target_peak), axis=0))
    return peak, log_z, place, target_peak, target_log_z


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _shares(  # type: ignore[no-untyped-def]
    ours,
    theirs,
    peak,
    log_z,
    target_peak,
    target_log_z,
    vocab,
    softcap,
    temperature,
    CAPPED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sums over a row: of min(p, q), of q where it is the smaller one, of p (log p - log q)."""
    lane = tl.arange(0, BLOCK)
    shared = tl.zeros((BLOCK,), dtype=tl.float32)
    below = tl.zeros((BLOCK,), dtype=tl.float32)
    apart = tl.zeros((BLOCK,), dtype=tl.float32)
    for first in range(0, vocab, BLOCK):
        column = first + lane
        inside = column < vocab
        log_q = _read(ours, column, inside, softcap, CAPPED) - peak - log_z
        log_p = _read(theirs, column, inside, softcap, CAPPED) / temperature - target_peak - target_log_z
        q = tl.where(inside, tl.exp(log_q), 0.0)
        p = tl.where(inside, tl.exp(log_p), 0.0)
        shared += tl.minimum(p, q)
        below += tl.where(q < p, q, 0.0)
        apart += p * (log_p - log_q)
    return tl.sum(shared, axis=0), tl.sum(below, axis=0), tl.sum(apart, axis=0)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _write_slopes(  # type: ignore[no-untyped-def]
    ours,
    theirs,
    gold_slope,
    overlap_slope,
    divergence_slope,
    mixed_slope,
    label,
    peak,
    log_z,
    target_peak,
    target_log_z,
    common,
    rest,
    vocab,
    softcap,
    temperature,
    eta,
    CAPPED: tl.constexpr,
    BLOCK: tl.constexpr,
    GOLD: tl.constexpr,
    OVERLAP: tl.constexpr,
    DIVERGENCE: tl.constexpr,
    MIXED: tl.constexpr,
):
    """Write the slopes of a row that are asked for, over its logits where they stand there."""
    lane = tl.arange(0, BLOCK)
    kind = ours.dtype.element_ty
    share = tl.exp(-eta * common)
    for first in range(0, vocab, BLOCK):
        column = first + lane
        inside = column < vocab
        x = tl.load(ours + column, mask=inside, other=0.0).to(tl.float32)
        y = _read(theirs, column, inside, softcap, CAPPED)
        slope = tl.full((BLOCK,), 1.0, dtype=tl.float32)
        if CAPPED:
            ratio = _ratio(x, softcap)
            slope = 1.0 - ratio * ratio
            x = softcap * ratio
        q = tl.exp(x - peak - log_z)
        p = tl.exp(y / temperature - target_peak - target_log_z)
        if GOLD:
            w = (q - (column == label).to(tl.float32)) * slope
            tl.store(gold_slope + column, w.to(kind), mask=inside)
        if OVERLAP:
            w = q * (tl.where(q < p, 1.0, 0.0) - rest) * slope
            tl.store(overlap_slope + column, w.to(kind), mask=inside)
        if DIVERGENCE:
            w = (q - p) * slope
            tl.store(divergence_slope + column, w.to(kind), mask=inside)
        if MIXED:
            w = share * (q - p) - (1.0 - share) * q * (tl.where(q < p, 1.0, 0.0) - rest)
            tl.store(mixed_slope + column, (w * slope).to(kind), mask=inside)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _overlap_rows(  # type: ignore[no-untyped-def]
    logits,
    target_logits,
    gold_slope,
    overlap_slope,
    divergence_slope,
    mixed_slope,
    labels,
    log_prob,
    hit,
    overlap,
    divergence,
    stride,
    target_stride,
    gold_stride,
    overlap_stride,
    divergence_stride,
    mixed_stride,
    vocab,
    softcap,
    temperature,
    eta,
    CAPPED: tl.constexpr,
    BLOCK: tl.constexpr,
    GOLD: tl.constexpr,
    OVERLAP: tl.constexpr,
    DIVERGENCE: tl.constexpr,
    MIXED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    ours, theirs = logits + row * stride, target_logits + row * target_stride
    label = tl.load(labels + row)
    # Before the reductions, whose barriers keep it ahead of the writes below.
    gold = _capped(tl.load(ours + label).to(tl.float32), softcap, CAPPED)
    peak, log_z, place, target_peak, target_log_z = _peaks(
        ours, theirs, vocab, softcap, temperature, CAPPED, BLOCK
    )
    tl.store(log_prob + row, gold - peak - log_z)
    tl.store(hit + row, (place == label).to(tl.int8))
    common, rest, apart = _shares(
        ours, theirs, peak, log_z, target_peak, target_log_z, vocab, softcap, temperature, CAPPED, BLOCK
    )
    tl.store(overlap + row, common)
    tl.store(divergence + row, apart)
    if GOLD or OVERLAP or DIVERGENCE or MIXED:
        # fmt: off
        _write_slopes(
            ours, theirs, gold_slope + row * gold_stride, overlap_slope + row * overlap_stride,
            divergence_slope + row * divergence_stride, mixed_slope + row * mixed_stride, label, peak, log_z,
            target_peak, target_log_z, common, rest, vocab, softcap, temperature, eta,
            CAPPED, BLOCK, GOLD, OVERLAP, DIVERGENCE, MIXED,
        )
        # fmt: on

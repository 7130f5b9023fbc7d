"""`overlap_statistics` on CUDA: the row work between the products by one Triton kernel.

Three reads of both rows of logits and one write a wanted signal, in the head's dtype; eager torch reads and
writes float32 copies of them some thirty times.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import array_api_compat.torch as torch_namespace
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dspec.backends.torch.cuda.gold import available
from dspec.backends.torch.workspace import parts, wide_of
from dspec.core.overlap import RowStatistics, check_overlap, divergence_share, mixed_loss
from dspec.core.signals import SIGNALS, check_signals
from dspec.errors import BackendUnavailable, ConfigError, explain

CHUNK = 2048


def overlap_statistics_triton(
    hidden: Tensor,
    head: Tensor,
    target_hidden: Tensor,
    labels: Tensor,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    eta: float = 0.0,
    xp: Any = None,
    stop_gradient: Any = None,
    chunk: int = CHUNK,
    signals: Sequence[str] = SIGNALS,
) -> RowStatistics:
    """Return what `overlap.overlap_statistics` does, its row work by one Triton kernel.

    Memory is two chunks of logits in the head's dtype, or as many as signals are wanted. A float64 head is
    refused.

    Spec: OB-1, OB-10, OB-12, OB-16, NU-2, NU-5.

    Args:
        hidden: (R, D) floating, on CUDA; see `overlap.overlap_statistics`.
        head: (V, D); frozen.
        target_hidden: (R, D); no gradient flows here.
        labels: (R,) integer ids in [0, V).
        temperature: of the target's law alone; > 0.
        softcap: see `overlap.overlap_statistics`.
        eta: likewise.
        xp: likewise.
        stop_gradient: likewise.
        chunk: rows a chunk, >= 1.
        signals: which statistics carry a gradient.

    Returns:
        The statistics, float32, differentiable once.

    Raises:
        ShapeError: shapes or dtypes do not agree.
        ConfigError: the temperature, eta, a signal, a head that wants a gradient or is float64.
        BackendUnavailable: not on CUDA, or without Triton.
    """
    missing = available(hidden.device)
    if missing is not None:
        raise BackendUnavailable(explain("overlap_statistics_triton", missing, "CUDA and Triton"))
    asked = check_signals(signals)
    check_overlap(hidden, head, target_hidden, labels, temperature, eta, xp=xp or torch_namespace)
    if head.requires_grad or head.dtype == torch.float64:
        needed = "a frozen head of at most float32"
        raise ConfigError(explain("head", f"{head.dtype}, requires_grad={head.requires_grad}", needed))
    wanted = asked if torch.is_grad_enabled() else ()
    options = _Options(temperature, softcap, eta, parts(len(hidden), chunk, None), wanted)
    return RowStatistics(*_Overlap.apply(hidden, head, target_hidden.detach(), labels.long(), options))  # type: ignore


@dataclass(frozen=True)
class _Options:
    """What is not a tensor; `signals`: those whose gradient may be taken."""

    temperature: float
    softcap: float | None
    eta: float
    cut: list[slice]
    signals: tuple[str, ...]


class _Overlap(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, head, target_hidden, labels, options):  # type: ignore[no-untyped-def]
        from dspec.backends.torch.cuda.overlap_kernel import overlap_rows

        wanted = options.signals if ctx.needs_input_grad[0] else ()
        wide, rows = wide_of(head.dtype), len(hidden)
        columns = [head.new_empty(rows, dtype=wide) for _ in range(3)]
        hit = torch.empty(rows, dtype=torch.bool, device=head.device)
        units = {signal: head.new_empty(hidden.shape, dtype=wide) for signal in wanted}
        longest = max((part.stop - part.start for part in options.cut), default=0)
        spaces = [head.new_empty((longest, head.shape[0])) for _ in range(max(2, len(wanted)))]
        for part in options.cut:
            count = part.stop - part.start
            ours, theirs = (space[:count] for space in spaces[:2])
            torch.mm(hidden[part].to(head.dtype), head.T, out=ours)
            torch.mm(target_hidden[part].to(head.dtype), head.T, out=theirs)
            slopes = dict(zip(wanted, (space[:count] for space in spaces)))
            numbers = (options.temperature, options.softcap, options.eta)
            said = overlap_rows(ours, theirs, labels[part], *numbers, slopes)
            columns[0][part], hit[part], columns[1][part], columns[2][part] = said
            for signal, slope in slopes.items():
                units[signal][part] = torch.mm(slope, head)
        ctx.signals = wanted
        ctx.mark_non_differentiable(hit)
        ctx.save_for_backward(*units.values())
        mixed = mixed_loss(columns[1], columns[2], divergence_share(columns[1], options.eta, xp=torch))
        return columns[0], hit, columns[1], columns[2], mixed

    @staticmethod
    @once_differentiable
    def backward(ctx, log_prob, _hit, overlap, divergence, mixed):  # type: ignore[no-untyped-def]
        # The unit of gold is the derivative of -log_prob; those of the others are their own.
        factors = {"gold": -log_prob, "overlap": overlap, "divergence": divergence, "mixed": mixed}
        units = dict(zip(ctx.signals, ctx.saved_tensors))
        total = None
        for signal, unit in units.items():
            term = factors[signal][:, None] * unit
            total = term if total is None else total + term
        return total, None, None, None, None

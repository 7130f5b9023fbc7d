"""The gold operation on CUDA: what stands between the two products, in fewer passes.

On a GPU the products are fast and the row by row work on R x V logits is what costs: eager torch reads and
writes them some ten times, and widens 16-bit logits to float32 first. Here the logits stay in the head's
dtype and are written over by (softmax - onehot), the second product's left side: by one Triton kernel, a
program a row. `torch.compile` of the same formulas was slower (11.4 ms against 9.4 on an H200,
benchmarks/results/objective_cuda.json).
"""

from dataclasses import dataclass
from typing import Any

import array_api_compat.torch as torch_namespace
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dspec.backends.torch.workspace import parts, wide_of
from dspec.core.gold import check_gold
from dspec.errors import BackendUnavailable, ConfigError, explain

try:
    import triton  # type: ignore[import-not-found, unused-ignore]

    from dspec.backends.torch.cuda.kernels import gold_rows
except ImportError:  # torch's builds without CUDA do not bring it; `available` says so
    triton = None

CHUNK = 2048


def available(device: torch.device | str) -> str | None:
    """Return None where the Triton kernel can run on a device, else why not.

    Args:
        device: of the hidden states.

    Example:
        >>> available("cpu")
        'the tensors are on cpu; the kernel runs on cuda'
    """
    kind = torch.device(device).type
    if kind != "cuda":
        return f"the tensors are on {kind}; the kernel runs on cuda"
    return "triton is not installed" if triton is None else None


def gold_log_probs_triton(
    hidden: Tensor,
    head: Tensor,
    labels: Tensor,
    *,
    softcap: float | None = None,
    xp: Any = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Return what `gold.gold_log_probs` does, its row work by one Triton kernel.

    The logits are read twice and written once, in the head's dtype. A float64 head is refused.

    Spec: OB-1, OB-10, NU-2, NU-5.

    Args:
        hidden: (R, D) floating, on CUDA; see `gold.gold_log_probs`.
        head: (V, D); frozen.
        labels: (R,) integer ids in [0, V).
        softcap: likewise.
        xp: likewise.
        chunk: rows a chunk, >= 1.

    Returns:
        log_prob (R,) float32 (differentiable once), hit (R,) bool.

    Raises:
        ShapeError: shapes or dtypes do not agree.
        ConfigError: the head wants a gradient, or is float64.
        BackendUnavailable: not on CUDA, or without Triton.
    """
    missing = available(hidden.device)
    if missing is not None:
        raise BackendUnavailable(explain("gold_log_probs_triton", missing, "CUDA and Triton"))
    if head.dtype == torch.float64:
        raise ConfigError(explain("head", "float64", "at most float32", remedy="use gold.gold_log_probs"))
    check_gold(hidden, head, labels, xp=xp or torch_namespace)
    if head.requires_grad:
        remedy = "pass head.detach(), or use gold.gold_log_probs"
        raise ConfigError(explain("head", "a head that wants a gradient", "a frozen head", remedy=remedy))
    options = _Options(softcap, parts(len(hidden), chunk, None), torch.is_grad_enabled())
    return _GoldLogProbs.apply(hidden, head, labels.long(), options)  # type: ignore


@dataclass(frozen=True)
class _Options:
    """What is not a tensor; `learning`: whether a gradient can be taken at all."""

    softcap: float | None
    cut: list[slice]
    learning: bool


class _GoldLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, head, labels, options):  # type: ignore[no-untyped-def]
        wanted = options.learning and ctx.needs_input_grad[0]
        wide, rows = wide_of(head.dtype), len(hidden)
        log_prob = head.new_empty(rows, dtype=wide)
        hit = torch.empty(rows, dtype=torch.bool, device=head.device)
        unit = head.new_empty(hidden.shape, dtype=wide) if wanted else None
        longest = max((part.stop - part.start for part in options.cut), default=0)
        space = head.new_empty((longest, head.shape[0]))
        for part in options.cut:
            logits = space[: part.stop - part.start]
            torch.mm(hidden[part].to(head.dtype), head.T, out=logits)
            log_prob[part], hit[part] = gold_rows(logits, labels[part], options.softcap, wanted)
            if unit is not None:
                unit[part] = torch.mm(logits, head)
        ctx.mark_non_differentiable(hit)
        ctx.save_for_backward(unit)
        return log_prob, hit

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_log_prob, _grad_hit):  # type: ignore[no-untyped-def]
        (unit,) = ctx.saved_tensors
        return -grad_log_prob[:, None] * unit, None, None, None

"""The gold operation on CUDA: what stands between the two products, in fewer passes.

On a GPU the products are fast and the row by row work on R x V logits is what costs: eager torch reads and
writes them some ten times, and widens 16-bit logits to float32 first. Here the logits stay in the head's
dtype and are written over by (softmax - onehot), the second product's left side: by `torch.compile` of the
same formulas, or by one Triton kernel, a program a row. The kernel is in the table of overrides; the
compiled form was slower there (11.4 ms against 9.4: benchmarks/results/objective_cuda.json).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
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
# Writes (log_prob, hit) of some rows of logits, and where a gradient is wanted (softmax - onehot) over them.
RowWork = Callable[[Tensor, Tensor, float | None, bool], tuple[Tensor, Tensor]]


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
    return _run(hidden, head, labels, softcap, xp, chunk, gold_rows)


def gold_log_probs_compiled(
    hidden: Tensor,
    head: Tensor,
    labels: Tensor,
    *,
    softcap: float | None = None,
    xp: Any = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Return what `gold.gold_log_probs` does, its row work by `torch.compile`.

    Spec: OB-1, OB-10, NU-2, NU-5.

    Args:
        hidden: (R, D) floating, on any device that torch compiles for; see `gold.gold_log_probs`.
        head: (V, D); frozen.
        labels: (R,) integer ids in [0, V).
        softcap: likewise.
        xp: likewise.
        chunk: rows a chunk, >= 1; one more number of rows may compile once more.

    Returns:
        log_prob (R,) float32 or float64 (differentiable once), hit (R,) bool.

    Raises:
        ShapeError: shapes or dtypes do not agree.
        ConfigError: the head wants a gradient.
    """
    return _run(hidden, head, labels, softcap, xp, chunk, _compiled_rows)


def _run(
    hidden: Tensor,
    head: Tensor,
    labels: Tensor,
    softcap: float | None,
    xp: Any,
    chunk: int,
    row_work: RowWork,
) -> tuple[Tensor, Tensor]:
    check_gold(hidden, head, labels, xp=xp or torch_namespace)
    if head.requires_grad:
        remedy = "pass head.detach(), or use gold.gold_log_probs"
        raise ConfigError(explain("head", "a head that wants a gradient", "a frozen head", remedy=remedy))
    options = _Options(softcap, parts(len(hidden), chunk, None), row_work, torch.is_grad_enabled())
    return _GoldLogProbs.apply(hidden, head, labels.long(), options)  # type: ignore


@dataclass(frozen=True)
class _Options:
    """What is not a tensor; `learning`: whether a gradient can be taken at all."""

    softcap: float | None
    cut: list[slice]
    row_work: RowWork
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
            log_prob[part], hit[part] = options.row_work(logits, labels[part], options.softcap, wanted)
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


def _compiled_rows(
    logits: Tensor, labels: Tensor, softcap: float | None, wanted: bool
) -> tuple[Tensor, Tensor]:
    statistics, write = _compiled()
    log_prob, hit, top, z = statistics(logits, labels, softcap)
    if wanted:
        write(logits, labels, top, z, softcap)
    return log_prob, hit


@cache
def _compiled() -> tuple[Callable[..., Any], Callable[..., Any]]:
    return torch.compile(_statistics), torch.compile(_write)


def _statistics(logits: Tensor, labels: Tensor, softcap: float | None) -> tuple[Tensor, ...]:
    """Return log_prob, hit, maxima (rows, 1) and row sums (rows, 1)."""
    x = _capped(logits, softcap)
    top = x.amax(dim=1, keepdim=True)
    z = (x - top).exp().sum(dim=1, keepdim=True)
    gold = _capped(logits.gather(1, labels[:, None]), softcap)
    # Label minus maximum first: logsumexp minus gold has the error of the large number.
    return (gold - top - z.log())[:, 0], x.argmax(dim=1) == labels, top, z


def _write(logits: Tensor, labels: Tensor, top: Tensor, z: Tensor, softcap: float | None) -> None:
    """Turn logits, in place, into (softmax - onehot) times the cap's slope."""
    x = _capped(logits, softcap)
    own = torch.arange(logits.shape[1], device=logits.device) == labels[:, None]
    weights = (x - top).exp() / z - own.to(x.dtype)
    if softcap is not None:
        weights = weights * (1 - (x / softcap) ** 2)
    logits.copy_(weights)


def _capped(logits: Tensor, softcap: float | None) -> Tensor:
    wide = logits.to(wide_of(logits.dtype))
    return wide if softcap is None else softcap * torch.tanh(wide / softcap)

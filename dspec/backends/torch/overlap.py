"""Gold log-probability, overlap and divergence without the logits: unit gradients, chunk by chunk.

As in `gold`: an objective reads the drafter through a few numbers a row, its *signals*, and the gradient
of each with respect to the row's hidden state is made in the forward, while drafter's and target's laws
are at hand. Two matrix products, and one for each signal whose gradient is wanted; nothing redone. lk's mix
of two of them depends on its row's overlap alone, known before the product: one signal, one product.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import array_api_compat.torch as torch_namespace
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dspec.backends.torch.workspace import Workspace, groups, parts, wide_of
from dspec.core.overlap import RowStatistics, check_overlap, divergence_share, mixed_loss
from dspec.core.signals import SIGNALS, check_signals
from dspec.errors import ConfigError, explain

CHUNK = 256
# What a unit gradient is the derivative of: what falls as the drafter improves.
SIGNS = {"gold": -1, "overlap": -1, "divergence": 1, "mixed": 1}


def overlap_statistics(
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
    """Return each row's gold log-probability and hit, and how its law lies beside the target's.

    Same values and gradient as `dspec.core.overlap.overlap_statistics`; memory is three chunks of
    float32 logits (one more with a softcap, half a one with a 16-bit head) plus a float32 copy of
    `hidden` a signal, whatever the number of rows.

    Spec: OB-1, OB-10, OB-12, OB-16, NU-2, NU-5.

    Args:
        hidden: (R, D) floating, the drafter's last hidden states; the gradient flows here. Of the
            head's dtype, or float32 over a 16-bit head: then the gradient is float32 too.
        head: (V, D), the target's output weight; frozen. Products run in its dtype, statistics and
            unit gradients in float32 (float64 for float64).
        target_hidden: (R, D) floating, likewise; the target's own state after its final norm, at the
            position before the label. No gradient flows here.
        labels: (R,) integer ids in [0, V).
        temperature: of the target's law alone; > 0.
        softcap: logits of both become softcap * tanh(logits / softcap); None leaves them.
        eta: of `mixed` alone; finite, >= 0; at 0 it is the divergence.
        xp: torch's namespace; here because every override has its operation's signature.
        stop_gradient: likewise.
        chunk: rows a chunk, >= 1.
        signals: which statistics carry a gradient, of `SIGNALS`; the others are constants.

    Returns:
        The statistics, float32 or float64, differentiable once; among equal logits the lowest index is
        the argmax.

    Raises:
        ShapeError: shapes or dtypes do not agree.
        ConfigError: the temperature is not a positive number, eta out of its range, a signal unknown, or
            the head wants a gradient, which this operation does not make.

    Example:
        >>> hidden = torch.zeros(1, 2, requires_grad=True)
        >>> head, target = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0]])
        >>> rows = overlap_statistics(hidden, head, target, torch.tensor([1]))
        >>> rows.overlap.sum().backward()
        >>> round(rows.overlap.item(), 3), hidden.grad.tolist()
        (0.769, [[-0.25, 0.25]])

    Source: LK (arXiv 2602.23881) for the overlap as a loss; the scheme is this library's own, measured
    in benchmarks/objective.py.
    """
    asked = check_signals(signals)
    check_overlap(hidden, head, target_hidden, labels, temperature, eta, xp=xp or torch_namespace)
    if head.requires_grad and torch.is_grad_enabled():
        remedy = "pass head.detach(), or train with core's operation"
        raise ConfigError(explain("head", "a head that wants a gradient", "a frozen head", remedy=remedy))
    wanted = asked if torch.is_grad_enabled() else ()
    options = _Options(temperature, softcap, eta, parts(len(hidden), chunk, None), wanted)
    constants = head.detach(), target_hidden.detach(), labels.long()
    return RowStatistics(*_OverlapStatistics.apply(hidden, *constants, options))  # type: ignore


@dataclass(frozen=True)
class _Options:
    """What is not a tensor; `signals`: those whose gradient may be taken."""

    temperature: float
    softcap: float | None
    eta: float
    cut: list[slice]
    signals: tuple[str, ...]


@dataclass
class _Columns:
    """The statistics of all rows, written chunk by chunk."""

    rows: int
    like: Tensor
    hit: Tensor = field(init=False)
    numbers: list[Tensor] = field(init=False)  # log_prob, overlap, divergence

    def __post_init__(self) -> None:
        self.hit = torch.empty(self.rows, dtype=torch.bool, device=self.like.device)
        wide = wide_of(self.like.dtype)
        self.numbers = [self.like.new_empty(self.rows, dtype=wide) for _ in range(3)]


class _OverlapStatistics(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, head, target_hidden, labels, options):  # type: ignore[no-untyped-def]
        signals = options.signals if ctx.needs_input_grad[0] else ()
        columns = _Columns(len(hidden), head)
        units = [head.new_empty(hidden.shape, dtype=wide_of(head.dtype)) for _ in signals]
        longest = max((part.stop - part.start for part in options.cut), default=0)
        space = Workspace(longest, head, wide=3, softcap=options.softcap, slope=bool(signals))
        for part in options.cut:
            q, p, spare = space.views(part.stop - part.start)
            space.logits(hidden[part], q, slope=True)
            space.logits(target_hidden[part], p, slope=False)
            for some in groups(len(q), head):
                place = slice(part.start + some.start, part.start + some.stop)
                _statistics(q[some], p[some], spare[some], place, labels[place], options.temperature, columns)
            share = divergence_share(columns.numbers[1][part], options.eta, xp=torch)[:, None]
            for name in _ORDER:
                if name in signals:
                    units[signals.index(name)][part] = _unit(name, space, q, p, spare, labels[part], share)
        log_prob, overlap, divergence = columns.numbers
        mixed = mixed_loss(overlap, divergence, divergence_share(overlap, options.eta, xp=torch))
        numbers = dict(zip(SIGNALS, (log_prob, overlap, divergence, mixed)))
        ctx.mark_non_differentiable(columns.hit, *(numbers[name] for name in SIGNALS if name not in signals))
        ctx.set_materialize_grads(False)
        ctx.signals = signals
        ctx.save_for_backward(*units)
        return log_prob, columns.hit, overlap, divergence, mixed

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_log_prob, _grad_hit, *grads):  # type: ignore[no-untyped-def]
        factors = dict(zip(SIGNALS, (grad_log_prob, *grads)))
        total = None
        for name, unit in zip(ctx.signals, ctx.saved_tensors):
            if factors[name] is not None:
                part = SIGNS[name] * factors[name][:, None]
                total = part * unit if total is None else total.addcmul_(part, unit)
        return total, None, None, None, None


def _statistics(
    q: Tensor, p: Tensor, spare: Tensor, rows: slice, labels: Tensor, temperature: float, columns: _Columns
) -> None:
    """Write some rows' statistics; q and p, logits before, are the two laws after."""
    top, best = q.max(dim=1, keepdim=True)  # the first of equal maxima (NU-5)
    gold = q.gather(1, labels[:, None]) - top
    q.sub_(top)
    if temperature != 1:
        p.div_(temperature)
    p.sub_(p.amax(dim=1, keepdim=True))
    torch.sub(p, q, out=spare)
    z, target_z = (x.exp_().sum(dim=1, keepdim=True) for x in (q, p))
    log_prob, overlap, divergence = columns.numbers
    # Never logsumexp minus gold: its error is that of the large number (1e-6 against 6e-7).
    log_prob[rows] = (gold - z.log())[:, 0]
    columns.hit[rows] = best[:, 0] == labels
    p.div_(target_z)
    divergence[rows] = spare.mul_(p).sum(dim=1) + (z.log() - target_z.log())[:, 0]
    q.div_(z)
    overlap[rows] = torch.minimum(q, p, out=spare).sum(dim=1)


# In this order no array beside q, p and a spare one is needed: mixed writes over p, the last over q.
_ORDER = ("overlap", "divergence", "mixed", "gold")


def _unit(
    name: str, space: Workspace, q: Tensor, p: Tensor, spare: Tensor, labels: Tensor, share: Tensor
) -> Tensor:
    """Return (rows, D): the derivative of -overlap, the divergence, their mix by share, or -log_prob."""
    weights = q if name == "gold" else spare
    if name == "gold":
        q.scatter_add_(1, labels[:, None], q.new_full((len(q), 1), -1.0))
    else:
        function = torch.sub if name == "divergence" else _of_overlap
        for some in groups(len(q), space.head):
            function(q[some], p[some], out=spare[some])
            if name == "mixed":
                spare[some].lerp_(torch.sub(q[some], p[some], out=p[some]), share[some])
    space.capped_slope(weights)
    return space.back(weights)


def _of_overlap(q: Tensor, p: Tensor, *, out: Tensor) -> None:
    """Write the derivative of -overlap by the drafter's logits."""
    # A tie is not below: the minimum is then p, which does not move.
    torch.lt(q, p, out=out).mul_(q)
    share = out.sum(dim=1, keepdim=True)
    torch.addcmul(out.neg_(), q, share, out=out)

"""Gold log-probabilities without the logits: unit gradients, chunk by chunk.

Every objective reads the drafter only through the log-probability of the gold token, so the
gradient of one row's cross-entropy with respect to its hidden state, the *unit gradient*, is all
that a backward pass needs: it is made in the forward, while the chunk's logits are at hand, and
the backward multiplies it by a number a row. Two matrix products, no logits kept, nothing redone.

The gradient of the head has no such short form: a head that wants one costs a backward that makes each
chunk's logits again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import array_api_compat.torch as torch_namespace
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dspec.backends.torch.workspace import Workspace, groups, parts, softmax_statistics, wide_of
from dspec.core.gold import check_gold

CHUNK = 256
# Rows of the operation, their log_prob and hit -> (rows,) bool: which of them get a unit gradient.
Keep = Callable[[slice, Tensor, Tensor], Tensor]


def gold_log_probs(
    hidden: Tensor,
    head: Tensor,
    labels: Tensor,
    *,
    softcap: float | None = None,
    xp: Any = None,
    chunk: int = CHUNK,
    keep: Keep | None = None,
    bounds: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return each row's log-probability of its gold token, and whether the argmax is that token.

    Same values and gradient as `dspec.core.gold.gold_log_probs`; memory is one chunk of logits
    plus one float32 copy of `hidden`, whatever the number of rows; a head that wants a gradient costs a
    float32 copy of itself, and two products more in the backward.

    Spec: OB-1, OB-10, OB-21, NU-2, NU-5.

    Args:
        hidden: (R, D) floating, the drafter's last hidden states; the gradient flows here. Of the
            head's dtype, or float32 over a 16-bit head: then the gradient is float32 too.
        head: (V, D), the target's output weight. Products run in its dtype, statistics and unit
            gradients in float32 (float64 for float64). If it wants a gradient, that is added up in
            float32.
        labels: (R,) integer ids in [0, V).
        softcap: logits become softcap * tanh(logits / softcap); None leaves them.
        xp: torch's namespace; here because every override has its operation's signature.
        chunk: rows a chunk, >= 1.
        keep: asked after each chunk's statistics; rows that it answers False for add nothing to any
            gradient and cost no second product. None: all rows count.
        bounds: ends of the chunks, in rows, the last R, so that chunks hold whole blocks; `chunk` is
            then not read.

    Returns:
        log_prob (R,) float32 or float64 (differentiable once), hit (R,) bool; among equal
        logits the lowest index is the argmax.

    Raises:
        ShapeError: shapes or dtypes do not agree.
        ConfigError: the bounds do not cover the rows in order, or chunk < 1.

    Example:
        >>> hidden = torch.zeros(1, 2, requires_grad=True)
        >>> log_prob, hit = gold_log_probs(hidden, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([1]))
        >>> log_prob.sum().backward()
        >>> round(log_prob.exp().item(), 3), hit.tolist(), hidden.grad.tolist()
        (0.5, [False], [[-0.5, 0.5]])

    Source: this library's own scheme; measured against others in benchmarks/objective.py.
    """
    check_gold(hidden, head, labels, xp=xp or torch_namespace)  # the same errors, by the same code
    cut = parts(len(hidden), chunk, bounds)
    return _GoldLogProbs.apply(hidden, head, labels.long(), _Options(softcap, cut, keep))  # type: ignore


@dataclass(frozen=True)
class _Options:
    """What is not a tensor; `learning`: whether a gradient can be taken at all."""

    softcap: float | None
    cut: list[slice]
    keep: Keep | None
    learning: bool = field(default_factory=torch.is_grad_enabled)  # read before the forward turns it off

    def workspace(self, head: Tensor, *, slope: bool) -> Workspace:
        longest = max((part.stop - part.start for part in self.cut), default=0)
        return Workspace(longest, head, wide=1, softcap=self.softcap, slope=slope)


class _GoldLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, head, labels, options):  # type: ignore[no-untyped-def]
        wanted = options.learning and ctx.needs_input_grad[0]
        wide, rows = wide_of(head.dtype), len(hidden)
        log_prob = head.new_empty(rows, dtype=wide)
        hit = torch.empty(rows, dtype=torch.bool, device=head.device)
        unit = head.new_empty(hidden.shape, dtype=wide) if wanted else None
        kept = torch.ones_like(hit) if options.keep else None
        space = options.workspace(head, slope=wanted)
        for part in options.cut:
            (logits,) = space.views(part.stop - part.start)
            space.logits(hidden[part], logits, slope=wanted)
            log_prob[part], hit[part], z = _statistics(logits, labels[part], head)
            if kept is not None:
                kept[part] = options.keep(part, log_prob[part], hit[part])
            if unit is not None:
                chosen = None if kept is None else kept[part]
                _unit_gradient(space, logits, labels[part], z, chosen, unit[part])
        ctx.mark_non_differentiable(hit)
        ctx.options = options
        # The head's gradient has no short form: its backward makes the logits again.
        again = (hidden, head, labels, kept) if ctx.needs_input_grad[1] else (None,) * 4
        ctx.save_for_backward(unit, *again)
        return log_prob, hit

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_log_prob, _grad_hit):  # type: ignore[no-untyped-def]
        unit, hidden, head, labels, kept = ctx.saved_tensors
        of_hidden = of_head = None
        if ctx.needs_input_grad[0]:
            # unit is d(-log_prob)/d hidden; the product is float32, and cast by autograd if hidden is not.
            of_hidden = -grad_log_prob[:, None] * unit
        if ctx.needs_input_grad[1]:
            weights = grad_log_prob if kept is None else grad_log_prob * kept
            of_head = _head_gradient(hidden, head, labels, -weights, ctx.options)
        return of_hidden, of_head, None, None


def _statistics(logits: Tensor, labels: Tensor, head: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a chunk's log-probabilities, hits and row sums; `logits` become exp(logits - max)."""
    few = [softmax_statistics(logits[some], labels[some]) for some in groups(len(logits), head)]
    log_prob, hit, z = (torch.cat(column) for column in zip(*few))
    return log_prob, hit, z


def _unit_gradient(
    space: Workspace, weights: Tensor, labels: Tensor, z: Tensor, kept: Tensor | None, out: Tensor
) -> None:
    """Write (softmax - onehot) @ head of a chunk whose `weights` are exp(logits - max); 0 where not kept."""
    if kept is None or bool(kept.all()):
        out.copy_(_product(space, weights, labels, z))
        return
    rows = kept.nonzero()[:, 0]
    out.zero_()
    if len(rows):
        out[rows] = _product(space, space.pack(weights, rows), labels[rows], z[rows]).to(out.dtype)


def _product(space: Workspace, weights: Tensor, labels: Tensor, z: Tensor) -> Tensor:
    weights.scatter_add_(1, labels[:, None], -z[:, None])
    space.capped_slope(weights)
    return space.back(weights, z)


def _head_gradient(hidden: Tensor, head: Tensor, labels: Tensor, c: Tensor, options: _Options) -> Tensor:
    """Return (V, D): the gradient of the sum of c * -log_prob with respect to the head."""
    # Wide: a sum over all rows of a step, and a 16-bit one stops growing after 2^8 of a size.
    total = torch.zeros_like(head, dtype=wide_of(head.dtype))
    space = options.workspace(head, slope=True)
    for part in options.cut:
        (weights,) = space.views(part.stop - part.start)
        space.logits(hidden[part], weights, slope=True)
        *_, z = _statistics(weights, labels[part], head)
        weights.scatter_add_(1, labels[part][:, None], -z[:, None])
        space.capped_slope(weights)
        # As the product saw them; and c meets R x D numbers, not R x V, which it would make denormal.
        states = hidden[part].to(head.dtype).to(total.dtype)
        total.addmm_(weights.T, states * (c[part] / z)[:, None])
    return total.to(head.dtype)

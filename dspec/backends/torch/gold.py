"""Gold log-probabilities without the logits: unit gradients, chunk by chunk.

Every objective reads the drafter only through the log-probability of the gold token, so the
gradient of one row's cross-entropy with respect to its hidden state, the *unit gradient*, is all
that a backward pass needs: it is made in the forward, while the chunk's logits are at hand, and
the backward multiplies it by a number a row. Two matrix products, no logits kept, nothing redone.
"""

from typing import Any

import array_api_compat.torch as torch_namespace
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dspec.core.gold import check_gold
from dspec.errors import ConfigError, explain

CHUNK = 256


def gold_log_probs(
    hidden: Tensor,
    head: Tensor,
    labels: Tensor,
    *,
    softcap: float | None = None,
    xp: Any = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Return each row's log-probability of its gold token, and whether the argmax is that token.

    Same values and gradient as `dspec.core.gold.gold_log_probs`; memory is one chunk of logits
    plus one float32 copy of `hidden`, whatever the number of rows.

    Spec: OB-1, OB-10, NU-2, NU-5.

    Args:
        hidden: (R, D) floating, the drafter's last hidden states; the gradient flows here. Of the
            head's dtype, or float32 over a 16-bit head: then the gradient is float32 too.
        head: (V, D), the target's output weight; frozen. Products run in its dtype,
            statistics and unit gradients in float32 (float64 for float64).
        labels: (R,) integer ids in [0, V).
        softcap: logits become softcap * tanh(logits / softcap); None leaves them.
        xp: torch's namespace; here because every override has its operation's signature.
        chunk: rows a chunk, >= 1.

    Returns:
        log_prob (R,) float32 or float64 (differentiable once), hit (R,) bool; among equal
        logits the lowest index is the argmax.

    Raises:
        ShapeError: shapes or dtypes do not agree.
        ConfigError: the head wants a gradient, which this operation does not make.

    Example:
        >>> hidden = torch.zeros(1, 2, requires_grad=True)
        >>> log_prob, hit = gold_log_probs(hidden, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([1]))
        >>> log_prob.sum().backward()
        >>> round(log_prob.exp().item(), 3), hit.tolist(), hidden.grad.tolist()
        (0.5, [False], [[-0.5, 0.5]])

    Source: this library's own scheme; measured against others in benchmarks/objective.py.
    """
    check_gold(hidden, head, labels, xp=xp or torch_namespace)  # the same errors, by the same code
    if head.requires_grad:
        remedy = "pass head.detach(); the target's head is frozen"
        raise ConfigError(explain("head", "a head that wants a gradient", "a frozen head", remedy=remedy))
    wanted = hidden.requires_grad and torch.is_grad_enabled()
    return _GoldLogProbs.apply(hidden, head.detach(), labels, softcap, chunk, wanted)


class _Workspace:
    """The chunk-sized buffers, allocated once and reused by every chunk of rows."""

    def __init__(self, rows: int, head: Tensor, wide: torch.dtype, softcap: float | None):
        shape = (rows, head.shape[0])
        self.logits = head.new_empty(shape, dtype=wide)
        self.narrow = self.logits if head.dtype == wide else head.new_empty(shape)
        self.slope = None if softcap is None else head.new_empty(shape, dtype=wide)
        self.softcap = softcap

    def fill(self, hidden: Tensor, head: Tensor) -> Tensor:
        """Write the chunk's logits, in the wide dtype; return them."""
        rows = hidden.shape[0]
        logits, narrow = self.logits[:rows], self.narrow[:rows]
        torch.mm(hidden.to(head.dtype), head.T, out=narrow)
        if narrow.dtype != logits.dtype:
            logits.copy_(narrow)
        if self.slope is not None:
            logits.div_(self.softcap).tanh_()
            torch.mul(logits, logits, out=self.slope[:rows]).neg_().add_(1)
            logits.mul_(self.softcap)
        return logits

    def unit_gradient(self, labels: Tensor, z: Tensor, head: Tensor) -> Tensor:
        """Turn exp(logits - max), in place, into (softmax - onehot) @ head."""
        rows = labels.shape[0]
        weights, narrow = self.logits[:rows], self.narrow[:rows]
        weights.scatter_add_(1, labels[:, None], -z[:, None])
        if self.slope is not None:
            weights.mul_(self.slope[:rows])
        if narrow.dtype == weights.dtype:
            # Dividing R x D numbers after the product is cheaper than R x V before it ...
            return torch.mm(weights, head).div_(z[:, None])
        # ... but a 16-bit product needs entries of at most 1, or float16 overflows.
        torch.div(weights, z[:, None], out=narrow)
        return torch.mm(narrow, head)


def _statistics(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-probabilities, hits and row sums; `logits` become exp(logits - max)."""
    top, best = logits.max(dim=1)  # the first of equal maxima (NU-5)
    gold = logits.gather(1, labels[:, None])[:, 0]
    z = logits.sub_(top[:, None]).exp_().sum(dim=1)
    # Never logsumexp minus gold: its error is that of the large number (1e-6 against 6e-7).
    return (gold - top) - z.log(), best == labels, z


class _GoldLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, head, labels, softcap, chunk, wanted):  # type: ignore[no-untyped-def]
        wide = torch.float64 if head.dtype == torch.float64 else torch.float32
        rows = hidden.shape[0]
        labels = labels.long()
        log_prob = head.new_empty(rows, dtype=wide)
        hit = torch.empty(rows, dtype=torch.bool, device=head.device)
        unit = head.new_empty(hidden.shape, dtype=wide) if wanted else None
        space = _Workspace(min(chunk, rows), head, wide, softcap)
        for part in (slice(start, start + chunk) for start in range(0, rows, chunk)):
            logits = space.fill(hidden[part], head)
            log_prob[part], hit[part], z = _statistics(logits, labels[part])
            if unit is not None:
                unit[part] = space.unit_gradient(labels[part], z, head)
        ctx.mark_non_differentiable(hit)
        ctx.save_for_backward(unit)
        return log_prob, hit

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_log_prob, _grad_hit):  # type: ignore[no-untyped-def]
        (unit,) = ctx.saved_tensors
        # unit is d(-log_prob)/d hidden; the product is float32, and cast by autograd if hidden is not.
        return -grad_log_prob[:, None] * unit, None, None, None, None, None

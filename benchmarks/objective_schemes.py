"""The training objective, forward and backward, by the schemes that `benchmarks/objective.py` compares.

Each takes a `Problem` and an objective, and leaves the gradient at `problem.hidden.grad`.
"""

from dataclasses import dataclass
from functools import partial

import array_api_compat.torch as xp
import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from dspec.backends.torch.gold import gold_log_probs
from dspec.backends.torch.overlap import overlap_statistics
from dspec.core import objectives
from dspec.core.objectives import Law
from dspec.core.overlap import overlap_statistics as core_overlap_statistics

SLOTS = 15
TILE = 8192


@dataclass
class Problem:
    """Supervised rows in whole blocks of 15 over a frozen head.

    Args:
        hidden: (N, H), wants a gradient.
        head: (V, H).
        target: (N, H), the target's states.
        labels: (N,).
        chunk: rows a chunk.
    """

    hidden: torch.Tensor
    head: torch.Tensor
    target: torch.Tensor
    labels: torch.Tensor
    chunk: int

    @classmethod
    def draw(cls, rows, width, vocab, chunk, *, dtype=torch.float32, trained=True):
        """Partly trained logits: the gold token stands out in half of the rows; untrained: in none."""
        generator = torch.Generator().manual_seed(0)
        normal = partial(torch.randn, generator=generator)
        head = normal(vocab, width) / width**0.5
        labels = torch.randint(0, vocab, (rows,), generator=generator)
        known = (torch.rand(rows, 1, generator=generator) < 0.5) * 12.0 * trained
        hidden = normal(rows, width) + known * head[labels]
        target = 0.6 * hidden + 0.8 * normal(rows, width) + 8.0 * head[labels]
        hidden, head, target = (x.to(dtype) for x in (hidden, head, target))
        return cls(hidden.requires_grad_(), head, target, labels, chunk)

    def parts(self):
        """Return (hidden, target, labels) chunk by chunk."""
        return zip(*(x.split(self.chunk) for x in (self.hidden, self.target, self.labels)))


def finish(problem, objective, log_prob, hit, overlap=None, divergence=None, mixed=None):
    """Make the objective and its backward from the rows' statistics, as a learner does."""

    def blocks(x):
        return None if x is None else x.detach().float().view(-1, SLOTS)

    confidence = None
    if objective.needs_confidence:
        with torch.no_grad():
            confidence, _ = gold_log_probs(problem.target, problem.head, problem.labels, chunk=problem.chunk)
    law = Law(blocks(overlap), blocks(divergence), blocks(confidence))
    seen = (blocks(log_prob), hit.view(-1, SLOTS), torch.ones_like(hit).view(-1, SLOTS))
    sums = objectives.sums(objective, *seen, law=law, xp=xp)
    weights = objectives.weights_by_signal(objective, *seen, sums, law=law, xp=xp)
    losses = {"gold": -log_prob}
    if objective.needs_law:
        losses |= {"overlap": -overlap, "divergence": divergence, "mixed": mixed}
    sum((c.flatten() * losses[signal]).sum() for signal, c in weights.items()).backward()


def floor(problem, objective, *, products=2):
    """Run the products alone: logits, their gradient, and with three the target's logits."""
    buffer = problem.head.new_empty(problem.chunk, problem.head.shape[0])
    with torch.no_grad():
        for hidden, target, _ in problem.parts():
            hidden = hidden.to(buffer.dtype)
            if products == 3:
                torch.mm(target, problem.head.T, out=buffer[: len(target)])
            logits = torch.mm(hidden, problem.head.T, out=buffer[: len(hidden)])
            torch.mm(logits, problem.head)


def cross_entropy(hidden, head, labels):
    """Return log-probabilities and hits as today's frameworks make them, in the logits' dtype."""
    logits = hidden.to(head.dtype) @ head.T
    return -functional.cross_entropy(logits, labels, reduction="none"), logits.argmax(dim=1) == labels


def core_overlap(objective):
    """Core's operation on the target's law, as an objective wants it."""
    options = {"temperature": objective.temperature, "eta": objective.eta}
    return partial(core_overlap_statistics, **options, stop_gradient=torch.Tensor.detach, xp=xp)


def naive(problem, objective):
    """Run all rows at once, by autograd."""
    if objective.needs_law:
        states = (problem.hidden, problem.head, problem.target, problem.labels)
        finish(problem, objective, *core_overlap(objective)(*states))
    else:
        logits = problem.hidden.to(problem.head.dtype) @ problem.head.T
        log_prob = torch.log_softmax(logits, dim=1, dtype=torch.float32).gather(1, problem.labels[:, None])
        finish(problem, objective, log_prob[:, 0], logits.argmax(dim=1) == problem.labels)


def checkpointed(problem, objective):
    """Run chunk by chunk under activation checkpointing: the logits again in the backward."""
    found = []
    for hidden, target, labels in problem.parts():
        if objective.needs_law:
            function, arguments = core_overlap(objective), (hidden, problem.head, target, labels)
        else:
            function, arguments = cross_entropy, (hidden, problem.head, labels)
        found.append(checkpoint(function, *arguments, use_reentrant=False))
    finish(problem, objective, *(torch.cat(column) for column in zip(*found)))


class _Recompute(torch.autograd.Function):
    """Log-probability and argmax forward; the chunk's logits again in the backward. For one term."""

    @staticmethod
    def forward(ctx, hidden, head, labels, chunk):
        parts = [_row_numbers(h, head, y) for h, y in zip(hidden.split(chunk), labels.split(chunk))]
        log_prob, hit = (torch.cat(column) for column in zip(*parts))
        ctx.save_for_backward(hidden, head, labels)
        ctx.chunk = chunk
        ctx.mark_non_differentiable(hit)
        return log_prob, hit

    @staticmethod
    def backward(ctx, grad, _):
        hidden, head, labels = ctx.saved_tensors
        total = torch.empty_like(hidden)
        for start in range(0, len(hidden), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            weights = torch.softmax(hidden[part] @ head.T, dim=1)
            weights.scatter_add_(1, labels[part][:, None], weights.new_full((len(weights), 1), -1.0))
            total[part] = weights.mul_(-grad[part, None]) @ head
        return total, None, None, None


def _row_numbers(hidden, head, labels):
    logits = hidden @ head.T
    gold = logits.gather(1, labels[:, None])[:, 0]
    return gold - torch.logsumexp(logits, dim=1), logits.argmax(dim=1) == labels


def recompute(problem, objective):
    """Run a log-probability that makes its logits twice (the scheme of fused cross-entropies)."""
    arguments = (problem.hidden, problem.head, problem.labels, problem.chunk)
    finish(problem, objective, *_Recompute.apply(*arguments))


class _Tiled(torch.autograd.Function):
    """Online logsumexp over tiles of the vocabulary; the tiles again in the backward."""

    @staticmethod
    def forward(ctx, hidden, head, labels):
        log_z = hidden.new_full((len(hidden),), -torch.inf)
        top, best = log_z.clone(), torch.zeros_like(labels)
        for start in range(0, len(head), TILE):
            logits = hidden @ head[start : start + TILE].T
            high, place = logits.max(dim=1)
            best = torch.where(high > top, place + start, best)
            top = torch.maximum(top, high)
            log_z = torch.logaddexp(log_z, torch.logsumexp(logits, dim=1))
        gold = (hidden * head[labels]).sum(dim=1)
        ctx.save_for_backward(hidden, head, labels, log_z)
        hit = best == labels
        ctx.mark_non_differentiable(hit)
        return gold - log_z, hit

    @staticmethod
    def backward(ctx, grad, _):
        hidden, head, labels, log_z = ctx.saved_tensors
        total = head[labels]
        for start in range(0, len(head), TILE):
            tile = head[start : start + TILE]
            total.addmm_(torch.mm(hidden, tile.T).sub_(log_z[:, None]).exp_(), tile, alpha=-1)
        return grad[:, None] * total, None, None


def tiled(problem, objective):
    """Run all rows over tiles of the vocabulary."""
    finish(problem, objective, *_Tiled.apply(problem.hidden, problem.head, problem.labels))


def fused(problem, objective):
    """Run this library's operations."""
    if objective.needs_law:
        states = (problem.hidden, problem.head, problem.target, problem.labels)
        options = {"temperature": objective.temperature, "eta": objective.eta}
        options |= {"signals": objective.signals, "chunk": problem.chunk}
        finish(problem, objective, *overlap_statistics(*states, **options))
    else:
        found = gold_log_probs(problem.hidden, problem.head, problem.labels, chunk=problem.chunk)
        finish(problem, objective, *found)


def skipping(problem, objective, *, skip):
    """Run the fused operation, leaving out rows of small weight (OB-21)."""

    def keep(part, log_prob, hit):
        seen = (log_prob.view(-1, SLOTS), hit.view(-1, SLOTS))
        mask = torch.ones_like(seen[1])
        return objectives.keep_rows(objective, *seen, mask, skip, xp=xp).flatten()

    states = (problem.hidden, problem.head, problem.labels)
    finish(problem, objective, *gold_log_probs(*states, chunk=problem.chunk, keep=keep))

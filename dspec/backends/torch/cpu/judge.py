"""Verdicts slot by slot: the target's law is made only for the slots that a row reaches.

A pass over 16 positions emits two or three tokens, so most of the target's logits are never looked at.
Letters: B rows, of which A are still alive at a slot, K drafted slots, V vocabulary.
"""

from dataclasses import dataclass
from math import isfinite
from typing import Any

import array_api_compat.torch as namespace
import torch
from torch import Tensor

from dspec.backends.torch.cpu.warp import fused_warp
from dspec.core.numerics import draw, widen
from dspec.core.policies import BLOCK, GREEDY, SAMPLE_MATCH, Policy, judge
from dspec.core.types import Draft, Sampling, Uniforms, Verdict
from dspec.core.verdicts import MASS_TOLERANCE, assemble, check_shapes, flag


def judge_lazily(
    logits: Tensor, draft: Draft, policy: Policy, sampling: Sampling, uniforms: Uniforms, *, xp: Any = None
) -> Verdict:
    """Return the verdict of `dspec.core.policies.judge`; rows of logits behind the closing one are not read.

    A row is looked at while its drafts stand. The host is asked once a slot, so this is for tensors on a
    CPU. Block verification reads every row by nature and runs as in core.

    Spec: RS-1, RS-11, RS-13, RS-16, RS-18.

    Args:
        logits: (B, K + 1, V) target logits of one verify pass.
        draft: what was proposed.
        policy: the accept rule.
        sampling: settings of the request.
        uniforms: of this pass; None if greedy.
        xp: torch's namespace; here because every override has its operation's signature.

    Returns:
        The verdict; n_accepted is -1 where a law that was read is malformed.

    Raises:
        ShapeError: shapes disagree.

    Example:
        >>> logits = torch.tensor([[[0.0, 1.0], [2.0, 0.0]]])
        >>> judge_lazily(logits, Draft(torch.tensor([[1]])), GREEDY, Sampling(), None).tokens.tolist()
        [[1, 0]]

    Source: this library's own; measured in benchmarks/verify.py.
    """
    if policy is BLOCK:
        return judge(logits, draft, policy, sampling, uniforms, xp=namespace)
    check_shapes("judge", logits, draft)
    rows, n_slots = draft.tokens.shape
    if policy is GREEDY and rows == 1:
        return _greedy_row(logits[0], draft.tokens[0].tolist())
    n_accepted = torch.zeros(rows, dtype=torch.int32)
    closing, sound = torch.zeros_like(n_accepted), torch.ones(rows, dtype=torch.bool)
    alive = torch.arange(rows)
    for slot in range(n_slots + 1):
        step = _Slot(logits, draft, policy, sampling, uniforms, slot, alive)
        stands, token, fit = step.judge()
        fallen = alive[~stands]
        n_accepted[fallen], closing[fallen], sound[alive] = slot, token.to(torch.int32), fit
        alive = alive[stands]
        if not len(alive):
            break
    return flag(assemble(draft.tokens, n_accepted, closing, xp=namespace), sound, xp=namespace)


def _greedy_row(logits: Tensor, drafts: list[int]) -> Verdict:
    """The greedy verdict of one row, on the host: numbers of one row need no tensor operations.

    16 slots of 2,048 logits, five of them read, one thread: 362 us by slots of many rows, 120 in core, 71
    here; of 151,936 logits: 1,742, 4,529 and 1,292.
    """
    tokens: list[int] = []
    for slot, row in enumerate(logits):
        tokens.append(int(row.argmax(dim=-1)))
        if not isfinite(float(row[tokens[-1]])):
            tokens = []
            break
        if slot == len(drafts) or tokens[-1] != drafts[slot]:
            break
    padded = torch.full((1, len(drafts) + 1), -1, dtype=torch.int32)
    padded[0, : len(tokens)] = torch.tensor(tokens, dtype=torch.int32)
    return Verdict(torch.tensor([len(tokens) - 1], dtype=torch.int32), padded)


@dataclass(frozen=True)
class _Slot:
    """One slot of the rows that have reached it; `alive` are their numbers."""

    logits: Tensor
    draft: Draft
    policy: Policy
    sampling: Sampling
    uniforms: Uniforms
    slot: int
    alive: Tensor

    def judge(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return (A,) which drafts stand, the closing tokens of the others, (A,) whose laws are sound."""
        if self.policy is GREEDY:
            scores = self._rows(self.logits)
            own = scores.argmax(dim=-1)
            return self._match(own, scores.gather(1, own[:, None])[:, 0].isfinite())
        law = fused_warp(self._rows(self.logits), self.sampling)
        # A law made of NaN, +inf or only -inf is NaN throughout.
        fit = law[:, 0].isfinite()
        if self.policy is SAMPLE_MATCH:
            return self._match(draw(law, self.uniforms.close[self.alive, self.slot], xp=namespace), fit)
        return self._reject(law, fit)

    def _rows(self, x: Tensor) -> Tensor:
        """Return (A, V): the rows of this slot, without a copy while all are alive."""
        x = x[:, self.slot]
        return widen(x if len(self.alive) == len(x) else x[self.alive], xp=namespace)

    @property
    def _last(self) -> bool:
        return self.slot == self.draft.tokens.shape[1]

    def _match(self, own: Tensor, fit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keep drafts that are the target's own token; in the last slot there is none."""
        stands = torch.zeros_like(fit)
        if not self._last:
            stands = fit & (own == self.draft.tokens[self.alive, self.slot])
        return stands, own[~stands], fit

    def _reject(self, law: Tensor, fit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self._last:
            stands = torch.zeros_like(fit)
            return stands, draw(law, self.uniforms.close[self.alive, 0], xp=namespace), fit
        tokens = self.draft.tokens[self.alive, self.slot].long()[:, None]
        reached, probs = law.gather(1, tokens)[:, 0], None
        accept_u = self.uniforms.accept[self.alive, self.slot].to(law.dtype)
        if self.draft.probs is not None:
            probs = self._rows(self.draft.probs)
            fit = fit & ((probs.sum(dim=-1) - 1).abs() <= MASS_TOLERANCE) & (probs.amin(dim=-1) >= 0)
            accept_u = accept_u * probs.gather(1, tokens)[:, 0]
        stands = fit & (accept_u < reached)
        fallen = ~stands
        if not fallen.any():
            return stands, tokens[fallen, 0], fit
        owed = _residual(law[fallen], tokens[fallen], None if probs is None else probs[fallen])
        return stands, draw(owed, self.uniforms.close[self.alive[fallen], 0], xp=namespace), fit


def _residual(law: Tensor, tokens: Tensor, probs: Tensor | None) -> Tensor:
    """Return (F, V): what is owed after a draft fell; the law itself if nothing is left (NU-4)."""
    left = law.scatter(1, tokens, 0.0) if probs is None else (law - probs).clamp_(min=0)
    empty = left.sum(dim=-1) <= 0
    return torch.where(empty[:, None], law, left) if empty.any() else left

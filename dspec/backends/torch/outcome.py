"""From a drafter's last hidden states to all that an objective sees of a micro-batch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import array_api_compat.torch as xp
import torch
from torch import Tensor

from dspec.backends.override import CORE
from dspec.backends.torch.gold import gold_log_probs
from dspec.backends.torch.micro_batch import MicroBatch
from dspec.backends.torch.overrides import operation
from dspec.core import objectives
from dspec.core.objectives import Law, Objective
from dspec.core.overlap import RowStatistics
from dspec.errors import ConfigError, explain


@dataclass(frozen=True)
class Outcome:
    """What a drafter made of a micro-batch: all that an objective sees.

    Letters: N blocks, K drafted slots, R supervised slots.

    Args:
        losses: by signal (R,) what falls as the drafter improves; these carry the gradient: -log_prob,
            -overlap, divergence, mixed.
        log_prob: (N, K) log-probabilities of the gold tokens, nats, without gradient, 0 where not
            supervised.
        hit: (N, K) bool, false where not supervised.
        law: what the objective reads of the target's law, without gradient; empty where it reads nothing.
    """

    losses: Mapping[str, Tensor]
    log_prob: Tensor
    hit: Tensor
    law: Law


class Observer:
    """The target's head as a learner uses it: hidden states in, what its objective sees out.

    Spec: OB-1, OB-12, OB-21.

    Args:
        target: frozen; its `head_weight` and `softcap` turn hidden states into logits.
        overrides: False runs core's own operations, slower and with more memory.
        skip: share of the largest weight below which a row gets no gradient.
    """

    def __init__(self, target: Any, *, overrides: bool, skip: float):
        self.head, self._softcap = target.head_weight.detach(), target.softcap
        self._skip = skip
        where: dict[str, Any] = {"enabled": overrides, "device": self.head.device.type}
        self._gold_log_probs = operation("gold_log_probs", **where)
        self._overlap_statistics = operation("overlap_statistics", **where)
        self.can_skip = self._gold_log_probs is gold_log_probs  # of a kernel for CUDA nothing was measured

    @property
    def wide(self) -> torch.dtype:
        """At least float32: of statistics, and of the hidden states that carry the gradient."""
        return torch.promote_types(self.head.dtype, torch.float32)

    def observe(self, hidden: Tensor, part: MicroBatch, objective: Objective) -> Outcome:
        """Return what an objective without schedules sees of (R, D) hidden states, in the wide dtype."""
        if not objective.needs_law:
            gold, hit = self._gold(hidden, part, objective)
            losses, law = {"gold": -gold}, Law()
        else:
            rows = self._overlap(hidden, part, objective)
            gold, hit = rows.log_prob, rows.hit
            losses = {"gold": -gold, "overlap": -rows.overlap}
            losses |= {"divergence": rows.divergence, "mixed": rows.mixed}
            law = Law(_spread(rows.overlap, part), _spread(rows.divergence, part))
        if objective.needs_confidence:
            law = replace(law, confidence=_spread(self._confidence(part, objective), part))
        return Outcome(losses, _spread(gold, part), _spread(hit, part), law)

    def _gold(self, hidden: Tensor, part: MicroBatch, objective: Objective) -> tuple[Tensor, Tensor]:
        """Return (R,) log-probabilities of the gold tokens, with gradient, and hits."""
        options: dict[str, Any] = {"softcap": self._softcap, "xp": xp}
        if self._skip > 0 and torch.is_grad_enabled():
            options |= {"bounds": [row for row, _ in part.runs], "keep": self._keeper(part, objective)}
        return self._gold_log_probs(hidden, self.head, part.labels, **options)  # type: ignore[no-any-return]

    def _keeper(self, part: MicroBatch, objective: Objective) -> Callable[[slice, Tensor, Tensor], Tensor]:
        """Return the rule that says which rows of a run of blocks are worth a gradient (OB-21)."""
        ends, slots = dict(((0, 0), *part.runs)), part.supervised.shape[1]

        def keep(rows: slice, log_prob: Tensor, hit: Tensor) -> Tensor:
            blocks = slice(ends[rows.start], ends[rows.stop])
            mask = part.supervised[blocks]
            places = part.slots[rows] - blocks.start * slots
            seen_by = (_placed(log_prob, places, mask), _placed(hit, places, mask), mask)
            return objectives.keep_rows(objective, *seen_by, self._skip, xp=xp).flatten()[places]  # type: ignore[no-any-return]

        return keep

    def _overlap(self, hidden: Tensor, part: MicroBatch, objective: Objective) -> RowStatistics:
        """Return the statistics of the drafter's rows beside the target's."""
        options: dict[str, Any] = {"temperature": objective.temperature, "eta": objective.eta}
        options |= {"softcap": self._softcap, "xp": xp}
        fused = self._overlap_statistics is not CORE["overlap_statistics"]
        options |= {"signals": objective.signals} if fused else {"stop_gradient": Tensor.detach}
        states = self._states(part, objective)
        return self._overlap_statistics(hidden, self.head, states, part.labels, **options)  # type: ignore[no-any-return]

    def _confidence(self, part: MicroBatch, objective: Objective) -> Tensor:
        """Return (R,) the target's log-probabilities of the gold tokens."""
        states = self._states(part, objective)
        with torch.no_grad():
            return self._gold_log_probs(states, self.head, part.labels, softcap=self._softcap, xp=xp)[0]  # type: ignore[no-any-return]

    def _states(self, part: MicroBatch, objective: Objective) -> Tensor:
        if part.states is None:
            needed = "a micro-batch read with law=True"
            raise ConfigError(explain("objective", str(objective), needed, clause="OB-12"))
        return part.states.to(self.head.dtype)


def _spread(rows: Tensor, part: MicroBatch) -> Tensor:
    """Return (R,) numbers or flags at their slots (N, K), 0 elsewhere, without gradient."""
    return _placed(rows.detach(), part.slots, part.supervised)


def _placed(rows: Tensor, places: Tensor, like: Tensor) -> Tensor:
    return rows.new_zeros(like.numel()).index_copy(0, places, rows).view(like.shape)

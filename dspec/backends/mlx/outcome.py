"""From a drafter's last hidden states to all that an objective sees of a micro-batch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from dspec.backends.mlx.micro_batch import MicroBatch
from dspec.backends.mlx.ops import namespace as xp
from dspec.backends.mlx.overrides import operation
from dspec.backends.override import CORE
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

    losses: Mapping[str, mx.array]
    log_prob: mx.array
    hit: mx.array
    law: Law


class Observer:
    """The target's head as a learner uses it: hidden states in, what its objective sees out.

    Spec: OB-1, OB-12.

    Args:
        target: frozen; its `head` and `softcap` turn hidden states into logits.
        overrides: False runs core's own operations, slower and with more memory.
    """

    def __init__(self, target: Any, *, overrides: bool):
        self._gold_log_probs = operation("gold_log_probs", enabled=overrides)
        self._overlap_statistics = operation("overlap_statistics", enabled=overrides)
        taken = {"gold_log_probs": self._gold_log_probs, "overlap_statistics": self._overlap_statistics}
        # Core's operations take a matrix, ours a head that may be quantised.
        self._fused = all(function is not CORE[name] for name, function in taken.items())
        self.head, self._softcap = target.head if self._fused else target.head.weight, target.softcap

    @property
    def wide(self) -> mx.Dtype:
        """At least float32: of statistics, and of the hidden states that carry the gradient."""
        return mx.float64 if self.head.dtype == mx.float64 else mx.float32

    def observe(
        self,
        hidden: mx.array,
        part: MicroBatch,
        objective: Objective,
        *,
        gradient: bool = True,
        stages: list[Any] | None = None,
    ) -> Outcome:
        """Return what an objective without schedules sees of (R, D) hidden states, in the wide dtype.

        Args:
            hidden: the drafter's, of supervised slots.
            part: their micro-batch.
            objective: of the step.
            gradient: whether one will be taken; MLX cannot tell.
            stages: see `gold_log_probs`.
        """
        options: dict[str, Any] = {"softcap": self._softcap, "xp": xp}
        if self._fused:
            options |= {"gradient": gradient, "stages": stages}
        if not objective.needs_law:
            gold, hit = self._gold_log_probs(hidden, self.head, part.labels, **options)
            losses, law = {"gold": -gold}, Law()
        else:
            rows = self._overlap(hidden, part, objective, options)
            gold, hit = rows.log_prob, rows.hit
            losses = {"gold": -gold, "overlap": -rows.overlap}
            losses |= {"divergence": rows.divergence, "mixed": rows.mixed}
            law = Law(_spread(rows.overlap, part), _spread(rows.divergence, part))
        if objective.needs_confidence:
            law = replace(law, confidence=_spread(self._confidence(part, objective, options), part))
        return Outcome(losses, _spread(gold, part), _spread(hit, part), law)

    def _overlap(
        self, hidden: mx.array, part: MicroBatch, objective: Objective, options: Mapping[str, Any]
    ) -> RowStatistics:
        """Return the statistics of the drafter's rows beside the target's."""
        chosen = {**options, "temperature": objective.temperature, "eta": objective.eta}
        chosen |= {"signals": objective.signals} if self._fused else {"stop_gradient": mx.stop_gradient}
        states = self._states(part, objective)
        return self._overlap_statistics(hidden, self.head, states, part.labels, **chosen)  # type: ignore[no-any-return]

    def _confidence(self, part: MicroBatch, objective: Objective, options: Mapping[str, Any]) -> mx.array:
        """Return (R,) the target's log-probabilities of the gold tokens."""
        chosen = {**options, "gradient": False} if self._fused else options
        states = self._states(part, objective)
        return self._gold_log_probs(states, self.head, part.labels, **chosen)[0]

    def _states(self, part: MicroBatch, objective: Objective) -> mx.array:
        if part.states is None:
            needed = "a micro-batch read with law=True"
            raise ConfigError(explain("objective", str(objective), needed, clause="OB-12"))
        return part.states.astype(self.head.dtype)


def _spread(rows: mx.array, part: MicroBatch) -> mx.array:
    """Return (R,) numbers or flags at their slots (N, K), 0 elsewhere, without gradient."""
    blank = mx.zeros((part.supervised.size,), dtype=rows.dtype)
    spread = mx.put_along_axis(blank, part.slots, mx.stop_gradient(rows), axis=0)
    return spread.reshape(part.supervised.shape)

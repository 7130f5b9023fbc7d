"""One drafter that learns: its weights, its optimizer, its objective."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_unflatten
from numpy.typing import NDArray

from dspec.acceptance import Acceptance
from dspec.backends.learner import (
    COUNT,
    MASTER,
    MOMENTS,
    Evaluation,
    StepReport,
    check_finite,
    check_length,
    check_masters,
    check_skip,
)
from dspec.backends.mlx.adamw import AdamW, clip
from dspec.backends.mlx.drafter import Drafter, save_drafter
from dspec.backends.mlx.gold import run_stages
from dspec.backends.mlx.micro_batch import MicroBatch
from dspec.backends.mlx.ops import namespace as xp
from dspec.backends.mlx.ops import on_metal
from dspec.backends.mlx.outcome import Observer, Outcome
from dspec.backends.whole_batch import sums_ahead
from dspec.config import TrainConfig
from dspec.core import objectives
from dspec.core.objectives import Objective, Progress
from dspec.schedule import learning_rate

Weights = dict[str, mx.array]


class Learner:
    """A drafter in training: master weights in their own dtype (float32), AdamW, one objective.

    Args:
        drafter: the module; its parameters are trained in place.
        target: frozen; its `head` and `softcap` turn hidden states into logits.
        config: learning rate, warm-up, steps, betas, weight decay, clip, precision; also the
            objective, unless one is given.
        objective: None: the one named in `config`.
        overrides: False runs core's own operations, slower and with more memory.

    Raises:
        ConfigError: the objective's text does not parse, rows are to be skipped, the target was made for
            shorter sequences, or the drafter's weights are narrower than float32.
    """

    def __init__(
        self,
        drafter: Drafter,
        target: Any,
        config: TrainConfig,
        *,
        objective: Objective | None = None,
        overrides: bool = True,
    ):
        check_length(config.seq_len, target.max_positions)
        check_masters(weight.dtype for weight in drafter.weights().values())
        self.drafter = drafter
        self.config = config
        self.objective = objective or Objective.parse(config.objective, reduction=config.reduction)
        check_skip(config.skip, self.objective, can=False)
        self.step, self._progress = 0, Progress(0, config.steps)
        self.optimizer = AdamW(config.betas, config.weight_decay)
        self._observer = Observer(target, overrides=overrides)

    @property
    def now(self) -> Objective:
        """The objective of the last step taken: its numbers instead of its schedules."""
        return self.objective.at(self._progress)

    def forward(self, part: MicroBatch, *, gradient: bool = True, stages: list[Any] | None = None) -> Outcome:
        """Run the drafter over a micro-batch; only supervised slots reach the head.

        Args:
            part: the micro-batch.
            gradient: whether one will be taken; MLX cannot tell.
            stages: see `gold_log_probs`.

        Returns:
            What it made of it; not evaluated.
        """
        # Never narrower than the head's product needs: a float16 gradient would underflow.
        hidden = self._hidden(part, gradient).flatten(0, 1)[part.rows].astype(self._observer.wide)
        return self._observer.observe(hidden, part, self.now, gradient=gradient, stages=stages)

    def train_step(self, parts: Sequence[MicroBatch], progress: Progress | None = None) -> StepReport:
        """Take one optimizer step on a batch cut into micro-batches.

        Spec: OB-7, OB-8, OB-18.

        Args:
            parts: the micro-batches; the gradient does not depend on how the batch was cut.
            progress: where in its run the step lies; None: as the config says, epochs unknown.

        Returns:
            Loss, gradient norm and rate.

        Raises:
            NumericsError: the loss or the gradient is not finite; the weights are as they were.
        """
        config = self.config
        self._progress = progress or Progress(self.step, config.steps)
        rate = learning_rate(self.step, peak=config.lr, steps=config.steps, warmup=config.warmup)
        loss, gradients = self.backward(parts)
        gradients, norm = clip(gradients, config.clip)
        report = StepReport(loss.item(), norm.item(), rate)
        check_finite(report.loss, report.grad_norm, step=self.step + 1)
        self._place(self.optimizer.apply(self.drafter.weights(), gradients, rate=rate))
        del gradients  # so that what the step makes can take their place
        mx.eval(self.drafter.parameters(), self.optimizer.state)
        self.step += 1
        return report

    def backward(self, parts: Sequence[MicroBatch]) -> tuple[mx.array, Weights]:
        """Return the objective's value over all parts, 0-d, and its gradients by name.

        The denominators of several parts must be known before the first backward: see `sums_ahead`. Each
        part is evaluated before the next one begins, so that only one's activations are held.
        """
        ahead = None
        if len(parts) > 1:
            known = {"measure": self._measure_sums, "dtype": self._observer.wide, "xp": xp}
            ahead = sums_ahead(self.now, parts, **known)
        seen: Any = 0
        total: Weights = {}
        for part in parts:
            own, gradients = self._one_part(part, ahead)
            seen = seen + own
            total = {name: total[name] + g if total else g for name, g in gradients.items()}
            del gradients
            mx.eval(seen, total)
        return objectives.value(self.now, seen, xp=xp), total

    def evaluate(self, part: MicroBatch) -> Evaluation:
        """Measure the drafter on a micro-batch, without gradient."""
        outcome = self._measure(part)
        counts = Acceptance.count(np.array(outcome.hit), np.array(part.supervised))
        return Evaluation(np.array(self.sums(outcome, part)), counts)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return master weights and AdamW's moments by name; they share the arrays' memory.

        Returns:
            "<tensor name>/weight", "/exp_avg", "/exp_avg_sq", of the weight's shape, and "/step", 0-d
            float32: how often it was updated.
        """
        state = {}
        for name, weight in self.drafter.weights().items():
            for key, array in {MASTER: weight, **self.optimizer.moments(name, weight)}.items():
                host = np.float32(array) if key == COUNT else np.array(array, copy=False)
                state[f"{name}/{key}"] = np.asarray(host)
        return state

    def restore(self, state: Mapping[str, NDArray[Any]], step: int) -> None:
        """Take over a state of `state`, after `step` steps; its arrays are copied."""
        names = self.drafter.weights()
        self._place({name: mx.array(state[f"{name}/{MASTER}"]) for name in names})
        self.optimizer.state = {
            name: {key: _moment(key, state[f"{name}/{key}"]) for key in MOMENTS} for name in names
        }
        self.step = step

    def save(self, folder: str | Path) -> None:
        """Write the drafter as a checkpoint of its own."""
        save_drafter(self.drafter, folder)

    def sums(self, outcome: Outcome, part: MicroBatch) -> mx.array:
        """Return the objective's (T, 2) numerators and denominators over one micro-batch."""
        seen_by = (outcome.log_prob, outcome.hit, part.supervised)
        return objectives.sums(self.now, *seen_by, law=outcome.law, xp=xp)

    def _one_part(self, part: MicroBatch, ahead: mx.array | None) -> tuple[mx.array, Weights]:
        """Return a part's own sums, and its share of the gradient."""
        masters, stages = self.drafter.weights(), []

        def loss(weights: Weights) -> tuple[mx.array, mx.array]:
            self._place(weights)
            outcome = self.forward(part, stages=stages)
            own = self.sums(outcome, part)
            seen_by = (outcome.log_prob, outcome.hit, part.supervised)
            whole = own if ahead is None else ahead
            weights = objectives.weights_by_signal(self.now, *seen_by, whole, law=outcome.law, xp=xp)
            # The gradient of the objective, through its signals alone (OB-8, OB-12).
            held = {signal: c.flatten()[part.slots] for signal, c in weights.items()}
            return sum((c * outcome.losses[signal]).sum() for signal, c in held.items()), own

        try:
            # A copy: MLX puts what it traces into the dict that it is given.
            (_, own), gradients = mx.value_and_grad(loss)(dict(masters))
        finally:
            self._place(masters)  # instead of those that were traced
        run_stages(stages)
        return own, gradients

    def _measure(self, part: MicroBatch) -> Outcome:
        """Return what the drafter makes of a part, evaluated, without gradient."""
        stages: list[Any] = []
        outcome = self.forward(part, gradient=False, stages=stages)
        run_stages(stages)
        mx.eval(outcome.log_prob, outcome.hit)
        return outcome

    def _measure_sums(self, part: MicroBatch) -> mx.array:
        return self.sums(self._measure(part), part)

    def _hidden(self, part: MicroBatch, gradient: bool) -> mx.array:
        """Return the drafter's last hidden states (B, Q, D)."""
        masters = self.drafter.weights()
        features, embeds = part.features, part.embeds.astype(self.drafter.dtype)
        if not self._half():
            features = features.astype(self.drafter.dtype)
        else:
            # As torch's autocast: matrices meet their inputs in 16 bits, the rest stays float32.
            self._place({name: w.astype(mx.bfloat16) if w.ndim > 1 else w for name, w in masters.items()})
        try:
            inputs = (embeds, part.positions, self.drafter.fuse(features), part.context_positions, part.mask)
            # Without a backward there is nothing to make again.
            return self.drafter(*inputs, recompute=self.config.recompute and gradient)
        finally:
            self._place(masters)

    def _half(self) -> bool:
        """Whether products run in bfloat16; the weights themselves stay float32."""
        chosen = self.config.precision
        return chosen == "bfloat16" or (chosen == "auto" and on_metal())

    def _place(self, weights: Weights) -> None:
        self.drafter.update(tree_unflatten(list(weights.items())))


def _moment(key: str, array: NDArray[Any]) -> Any:
    return int(array) if key == COUNT else mx.array(array)

"""One drafter that learns: its weights, its optimizer, its objective."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import array_api_compat.torch as xp
import torch
from numpy.typing import NDArray
from torch import Tensor

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
from dspec.backends.torch.drafter import Drafter, save_drafter
from dspec.backends.torch.micro_batch import MicroBatch
from dspec.backends.torch.outcome import Observer, Outcome
from dspec.backends.whole_batch import sums_ahead
from dspec.config import TrainConfig
from dspec.core import objectives
from dspec.core.objectives import Objective, Progress
from dspec.schedule import learning_rate


class Learner:
    """A drafter in training: master weights in their own dtype (float32), AdamW, one objective.

    Args:
        drafter: the module; its parameters are trained in place.
        target: frozen; its `head_weight` and `softcap` turn hidden states into logits.
        config: learning rate, warm-up, steps, betas, weight decay, clip, precision; also the
            objective, unless one is given.
        objective: None: the one named in `config`.
        overrides: False runs core's own operations, slower and with more memory.

    Raises:
        ConfigError: the objective's text does not parse, rows cannot be skipped under it, the target was
            made for shorter sequences, or the drafter's weights are narrower than float32.
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
        check_masters(weight.dtype for weight in drafter.parameters())
        self.drafter = drafter
        self.config = config
        self.objective = objective or Objective.parse(config.objective, reduction=config.reduction)
        self.step, self._progress = 0, Progress(0, config.steps)
        self.optimizer = torch.optim.AdamW(
            drafter.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
        )
        self._observer = Observer(target, overrides=overrides, skip=config.skip)
        check_skip(config.skip, self.objective, can=self._observer.can_skip)

    @property
    def now(self) -> Objective:
        """The objective of the last step taken: its numbers instead of its schedules."""
        return self.objective.at(self._progress)

    def forward(self, part: MicroBatch) -> Outcome:
        """Run the drafter over a micro-batch; only supervised slots reach the head."""
        # Never narrower than the head's product needs: a float16 gradient would underflow.
        hidden = self._hidden(part).flatten(0, 1)[part.rows].to(self._observer.wide)
        return self._observer.observe(hidden, part, self.now)

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
        loss, _ = self.backward(parts)
        norm = torch.nn.utils.clip_grad_norm_(self.drafter.parameters(), config.clip)
        check_finite(float(loss), float(norm), step=self.step + 1)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step += 1
        return StepReport(float(loss), float(norm), rate)

    def backward(self, parts: Sequence[MicroBatch]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the objective's value over all parts, 0-d, and its gradients by name, the parameters' own.

        The denominators of several parts must be known before the first backward: see `sums_ahead`.
        """
        self.optimizer.zero_grad(set_to_none=True)
        ahead, now = None, self.now
        if len(parts) > 1:
            known = {"measure": self._measure_sums, "dtype": self._observer.wide, "xp": xp}
            ahead = sums_ahead(now, parts, **known)
        seen: Any = 0
        for part in parts:
            outcome = self.forward(part)
            own = self.sums(outcome, part)
            seen = seen + own
            whole = own if ahead is None else ahead
            seen_by = (outcome.log_prob, outcome.hit, part.supervised)
            weights = objectives.weights_by_signal(now, *seen_by, whole, law=outcome.law, xp=xp)
            # The gradient of the objective, through its signals alone (OB-8, OB-12).
            held = {signal: c.flatten()[part.slots] for signal, c in weights.items()}
            sum((c * outcome.losses[signal]).sum() for signal, c in held.items()).backward()
        gradients = {name: weight.grad for name, weight in self.drafter.named_parameters()}
        return objectives.value(now, seen, xp=xp), gradients  # type: ignore[return-value]

    def evaluate(self, part: MicroBatch) -> Evaluation:
        """Measure the drafter on a micro-batch, without gradient."""
        with torch.no_grad():
            outcome = self.forward(part)
            sums = self.sums(outcome, part)
        counts = Acceptance.count(outcome.hit.cpu().numpy(), part.supervised.cpu().numpy())
        return Evaluation(sums.cpu().numpy(), counts)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return master weights and AdamW's moments by name; on a CPU they share its memory.

        Returns:
            "<tensor name>/weight", "/exp_avg", "/exp_avg_sq", of the weight's shape, and "/step", 0-d
            float32: how often it was updated.
        """
        state = {}
        for name, weight in self.drafter.named_parameters():
            # AdamW has no moments before its first step.
            moments = self.optimizer.state[weight] or _no_moments(weight)
            for key, tensor in {MASTER: weight.detach(), **{key: moments[key] for key in MOMENTS}}.items():
                state[f"{name}/{key}"] = tensor.cpu().contiguous().numpy()
        return state

    def restore(self, state: Mapping[str, NDArray[Any]], step: int) -> None:
        """Take over a state of `state`, after `step` steps; its arrays are copied."""
        for name, weight in self.drafter.named_parameters():
            with torch.no_grad():
                weight.copy_(torch.from_numpy(state[f"{name}/{MASTER}"]))
            # AdamW counts its steps on the host, whatever the device of the weights.
            places = {key: "cpu" if key == COUNT else weight.device for key in MOMENTS}
            self.optimizer.state[weight] = {
                key: torch.tensor(state[f"{name}/{key}"], device=place) for key, place in places.items()
            }
        self.step = step

    def save(self, folder: str | Path) -> None:
        """Write the drafter as a checkpoint of its own."""
        save_drafter(self.drafter, folder)

    def sums(self, outcome: Outcome, part: MicroBatch) -> Tensor:
        """Return the objective's (T, 2) numerators and denominators over one micro-batch."""
        seen_by = (outcome.log_prob, outcome.hit, part.supervised)
        return objectives.sums(self.now, *seen_by, law=outcome.law, xp=xp)

    def _measure_sums(self, part: MicroBatch) -> Tensor:
        with torch.no_grad():
            return self.sums(self.forward(part), part)

    def _hidden(self, part: MicroBatch) -> Tensor:
        """Return the drafter's last hidden states (B, Q, D)."""
        weight = next(self.drafter.parameters())
        features, embeds = part.features, part.embeds.to(weight.dtype)
        precision: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if self._half(weight.device):
            precision = torch.autocast(weight.device.type, dtype=torch.bfloat16)
        else:
            features = features.to(weight.dtype)
        with precision:
            inputs = (embeds, part.positions, self.drafter.fuse(features), part.context_positions, part.mask)
            return self.drafter(*inputs, recompute=self.config.recompute)

    def _half(self, device: torch.device) -> bool:
        """Whether products run in bfloat16; the weights themselves stay float32."""
        chosen = self.config.precision
        return chosen == "bfloat16" or (chosen == "auto" and device.type == "cuda")


def _no_moments(weight: Tensor) -> dict[str, Tensor]:
    return {key: torch.zeros(()) if key == COUNT else torch.zeros_like(weight) for key in MOMENTS}

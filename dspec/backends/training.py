"""The training loop: one target pass a batch feeds every learner of the run.

Batches, anchors and weights are functions of (seed, step), so a run that was stopped goes on bit for
bit on the same machine with the same number of threads. That was measured on CPUs; on CUDA some
kernels add in an order that varies, and nothing was measured there.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import array_api_compat.numpy as xp
import numpy as np

from dspec.backends.learner import Evaluation, Learner, StepReport
from dspec.backends.run_state import fingerprint, load_run, save_run
from dspec.config import TrainConfig
from dspec.core import objectives
from dspec.core.objectives import Progress
from dspec.errors import ConfigError, explain
from dspec.interrupt import Interrupt
from dspec.io.checkpoints import check_output, clear_steps, disk_errors, newest_valid
from dspec.io.data import Batch, batches, pad
from dspec.io.examples import Example
from dspec.progress import MetricsLog, TrainingDisplay
from dspec.results import TrainResult
from dspec.rng import Purpose, Stream
from dspec.supervision import Supervision

__all__ = ["Evaluation", "Learner", "StepReport", "fit"]

# A backend's MicroBatch.read: (target, blocks, tapped layers, law=) -> what its learners take.
Read = Callable[[Any, Supervision, tuple[int, ...]], Any]
METRICS = "metrics.jsonl"
# Shared by the learners of a run: they see the same blocks of the same texts.
SHARED = ("block_size", "mask_token_id", "target_layer_ids")


def fit(
    target: Any,
    learners: Mapping[str, Learner],
    examples: Sequence[Example],
    config: TrainConfig,
    *,
    read: Read,
    peak_memory: Callable[[], int | None],
    validation: Sequence[Example] = (),
    output: str | Path | None = None,
    quiet: bool = False,
) -> dict[str, TrainResult]:
    """Train several drafters side by side, on the same batches, anchors and target features.

    With an output folder, the run resumes from its newest checkpoint (unless `config.resume` is
    false), appends to `metrics.jsonl`, and saves each drafter at the end: in the folder itself if
    there is one learner, else in a folder of its name. SIGTERM and Ctrl-C save a checkpoint after
    the step in hand and return, with `metrics["finished"]` false.

    Spec: BD-3, BD-4, OB-7, RN-5.

    Args:
        target: frozen.
        learners: by name; drafters of one block size, mask token and set of tapped layers.
        examples: to train on.
        config: of the run; its objective matters only through the learners.
        read: the backend's `MicroBatch.read`.
        peak_memory: most bytes that the backend's arrays took so far; None where it cannot tell.
        validation: held out, measured every `validate_every` steps and at the end.
        output: None writes nothing.
        quiet: show no progress.

    Returns:
        A result a learner.

    Raises:
        ConfigError: no learners, or they do not share what they must.
        CheckpointError: the output's checkpoint is of other settings, data or another target; a folder
            for a drafter holds another model; or the disk refused.
        NumericsError: a loss or gradient is not finite; nothing is overwritten.

    Example:
        >>> fit(target, {"ltr": learner}, examples, TrainConfig(steps=100),
        ...     read=MicroBatch.read, peak_memory=lambda: None)    # doctest: +SKIP
    """
    place = Path(output) if output is not None else None
    run = _Run(target, learners, examples, config, validation, place, read, peak_memory)
    return run.go(quiet)


class _Run:
    def __init__(
        self,
        target: Any,
        learners: Mapping[str, Learner],
        examples: Sequence[Example],
        config: TrainConfig,
        validation: Sequence[Example],
        output: Path | None,
        read: Read,
        peak_memory: Callable[[], int | None],
    ):
        self.target, self.learners, self.config, self.output = target, dict(learners), config, output
        self.examples, self.validation = examples, validation
        self.read, self.peak_memory = read, peak_memory
        self.drafter = _shared_config(self.learners)
        wants = [learner.objective for learner in self.learners.values()]
        self.law = any(objective.needs_law or objective.needs_confidence for objective in wants)
        for name in self.learners if output is not None else ():
            check_output(self._place(name))
        self.made_of = fingerprint(config, self.learners, examples, target) if output is not None else {}
        self.figures: dict[str, dict[str, Any]] = {name: {} for name in self.learners}
        self.tokens, self.seconds = 0, 0.0

    def go(self, quiet: bool) -> dict[str, TrainResult]:
        start = self._start()
        with MetricsLog(self.output and self.output / METRICS, step=start) as self.log:
            self._recall()
            done = self._loop(start, quiet)
        return {name: self._result(name, done) for name in self.learners}

    def _loop(self, start: int, quiet: bool) -> int:
        """Run from step `start` to the end or to a signal; return the steps done."""
        done, steps = start, self.config.steps
        with Interrupt() as stop, TrainingDisplay(steps, start=start, quiet=quiet) as self.display:
            while done < steps and stop.requested is None:
                self._step(done)
                done += 1
                if done == steps or _due(done, self.config.validate_every):
                    self._validate(done)
                if done == steps or stop.requested or _due(done, self.config.save_every):
                    self._save(done)
            if done < steps:
                self.display.note(f"stopped by {stop.requested} after step {done} of {steps}")
        return done

    def _start(self) -> int:
        """Return the step to begin with: 0, or that of the newest checkpoint, which is loaded."""
        if self.output is None:
            return 0
        with disk_errors(self.output):
            self.output.mkdir(parents=True, exist_ok=True)
        if not self.config.resume:
            clear_steps(self.output)
            return 0
        found = newest_valid(self.output)
        if found is None:
            return 0
        load_run(found, self.learners, self.made_of)
        return found.step

    def _recall(self) -> None:
        """Take the newest figures of a resumed run from its log."""
        for line in self.log.lines:
            self._note_figures(line["learner"], line)

    def _step(self, step: int) -> None:
        """Run step number `step`, counted from 0, for every learner."""
        began = time.perf_counter()
        config = self.config
        batch = batches(
            self.examples, batch_size=config.batch_size, seq_len=config.seq_len, seed=config.seed, step=step
        )
        blocks = self._cut(batch, Stream(config.seed), step)
        ids = self.drafter.target_layer_ids
        parts = [
            self.read(self.target, part, ids, law=self.law) for part in blocks.split(config.accumulation)
        ]
        progress = self._progress(step)
        reports = {name: learner.train_step(parts, progress) for name, learner in self.learners.items()}
        self.seconds += time.perf_counter() - began
        self.tokens += int(batch.lengths.sum())
        rate = self.tokens / self.seconds
        peak = self.peak_memory()
        for name, report in reports.items():
            figures = {"loss": report.loss, "grad_norm": report.grad_norm, "lr": report.lr}
            figures |= {"tokens_per_s": rate} | ({} if peak is None else {"peak_memory_bytes": peak})
            self._write("train", name, step + 1, figures)
        self.display.step(step + 1, self.figures, tokens_per_s=rate, peak_memory_bytes=peak)

    def _progress(self, step: int) -> Progress:
        """Return where a step lies; its epoch is that of its batch's first text (RN-5)."""
        size, count = self.config.batch_size, len(self.examples)
        epochs = (self.config.steps - 1) * size // count + 1
        return Progress(step, self.config.steps, epoch=step * size // count, epochs=epochs)

    def _cut(self, batch: Batch, stream: Stream, position: int) -> Supervision:
        return Supervision.cut(
            batch.tokens,
            batch.loss_mask,
            stream.uniforms(Purpose.ANCHORS, position, batch.tokens.shape),
            anchors=self.config.anchors,
            block_size=self.drafter.block_size,
            mask_token_id=self.drafter.mask_token_id,
        )

    def _validate(self, step: int) -> None:
        if not self.validation:
            return
        seen: dict[str, list[Evaluation]] = {name: [] for name in self.learners}
        for part in self._validation_parts():
            for name, learner in self.learners.items():
                seen[name].append(learner.evaluate(part))
        for name, learner in self.learners.items():
            total = sum(seen[name][1:], seen[name][0])
            with np.errstate(all="ignore"):  # the loss of a held-out text may be infinite: it is written so
                loss = float(objectives.value(learner.now, total.sums, xp=xp))
            self._write("validate", name, step, total.acceptance.as_dict() | {"validation_loss": loss})

    def _validation_parts(self) -> Iterator[Any]:
        """Yield the slice in micro-batches; the same blocks each time, under a key of their own."""
        config, size = self.config, self.config.batch_size // self.config.accumulation
        stream = Stream(config.seed, request=1)
        for start in range(0, len(self.validation), size):
            batch = pad(self.validation[start : start + size], config.seq_len)
            blocks = self._cut(batch, stream, start)
            yield self.read(self.target, blocks, self.drafter.target_layer_ids, law=self.law)

    def _write(self, event: str, name: str, step: int, figures: Mapping[str, Any]) -> None:
        line = {"event": event, "step": step, "learner": name, **figures}
        self.log.write(line)
        self._note_figures(name, line)

    def _note_figures(self, name: str, line: Mapping[str, Any]) -> None:
        figures = {key: value for key, value in line.items() if key not in ("event", "learner")}
        self.figures.setdefault(name, {}).update(figures)

    def _save(self, step: int) -> None:
        if self.output is not None:
            save_run(self.output, self.learners, step, self.made_of)

    def _result(self, name: str, done: int) -> TrainResult:
        finished = done == self.config.steps
        # A drafter of an older run that may stand there is not this run's.
        place = self._place(name) if finished else None
        if place is not None:
            self.learners[name].save(place)
        history = tuple(line for line in self.log.lines if line["learner"] == name)
        metrics = {**self.figures[name], "step": done, "finished": finished}
        return TrainResult(self.learners[name].drafter, history, metrics, place)

    def _place(self, name: str) -> Path | None:
        """Return the folder of a learner's drafter."""
        return self.output and (self.output if len(self.learners) == 1 else self.output / name)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _shared_config(learners: Mapping[str, Learner]) -> Any:
    """Return one learner's drafter config, after checking that the others share what matters."""
    if not learners:
        raise ConfigError(explain("learners", "none", "at least one"))
    configs = {name: learner.drafter.config for name, learner in learners.items()}
    first = next(iter(configs.values()))
    for key in SHARED:
        values = {name: getattr(config, key) for name, config in configs.items()}
        if len(set(values.values())) > 1:
            remedy = "train them in runs of their own"
            raise ConfigError(explain(f"{key} of the learners", values, "one value", remedy=remedy))
    return first

"""What the long-running calls hand back: frozen records, the same from every backend."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TrainResult:
    """What one training run left behind.

    Args:
        drafter: the trained drafter, the backend's own module; its weights are those of the last step.
        history: one mapping a metrics line, in order; the lines of `metrics.jsonl`.
        metrics: the last value of every metric: `step`, `loss`, `finished` (false when a signal
            stopped the run), and, where a validation slice was given, `tau`, `waste`,
            `acceptance` (one number a slot) and `validation_loss`; on CUDA and MLX
            `peak_memory_bytes`, the most that the process's arrays took there so far.
        output: folder with the drafter's config.json and model.safetensors; None where there is no
            output folder, and where the run did not finish: what may stand there is of an older run.
    """

    drafter: Any
    history: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, Any]
    output: Path | None = None

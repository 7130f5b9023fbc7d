"""The training loop on torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dspec.backends import training
from dspec.backends.torch.learner import Learner
from dspec.backends.torch.micro_batch import MicroBatch
from dspec.config import TrainConfig
from dspec.io.examples import Example
from dspec.results import TrainResult


def fit(
    target: Any,
    learners: Mapping[str, Learner],
    examples: Sequence[Example],
    config: TrainConfig,
    *,
    validation: Sequence[Example] = (),
    output: str | Path | None = None,
    quiet: bool = False,
) -> dict[str, TrainResult]:
    """Train several drafters side by side; see `dspec.backends.training.fit`."""
    here = {"read": MicroBatch.read, "peak_memory": lambda: peak_memory(target.device)}
    run = {"validation": validation, "output": output, "quiet": quiet}
    return training.fit(target, learners, examples, config, **here, **run)


def peak_memory(device: torch.device) -> int | None:
    """Return the most bytes that tensors took on a device so far; None where torch does not count."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None

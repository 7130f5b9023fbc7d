"""The training loop on MLX."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dspec.backends import training
from dspec.backends.mlx.learner import Learner
from dspec.backends.mlx.micro_batch import MicroBatch
from dspec.backends.mlx.ops import peak_memory
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
    here = {"read": MicroBatch.read, "peak_memory": peak_memory}
    run = {"validation": validation, "output": output, "quiet": quiet}
    return training.fit(target, learners, examples, config, **here, **run)

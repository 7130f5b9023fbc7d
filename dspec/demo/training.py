"""Train one drafter an objective, side by side on the same batches, anchors and first weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dspec.backends.registry import open_room
from dspec.config import TrainConfig
from dspec.demo.settings import TRAIN, VALIDATION
from dspec.errors import ConfigError, explain
from dspec.io.checkpoints import clear_steps
from dspec.results import TrainResult


def train_arms(
    target: Any,
    objectives: Mapping[str, str],
    config: TrainConfig,
    *,
    output: Path | None = None,
    quiet: bool = False,
) -> dict[str, TrainResult]:
    """Return a trained drafter for each objective; one target pass a batch feeds them all.

    Equal for all: steps, texts and their order, blocks, first weights, learning rate.

    Args:
        target: an opened target, as `Engine.target` is.
        objectives: text form by name.
        config: of the run; it begins anew, whatever `output` holds.
        output: folder for metrics.jsonl and a drafter a name; None writes nothing.
        quiet: show no progress.

    Returns:
        A result a name.

    Raises:
        KeyboardInterrupt: the run was stopped.
    """
    if not objectives:
        raise ConfigError(explain("objectives", "none", "at least one"))
    room, _ = open_room(config.backend)
    learners = {
        folder_name(name): room.new_learner(target, config.replace(objective=objective))
        for name, objective in objectives.items()
    }
    examples, held_out = room.read_examples(target, TRAIN, VALIDATION, config)
    results = room.fit(
        target,
        learners,
        examples,
        config.replace(resume=False),
        validation=held_out,
        output=output,
        quiet=quiet,
    )
    if not all(result.metrics["finished"] for result in results.values()):
        raise KeyboardInterrupt  # drafters of different length of training compare nothing
    if output is not None:
        clear_steps(output)  # the run is done: nothing is left to resume
    for result in results.values():
        result.drafter.eval()
    return dict(zip(objectives, results.values(), strict=True))


def folder_name(name: str) -> str:
    """Return a drafter's name as a folder's that no shell needs quoted.

    Example:
        >>> folder_name("decay(7)"), folder_name("decay+first_error")
        ('decay-7', 'decay-first_error')
    """
    return "".join(c if c.isalnum() or c == "_" else "-" for c in name).strip("-")

"""Train one drafter an objective, side by side on the same batches, anchors and first weights."""

from collections.abc import Mapping
from typing import Any

from dspec.backends.registry import open_room
from dspec.config import TrainConfig
from dspec.demo.settings import TRAIN, VALIDATION
from dspec.errors import ConfigError, explain
from dspec.results import TrainResult


def train_arms(
    target: Any, objectives: Mapping[str, str], config: TrainConfig, *, quiet: bool = False
) -> dict[str, TrainResult]:
    """Return a trained drafter for each objective; one target pass a batch feeds them all.

    Equal for all: steps, texts and their order, blocks, first weights, learning rate.

    Args:
        target: an opened target, as `Engine.target` is.
        objectives: text form by name.
        config: of the run.
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
        name: room.new_learner(target, config.replace(objective=objective))
        for name, objective in objectives.items()
    }
    examples, held_out = room.read_examples(target, TRAIN, VALIDATION, config)
    results = room.fit(target, learners, examples, config, validation=held_out, quiet=quiet)
    if not all(result.metrics["finished"] for result in results.values()):
        raise KeyboardInterrupt  # drafters of different length of training compare nothing
    for result in results.values():
        result.drafter.eval()
    return results

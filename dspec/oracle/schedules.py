"""The number that a schedule of an objective stands for at one step of a run."""

import math

from dspec.errors import ConfigError, explain

SHAPES = ("linear", "cosine", "epoch")


def value_at(
    start: float,
    end: float,
    *,
    shape: str = "linear",
    share: float = 1.0,
    step: int,
    steps: int,
    epoch: int | None = None,
    epochs: int | None = None,
) -> float:
    """Return start + (end - start) g(x / share) at a step: `start->end:shape@share`.

    x goes from 0 at the first step to 1 at the last; for `epoch` from 0 in the first epoch to 1 in the
    last. With one step, or one epoch, x is 1. x / share stops at 1: from there on the value is `end`.

    Spec: OB-18.

    Args:
        start: value at x = 0, finite.
        end: value from x = share on, finite.
        shape: linear, cosine or epoch.
        share: part of the run in which the value moves, in (0, 1].
        step: 0..steps - 1.
        steps: optimizer steps of the run, >= 1.
        epoch: epoch of the step, 0..epochs - 1; shape epoch alone needs it.
        epochs: epochs that the run touches, >= 1; shape epoch alone needs it.

    Returns:
        The value, a float.

    Raises:
        ConfigError: a number out of its range, or an unknown shape.

    Example:
        >>> [value_at(4.0, 8.0, step=step, steps=5, share=0.5) for step in range(5)]
        [4.0, 6.0, 8.0, 8.0, 8.0]

    Source: DFlare (arXiv 2606.02091) for linear; the rest is ours.
    """
    if epoch is None or epochs is None:
        if shape == "epoch":
            needed = "both for the shape epoch"
            raise ConfigError(explain("schedule: epoch", (epoch, epochs), needed, clause="OB-18"))
        epoch, epochs = 0, 1  # the other shapes do not read them
    checks = (
        ("start, end", (start, end), math.isfinite(start) and math.isfinite(end), "finite numbers"),
        ("shape", shape, shape in SHAPES, " or ".join(SHAPES)),
        ("share", share, 0 < share <= 1, "a number in (0, 1]"),
        ("step", (step, steps), 0 <= step < steps, "step in 0..steps - 1"),
        ("epoch", (epoch, epochs), 0 <= epoch < epochs, "epoch in 0..epochs - 1"),
    )
    for name, got, ok, needed in checks:
        if not ok:
            raise ConfigError(explain(f"schedule: {name}", got, needed, clause="OB-18"))
    done, last = (epoch, epochs - 1) if shape == "epoch" else (step, steps - 1)
    x = done / last if last else 1.0
    y = min(x / share, 1.0)
    g = (1 - math.cos(math.pi * y)) / 2 if shape == "cosine" else y
    return start + (end - start) * g

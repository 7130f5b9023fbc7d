"""The learning rate of every step."""

import math

from dspec.errors import ConfigError, explain


def learning_rate(step: int, *, peak: float, steps: int, warmup: float) -> float:
    """Return the learning rate of one step: a linear warm-up, then half a cosine down to 0.

    Zero is never used itself: the first step takes peak / (warm-up steps), and the last lies one
    step of the cosine above 0.

    Args:
        step: 0-based, in [0, steps).
        peak: highest rate.
        steps: of the whole run.
        warmup: share of the steps that warm up, in [0, 1); rounded up to whole steps.

    Returns:
        The rate.

    Raises:
        ConfigError: the step is not one of the run's.

    Example:
        >>> [round(learning_rate(s, peak=1.0, steps=6, warmup=0.3), 2) for s in range(6)]
        [0.5, 1.0, 1.0, 0.85, 0.5, 0.15]

    Source: the recipes of DFlash (arXiv 2602.06036) and LTR (arXiv 2606.11552): warm-up, cosine.
    """
    if not 0 <= step < steps:
        raise ConfigError(explain("step", step, f"an integer in [0, {steps})"))
    rising = math.ceil(warmup * steps)
    if step < rising:
        return peak * (step + 1) / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))

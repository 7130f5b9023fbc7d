"""Numbers that change over a training run, and where in the run a step lies."""

import math
import re
from dataclasses import dataclass

from dspec.errors import ConfigError, explain

SHAPES = ("linear", "cosine", "epoch")
_TEXT = re.compile(
    r"(?P<start>[^\s>:@]+)\s*->\s*(?P<end>[^\s>:@]+)(?::(?P<shape>\w+))?(?:@(?P<share>[^\s:@]+))?"
)


@dataclass(frozen=True)
class Progress:
    """Where a step lies in its run.

    Spec: OB-18.

    Args:
        step: 0-based, in [0, steps).
        steps: of the whole run, >= 1.
        epoch: of the step, from 0; None where the data has no known length.
        epochs: those that the run touches, >= 1.
    """

    step: int
    steps: int
    epoch: int | None = None
    epochs: int | None = None

    def share(self, *, by_epoch: bool) -> float:
        """Return how far the run is, in [0, 1]: by steps, or standing still within an epoch."""
        if not by_epoch:
            return _share(self.step, self.steps)
        if self.epoch is None or self.epochs is None:
            remedy = "use :linear, or train through dspec.train, which knows the data"
            raise ConfigError(explain("schedule", "no epochs", "a run of known data", remedy=remedy))
        return _share(self.epoch, self.epochs)


@dataclass(frozen=True)
class Schedule:
    """A number that goes from `start` to `end` while a run goes on.

    Spec: OB-18.

    Args:
        start: finite.
        end: finite.
        shape: "linear", "cosine", or "epoch": linear in the epoch, constant within one.
        share: of the run after which `end` is reached; in (0, 1].

    Raises:
        ConfigError: a value is out of range.

    Example:
        >>> ramp = Schedule.read("0->40:cosine@0.5")
        >>> str(ramp), [round(ramp.at(Progress(step, 5)), 9) for step in range(5)]
        ('0->40:cosine@0.5', [0.0, 20.0, 40.0, 40.0, 40.0])
    """

    start: float
    end: float
    shape: str = "linear"
    share: float = 1.0

    def __post_init__(self) -> None:
        checks = (
            ("start and end", (self.start, self.end), all(map(math.isfinite, self.ends)), "finite numbers"),
            ("shape", self.shape, self.shape in SHAPES, "one of " + ", ".join(SHAPES)),
            ("share", self.share, 0 < self.share <= 1, "a number in (0, 1]"),
        )
        for name, got, ok, needed in checks:
            if not ok:
                raise ConfigError(explain(f"schedule {name}", got, needed, clause="OB-18"))

    @classmethod
    def read(cls, text: str) -> "Schedule | float":
        """Return the number or the schedule of a text.

        Args:
            text: "40", "0->40", "0->40:cosine", "0->40@0.5" and so on.

        Raises:
            ValueError: neither a number nor a schedule of numbers.
            ConfigError: a schedule whose values are out of range.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            return float(text)
        ends = float(match["start"]), float(match["end"])
        return cls(*ends, match["shape"] or "linear", float(match["share"] or 1))

    @property
    def ends(self) -> tuple[float, float]:
        """`start` and `end`."""
        return self.start, self.end

    def at(self, progress: Progress) -> float:
        """Return the number of a step."""
        y = min(progress.share(by_epoch=self.shape == "epoch") / self.share, 1.0)
        if self.shape == "cosine":
            y = (1 - math.cos(math.pi * y)) / 2
        # Rounding must not leave the range that both ends were checked for.
        low, high = sorted(self.ends)
        return min(max(self.start + (self.end - self.start) * y, low), high)

    def __str__(self) -> str:
        shape = "" if self.shape == "linear" else f":{self.shape}"
        share = "" if self.share == 1 else f"@{number_text(self.share)}"
        return f"{number_text(self.start)}->{number_text(self.end)}{shape}{share}"


Number = float | Schedule


def ends(value: Number) -> tuple[float, ...]:
    """Return the numbers whose range decides that of all in between.

    Example:
        >>> ends(3.0), ends(Schedule(0, 40))
        ((3.0,), (0, 40))
    """
    return value.ends if isinstance(value, Schedule) else (value,)


def number_text(value: float) -> str:
    """Return the shortest text that reads back to the same float.

    Example:
        >>> number_text(40.0), number_text(0.1), number_text(float("inf"))
        ('40', '0.1', 'inf')
    """
    return str(int(value)) if abs(value) < 1e15 and value == int(value) else repr(value)


def _share(index: int, count: int) -> float:
    return index / (count - 1) if count > 1 else 1.0

"""What a learner is to the training loop, whatever its framework; each room has its own `Learner`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from dspec.acceptance import Acceptance
from dspec.config import TrainConfig
from dspec.core.objectives import Objective, Progress
from dspec.errors import ConfigError, NumericsError, explain

# Names of a learner's state, beside the name of each weight.
MASTER = "weight"  # in the dtype that is trained; model.safetensors may hold fewer bits
COUNT = "step"
MOMENTS = (COUNT, "exp_avg", "exp_avg_sq")
# 16 bits round small AdamW steps to nothing: 2^-9 of a weight is above the usual rate times update.
MASTER_DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step saw: the objective's value before it, gradient norm before clipping, rate."""

    loss: float
    grad_norm: float
    lr: float


@dataclass(frozen=True)
class Evaluation:
    """What a micro-batch says of a drafter; the parts of a validation slice are added.

    Args:
        sums: (T, 2), the objective's numerators and denominators, on the host.
        acceptance: counts of its blocks.
    """

    sums: NDArray[Any]
    acceptance: Acceptance

    def __add__(self, other: Self) -> Self:
        return type(self)(self.sums + other.sums, self.acceptance + other.acceptance)


class Learner(Protocol):
    """A drafter in training: master weights in float32 or wider, AdamW, one objective.

    `part` and `parts` are the room's own micro-batches, as the loop's `read` made them.
    """

    drafter: Any
    objective: Objective
    config: TrainConfig
    step: int

    @property
    def now(self) -> Objective:
        """The objective of the last step taken: its numbers instead of its schedules."""

    def train_step(self, parts: Sequence[Any], progress: Progress | None = None) -> StepReport:
        """Take one optimizer step; NumericsError, and no weight changed, where it is not finite."""

    def evaluate(self, part: Any) -> Evaluation:
        """Measure the drafter on a micro-batch, without gradient; nothing of the learner changes."""

    def state(self) -> dict[str, NDArray[Any]]:
        """Return weights and moments on the host, "<tensor name>/weight|step|exp_avg|exp_avg_sq".

        They may share the learner's memory: use them before the next step.
        """

    def restore(self, state: Mapping[str, NDArray[Any]], step: int) -> None:
        """Take over such a state, checked by `load_run`, after `step` steps."""

    def save(self, folder: str | Path) -> None:
        """Write the drafter as a checkpoint of its own."""


def check_masters(dtypes: Iterable[Any]) -> None:
    """Check that weights to be trained are wide enough for small steps to move them.

    Args:
        dtypes: of all weights, the framework's own.

    Raises:
        ConfigError: one is narrower than float32.

    Example:
        >>> check_masters([np.dtype("float32")])
    """
    names = {str(dtype).rpartition(".")[2] for dtype in dtypes}
    narrow = sorted(names - {*MASTER_DTYPES})
    if narrow:
        remedy = "Load the drafter with dtype='float32'; it is stored in its config's dtype all the same."
        needed = " or ".join(MASTER_DTYPES)
        raise ConfigError(explain("weights to train", ", ".join(narrow), needed, remedy=remedy))


def check_length(seq_len: int, limit: int | None) -> None:
    """Check that the target was made for texts as long as the run's.

    Args:
        seq_len: of the run.
        limit: the target's longest sequence; None: unknown.

    Raises:
        ConfigError: the run's texts are longer.
    """
    if limit is not None and seq_len > limit:
        needed = f"at most {limit}, the longest sequence of the target"
        raise ConfigError(explain("seq_len", seq_len, needed))


def check_skip(skip: float, objective: Objective, *, can: bool) -> None:
    """Check that rows may be left out of this objective's gradient.

    Spec: OB-21.

    Args:
        skip: of the run.
        objective: the learner's.
        can: whether the backend's operation can leave out rows.

    Raises:
        ConfigError: it cannot, or the objective reads the target's law.

    Example:
        >>> check_skip(0.0, Objective.parse("ltr"), can=False)
    """
    if skip > 0 and not (can and not objective.needs_law):
        got = f"{skip} with {objective}" if can else skip
        remedy = "skip works on torch, with overrides, for objectives of the gold tokens alone"
        raise ConfigError(explain("skip", got, "0 here", remedy=remedy, clause="OB-21"))


def check_finite(loss: float, norm: float, *, step: int) -> None:
    """Check a step before any weight is changed.

    Spec: NU-2.

    Args:
        loss: the objective's value.
        norm: of the gradient.
        step: counted from 1, for the message.

    Raises:
        NumericsError: either is not finite.

    Example:
        >>> check_finite(2.5, 0.1, step=1)
    """
    if not (np.isfinite(loss) and np.isfinite(norm)):
        got = f"loss {loss} and gradient norm {norm} at step {step}"
        remedy = "lower lr, or go on from the last checkpoint; the weights were not changed"
        raise NumericsError(explain("training", got, "finite numbers", remedy=remedy, clause="NU-2"))

"""The denominators of a batch that is cut into micro-batches, known before the first backward."""

from collections.abc import Callable, Sequence
from typing import Any

from dspec.core import objectives
from dspec.core.objectives import Law, Objective


def sums_ahead(
    objective: Objective, parts: Sequence[Any], *, measure: Callable[[Any], Any], dtype: Any, xp: Any
) -> Any:
    """Return sums whose denominators are those of the whole batch; numerators mean nothing.

    They follow from the masks alone, except first_error's and, by its own mean, auf's, which need the
    drafter's hits: then every part runs once more, without gradient.

    Spec: OB-7.

    Args:
        objective: with T terms.
        parts: micro-batches; `supervised` (N, K) bool.
        measure: a part's own sums (T, 2), by running the drafter.
        dtype: of the sums.
        xp: the parts' array namespace.

    Returns:
        (T, 2).
    """
    if objective.waits:
        return sum(measure(part) for part in parts)
    masks = [part.supervised for part in parts]
    blanks = [xp.zeros_like(mask, dtype=dtype) for mask in masks]
    return sum(
        objectives.sums(objective, blank, mask, mask, law=Law(blank, blank, blank), xp=xp)
        for blank, mask in zip(blanks, masks)
    )

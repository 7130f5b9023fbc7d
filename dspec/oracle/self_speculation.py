"""What one step of a block decides, one position at a time, as the clauses SS-7..SS-25 say it.

Positions are the keys of dicts, so that nothing here depends on where a block starts. Which pass gives
the rows of logits is the business of `dspec.oracle.slots`; when to verify, of `dspec.oracle.routes`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dspec.errors import ConfigError, ShapeError, explain
from dspec.oracle.rejection import Law, Number, Uniform, argmax
from dspec.oracle.warp import normalised, warp_logits


def without_mask(law: Law, mask_token: int) -> list[Number]:
    """Return the law without its mask token, normalised again.

    Spec: SS-7.

    Example:
        >>> without_mask([1, 3, 4], 2)
        [Fraction(1, 4), Fraction(3, 4), Fraction(0, 1)]
    """
    return normalised([0 if token == mask_token else mass for token, mass in enumerate(law)])


@dataclass(frozen=True)
class Statistics:
    """What routing and selection know of a slot: numbers in [0, 1] but for `entropy`, in nats."""

    confidence: float
    margin: float
    entropy: float
    relative_entropy: float
    collision: float


def statistics(logits: Sequence[float], token: int, *, temperature: float = 1.0) -> Statistics:
    """Return the statistics of a slot, mask token included.

    Spec: SS-10.

    Args:
        logits: V >= 2 floats, nats; -inf allowed.
        token: the token whose confidence is meant.
        temperature: >= 0; 0 counts as 1.

    Example:
        >>> found = statistics([0.0, 0.0], 1)
        >>> found.confidence, found.margin, found.relative_entropy, found.collision
        (0.5, 0.0, 1.0, 0.5)
    """
    w = warp_logits(logits, temperature=temperature or 1.0)
    largest, second = sorted(w, reverse=True)[:2]
    entropy = sum((-mass * math.log(mass) for mass in w if mass > 0), 0.0)
    relative = entropy / math.log(len(w))
    return Statistics(w[token], largest - second, entropy, relative, sum(mass * mass for mass in w))


def first_run(masked: Mapping[int, bool]) -> list[int]:
    """Return the positions of the first contiguous run of masks.

    Spec: SS-11.

    Example:
        >>> first_run({4: False, 5: True, 6: True, 7: False, 8: True})
        [5, 6]
    """
    run: list[int] = []
    for position in sorted(masked):
        if masked[position]:
            run.append(position)
        elif run:
            break
    return run


# The parameter of each estimator where none is given: [S2D2]'s defaults.
DEFAULTS = {"margin": 0.05, "entropy": 0.1, "confidence": 0.8, "clipped_margin": 1.0, "entropy_exp": 1.0}
ESTIMATORS = (*DEFAULTS, "renyi")


def estimate(name: str, slot: Statistics, parameter: float | None = None) -> float:
    """Return a, the estimated chance that the draft of a slot is accepted, in [0, 1].

    Spec: SS-11.

    Args:
        name: one of `ESTIMATORS`.
        slot: its statistics.
        parameter: the estimator's t, g, m or beta; None takes the default. "renyi" has none.

    Example:
        >>> flat = statistics([0.0, 0.0], 0)
        >>> estimate("margin", flat), estimate("confidence", flat, 2.0), estimate("renyi", flat)
        (0.0, 0.25, 0.5)
    """
    value = DEFAULTS.get(name, 0.0) if parameter is None else parameter
    if name == "margin":
        return 1.0 if slot.margin >= value else 0.0
    if name == "entropy":
        return 1.0 if slot.relative_entropy < value else 0.0
    if name == "confidence":
        return float(slot.confidence**value)
    if name == "clipped_margin":
        return min(max(value * slot.margin, 0.0), 1.0)
    if name == "entropy_exp":
        return math.exp(-value * slot.relative_entropy)
    if name == "renyi":
        return slot.collision
    raise ConfigError(explain("estimator", repr(name), f"one of {ESTIMATORS}", clause="SS-11"))


def expected_accepted(chances: Sequence[Number]) -> Number:
    """Return K̂, the expected number of accepted drafts: the sum of all prefix products.

    Spec: SS-11.

    Example:
        >>> expected_accepted([0.5, 0.5, 1.0]), expected_accepted([])
        (1.0, 0)
    """
    total: Number = 0
    for k in range(1, len(chances) + 1):
        total = total + math.prod(chances[:k])
    return total


def n_confident(confidence: Mapping[int, Number], threshold: Number) -> int:
    """Return N, the number of masked positions whose confidence is above the threshold.

    Spec: SS-12.

    Example:
        >>> n_confident({3: 0.9, 7: 0.85}, 0.85)
        1
    """
    return sum(value > threshold for value in confidence.values())


def static_score(expected: Number, cost: Number) -> Number:
    """Return K̂ - c (SS-12)."""
    return expected - cost


def dynamic_score(expected: Number, cost: Number, confident: int) -> Number:
    """Return K̂ - c * N (SS-12)."""
    return expected - cost * confident


def schedule(block_size: int, steps: int) -> list[int]:
    """Return the budget of each of S steps; a later step has the last one's.

    Spec: SS-9.

    Example:
        >>> schedule(8, 3)
        [3, 3, 2]
    """
    if not 1 <= steps <= block_size:
        raise ConfigError(explain("steps", steps, f"1..{block_size}, the block size", clause="SS-9"))
    return [block_size // steps + (1 if step < block_size % steps else 0) for step in range(steps)]


def accepts_tempered(target: Law, drafter: Law, token: int, uniform: Uniform, exponent: Number) -> bool:
    """Return whether a draft stands under the lossy exponent: p > 0 and `u * q ** g < p ** g`, strictly.

    Spec: SS-20.

    Example:
        >>> [accepts_tempered([0.25, 0.75], [1.0, 0.0], 0, 0.4, exponent) for exponent in (1, 0.5)]
        [False, True]
    """
    possible = target[token] > 0  # p ** 0 is 1 where p is 0
    return bool(possible and uniform * drafter[token] ** exponent < target[token] ** exponent)


def edits(
    tokens: Mapping[int, int], rows: Mapping[int, Sequence[float]], *, threshold: float, mask_token: int
) -> dict[int, int]:
    """Return the new token of each position that one pass edits.

    Spec: SS-21, SS-7.

    Args:
        tokens: position -> token, of the generated positions that the pass read as no mask.
        rows: position -> the logits of its token (SS-1).
        threshold: confidence that an edit must exceed; >= 1 never edits.
        mask_token: never the new token.

    Example:
        >>> edits({4: 0, 5: 0}, {4: [0.0, 3.0, 9.0], 5: [0.0, 3.0, 0.0]}, threshold=0.5, mask_token=2)
        {5: 1}
    """
    changed = {}
    for position, token in tokens.items():
        row = rows[position]
        best = argmax([-math.inf if x == mask_token else value for x, value in enumerate(row)])
        if best != token and statistics(row, best).confidence > threshold:
            changed[position] = best
    return changed


def settle(
    tokens: Mapping[int, int], edit: Callable[[dict[int, int]], Mapping[int, int]], *, max_passes: int
) -> tuple[dict[int, int], int]:
    """Return the tokens of a block without masks after its last edits, and the passes that took.

    Spec: SS-21.

    Example:
        >>> settle({4: 0}, lambda tokens: {4: tokens[4] + 1} if tokens[4] < 2 else {}, max_passes=9)
        ({4: 2}, 3)
    """
    found = dict(tokens)
    for n_passes in range(1, max_passes + 1):
        changed = edit(found)
        found.update(changed)
        if not changed:
            return found, n_passes
    return found, max_passes


def wino(
    confidence: Mapping[int, Any], review: Mapping[int, Any], *, commit_above: Any, remask_below: Any
) -> tuple[list[int], list[int]]:
    """Return the positions that one WINO step commits, and those that it masks again, ascending.

    Spec: SS-25.

    Args:
        confidence: masked position -> confidence of its draft; not empty.
        review: position of a generated token -> its leave-one-out confidence.
        commit_above: τ_1.
        remask_below: τ_2.

    Example:
        >>> wino({2: 0.9, 3: 0.8}, {0: 0.2, 1: 0.1}, commit_above=0.6, remask_below=0.9)
        ([2, 3], [1])
    """
    if not confidence:
        raise ShapeError(explain("confidence", "no position", "a masked one", clause="SS-25"))
    committed = sorted(position for position, value in confidence.items() if value > commit_above)
    if not committed:
        committed = [max(sorted(confidence), key=lambda position: confidence[position])]
    doubtful = sorted((value, position) for position, value in review.items() if value < remask_below)
    return committed, sorted(position for _, position in doubtful[: len(committed) - 1])

"""Whether a step verifies: the routes of SS-13, each a function of the step or a small state."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dspec.errors import ConfigError, explain

Context = tuple[bool, bool, bool]


def by_span(length: int, minimum: int) -> bool:
    """Return whether the run of L masks is long enough.

    Spec: SS-13.

    Example:
        >>> by_span(3, 4), by_span(4, 4)
        (False, True)
    """
    if minimum < 1:
        raise ConfigError(explain("minimum span", minimum, "an integer >= 1", clause="SS-13"))
    return length >= minimum


def by_score(score: Any, threshold: Any) -> bool:
    """Return whether the score (SS-12) reaches the threshold.

    Spec: SS-13.

    Example:
        >>> by_score(-1.0, -1.0)
        True
    """
    return bool(score >= threshold)


def by_cost(expected: Any, confident: int, cost: Any) -> bool:
    """Return whether K̂ - c * max(1, N) > -1.

    Spec: SS-13.

    Example:
        >>> by_cost(1.0, 0, 2.0), by_cost(1.5, 1, 2.0)
        (False, True)
    """
    if cost < 1:
        raise ConfigError(explain("cost", cost, "c >= 1", clause="SS-13"))
    return bool(expected - cost * max(1, confident) > -1)


def never() -> bool:
    """Return False: the fallback alone decides (SS-13)."""
    return False


@dataclass
class Hysteresis:
    """A state that turns on at a high score and off at a low one; off at first.

    Spec: SS-13.

    Example:
        >>> route = Hysteresis(on=1.0, off=-1.0)
        >>> [route.verify(score) for score in (0.5, 1.0, -1.0, -1.5, 0.5)]
        [False, True, True, False, False]
    """

    on: Any
    off: Any
    active: bool = False

    def __post_init__(self) -> None:
        if not self.on > self.off:
            raise ConfigError(explain("on", self.on, f"a number above off = {self.off}", clause="SS-13"))

    def verify(self, score: Any) -> bool:
        """Return whether the step of this score verifies."""
        if score >= self.on:
            self.active = True
        elif score < self.off:
            self.active = False
        return self.active


def context_of(
    run_length: int, n_decided: int, block_size: int, relative_entropies: Sequence[float]
) -> Context:
    """Return the context of a step: upper half or not, of run length, share decided and mean Hn of the run.

    Spec: SS-13.

    Example:
        >>> context_of(3, 1, 4, [0.5, 0.75, 0.25]), context_of(2, 2, 4, [0.5, 0.25])
        ((True, False, True), (False, True, False))
    """
    mean = sum(relative_entropies) / len(relative_entropies)
    return 2 * run_length > block_size, 2 * n_decided >= block_size, 2 * mean >= 1


@dataclass
class Ucb:
    """The bandit: two arms, verify or skip, with rewards kept for each context.

    Spec: SS-13.

    Args:
        beta: >= 0, the weight of what is not known.

    Example:
        >>> route, context = Ucb(beta=0.0), (True, False, True)
        >>> for n_committed in (4, 1, 4):
        ...     verified = route.verify(context)
        ...     print(verified)
        ...     route.learn(context, verified, n_committed)
        True
        False
        True
    """

    beta: float
    decisions: int = 0
    rewards: dict[tuple[Context, bool], list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.beta >= 0:
            raise ConfigError(explain("beta", self.beta, "a number >= 0", clause="SS-13"))

    def verify(self, context: Context) -> bool:
        """Return whether the step of this context verifies."""
        self.decisions += 1
        return self.bound(context, True) >= self.bound(context, False)

    def bound(self, context: Context, arm: bool) -> float:
        """Return the mean reward of an arm plus the bonus of what is not known; inf if untried."""
        rewards = self.rewards.get((context, arm), [])
        if not rewards:
            return math.inf
        mean = sum(rewards) / len(rewards)
        return mean + self.beta * math.sqrt(math.log(self.decisions) / len(rewards))

    def learn(self, context: Context, verified: bool, n_committed: int) -> None:
        """Take in what a step committed: tokens over passes."""
        self.rewards.setdefault((context, verified), []).append(n_committed / (2 if verified else 1))

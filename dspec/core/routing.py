"""Routes: whether a hybrid step verifies its drafts; a `Route` is a setting, `open` makes its state."""

from dataclasses import dataclass, field
from math import inf, log, sqrt
from typing import Any, Protocol

from dspec.core.calls import Number, read_call
from dspec.errors import ConfigError, explain

_SCORE = "a number"
ROUTES = {
    "span": (Number("length", 1, 1, 2**31, "an integer >= 1", integer=True),),
    "score": (Number("threshold", 0.0, -inf, inf, _SCORE),),
    "hysteresis": (Number("on", 0.0, -inf, inf, _SCORE), Number("off", -1.0, -inf, inf, _SCORE)),
    "ucb": (Number("beta", 1.0, 0.0, inf, "a number >= 0"),),
    # None measures it: 1 + t_verify / t_draft of timed passes.
    "cost": (Number("ratio", 0.0, 0.0, inf, "a number >= 1, or none to measure it"),),
    "never": (),
}
VERIFY_COST = 2  # passes of a step that verifies; one that does not takes 1


@dataclass(frozen=True)
class Facts:
    """What a route may look at in one step.

    Args:
        span: L, drafts of the first contiguous run; >= 1.
        block_size: B.
        decided: positions of the block that hold a token.
        surprise: mean Hn of the run, in [0, 1].
        expected: expected accepted length.
        score: see `dspec.core.estimates.score`.
        n_confident: masked positions above the fallback's threshold.
    """

    span: int
    block_size: int
    decided: int
    surprise: float
    expected: float
    score: float
    n_confident: int


class Decider(Protocol):
    """A route's state in one request."""

    def decide(self, facts: Facts) -> bool:
        """Return whether to verify this step's drafts."""
        ...

    def learn(self, committed: int) -> None:
        """Take in how many tokens the step committed."""
        ...


@dataclass(frozen=True)
class Route:
    """A route and its numbers.

    Spec: SS-13.

    Args:
        name: a key of `ROUTES`.
        numbers: as many as it has.

    Example:
        >>> Route.parse("hysteresis(1, -5)").numbers
        (1.0, -5.0)
    """

    name: str
    numbers: tuple[float, ...] = ()

    @classmethod
    def parse(cls, text: Any) -> "Route":
        """Return the route of a text such as "span(2)" or "hysteresis(0, -1)".

        Raises:
            ConfigError: an unknown one, a number out of range, or an on-threshold not above the off-one.
        """
        name, numbers = read_call("route", text, ROUTES, clause="SS-13")
        if name == "hysteresis" and not numbers[0] > numbers[1]:
            needed = "an on-threshold above the off-threshold, as in hysteresis(0, -1)"
            raise ConfigError(explain("route", repr(text), needed, clause="SS-13"))
        if name == "cost" and numbers[0] < 1 and any(map(str.isdigit, text)):
            raise ConfigError(
                explain("route", repr(text), "a ratio >= 1, or cost() to measure it", clause="SS-13")
            )
        return cls(name, numbers)

    @property
    def measured(self) -> bool:
        """Whether it waits for a measured cost ratio."""
        return self.name == "cost" and self.numbers[0] == 0

    def open(self) -> Decider:
        """Return the state of a new request."""
        if self.name == "hysteresis":
            return Hysteresis(on=self.numbers[0], off=self.numbers[1])
        if self.name == "ucb":
            return Bandit(beta=self.numbers[0])
        return Stateless(self)


@dataclass(frozen=True)
class Stateless:
    """Routes that look at one step alone.

    Spec: SS-13.

    Example:
        >>> facts = Facts(span=3, block_size=4, decided=1, surprise=0.1, expected=2, score=1, n_confident=1)
        >>> Stateless(Route("cost", (2.0,))).decide(facts)
        True
    """

    route: Route

    def decide(self, facts: Facts) -> bool:
        """Return whether to verify."""
        name = self.route.name
        if name == "never":
            return False
        number = self.route.numbers[0]
        if name == "span":
            return facts.span >= number
        if name == "score":
            return facts.score >= number
        return facts.expected - number * max(1, facts.n_confident) > -1

    def learn(self, committed: int) -> None:
        """Learn nothing."""


@dataclass
class Hysteresis:
    """On and off at two thresholds of the score, off at first.

    Spec: SS-13.
    """

    on: float
    off: float
    verifying: bool = False

    def decide(self, facts: Facts) -> bool:
        """Return the state after this step's score."""
        self.verifying = facts.score >= (self.off if self.verifying else self.on)
        return self.verifying

    def learn(self, committed: int) -> None:
        """Learn nothing."""


@dataclass
class Bandit:
    """Upper confidence bounds on tokens a pass, of two arms in each of eight contexts.

    Spec: SS-13.
    """

    beta: float
    tried: dict[tuple[tuple[bool, ...], bool], int] = field(default_factory=dict)
    total: dict[tuple[tuple[bool, ...], bool], float] = field(default_factory=dict)
    last: tuple[tuple[bool, ...], bool] | None = None
    decisions: int = 0  # of the request, in every context, this one included

    def decide(self, facts: Facts) -> bool:
        """Return the arm of the larger bound, an untried one first."""
        size = facts.block_size
        context = (2 * facts.span > size, 2 * facts.decided >= size, 2 * facts.surprise >= 1)
        self.decisions += 1
        verify = self._bound(context, True) >= self._bound(context, False)
        self.last = (context, verify)
        return verify

    def learn(self, committed: int) -> None:
        """Take in the tokens of the step just decided."""
        if self.last is not None:
            passes = VERIFY_COST if self.last[1] else 1
            self.tried[self.last] = self.tried.get(self.last, 0) + 1
            self.total[self.last] = self.total.get(self.last, 0.0) + committed / passes
            self.last = None

    def _bound(self, context: tuple[bool, ...], verify: bool) -> float:
        count = self.tried.get((context, verify), 0)
        if count == 0:
            return inf
        return self.total[context, verify] / count + self.beta * sqrt(log(self.decisions) / count)

"""How many drafts of a block are worth verifying: chosen from what earlier passes of the request showed."""

from collections.abc import Sequence
from dataclasses import dataclass

from dspec.core.settings import read_number
from dspec.errors import ConfigError, explain

# What a slot is taken to be worth before anything was seen, and how many passes that counts for.
PRIOR, PRIOR_PASSES = 0.6, 4.0
# Weight that a drafting pass keeps after each later one: half of what is known is from the last 11.
MEMORY = 0.94
# Passes without drafts after which one drafts again. On one CPU thread a try cost 1.9 plain passes: at 16 a
# hopeless drafter cost a tenth of the speed, at 32 half of that. As many rows of features wait meanwhile.
IDLE_PASSES = 32


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a pass costs by its width, in seconds or any one unit.

    Spec: DL-13.

    Args:
        verify: of a target pass over 1, 2, ..., K + 1 tokens, its verdict included; > 0.
        draft: of one proposal, whatever becomes of it; >= 0.

    Raises:
        ConfigError: no verify costs, or one that is no finite number in range.

    Example:
        >>> Costs(verify=(1, 1.25), draft=0.5).of(0), Costs(verify=(1, 1.25), draft=0.5).of(1)
        (1.0, 1.75)
    """

    verify: tuple[float, ...]
    draft: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.verify, str) or not isinstance(self.verify, Sequence) or not self.verify:
            needed = "costs of 1, 2, ..., K + 1 tokens"
            raise ConfigError(explain("costs.verify", repr(self.verify), needed, clause="DL-13"))
        big = float("inf")
        verify = tuple(
            read_number("costs.verify", cost, lambda x: 0 < x < big, "finite numbers > 0", clause="DL-13")
            for cost in self.verify
        )
        draft = read_number(
            "costs.draft", self.draft, lambda x: 0 <= x < big, "a finite number >= 0", clause="DL-13"
        )
        object.__setattr__(self, "verify", verify)
        object.__setattr__(self, "draft", draft)

    @property
    def n_slots(self) -> int:
        """K, the most drafts that they know the cost of."""
        return len(self.verify) - 1

    def of(self, n_drafts: int) -> float:
        """Return the cost of a pass that verifies so many drafts; without any, nothing is proposed."""
        return self.verify[n_drafts] + (self.draft if n_drafts else 0.0)


@dataclass(frozen=True)
class FixedLength:
    """The same draft length in every pass.

    Spec: DL-13.

    Args:
        n_drafts: k >= 0.

    Example:
        >>> FixedLength(2).choose()
        2
    """

    n_drafts: int

    def choose(self) -> int:
        """Return k."""
        return self.n_drafts

    def observe(self, n_drafted: int, n_accepted: int) -> None:
        """Learn nothing."""


class AutoLength:
    """Chooses the draft length of one request's passes: most expected tokens for their cost.

    It counts, slot by slot, how often a slot was reached and stood, forgetting exponentially so as to
    follow the text; a slot that was seen little is taken to be like the others. Where no draft pays none
    is verified, and after some such passes one drafts again, so that acceptance stays measured: and then
    the next one too, as long as each emits what its cost would have emitted without drafts.

    Spec: DL-13.

    Args:
        costs: of passes over 1..K + 1 tokens, and of a proposal.
        prior: acceptance of a slot before anything was seen; in [0, 1].
        memory: weight that a pass keeps after each later one that drafts; in (0, 1].
        idle_passes: passes without drafts before one that drafts; >= 1.

    Example:
        >>> length = AutoLength(Costs(verify=(1, 1, 1, 1, 1), draft=0.5))
        >>> length.choose()
        4
        >>> for _ in range(20):
        ...     length.observe(4, 0)
        >>> length.choose()
        0

    Source: expected tokens over time, arXiv 2211.17192, sections 3.3 and 3.4, with acceptance by slot.
    """

    def __init__(
        self, costs: Costs, *, prior: float = PRIOR, memory: float = MEMORY, idle_passes: int = IDLE_PASSES
    ) -> None:
        self._costs, self._prior, self._memory, self._idle_passes = costs, prior, memory, idle_passes
        self._reached, self._stood = [0.0] * costs.n_slots, [0.0] * costs.n_slots
        # As if it had rested: whatever the prior says, the first pass looks at what drafts are worth.
        self._idle = idle_passes

    @property
    def acceptance(self) -> tuple[float, ...]:
        """The estimate of every slot: chance that it stands, given that those before it do."""
        weight = PRIOR_PASSES
        pooled = (sum(self._stood) + weight * self._prior) / (sum(self._reached) + weight)
        return tuple((s + weight * pooled) / (r + weight) for s, r in zip(self._stood, self._reached))

    def choose(self) -> int:
        """Return k of the next pass; the smallest of equals."""
        rates = [1 / self._costs.of(0)]
        tokens = stands = 1.0
        for n_drafts, acceptance in enumerate(self.acceptance, 1):
            stands *= acceptance
            tokens += stands
            rates.append(tokens / self._costs.of(n_drafts))
        best = rates.index(max(rates))
        if best == 0 and len(rates) > 1 and self._idle >= self._idle_passes:
            best = rates.index(max(rates[1:]), 1)
        return best

    def observe(self, n_drafted: int, n_accepted: int) -> None:
        """Take in what became of a pass."""
        if n_drafted == 0:
            self._idle += 1
            return
        # A try that paid is followed by another: at one in so many passes a better text would be seen late.
        paid = (n_accepted + 1) * self._costs.of(0) >= self._costs.of(n_drafted)
        self._idle = self._idle_passes if paid else 0
        for slot in range(len(self._reached)):
            reached, stood = slot < n_drafted and slot <= n_accepted, slot < n_accepted
            self._reached[slot] = self._memory * self._reached[slot] + reached
            self._stood[slot] = self._memory * self._stood[slot] + stood

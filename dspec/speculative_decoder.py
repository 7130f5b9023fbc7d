"""The settings of drafted blocks, one of `dspec.decoders`."""

from dataclasses import dataclass

from dspec.core.draft_length import Costs
from dspec.core.settings import read_integer
from dspec.errors import ConfigError, explain

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Speculative:
    """Draft a block, verify it, or its first drafts, in one target pass: exact.

    Spec: RS-3, RS-18, DL-13.

    Args:
        policy: "one_hot" (default), "rejection", "block", "sample_match" or "greedy"; see core.policies.
        block: drafts that a pass verifies, from 1 to the drafter's K; None: all K. "auto": as many as pay,
            from how many stood in earlier passes of the request and what passes of one request cost.
        draft_window: W; the drafter reads the last W positions of its context only, which is cheaper where
            the text is long, and changes how many drafts stand alone (RS-3). None: all.
        costs: of passes, for block="auto"; None: measured once an engine, so that two runs may choose other
            lengths, and emit other tokens of the same law.

    Raises:
        ConfigError: no such block, or costs that are none or have no use.

    Example:
        >>> Speculative(policy="rejection").policy
        'rejection'
        >>> Speculative(block="auto", costs=Costs(verify=(1, 1.1, 1.2), draft=0.3)).costs.n_slots
        2
    """

    policy: str | None = None
    block: int | str | None = None
    costs: Costs | None = None
    draft_window: int | None = None

    def __post_init__(self) -> None:
        if self.block is not None and not (isinstance(self.block, str) and self.block == AUTO):
            needed = "an integer >= 1, 'auto' or None"
            block = read_integer("block", self.block, 1, 2**31, needed, clause="DL-13")
            object.__setattr__(self, "block", block)
        if self.draft_window is not None:
            needed = "an integer >= 1, or None"
            window = read_integer("draft_window", self.draft_window, 1, 2**31, needed, clause="RS-3")
            object.__setattr__(self, "draft_window", window)
        if not isinstance(self.costs, (Costs, type(None))):
            needed = "dspec.decoders.Costs(...) or None"
            raise ConfigError(explain("costs", repr(self.costs), needed, clause="DL-13"))
        if self.costs is not None and self.block != AUTO:
            remedy = "Leave costs out, or ask for block='auto'."
            got = f"{self.costs!r} with block={self.block!r}"
            raise ConfigError(explain("costs", got, "block='auto'", remedy=remedy, clause="DL-13"))

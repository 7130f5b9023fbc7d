"""Ways to decode: small settings objects that `generate(decoder=...)` takes."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Speculative:
    """Draft a block, verify it in one target pass.

    Args:
        policy: "one_hot" (default), "rejection", "sample_match" or "greedy"; see core.policies.

    Example:
        >>> Speculative(policy="rejection").policy
        'rejection'
    """

    policy: str | None = None


@dataclass(frozen=True)
class Autoregressive:
    """One token a target pass, no drafter: the baseline.

    Example:
        >>> Autoregressive()
        Autoregressive()
    """

"""Every term of an objective by the name that its text form uses.

Example:
    >>> TERMS["chain"]()
    Chain(weight=40.0)
"""

from typing import Any

from dspec.core.credit_terms import Chain, Dpace, DpaceContinuation, DpaceCumulative, Revive
from dspec.core.law_terms import Kl, Lk, LogOverlap, OverlapChain, Reach, Tv
from dspec.core.terms import Auf, Cat, Decay, FirstError

KINDS = (
    *(Decay, FirstError, Chain, Auf, Cat),
    *(Dpace, DpaceCumulative, DpaceContinuation, Revive),
    *(Kl, Tv, Lk, LogOverlap, OverlapChain, Reach),
)
TERMS: dict[str, Any] = {term.name: term for term in KINDS}

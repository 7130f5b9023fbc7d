"""The values that pass between rooms: settings, laws, drafts, verdicts.

Letters: B rows (requests), K drafted slots (block_size - 1), V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

from dspec.core.settings import read_integer, read_number

Array = Any  # an array of the namespace `xp` that travels beside it


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The settings of `warp`: the law a token is drawn from, given logits.

    Applied in this order: temperature, top-k, top-p, min-p.

    Spec: RS-13.

    Args:
        temperature: divides the logits; 0 is greedy; >= 0.
        top_k: keep the k likeliest tokens; 0 keeps all; >= 0.
        top_p: keep the smallest likeliest set of mass >= top_p; in (0, 1].
        min_p: keep tokens with at least min_p times the largest probability; in [0, 1].

    Raises:
        ConfigError: a value is no number or out of range.

    Example:
        >>> Sampling(temperature=0.7, top_p=0.95).greedy
        False
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        numbers = (
            ("temperature", lambda t: 0.0 <= t < float("inf"), "a finite number >= 0; 0 is greedy"),
            ("top_p", lambda p: 0.0 < p <= 1.0, "a number in (0, 1]; 1 keeps all"),
            ("min_p", lambda p: 0.0 <= p <= 1.0, "a number in [0, 1]; 0 keeps all"),
        )
        for name, accepts, needed in numbers:
            value = read_number(name, getattr(self, name), accepts, needed, clause="RS-13")
            object.__setattr__(self, name, value)
        needed = "an integer >= 0 and < 2^31; 0 keeps all"
        object.__setattr__(self, "top_k", read_integer("top_k", self.top_k, 0, 2**31, needed, clause="RS-13"))

    @property
    def greedy(self) -> bool:
        """Whether the law is the argmax (temperature 0)."""
        return self.temperature == 0

    @property
    def truncates(self) -> bool:
        """Whether any of top-k, top-p, min-p removes tokens."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


@dataclass(frozen=True)
class Draft:
    """K proposed tokens a row and the law they were really drawn from.

    Spec: RS-2.

    Args:
        tokens: (B, K) integer ids in [0, V).
        probs: (B, K, V) floating, row k the law of tokens[:, k]; None: the draft is
            deterministic and its law is one-hot.
    """

    tokens: Array
    probs: Array | None = None


@dataclass(frozen=True)
class Uniforms:
    """The uniforms of one verify pass, multiples of 2^-24 in [0, 1).

    Spec: RN-1, RN-3.

    Args:
        accept: (B, K) float32, one a drafted slot.
        close: (B, K + 1, 2) float32, two levels a slot; rejection verifiers read slot 0 only,
            sample-match reads slot k for the token at slot k.
    """

    accept: Array
    close: Array


@dataclass(frozen=True)
class Verdict:
    """What one verify pass decided.

    Spec: RS-4, RS-5, RS-6, RS-16.

    Args:
        n_accepted: (B,) int32 in 0..K; -1 marks a row whose law is malformed.
        tokens: (B, K + 1) int32: accepted drafts, then the closing token at slot n_accepted,
            then -1.
    """

    n_accepted: Array
    tokens: Array


@dataclass(frozen=True)
class Scores:
    """What a target pass returns.

    Args:
        logits: (B, T, V): row t is the law of the token after the t-th scored one, unnormalised.
        features: tapped hidden states of the scored positions, for the drafter; the
            backend's own type, opaque to core.
    """

    logits: Array
    features: Any = None

"""What a block-diffusion decoder did: every decision, and what each pass made final."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# How a token was decided. "remasked" takes one back; "edited" replaces one.
KINDS = ("autoregressive", "accepted", "correction", "bonus", "selected", "boundary", "edited", "remasked")


@dataclass(frozen=True)
class Commit:
    """One decision.

    Spec: SS-24.

    Args:
        position: of the token, counted from the first prompt token.
        token: its id; of "remasked" the one taken back.
        kind: one of `KINDS`.
        step: number of the request's pass that decided it, from 1, prefill included.
    """

    position: int
    token: int
    kind: str
    step: int


@dataclass(frozen=True)
class Event:
    """What one step did for one row.

    Args:
        row: number of the request in its batch.
        tokens: what became final, cut at an end token or limit; may be empty.
        commits: decisions, also those beyond the cut.
        n_accepted: accepted drafts of a verify pass, uncut; None: nothing was verified.
        n_drafted: drafts of it.
        passes: forward passes of the row so far.
        finish: None while the row goes on, else "eos" or "length".
    """

    row: int
    tokens: tuple[int, ...]
    commits: tuple[Commit, ...]
    n_accepted: int | None
    n_drafted: int
    passes: int
    finish: str | None


@dataclass(frozen=True)
class BlockStats:
    """Counts and times of one request of a block-diffusion model.

    Spec: SS-24.

    Args:
        forward_passes: of the request, prefill included.
        n_tokens: emitted, cut.
        n_accepted: accepted drafts of each verify pass, uncut.
        n_drafted: drafts of each verify pass.
        seconds: {"total": of the batch that the request was decoded in}.

    Example:
        >>> stats = BlockStats(forward_passes=5, n_tokens=10, n_accepted=(3, 1), n_drafted=(4, 4))
        >>> stats.forwards_per_token, stats.accepted_per_verify
        (0.5, 2.0)
    """

    forward_passes: int
    n_tokens: int
    n_accepted: tuple[int, ...] = ()
    n_drafted: tuple[int, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def forwards_per_token(self) -> float:
        """Passes a token; NaN without tokens."""
        return self.forward_passes / self.n_tokens if self.n_tokens else float("nan")

    @property
    def accepted_per_verify(self) -> float:
        """Mean accepted drafts a verify pass; NaN without one."""
        return sum(self.n_accepted) / len(self.n_accepted) if self.n_accepted else float("nan")

    @property
    def tokens_per_second(self) -> float:
        """Tokens a second; NaN if it was not timed."""
        total = self.seconds.get("total", 0.0)
        return self.n_tokens / total if total > 0 else float("nan")


def cut(tokens: Sequence[int], limit: int, eos_ids: frozenset[int]) -> tuple[tuple[int, ...], str | None]:
    """Return tokens up to their first end token within the limit, else up to the limit, and why.

    Spec: RS-14, SS-24.

    Args:
        tokens: all so far.
        limit: most that may be kept.
        eos_ids: ids that end an output.

    Returns:
        The tokens kept, and "eos", "length" or None.

    Example:
        >>> cut([5, 9, 5], 3, frozenset({9})), cut([5, 5], 2, frozenset({9})), cut([5], 2, frozenset())
        (((5, 9), 'eos'), ((5, 5), 'length'), ((5,), None))
    """
    kept = tuple(tokens[:limit])
    for i, token in enumerate(kept):
        if token in eos_ids:
            return kept[: i + 1], "eos"
    return kept, "length" if len(kept) == limit else None

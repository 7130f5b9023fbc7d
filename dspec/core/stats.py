"""What a decode measured: tau, acceptance by slot, seconds by part."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stats:
    """Counts and times of one or more requests.

    Spec: DL-2.

    Args:
        n_accepted: accepted drafts of each verify pass, uncut.
        n_drafted: drafted slots of each verify pass.
        n_tokens: tokens emitted after cutting, the prefill's included.
        seconds: by part: "target", "drafter", "loop" (all the rest), "total"; "total" alone where the
            backend cannot time a part without waiting for it (MLX).

    Example:
        >>> stats = Stats(n_accepted=(2, 0), n_drafted=(3, 3), n_tokens=5)
        >>> stats.tau, [round(a, 2) for a in stats.alpha]
        (2.0, [0.5, 1.0, 0.0])
    """

    n_accepted: tuple[int, ...] = ()
    n_drafted: tuple[int, ...] = ()
    n_tokens: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def n_emitted(self) -> tuple[int, ...]:
        """Tokens of each verify pass: accepted drafts and the closing token."""
        return tuple(n + 1 for n in self.n_accepted)

    @property
    def tau(self) -> float:
        """Mean `n_emitted` per verify pass; NaN without one."""
        return sum(self.n_emitted) / len(self.n_accepted) if self.n_accepted else float("nan")

    @property
    def alpha(self) -> tuple[float, ...]:
        """Share of the passes reaching slot k that accepted it, k = 1..K; NaN if none reached it."""
        return tuple(self._rate(slot) for slot in range(max(self.n_drafted, default=0)))

    @property
    def tokens_per_second(self) -> float:
        """Emitted tokens per second of the whole request; NaN if it was not timed."""
        total = self.seconds.get("total", 0.0)
        return self.n_tokens / total if total > 0 else float("nan")

    def _rate(self, slot: int) -> float:
        reached = [n for n, k in zip(self.n_accepted, self.n_drafted, strict=True) if k > slot and n >= slot]
        return sum(n > slot for n in reached) / len(reached) if reached else float("nan")


def pool(parts: Iterable[Stats]) -> Stats:
    """Return the stats of several requests as one: passes are pooled, seconds added.

    A part of the seconds stays only if every request has it: a sum over some would pass for all.

    Args:
        parts: stats of the requests.

    Returns:
        Their union; tau is the mean over all passes, not over requests.

    Example:
        >>> pool([Stats((1,), (2,), 2), Stats((0, 0), (2, 2), 2)]).tau
        1.3333333333333333
    """
    parts = list(parts)
    names = set.intersection(*(set(part.seconds) for part in parts)) if parts else set()
    return Stats(
        n_accepted=tuple(n for part in parts for n in part.n_accepted),
        n_drafted=tuple(n for part in parts for n in part.n_drafted),
        n_tokens=sum(part.n_tokens for part in parts),
        seconds={name: sum(part.seconds[name] for part in parts) for name in sorted(names)},
    )

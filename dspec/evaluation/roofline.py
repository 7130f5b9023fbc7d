"""How fast speculation can be, from the seconds of its passes and the acceptance of its drafts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dspec.errors import ConfigError, explain


@dataclass(frozen=True, kw_only=True)
class PassTimes:
    """Seconds of the passes that decoding consists of, on one machine and at one context length.

    Args:
        context: committed positions before each pass.
        verify: by n, new tokens of a pass of the target.
        rest: by n, what the loop does beside the passes: the verdict and its way to the host.
        draft: of one proposal, whatever its block size; 0: drafts are free.
        rows: B, requests side by side: each of those calls serves all of them.

    Raises:
        ConfigError: no pass over one token, different n, no rows, or a time that is no number >= 0.

    Example:
        >>> PassTimes(context=9, verify={1: 1.0, 3: 2.0}, rest={1: 0.0, 3: 0.0}).at(2)
        (1.5, 0.0)
    """

    context: int
    verify: Mapping[int, float]
    rest: Mapping[int, float]
    draft: float = 0.0
    rows: int = 1

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ConfigError(explain("rows", self.rows, "an integer >= 1"))
        if 1 not in self.verify or self.verify.keys() != self.rest.keys():
            found = f"{sorted(self.verify)} and {sorted(self.rest)}"
            raise ConfigError(explain("verify, rest", found, "the same new tokens, 1 among them"))
        for seconds in (*self.verify.values(), *self.rest.values(), self.draft):
            if not 0 <= seconds < float("inf"):
                raise ConfigError(explain("seconds", seconds, "a finite number >= 0"))

    def at(self, new_tokens: int) -> tuple[float, float]:
        """Return seconds of the pass and of the rest, on straight lines between measured n.

        Args:
            new_tokens: of the pass, between 1 and the largest measured.

        Raises:
            ConfigError: outside of what was measured.
        """
        known = sorted(self.verify)
        if not known[0] <= new_tokens <= known[-1]:
            needed = f"between {known[0]} and {known[-1]}, as measured"
            raise ConfigError(explain("block size", new_tokens, needed))
        verify, rest = (np.interp(new_tokens, known, [t[n] for n in known]) for t in (self.verify, self.rest))
        return float(verify), float(rest)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a block size is worth.

    Args:
        block_size: 1 + K, new tokens of a verify pass.
        tau: expected tokens of a pass and row.
        predicted: tokens per second, of all rows together.
        measured: tokens per second of a decode with that tau; None: not measured.
        measured_tau: of that decode; None: not measured.
    """

    block_size: int
    tau: float
    predicted: float
    measured: float | None = None
    measured_tau: float | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Predicted speeds by block size, beside decoding one token a pass.

    Args:
        times: what the prediction stands on.
        acceptance: share of the passes reaching slot k that accept it, k = 1, 2, ...
        autoregressive: predicted tokens per second without drafts.
        forecasts: one a block size, smallest first.
        measured_autoregressive: tokens per second of a decode without drafts; None: not measured.
    """

    times: PassTimes
    acceptance: tuple[float, ...]
    autoregressive: float
    forecasts: tuple[Forecast, ...]
    measured_autoregressive: float | None = None

    @property
    def best(self) -> Forecast:
        """The forecast of the highest predicted speed."""
        return max(self.forecasts, key=lambda forecast: forecast.predicted)

    @property
    def pays(self) -> bool:
        """Whether any block size is predicted to be faster than one token a pass."""
        return self.best.predicted > self.autoregressive

    def speedup(self, forecast: Forecast) -> float:
        """Return predicted tokens per second over those without drafts."""
        return forecast.predicted / self.autoregressive

    def break_even(self, block_size: int) -> float:
        """Return the tau at which that block size is as fast as one token a pass."""
        verify, rest = self.times.at(block_size)
        return (verify + self.times.draft + rest) * self.autoregressive / self.times.rows

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as plain values."""
        lines = [
            {**asdict(f), "speedup": self.speedup(f), "break_even": self.break_even(f.block_size)}
            for f in self.forecasts
        ]
        return {
            "times": asdict(self.times),
            "acceptance": list(self.acceptance),
            "autoregressive": self.autoregressive,
            "measured_autoregressive": self.measured_autoregressive,
            "forecasts": lines,
            "best_block_size": self.best.block_size,
            "pays": self.pays,
        }


def expected_tau(acceptance: Sequence[float], n_slots: int) -> float:
    """Return the expected tokens of a pass: 1 and, for each slot, the chance that it stands.

    Spec: DL-2.

    Args:
        acceptance: chance that slot k stands, given that those before it do; the last one holds for all
            slots after it, so that one number is the geometric law.
        n_slots: K.

    Returns:
        1 + a_1 + a_1 a_2 + ... + a_1 ... a_K.

    Raises:
        ConfigError: no acceptance, or one outside [0, 1].

    Example:
        >>> expected_tau([0.5], 3), expected_tau([0.8, 0.5], 2)
        (1.875, 2.2)
    """
    if not acceptance or not all(0 <= a <= 1 for a in acceptance):
        raise ConfigError(explain("acceptance", list(acceptance), "numbers in [0, 1], at least one"))
    tau = stands = 1.0
    for slot in range(n_slots):
        stands *= acceptance[min(slot, len(acceptance) - 1)]
        tau += stands
    return tau


def make_plan(times: PassTimes, acceptance: Sequence[float], *, block_sizes: Sequence[int]) -> Plan:
    """Predict tokens per second of each block size: B * tau / (t_verify(B, 1 + K) + t_draft(B) + t_rest).

    An upper bound that takes passes one after the other: what a machine overlaps is not in it.

    Spec: DL-2.

    Args:
        times: measured, or invented.
        acceptance: see `expected_tau`; of `Stats.alpha` up to the first NaN.
        block_sizes: 1 + K each, >= 2, within what was measured.

    Returns:
        The plan; nothing in it is measured yet.

    Raises:
        ConfigError: no block size, one outside of what was measured, or an acceptance that is none.

    Example:
        >>> times = PassTimes(context=0, verify={1: 1.0, 4: 1.5}, rest={1: 0.0, 4: 0.0}, draft=0.5)
        >>> make_plan(times, [1.0], block_sizes=[4]).best.predicted
        2.0

    Source: arXiv 2211.17192, section 3.4 (wall time of speculative decoding), with measured times.
    """
    if not block_sizes or min(block_sizes) < 2:
        raise ConfigError(explain("block sizes", list(block_sizes), "integers >= 2, at least one"))
    forecasts = []
    for size in sorted(set(block_sizes)):
        tau, (verify, rest) = expected_tau(acceptance, size - 1), times.at(size)
        rate = rate_of(times.rows * tau, verify + times.draft + rest)
        forecasts.append(Forecast(block_size=size, tau=tau, predicted=rate))
    return Plan(
        times=times,
        acceptance=tuple(acceptance),
        autoregressive=rate_of(times.rows, sum(times.at(1))),
        forecasts=tuple(forecasts),
    )


def rate_of(tokens: float, seconds: float) -> float:
    """Return tokens per second; infinitely many where they took no time.

    Example:
        >>> rate_of(3, 1.5)
        2.0
    """
    return tokens / seconds if seconds > 0 else float("inf")

"""Bootstrap over prompts: how far tau, and the ratio of two taus, would move with other prompts."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from dspec.core.stats import Stats

DRAWS = 2000
LEVEL = 0.95

Interval = tuple[float, float]


def counts_of(parts: Iterable[Stats]) -> NDArray[np.int64]:
    """Return (N, 2): emitted tokens and verify passes of each of N outputs; tau is the ratio of their sums.

    Args:
        parts: stats of the outputs.

    Example:
        >>> counts_of([Stats((1, 0), (3, 3), 3)]).tolist()
        [[3, 2]]
    """
    return np.array([(sum(part.n_emitted), len(part.n_emitted)) for part in parts], dtype=np.int64)


def resampled_taus(counts: NDArray[np.int64], *, draws: int = DRAWS, seed: int = 0) -> NDArray[np.float64]:
    """Return tau of `draws` samples of the prompts, taken with replacement.

    The sample depends on (number of prompts, draws, seed) alone: two drafters decoded on the same
    prompts are compared on the same samples.

    Args:
        counts: (N, 2): emitted tokens and verify passes of each prompt.
        draws: samples, R >= 1.
        seed: of the samples.

    Returns:
        (R,) pooled taus.

    Example:
        >>> resampled_taus(np.array([[4, 2], [2, 1]]), draws=2).tolist()
        [2.0, 2.0]
    """
    chosen = np.random.default_rng(seed).integers(len(counts), size=(draws, len(counts)))
    emitted, passes = counts[chosen].sum(axis=1).T
    return emitted / np.maximum(passes, 1)


def bounds(samples: NDArray[np.float64]) -> Interval:
    """Return the central 95 % of the samples.

    Args:
        samples: (R,).

    Returns:
        Low and high end.

    Example:
        >>> bounds(np.array([1.0, 1.0]))
        (1.0, 1.0)
    """
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def interval(counts: NDArray[np.int64]) -> Interval:
    """Return the 95 % bootstrap interval of tau over prompts.

    Args:
        counts: (N, 2): emitted tokens and verify passes of each prompt.

    Returns:
        Low and high end.

    Example:
        >>> interval(np.array([[4, 2], [2, 1]]))
        (2.0, 2.0)
    """
    return bounds(resampled_taus(counts))


def mean_over_domains(samples: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the samples of the domains' mean tau, each domain weighing the same.

    Args:
        samples: one (R,) array a domain.

    Returns:
        (R,).

    Example:
        >>> mean_over_domains([np.array([1.0]), np.array([3.0])]).tolist()
        [2.0]
    """
    return np.mean(np.stack(list(samples)), axis=0)

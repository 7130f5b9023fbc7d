"""From results to the demo's figures: tau by domain, gains over the baselines, with intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dspec.evaluation.bootstrap import bounds, mean_over_domains, resampled_taus
from dspec.evaluation.report import Results

MEAN = "mean"


def summarise(results: Results, baselines: Sequence[str]) -> dict[str, Any]:
    """Return tau and gains of every drafter, with 95 % bootstrap intervals over prompts.

    All drafters are compared on the same samples of prompts, so that what is common to them (a hard
    prompt) does not widen the interval of a gain.

    Args:
        results: by drafter, then by domain.
        baselines: drafters to compare with.

    Returns:
        {"tau": {drafter: {domain or "mean": {"value", "interval"}}},
        "gain": {baseline: {drafter: the same}}}; a gain of 0.1 is 10 % more tokens a pass. "mean" is
        the mean over domains, each weighing the same.
    """
    taus = {name: _taus(by_domain) for name, by_domain in results.items()}
    samples = {name: _samples(by_domain) for name, by_domain in results.items()}
    return {
        "tau": {name: _figures(taus[name], samples[name]) for name in results},
        "gain": {
            base: {
                name: _figures(
                    {d: taus[name][d] / taus[base][d] - 1 for d in taus[name]},
                    {d: samples[name][d] / samples[base][d] - 1 for d in taus[name]},
                )
                for name in results
                if name != base
            }
            for base in baselines
        },
    }


def _taus(by_domain: Mapping[str, Any]) -> dict[str, float]:
    taus = {domain: result.stats.tau for domain, result in by_domain.items()}
    return {**taus, MEAN: float(np.mean(list(taus.values())))}


def _samples(by_domain: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    # A seed a domain: the samples of two domains must not move together.
    parts = {
        domain: resampled_taus(result.counts, seed=i) for i, (domain, result) in enumerate(by_domain.items())
    }
    return {**parts, MEAN: mean_over_domains(list(parts.values()))}


def _figures(values: Mapping[str, float], samples: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    return {
        domain: {"value": value, "interval": list(bounds(samples[domain]))}
        for domain, value in values.items()
    }

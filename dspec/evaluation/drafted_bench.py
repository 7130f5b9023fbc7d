"""Run decoders of one target and drafter side by side on the same prompts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dspec.core.stats import pool
from dspec.engine import Engine
from dspec.errors import ConfigError, explain
from dspec.evaluation.bootstrap import bounds, counts_of, resampled_taus
from dspec.generation import Generation


def compare_drafted(
    engine: Engine,
    prompts: Sequence[Any],
    arms: Mapping[str, Any],
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
    advance: Callable[[str], None] = lambda name: None,
) -> dict[str, dict[str, Any]]:
    """Decode all prompts with all decoders and return the figures of each; the first is the baseline.

    Decoders take turns prompt by prompt, so that a machine that slows down slows all of them. Prompt i has
    the seed `seed + i` under every decoder, as in `run_suite`. Before, the first prompt is decoded once by
    each: what a first pass takes is not counted.

    Spec: DL-2, DL-7.

    Args:
        engine: with a drafter, if a decoder needs one.
        prompts: text, token ids or chat messages, at least one.
        arms: decoders by name, such as `Speculative()`, `Tree(budget=8)`, `Autoregressive()`.
        max_new_tokens: of each output.
        temperature: 0 is greedy.
        seed: of the first prompt's uniforms.
        advance: called with a decoder's name after each of its prompts.

    Returns:
        By name: "tau" with its 95 % interval over prompts, "tau_ratio" over the baseline's on the same
        resampled prompts, "tokens_per_second" (prefill included), "speedup" over the baseline, "n_tokens",
        "n_passes", and "n_equal", the outputs that are the baseline's: all of them at temperature 0.

    Raises:
        ConfigError: no prompts or decoders, or a setting that `Engine.generate` refuses.
        BackendUnavailable: a draft tree with a target that reads none.
    """
    if not prompts or not arms:
        got = f"{len(prompts)} prompts, {len(arms)} decoders"
        raise ConfigError(explain("compare_drafted", got, "at least one of each"))
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature}
    outs: dict[str, list[Generation]] = {name: [] for name in arms}
    for decoder in arms.values():
        engine.generate(prompts[0], seed=seed, decoder=decoder, **settings)
    for number, prompt in enumerate(prompts):
        for name, decoder in arms.items():
            outs[name].append(engine.generate(prompt, seed=seed + number, decoder=decoder, **settings))
            advance(name)
    baseline = next(iter(outs.values()))
    return {name: _figures(own, baseline) for name, own in outs.items()}


def _figures(outs: Sequence[Generation], baseline: Sequence[Generation]) -> dict[str, Any]:
    """Return what is reported of one decoder."""
    stats, first = pool(out.stats for out in outs), pool(out.stats for out in baseline)
    samples, others = (resampled_taus(counts_of(out.stats for out in some)) for some in (outs, baseline))
    some = others > 0  # a sample of prompts that ended with their first token has no pass
    nothing = (float("nan"), float("nan"))
    return {
        "tau": stats.tau,
        "tau_interval": bounds(samples),
        "tau_ratio": stats.tau / first.tau,
        "tau_ratio_interval": bounds(samples[some] / others[some]) if some.any() else nothing,
        "tokens_per_second": stats.tokens_per_second,
        "speedup": stats.tokens_per_second / first.tokens_per_second,
        "n_tokens": stats.n_tokens,
        "n_passes": len(stats.n_accepted),
        "n_equal": sum(a.tokens == b.tokens for a, b in zip(outs, baseline, strict=True)),
    }

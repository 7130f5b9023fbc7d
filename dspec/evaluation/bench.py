"""Decode a suite with an engine and count: tau, acceptance by slot, waste, tokens per second."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dspec.core.stats import Stats, pool
from dspec.engine import Engine
from dspec.evaluation.bootstrap import counts_of, interval
from dspec.evaluation.recorder import Recorder
from dspec.evaluation.suites import Prompt, Suite

Progress = Callable[[int, int], None]  # prompts done, prompts in all


@dataclass(frozen=True, kw_only=True)
class PromptResult:
    """What decoding one prompt gave.

    Args:
        n_prompt: tokens of the prompt.
        tokens: emitted ids.
        finish: "eos" or "length".
        stats: passes, seconds.
        n_drafted: drafted tokens whose position the output reached.
        n_wasted: those of them that were right, after a pass's first rejection: of no use.
    """

    n_prompt: int
    tokens: tuple[int, ...]
    finish: str | None
    stats: Stats
    n_drafted: int
    n_wasted: int

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers, without the tokens."""
        return {
            "n_prompt": self.n_prompt,
            "n_tokens": len(self.tokens),
            "finish": self.finish,
            "tau": self.stats.tau,
            "n_emitted": list(self.stats.n_emitted),
            "n_drafted": self.n_drafted,
            "n_wasted": self.n_wasted,
            "seconds": dict(self.stats.seconds),
        }


@dataclass(frozen=True, kw_only=True)
class SuiteResult:
    """What decoding a suite gave.

    Args:
        suite: its name.
        settings: of the decode.
        prompts: one result a prompt, in the suite's order.
    """

    suite: str
    settings: Mapping[str, Any]
    prompts: tuple[PromptResult, ...]

    @property
    def stats(self) -> Stats:
        """All prompts as one: passes pooled, seconds added."""
        return pool(prompt.stats for prompt in self.prompts)

    @property
    def counts(self) -> NDArray[np.int64]:
        """(N, 2): each prompt's emitted tokens and verify passes; tau is the ratio of their sums."""
        return counts_of(prompt.stats for prompt in self.prompts)

    @property
    def reached(self) -> tuple[int, ...]:
        """For each slot, the passes that got there: what `alpha` is a share of."""
        stats = self.stats
        slots = range(max(stats.n_drafted, default=0))
        return tuple(sum(k > s and n >= s for n, k in zip(stats.n_accepted, stats.n_drafted)) for s in slots)

    @property
    def waste(self) -> float:
        """Share of the drafted tokens that were right but came after a rejection; NaN without drafts."""
        drafted = sum(p.n_drafted for p in self.prompts)
        return sum(p.n_wasted for p in self.prompts) / drafted if drafted else float("nan")

    def as_dict(self) -> dict[str, Any]:
        """Return the pooled numbers, then each prompt's."""
        stats = self.stats
        return {
            "suite": self.suite,
            "settings": dict(self.settings),
            "n_prompts": len(self.prompts),
            "n_tokens": stats.n_tokens,
            "n_passes": len(stats.n_accepted),
            "tau": stats.tau,
            "tau_interval": interval(self.counts),
            "alpha": list(stats.alpha),
            "reached": list(self.reached),
            "waste": self.waste,
            "tokens_per_second": stats.tokens_per_second,
            "seconds": dict(stats.seconds),
            "prompts": [prompt.as_dict() for prompt in self.prompts],
        }


def run_suite(
    engine: Engine,
    suite: Suite,
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
    **settings: Any,
) -> SuiteResult:
    """Decode every prompt of a suite and return the numbers.

    Prompt i is decoded with the seed `seed + i`, so that any of them can be decoded again alone.

    Spec: DL-2.

    Args:
        engine: with or without a drafter.
        suite: prompts.
        max_new_tokens: most tokens a prompt, >= 1.
        temperature: 0 is greedy.
        seed: key of the first prompt's uniforms.
        progress: called with (done, all) after each prompt.
        **settings: further keywords of `Engine.generate`.

    Returns:
        The result; tau and alpha pool the passes of all prompts.

    Raises:
        ConfigError: a setting is unknown or out of range.
    """
    chosen = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed, **settings}
    results = []
    for number, prompt in enumerate(suite.prompts):
        results.append(_decode(engine, prompt, {**chosen, "seed": seed + number}))
        if progress is not None:
            progress(number + 1, len(suite.prompts))
    return SuiteResult(suite=suite.name, settings=chosen, prompts=tuple(results))


def _decode(engine: Engine, prompt: Prompt, settings: Mapping[str, Any]) -> PromptResult:
    recorder = None if engine.drafter is None else Recorder(engine.drafter)
    out = replace(engine, drafter=recorder).generate(prompt, **settings)
    n_prompt = len(engine.encode(prompt))
    drafted, wasted = (0, 0) if recorder is None else recorder.waste(out, n_prompt, engine.ops)
    return PromptResult(
        n_prompt=n_prompt,
        tokens=out.tokens,
        finish=out.finish,
        stats=out.stats,
        n_drafted=drafted,
        n_wasted=wasted,
    )

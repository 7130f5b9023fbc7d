"""Measuring the passes that decoding consists of, and decoding at a scripted tau beside them."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from dspec.backends.judge import RequestJudge
from dspec.core.policies import GREEDY, draft_tokens
from dspec.core.types import Draft, Sampling, Scores
from dspec.engine import Engine
from dspec.errors import ConfigError, explain
from dspec.evaluation.roofline import PassTimes, Plan
from dspec.evaluation.scripted import Scripted
from dspec.request import check_length
from dspec.rng import Stream

Clock = Callable[[], float]
NEW_TOKENS = (1, 2, 4, 8, 16, 32)
WARM_UP = 3  # first passes allocate, choose kernels and, on some backends, compile


def measure_passes(
    engine: Engine,
    context: Sequence[int],
    *,
    new_tokens: Sequence[int] = NEW_TOKENS,
    repetitions: int = 15,
    clock: Clock = perf_counter,
    typical: Callable[[Sequence[float]], float] = median,
) -> PassTimes:
    """Time the target's pass over n new tokens after a context, the verdict, and a proposal.

    Medians, or what `typical` says, over repetitions, in each of which every pass is timed once: a machine
    that slows down slows all of them. A pass ends when one of its numbers has reached the host.

    Args:
        engine: without a drafter a proposal takes no time.
        context: ids of the prompt, at least one.
        new_tokens: n of each pass; 1 and the drafter's block size are always among them.
        repetitions: timed, after some that are not.
        clock: seconds; of the process alone where others share its processor.
        typical: time of several; `min` where there are too few for a median to shed what others took.

    Returns:
        The times.

    Raises:
        ConfigError: no repetitions, an n below 1, or more positions than the target can read.
    """
    sizes = sorted({1, *new_tokens, *([] if engine.drafter is None else [engine.drafter.block_size])})
    if repetitions < 1 or sizes[0] < 1:
        got = f"{repetitions} repetitions of {sizes} new tokens"
        raise ConfigError(explain("pass times", got, "at least one of each"))
    check_length(len(context) + sizes[-1], engine.target.max_positions)
    bench = _Bench(engine, context, sizes, clock)
    found = defaultdict[tuple[str, int], list[float]](list)
    for number in range(WARM_UP + repetitions):
        for part, seconds in bench.round().items():
            if number >= WARM_UP:
                found[part].append(seconds)
    middle = {part: typical(seconds) for part, seconds in found.items()}
    return PassTimes(
        context=len(context),
        verify={n: middle["verify", n] for n in sizes},
        rest={n: middle["rest", n] for n in sizes},
        draft=middle.get(("draft", 0), 0.0),
    )


class _Bench:
    """Two sessions at rest after a context, and one round of timed calls on them."""

    def __init__(self, engine: Engine, context: Sequence[int], sizes: Sequence[int], clock: Clock) -> None:
        self._ops, self._clock, self._at, self._anchor = engine.ops, clock, len(context), int(context[-1])
        drafter = engine.drafter
        self._own = 0 if drafter is None else drafter.block_size
        room = len(context) + max(sizes[-1], self._own + 1)
        layer_ids = () if drafter is None else drafter.layer_ids
        self._target = engine.target.session(layer_ids=layer_ids, capacity=room)
        # Which ids does not matter for the time; those of the context are surely in the vocabulary.
        ids = np.resize(np.array(context, dtype=np.int32), sizes[-1])
        self._drafts = {n: engine.ops.from_host(ids[None, 1:n]) for n in sizes}
        self._judges = {n: RequestJudge(engine.ops, GREEDY, Sampling(), Stream(0), n - 1) for n in sizes}
        self._features = self._target.prefill(context).features
        self._drafter = None if drafter is None else drafter.session(engine.target, capacity=room)
        if self._drafter is not None:
            self._draft(self._at)  # takes the context in

    def round(self) -> dict[tuple[str, int], float]:
        """Return the seconds of each call, by its name and new tokens."""
        found = {}
        for n, drafts in self._drafts.items():
            # Decoding runs passes of one size in a row. After one of another size the first took up to 1.3
            # times as long (1 token after 16, 11 MB of weights, one CPU thread): it is not timed.
            self._score(drafts)
            self._target.rewind(self._at)
            start = self._clock()
            scores = self._score(drafts)
            read = self._clock()
            self._judges[n].verdict(scores, Draft(drafts), self._at)
            found["verify", n], found["rest", n] = read - start, self._clock() - read
            self._target.rewind(self._at)
            if n == self._own:
                self._features = scores.features
        if self._drafter is not None:
            self._drafter.rewind(self._at)
            start = self._clock()
            self._draft(self._at + 1)
            found["draft", 0] = self._clock() - start
        return found

    def _score(self, drafts: Any) -> Scores:
        scores: Scores = self._target.score(self._anchor, drafts)
        self._ops.to_host(scores.logits[0, -1, :1])  # a lazy backend has run nothing before
        return scores

    def _draft(self, position: int) -> None:
        def rule(logits: Any, first_slot: int = 0) -> Draft:
            return draft_tokens(logits, GREEDY, Sampling(), None, xp=self._ops.xp)

        draft = self._drafter.propose(self._anchor, position, self._features, rule)  # type: ignore[union-attr]
        self._ops.to_host(draft.tokens)


def decode_rate(
    engine: Engine, prompt: Sequence[int], *, max_new_tokens: int, clock: Clock = perf_counter
) -> dict[str, Any]:
    """Decode greedily and return the rate of what follows the prefill.

    Args:
        engine: decodes.
        prompt: token ids.
        max_new_tokens: emitted, end tokens ignored; at least 2, of which the prefill emits one.
        clock: seconds.

    Returns:
        "tokens" (ids), "rate" (emitted tokens a second, uncut, the prefill left out), "tau", "seconds" of
        the passes and "total" with the prefill.

    Raises:
        ConfigError: a setting is out of range.
    """
    if max_new_tokens < 2:
        raise ConfigError(explain("max_new_tokens", max_new_tokens, "at least 2: the first is the prefill's"))
    start = clock()
    chunks, begun = [], start
    for chunk in engine.stream(list(prompt), max_new_tokens=max_new_tokens, ignore_eos=True):
        chunks.append(chunk)
        begun = clock() if len(chunks) == 1 else begun
    end = clock()
    emitted = [1 + (chunk.n_accepted or 0) for chunk in chunks[1:]]
    return {
        "tokens": [token for chunk in chunks for token in chunk.tokens],
        "rate": sum(emitted) / (end - begun),
        "tau": sum(emitted) / len(emitted),
        "seconds": end - begun,
        "total": end - start,
    }


def measure_plan(
    engine: Engine,
    plan: Plan,
    prompt: Sequence[int],
    *,
    max_new_tokens: int = 64,
    repetitions: int = 3,
    clock: Clock = perf_counter,
) -> Plan:
    """Decode at every tau that a plan predicts for, and without drafts, and note the speeds.

    The drafter of the engine runs in every pass; its drafts are replaced by the target's own greedy
    continuation up to a scripted slot. Medians of interleaved repetitions after one that is not counted.

    Args:
        engine: with the drafter whose time is in the plan, or without one.
        plan: what was predicted.
        prompt: token ids.
        max_new_tokens: of each decode.
        repetitions: counted.
        clock: seconds.

    Returns:
        The plan with measured speeds, and the taus that decoding gave.

    Raises:
        ConfigError: a setting is out of range, or more positions than the target can read.
    """
    alone = replace(engine, drafter=None)
    ahead = max_new_tokens + max(f.block_size for f in plan.forecasts)
    known = [*prompt, *decode_rate(alone, prompt, max_new_tokens=ahead)["tokens"]]
    engines = {1: alone}
    for f in plan.forecasts:
        scripted = Scripted(engine.drafter, known, tau=f.tau, n_slots=f.block_size - 1, ops=engine.ops)
        engines[f.block_size] = replace(engine, drafter=scripted)
    found: Mapping[int, list[Any]] = {size: [] for size in engines}
    for _ in range(1 + repetitions):
        for size, one in engines.items():
            found[size].append(decode_rate(one, prompt, max_new_tokens=max_new_tokens, clock=clock))
    rates = {size: median(run["rate"] for run in runs[1:]) for size, runs in found.items()}
    forecasts = tuple(
        replace(f, measured=rates[f.block_size], measured_tau=found[f.block_size][-1]["tau"])
        for f in plan.forecasts
    )
    return replace(plan, forecasts=forecasts, measured_autoregressive=rates[1])

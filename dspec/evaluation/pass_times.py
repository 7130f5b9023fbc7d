"""Measuring the passes that decoding consists of, and decoding at a scripted tau beside them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from time import perf_counter
from typing import Any

from dspec.engine import Engine
from dspec.errors import ConfigError, explain
from dspec.evaluation.pass_sessions import Alone, SideBySide
from dspec.evaluation.roofline import PassTimes, Plan
from dspec.evaluation.scripted import Scripted
from dspec.request import check_length

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
    rows: int = 1,
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
        rows: B, requests side by side, all after the same context.
        typical: time of several; `min` where there are too few for a median to shed what others took.

    Returns:
        The times.

    Raises:
        ConfigError: no repetitions, an n below 1, more positions than the target can read, or several
            rows of models that decode one request at a time.
    """
    own = 0 if engine.drafter is None else engine.drafter.block_size
    sizes = sorted({1, *new_tokens, *([own] if own else [])})
    if min(repetitions, sizes[0], rows) < 1:
        got = f"{repetitions} repetitions of {sizes} new tokens in {rows} rows"
        raise ConfigError(explain("pass times", got, "at least one of each"))
    check_length(len(context) + sizes[-1], engine.target.max_positions)
    sessions = Alone(engine, context, sizes) if rows == 1 else SideBySide(engine, context, sizes, rows)
    middle = medians(_Bench(sessions, sizes, own, clock).round, repetitions, typical=typical)
    return PassTimes(
        context=len(context),
        verify={n: middle["verify", n] for n in sizes},
        rest={n: middle["rest", n] for n in sizes},
        draft=middle.get(("draft", 0), 0.0),
        rows=rows,
    )


def medians(
    round_of: Callable[[], dict[tuple[str, int], float]],
    count: int,
    *,
    typical: Callable[[Sequence[float]], float] = median,
) -> dict[tuple[str, int], float]:
    """Return the median of each timed call, or `typical` of it, over rounds after a few that do not count.

    Args:
        round_of: times every call once.
        count: rounds that count, >= 1.
        typical: of several times.
    """
    for _ in range(WARM_UP):
        round_of()
    rounds = [round_of() for _ in range(count)]
    return {call: typical([one[call] for one in rounds]) for call in rounds[0]}


class _Bench:
    """One round of timed calls on sessions at rest after a context."""

    def __init__(self, sessions: Alone | SideBySide, sizes: Sequence[int], own: int, clock: Clock) -> None:
        self._on, self._own, self._clock = sessions, own, clock
        self._drafts = {n: sessions.drafts(n) for n in sizes}
        self._features: Any = None

    def round(self) -> dict[tuple[str, int], float]:
        """Return the seconds of each call, by its name and new tokens."""
        on, clock, found = self._on, self._clock, {}
        for n, drafts in self._drafts.items():
            # Decoding runs passes of one size in a row. After one of another size the first took up to 1.3
            # times as long (1 token after 16, 11 MB of weights, one CPU thread): it is not timed.
            on.score(drafts)
            on.rewind()
            start = clock()
            scores = on.score(drafts)
            read = clock()
            on.verdict(n, scores, drafts)
            found["verify", n], found["rest", n] = read - start, clock() - read
            on.rewind()
            if n == self._own:
                self._features = scores.features
        if self._own:
            on.rewind_drafter()
            start = clock()
            on.propose(on.at + 1, self._features)
            found["draft", 0] = clock() - start
        return found


def decode_rate(
    engine: Engine,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    clock: Clock = perf_counter,
    rows: int = 1,
) -> dict[str, Any]:
    """Decode greedily and return the rate of what follows the prefill.

    Args:
        engine: decodes.
        prompt: token ids.
        max_new_tokens: emitted, end tokens ignored; at least 2, of which the prefill emits one.
        clock: seconds.
        rows: requests of that prompt, side by side.

    Returns:
        "tokens" (ids, of the first row), "rate" (emitted tokens a second of all rows, uncut, the prefill
        left out), "tau", "seconds" of the passes and "total" with the prefill.

    Raises:
        ConfigError: a setting is out of range.
    """
    if max_new_tokens < 2:
        raise ConfigError(explain("max_new_tokens", max_new_tokens, "at least 2: the first is the prefill's"))
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "ignore_eos": True}
    start = clock()
    stream: Iterable[Any]
    if rows == 1:
        stream = ((0, chunk) for chunk in engine.stream(list(prompt), **settings))
    else:
        stream = engine.stream_many([list(prompt)] * rows, batch_size=rows, **settings)
    chunks, begun = [], start
    for chunk in stream:
        chunks.append(chunk)
        begun = clock() if len(chunks) == rows else begun  # all prompts are read before the first pass
    end = clock()
    emitted = [1 + (chunk.n_accepted or 0) for _, chunk in chunks[rows:]]
    return {
        "tokens": [token for row, chunk in chunks for token in chunk.tokens if row == 0],
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

    As many requests as the plan has rows, all of one prompt and in step. The drafter of the engine runs
    in every pass; its drafts are replaced by the target's own greedy continuation up to a scripted slot.
    Medians of interleaved repetitions after one that is not counted. Where a drafter's rows take in fewer
    tokens than a pass may emit, that block size stays unmeasured.

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
    alone, rows = replace(engine, drafter=None), plan.times.rows
    ahead = max_new_tokens + max(f.block_size for f in plan.forecasts)
    known = [*prompt, *decode_rate(alone, prompt, max_new_tokens=ahead)["tokens"]]
    engines = {1: alone}
    for f in plan.forecasts:
        scripted = Scripted(engine.drafter, known, tau=f.tau, n_slots=f.block_size - 1, ops=engine.ops)
        if rows == 1 or scripted.fits_rows:
            engines[f.block_size] = replace(engine, drafter=scripted)
    found: Mapping[int, list[Any]] = {size: [] for size in engines}
    for _ in range(1 + repetitions):
        for size, one in engines.items():
            run = decode_rate(one, prompt, max_new_tokens=max_new_tokens, clock=clock, rows=rows)
            found[size].append(run)
    rates = {size: median(run["rate"] for run in runs[1:]) for size, runs in found.items()}
    forecasts = tuple(
        replace(f, measured=rates[f.block_size], measured_tau=found[f.block_size][-1]["tau"])
        if f.block_size in rates
        else f
        for f in plan.forecasts
    )
    return replace(plan, forecasts=forecasts, measured_autoregressive=rates[1])

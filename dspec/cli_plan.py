"""`dspec bench --plan`: how fast speculation can be on this machine, and whether it pays."""

import os
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from rich.console import Console
from rich.table import Table

from dspec.engine import Engine
from dspec.errors import ConfigError, explain
from dspec.evaluation.bench import run_suite
from dspec.evaluation.machine import describe_device, describe_machine, describe_versions
from dspec.evaluation.pass_times import NEW_TOKENS, Clock, measure_passes, measure_plan
from dspec.evaluation.plan_picture import draw_plan
from dspec.evaluation.report import FEWEST
from dspec.evaluation.roofline import Plan, make_plan
from dspec.evaluation.suites import Suite, load_suite


def read_acceptance(text: str | None) -> tuple[float, ...] | None:
    """Return the acceptance that an option gives: one number, or one a slot.

    Args:
        text: such as "0.8" or "0.9,0.8,0.7"; None: not given.

    Returns:
        The numbers; None: to be measured.

    Raises:
        ConfigError: no numbers in [0, 1].

    Example:
        >>> read_acceptance("0.9, 0.8")
        (0.9, 0.8)
    """
    if text is None:
        return None
    try:
        values = tuple(float(word) for word in text.split(","))
    except ValueError:
        values = (-1.0,)
    if not all(0 <= value <= 1 for value in values):
        raise ConfigError(explain("--acceptance", repr(text), 'numbers in [0, 1]: "0.8" or "0.9,0.8,0.7"'))
    return values


def show_plan(
    engine: Engine,
    suite: str,
    *,
    backend: str,
    acceptance: tuple[float, ...] | None,
    context: int = 256,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    quiet: bool = False,
    output: Path | None = None,
) -> dict[str, Any]:
    """Measure passes, predict tokens per second, decode at the predicted taus, and print the table.

    Args:
        engine: with a drafter or without one; drafts then cost nothing.
        suite: whose text fills the context, and on which acceptance is measured if it is not given.
        backend: that opened the engine.
        acceptance: by slot, the last one for all after it; None: that of the drafter on the suite.
        context: positions before a pass.
        max_new_tokens: of each decode; the one that is timed begins so that the context is its middle.
        temperature: of the decode that measures acceptance; the timed ones are greedy.
        seed: key of its first prompt's uniforms.
        quiet: print nothing on stdout.
        output: folder for plan.png; None: no picture.

    Returns:
        The plan and what it was measured on, as plain values.

    Raises:
        ConfigError: neither a drafter nor an acceptance, or a setting out of range.
    """
    prompts = load_suite(suite)
    rates = acceptance or _measured(engine, prompts, max_new_tokens, temperature, seed)
    text = _fill(engine, prompts, context)
    sizes = {*NEW_TOKENS[1:], *([] if engine.drafter is None else [engine.drafter.block_size])}
    device = describe_device(engine.target, backend=backend)
    clock, clock_name = _clock(device)
    plan = make_plan(measure_passes(engine, text, clock=clock), rates, block_sizes=sorted(sizes))
    start = max(context - max_new_tokens // 2, 1)
    plan = measure_plan(engine, plan, text[:start], max_new_tokens=max_new_tokens, clock=clock)
    if not quiet:
        Console().print(_table(plan, device), describe_plan(plan), highlight=False)
    if output is not None:
        note = f"{device}, {clock_name}, batch 1, greedy; medians of interleaved repetitions"
        draw_plan(output / "plan.png", plan, title="What a block size is worth", note=note)
    machine = {**describe_machine(), "device": device, "clock": clock_name}
    return {**plan.as_dict(), "machine": machine, "versions": describe_versions()}


def _clock(device: str) -> tuple[Clock, str]:
    """Wall time; where one thread does all the work, that thread's: others may share its processor."""
    if device == "cpu" and os.environ.get("OMP_NUM_THREADS") == "1":
        return process_time, "CPU time of one thread"
    return perf_counter, "wall time"


def _measured(engine: Engine, suite: Suite, n: int, temperature: float, seed: int) -> tuple[float, ...]:
    """Acceptance by slot of the drafter, up to the first slot that few passes reached."""
    if engine.drafter is None:
        raise ConfigError(explain("--plan", "no drafter", "a drafter, or --acceptance of the drafts"))
    result = run_suite(engine, suite, max_new_tokens=n, temperature=temperature, seed=seed)
    pairs = list(zip(result.stats.alpha, result.reached))
    # What few passes reached is mostly noise: the last share that is not holds for the slots after it.
    rates = tuple(a for a, n in takewhile(lambda pair: pair[1] >= FEWEST, pairs)) or tuple(
        a for a, n in pairs[:1] if n
    )
    if not rates:
        raise ConfigError(explain("--plan", "no verify pass", "more than one --max-new-tokens"))
    return rates


def _fill(engine: Engine, suite: Suite, length: int) -> list[int]:
    """Token ids of the suite's prompts, again and again, up to a length."""
    if length < 1:
        raise ConfigError(explain("--context", length, "an integer >= 1"))
    ids: Sequence[int] = [token for prompt in suite.prompts for token in engine.encode(prompt)]
    return [ids[i % len(ids)] for i in range(length)]


def _table(plan: Plan, device: str) -> Table:
    alone, measured = plan.autoregressive, plan.measured_autoregressive
    table = Table(title=f"{device}: tokens per second after {plan.times.context} positions")
    for column in ("block", "verify ms", "tau", "predicted", "measured", "x no drafts", "pays above tau"):
        table.add_column(column, justify="right")
    first = f"{1000 * plan.times.verify[1]:.2f}"
    table.add_row("1", first, "1.00", f"{alone:.1f}", f"{measured:.1f}", "1.00", "")
    for f in plan.forecasts:
        table.add_row(
            str(f.block_size),
            f"{1000 * plan.times.at(f.block_size)[0]:.2f}",
            f"{f.tau:.2f}",
            f"{f.predicted:.1f}",
            f"{f.measured:.1f}",
            f"{plan.speedup(f):.2f}",
            f"{plan.break_even(f.block_size):.2f}",
            style="bold" if f is plan.best and plan.pays else None,
        )
    table.caption = f"a proposal: {1000 * plan.times.draft:.2f} ms; acceptance " + ", ".join(
        f"{rate:.2f}" for rate in plan.acceptance
    )
    return table


def describe_plan(plan: Plan) -> str:
    """Return one sentence or two: whether speculation pays, by how much, or what it would need.

    Args:
        plan: predicted.
    """
    best = plan.best
    if plan.pays:
        return f"Speculation pays: blocks of {best.block_size}, {plan.speedup(best):.2f} x one token a pass."
    needs = plan.break_even(best.block_size)
    return (
        f"Speculation does not pay here: the best block size, {best.block_size}, is predicted at "
        f"{plan.speedup(best):.2f} x one token a pass. "
        f"It would need tau above {needs:.2f}; it has {best.tau:.2f}."
    )

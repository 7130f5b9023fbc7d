"""`dspec bench --plan`: how fast speculation can be on this machine, and whether it pays."""

import os
from collections.abc import Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from rich.console import Console

from dspec.batching import open_rows
from dspec.engine import Engine
from dspec.errors import BackendUnavailable, ConfigError, explain
from dspec.evaluation.batch_plan import BatchPlan
from dspec.evaluation.bench import run_suite
from dspec.evaluation.machine import describe_device, describe_machine, describe_versions
from dspec.evaluation.pass_times import NEW_TOKENS, Clock, measure_passes, measure_plan
from dspec.evaluation.plan_picture import draw_plan
from dspec.evaluation.report import FEWEST
from dspec.evaluation.roofline import Plan, make_plan
from dspec.evaluation.suites import Suite, load_suite
from dspec.evaluation.tree_plan import TreePlan
from dspec.evaluation.tree_times import measure_tree_plan, measure_trees
from dspec.plan_display import (
    batch_table,
    describe_batches,
    describe_plan,
    describe_trees,
    plan_table,
    tree_table,
)


def show_plan(
    engine: Engine,
    suite: str,
    *,
    backend: str,
    acceptance: tuple[float, ...] | None,
    batch_sizes: Sequence[int] = (),
    budgets: Sequence[int] = (),
    context: int = 256,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    quiet: bool = False,
    output: Path | None = None,
) -> dict[str, Any]:
    """Measure passes, predict tokens per second, decode at the predicted taus, and print the tables.

    Args:
        engine: with a drafter or without one; drafts then cost nothing.
        suite: whose text fills the context, and on which acceptance is measured if it is not given.
        backend: that opened the engine.
        acceptance: by slot, the last one for all after it; None: that of the drafter on the suite.
        batch_sizes: requests side by side to plan for, beside one alone.
        budgets: nodes of draft trees to plan for.
        context: positions before a pass.
        max_new_tokens: of each decode; the one that is timed begins so that the context is its middle.
        temperature: of the decodes that measure acceptance, and of those of trees; the others are greedy.
        seed: key of its first prompt's uniforms.
        quiet: print nothing on stdout.
        output: folder for plan.png; None: no picture.

    Returns:
        The plan and what it was measured on, as plain values.

    Raises:
        ConfigError: neither a drafter nor an acceptance, or a setting out of range.
    """
    prompts = load_suite(suite)
    decode = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    rates = acceptance or _measured(engine, prompts, decode)
    text = _fill(engine, prompts, context)
    device = describe_device(engine.target, backend=backend)
    clock, clock_name = _clock(device)
    sizes, no_rows = _batch_sizes(engine, batch_sizes)
    one = partial(_plan, engine, text, rates, max_new_tokens, clock)
    batches = BatchPlan(plans=tuple(one(rows) for rows in sizes))
    trees, no_trees = _trees(engine, text, prompts, budgets, decode, clock)
    plan, notes = batches.plans[0], [note for note in (no_rows, no_trees) if note]
    if not quiet:
        _print(device, batches, trees, notes)
    if output is not None:
        note = f"{device}, {clock_name}, greedy; medians of interleaved repetitions"
        title = "What a block size is worth"
        draw_plan(output / "plan.png", plan, title=title, note=note, batches=batches, trees=trees)
    machine = {**describe_machine(), "device": device, "clock": clock_name}
    more = {"batches": batches.as_dict(), "trees": trees and trees.as_dict(), "notes": notes}
    return {**plan.as_dict(), **more, "machine": machine, "versions": describe_versions()}


def _plan(
    engine: Engine, text: Sequence[int], rates: Sequence[float], max_new_tokens: int, clock: Clock, rows: int
) -> Plan:
    """The plan of one batch size, predicted and measured."""
    sizes = {*NEW_TOKENS[1:], *([] if engine.drafter is None else [engine.drafter.block_size])}
    times = measure_passes(engine, text, clock=clock, rows=rows)
    plan = make_plan(times, rates, block_sizes=sorted(sizes))
    start = max(len(text) - max_new_tokens // 2, 1)
    return measure_plan(engine, plan, text[:start], max_new_tokens=max_new_tokens, clock=clock)


def _batch_sizes(engine: Engine, wanted: Sequence[int]) -> tuple[list[int], str]:
    """One and the sizes wanted; where the models have no rows one alone, and why."""
    sizes = sorted({1, *wanted})
    if sizes == [1] or open_rows(engine.target, engine.drafter, engine.ops, rows=1, capacity=1) is not None:
        return sizes, ""
    who = "target" if open_rows(engine.target, None, engine.ops, rows=1, capacity=1) is None else "drafter"
    return [1], f"Planned for one request alone: the {who} has no batches."


def _trees(
    engine: Engine, text: Sequence[int], suite: Suite, budgets: Sequence[int], decode: Any, clock: Clock
) -> tuple[TreePlan | None, str]:
    """The plan of tree budgets; none where there can be none, and why."""
    if not budgets:
        return None, ""
    if engine.drafter is None:
        return None, "No trees: their tau does not follow from an acceptance, and there is no drafter."
    try:
        times = measure_trees(engine, text, budgets=budgets, clock=clock)
    except (BackendUnavailable, ConfigError) as error:  # of the target; a drafter that goes slot by slot
        return None, f"No trees: {error}"
    return measure_tree_plan(engine, times, suite, clock=clock, **decode), ""


def _print(device: str, batches: BatchPlan, trees: TreePlan | None, notes: Sequence[str]) -> None:
    plan, console = batches.plans[0], Console()
    said = [describe_plan(plan)]
    console.print(plan_table(plan, device), highlight=False)
    if len(batches.plans) > 1:
        console.print(batch_table(batches), highlight=False)
        said.append(describe_batches(batches))
    if trees is not None:
        console.print(tree_table(trees, plan), highlight=False)
        said.append(describe_trees(trees, plan))
    for line in (*said, *notes):
        console.print(line, highlight=False)


def _clock(device: str) -> tuple[Clock, str]:
    """Wall time; where one thread does all the work, that thread's: others may share its processor."""
    if device == "cpu" and os.environ.get("OMP_NUM_THREADS") == "1":
        return process_time, "CPU time of one thread"
    return perf_counter, "wall time"


def _measured(engine: Engine, suite: Suite, decode: Any) -> tuple[float, ...]:
    """Acceptance by slot of the drafter, up to the first slot that few passes reached."""
    if engine.drafter is None:
        raise ConfigError(explain("--plan", "no drafter", "a drafter, or --acceptance of the drafts"))
    result = run_suite(engine, suite, **decode)
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

"""The tables and sentences of `dspec bench --plan`."""

from rich.table import Table

from dspec.evaluation.batch_plan import BatchPlan
from dspec.evaluation.roofline import Plan
from dspec.evaluation.tree_plan import TreePlan


def plan_table(plan: Plan, device: str) -> Table:
    """Return the table of block sizes.

    Args:
        plan: predicted and measured.
        device: where.
    """
    table = Table(title=f"{device}: tokens per second after {plan.times.context} positions")
    _columns(table, "block", "verify ms", "tau", "predicted", "measured", "x no drafts", "pays above tau")
    first, alone = f"{1000 * plan.times.verify[1]:.2f}", plan.autoregressive
    table.add_row("1", first, "1.00", _rate(alone), _rate(plan.measured_autoregressive), "1.00", "")
    for f in plan.forecasts:
        table.add_row(
            str(f.block_size),
            f"{1000 * plan.times.at(f.block_size)[0]:.2f}",
            f"{f.tau:.2f}",
            _rate(f.predicted),
            _rate(f.measured),
            f"{plan.speedup(f):.2f}",
            f"{plan.break_even(f.block_size):.2f}",
            style="bold" if f is plan.best and plan.pays else None,
        )
    table.caption = f"a proposal: {1000 * plan.times.draft:.2f} ms; acceptance " + ", ".join(
        f"{rate:.2f}" for rate in plan.acceptance
    )
    return table


def batch_table(batches: BatchPlan) -> Table:
    """Return the table of batch sizes, each with its best block size.

    Args:
        batches: predicted and measured.
    """
    table = Table(title="Requests side by side: tokens per second of all")
    _columns(table, "batch", "no\ndrafts", "measured", "best\nblock", "tau", "predicted", "measured")
    _columns(table, "x no\ndrafts")  # one column more would not fit 80 characters
    for plan in batches.plans:
        best = plan.best
        table.add_row(
            str(plan.times.rows),
            _rate(plan.autoregressive),
            _rate(plan.measured_autoregressive),
            str(best.block_size),
            f"{best.tau:.2f}",
            _rate(best.predicted),
            _rate(best.measured),
            f"{plan.speedup(best):.2f}",
            style="bold" if plan.pays else None,
        )
    return table


def tree_table(trees: TreePlan, plan: Plan) -> Table:
    """Return the table of tree budgets.

    Args:
        trees: predicted and measured.
        plan: of one request, that they are compared with.
    """
    table = Table(title="Draft trees: tokens per second of one request")
    _columns(table, "nodes", "verify\nms", "draft\nms", "rest\nms", "tau", "predicted", "measured")
    _columns(table, "x no\ndrafts", "pays\nabove\ntau")
    times = trees.times
    for f in trees.forecasts:
        parts = [f"{1000 * t[f.budget]:.2f}" for t in (times.verify, times.draft, times.rest)]
        rates = [f"{f.tau:.2f}", _rate(f.predicted), _rate(f.measured)]
        worth = f"{f.predicted / plan.autoregressive:.2f}"
        needs = f"{times.total(f.budget) * plan.autoregressive:.2f}"
        table.add_row(str(f.budget), *parts, *rates, worth, needs, style="bold" if f is trees.best else None)
    table.caption = "tau and measured: of the suite's own prompts" + (
        "" if trees.measured_block is None else f"; blocks there: {_rate(trees.measured_block)}"
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


def describe_batches(batches: BatchPlan) -> str:
    """Return a sentence: up to which batch size speculation pays.

    Args:
        batches: predicted.
    """
    stops, last = batches.stops_at, batches.plans[-1]
    if stops is None:
        worth = f"blocks of {last.best.block_size}, {last.speedup(last.best):.2f} x one token a pass and row"
        return f"It still pays with {last.times.rows} requests side by side: {worth}."
    before = [plan.times.rows for plan in batches.plans if plan.times.rows < stops]
    if not before:
        return "It pays at no batch size planned."
    return f"It pays with up to {before[-1]} requests side by side, and no more with {stops}."


def describe_trees(trees: TreePlan, plan: Plan) -> str:
    """Return a sentence: the best budget, beside the best block and one token a pass.

    Args:
        trees: predicted.
        plan: of one request.
    """
    best, block = trees.best, plan.best
    return (
        f"The best tree has {best.budget} nodes: {best.predicted / block.predicted:.2f} x blocks of "
        f"{block.block_size}, {best.predicted / plan.autoregressive:.2f} x one token a pass."
    )


def _columns(table: Table, *names: str) -> None:
    for name in names:
        table.add_column(name, justify="right")


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.{0 if rate >= 1000 else 1}f}"

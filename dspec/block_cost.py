"""What a verify pass costs beside a draft pass, measured on the model that decodes."""

from collections.abc import Callable
from dataclasses import replace
from statistics import median
from time import perf_counter
from typing import Any

from dspec.backends.protocol import ArrayOps, BlockModel
from dspec.core.canvas import Filling
from dspec.core.layouts import Layout, drafted, together
from dspec.core.plans import Plan, verifying
from dspec.core.routing import Route

CONTEXT, REPEATS = 32, 3


def measured(
    plan: Plan | Filling, model: BlockModel, ops: ArrayOps, known: dict[int, float]
) -> Plan | Filling:
    """Return the plan with the cost ratio of its route filled in, where the route asks to measure it.

    Spec: SS-13.

    Args:
        plan: of a decoder.
        model: that decodes.
        ops: its array operations.
        known: ratios by block size; added to, so that each is measured once.

    Returns:
        The plan; a route "cost" has its ratio.
    """
    if not isinstance(plan, Filling) or plan.review is None or not plan.review.route.measured:
        return plan
    if plan.block_size not in known:
        known[plan.block_size] = cost_ratio(model, ops, plan.block_size)
    return replace(plan, review=replace(plan.review, route=Route("cost", (known[plan.block_size],))))


def cost_ratio(model: BlockModel, ops: ArrayOps, block_size: int) -> float:
    """Return 1 + (time of a verify pass) / (time of a draft pass) for whole blocks, medians of three.

    Spec: SS-13.

    Args:
        model: that decodes.
        ops: its array operations.
        block_size: B.

    Returns:
        c >= 1.
    """
    session = model.session(rows=1, capacity=CONTEXT + 3 * block_size + 1)
    session.read([together((0,) * CONTEXT, start=0)])
    session.commit([CONTEXT])
    hidden = (model.mask_id,) * block_size
    draft = together(hidden, start=CONTEXT)
    rounds = Plan(mask_id=model.mask_id, shifted=model.shifted, block_size=block_size, bonus=False)
    judged = verifying([], CONTEXT, block_size, rounds)
    judged = replace(judged, tokens=tuple(0 if token <= drafted(0) else token for token in judged.tokens))
    times = [_time(session, ops, layout, block_size) for layout in (draft, judged)]
    return 1 + times[1] / times[0]


def _time(session: Any, ops: ArrayOps, layout: Layout, width: int) -> float:
    """Return the median seconds of a pass with its logits; the first pass only warms up."""
    run = _runner(session, ops, layout, width)
    run()
    return median(run() for _ in range(REPEATS))


def _runner(session: Any, ops: ArrayOps, layout: Layout, width: int) -> Callable[[], float]:
    slots = [list(range(layout.size - width, layout.size))]

    def run() -> float:
        start = perf_counter()
        logits = session.logits(session.read([layout]), slots)
        ops.to_host(logits[..., 0])  # waits for the device
        return perf_counter() - start

    return run

"""Check that self-speculation keeps the block-size-one law: the library's loop, enumerated in fractions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dspec.oracle.enumerate import Source, enumerate_law
from dspec.testing.checks.laws import worst_outcome
from dspec.testing.models.block_worlds import BlockWorld, read_block_world, speculate_once
from dspec.testing.report import Report

CLAUSES = ("SS-2", "SS-3", "SS-5", "SS-6", "SS-7", "SS-14", "SS-15", "SS-16", "SS-17", "SS-18", "RN-2")
Sampler = Callable[[BlockWorld, Source], tuple[int, ...]]


def check_self_speculation(
    worlds: Sequence[BlockWorld | Mapping[str, Any]], *, sampler: Sampler = speculate_once
) -> Report:
    """Check that the law of whole outputs is that of block size one, as fractions.

    Spec: SS-2, SS-3, SS-5, SS-6, SS-7, SS-14, SS-15, SS-16, SS-17, SS-18, RN-2.

    Args:
        worlds: where to check; `BlockWorld`s, or what `BlockWorld.plain` wrote of them.
        sampler: one output of a world on symbolic uniforms; the library's own loop.

    Returns:
        The report; alpha is 0.

    Example:
        >>> from dspec.testing.models.block_worlds import make_block_worlds
        >>> check_self_speculation(make_block_worlds(2, seed=0, policy="greedy")).passed
        True
    """
    paths = 0
    for index, given in enumerate(worlds):
        world = given if isinstance(given, BlockWorld) else read_block_world(dict(given))

        def run(source: Source, world: BlockWorld = world) -> tuple[int, ...]:
            nonlocal paths
            paths += 1
            return sampler(world, source)

        law, needed = enumerate_law(run), world.law()
        if law != needed:
            return Report(
                check="self_speculation",
                passed=False,
                tried={"worlds": index + 1, "paths": paths},
                counterexample={"world": repr(world), **worst_outcome(law, needed)},
                clauses=CLAUSES,
                replay={"check": "self_speculation", "arguments": {"worlds": [world.plain()]}},
            )
    tried = {"worlds": len(worlds), "paths": paths}
    return Report(check="self_speculation", passed=True, tried=tried, clauses=CLAUSES)

"""What passes cost on this machine, measured once an engine, where a request chooses by it."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dspec.core.draft_length import Costs
from dspec.core.tree_budget import TreeCosts

if TYPE_CHECKING:
    from dspec.engine import Engine

# A pass is measured after so many positions: costs depend on them little until there are thousands.
CONTEXT, REPETITIONS = 64, 5
# Budgets that a request chooses from. On one CPU thread a pass over 65 tokens costs several plain ones.
BUDGETS = (4, 8, 16, 32, 64)
# A clock that stood still must not make a pass free.
LEAST = 1e-9


@dataclass
class PassCosts:
    """Measured costs by K, the slots of the drafter; filled when first asked for."""

    blocks: dict[int, Costs] = field(default_factory=dict)
    trees: dict[int, TreeCosts] = field(default_factory=dict)

    def of_blocks(self, engine: "Engine", n_slots: int) -> Costs:
        """Return the costs of passes over 1..K + 1 tokens."""
        if n_slots not in self.blocks:
            self.blocks[n_slots] = measure_costs(engine)
        return self.blocks[n_slots]

    def of_trees(self, engine: "Engine", n_slots: int) -> TreeCosts:
        """Return the costs of passes over trees."""
        if n_slots not in self.trees:
            self.trees[n_slots] = measure_tree_costs(engine)
        return self.trees[n_slots]


def measure_costs(engine: "Engine") -> Costs:
    """Time passes over 1..K + 1 tokens, powers of two and straight lines between, and a proposal.

    In sessions of its own: no request's cache is touched.

    Spec: DL-13.

    Args:
        engine: with a drafter.

    Returns:
        Seconds.

    Raises:
        ConfigError: a target that cannot read one block.
    """
    from dspec.evaluation.pass_times import measure_passes  # which needs the engine itself

    assert engine.drafter is not None
    width = engine.drafter.block_size
    context = [0] * _room(engine, width)
    sizes = [2**i for i in range(width.bit_length()) if 2**i < width]
    times = measure_passes(engine, context, new_tokens=sizes, repetitions=REPETITIONS, typical=min)
    verify = tuple(max(sum(times.at(n)), LEAST) for n in range(1, width + 1))
    return Costs(verify=verify, draft=times.draft)


def measure_tree_costs(engine: "Engine") -> TreeCosts:
    """Time whole passes over greedy trees of some budgets, and one of the target alone.

    In sessions of its own: no request's cache is touched.

    Spec: DL-14.

    Args:
        engine: with a drafter, and a target that reads trees.

    Returns:
        Seconds.

    Raises:
        ConfigError: a target that cannot read the smallest tree.
    """
    from dspec.evaluation.pass_times import measure_passes
    from dspec.evaluation.tree_times import measure_trees

    longest = engine.target.max_positions
    budgets = [b for b in BUDGETS if longest is None or b + 3 <= longest] or BUDGETS[:1]
    context = [0] * _room(engine, budgets[-1] + 2)
    trees = measure_trees(engine, context, budgets=budgets, repetitions=REPETITIONS, typical=min)
    alone = replace(engine, drafter=None)
    plain = measure_passes(alone, context, new_tokens=[1], repetitions=REPETITIONS, typical=min)
    passes = {0: sum(plain.at(1)), **{budget: trees.total(budget) for budget in budgets}}
    return TreeCosts(passes={budget: max(cost, LEAST) for budget, cost in passes.items()})


def _room(engine: "Engine", width: int) -> int:
    """Positions before a measured pass over so many tokens."""
    longest = engine.target.max_positions
    return CONTEXT if longest is None else max(1, min(CONTEXT, longest - width))

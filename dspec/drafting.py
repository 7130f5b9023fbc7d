"""How much a request drafts in a pass: what its decoder asks for, fit to the drafter and to the machine."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dspec.core.draft_length import AutoLength
from dspec.core.tree_budget import AutoBudget
from dspec.errors import ConfigError, explain
from dspec.pass_costs import PassCosts
from dspec.speculative_decoder import AUTO, Speculative
from dspec.tree_decoder import Tree

if TYPE_CHECKING:
    from dspec.engine import Engine


@dataclass(frozen=True)
class Drafting:
    """The draft length of one request, or the size of its trees.

    Args:
        block: fixed; None: all K, or as `auto` says.
        auto: chooses it pass by pass, of this request alone; or None.
        trees: chooses the budget of trees pass by pass, of this request alone; or None.
        most_nodes: of a tree of this request; 0: it drafts blocks.
    """

    block: int | None = None
    auto: AutoLength | None = None
    trees: AutoBudget | None = None
    most_nodes: int = 0


def drafting_of(decoder: Any, engine: "Engine", known: PassCosts) -> Drafting:
    """Return how much a decoder drafts in a pass, its costs measured where it gives none.

    Spec: DL-13, DL-14.

    Args:
        decoder: of the request.
        engine: with a drafter, if the decoder drafts.
        known: measured costs; added to, so that each is measured once.

    Raises:
        ConfigError: a block longer than the drafter's, or costs of another number of tokens.
    """
    if engine.drafter is None:
        return Drafting()
    n_slots = engine.drafter.block_size - 1
    if isinstance(decoder, Tree):
        if decoder.budget != AUTO:
            return Drafting(most_nodes=decoder.budget)
        costs = decoder.costs or known.of_trees(engine, n_slots)
        return Drafting(trees=AutoBudget(costs, n_slots=n_slots), most_nodes=max(costs.budgets))
    if not isinstance(decoder, Speculative) or decoder.block is None:
        return Drafting()
    if decoder.block == AUTO:
        return Drafting(auto=_auto_length(decoder, engine, known))
    if decoder.block > n_slots:
        needed = f"at most {n_slots}, the drafts K of this drafter's block"
        raise ConfigError(explain("block", decoder.block, needed, clause="DL-13"))
    return Drafting(block=decoder.block)


def _auto_length(decoder: Speculative, engine: "Engine", known: PassCosts) -> AutoLength:
    assert engine.drafter is not None
    n_slots, costs = engine.drafter.block_size - 1, decoder.costs
    if costs is not None and costs.n_slots != n_slots:
        needed = f"{n_slots + 1}, for passes over 1..K + 1 tokens of this drafter"
        raise ConfigError(explain("costs.verify", f"{len(costs.verify)} costs", needed, clause="DL-13"))
    return AutoLength(costs or known.of_blocks(engine, n_slots))


def windowed(drafter: Any, window: int | None) -> Any:
    """Return the drafter with its view cut to the last positions, or as it is.

    Spec: RS-3.

    Args:
        drafter: of an engine.
        window: context positions that a block sees; None: all.

    Raises:
        ConfigError: a drafter that has no such view.
    """
    if window is None:
        return drafter
    if not hasattr(drafter, "windowed"):
        needed = f"None: {type(drafter).__name__} cannot cut what it reads"
        raise ConfigError(explain("draft_window", window, needed, clause="RS-3"))
    return drafter.windowed(window)

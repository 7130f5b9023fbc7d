"""How much a request drafts in a pass: what its decoder asks for, fit to the drafter and to the machine."""

from typing import TYPE_CHECKING, Any

from dspec.core.cut_pass import DraftLength
from dspec.core.draft_length import AutoLength, FixedLength
from dspec.core.tree_budget import AutoBudget
from dspec.errors import ConfigError, explain
from dspec.pass_costs import PassCosts
from dspec.speculative_decoder import AUTO, Speculative
from dspec.tree_decoder import Tree

if TYPE_CHECKING:
    from dspec.engine import Engine


def length_of(decoder: Any, engine: "Engine", known: PassCosts) -> DraftLength | None:
    """Return the draft length that a decoder asks for, its costs measured where it gives none; None: all K.

    Spec: DL-13.

    Args:
        decoder: of the request.
        engine: with a drafter, if the decoder drafts.
        known: measured costs; added to, so that each is measured once.

    Raises:
        ConfigError: a block longer than the drafter's, or costs of another number of tokens.
    """
    if not isinstance(decoder, Speculative) or decoder.block is None or engine.drafter is None:
        return None
    n_slots = engine.drafter.block_size - 1
    if isinstance(decoder.block, int):
        if decoder.block > n_slots:
            needed = f"at most {n_slots}, the drafts K of this drafter's block"
            raise ConfigError(explain("block", decoder.block, needed, clause="DL-13"))
        return FixedLength(decoder.block)
    assert decoder.block == AUTO
    costs = decoder.costs
    if costs is not None and costs.n_slots != n_slots:
        needed = f"{n_slots + 1}, for passes over 1..K + 1 tokens of this drafter"
        raise ConfigError(explain("costs.verify", f"{len(costs.verify)} costs", needed, clause="DL-13"))
    return AutoLength(costs or known.of_blocks(engine, n_slots))


def size_of(decoder: Any, engine: "Engine", known: PassCosts) -> AutoBudget | None:
    """Return what chooses the budgets of a request's trees, its costs measured where none are given.

    Spec: DL-14.

    Args:
        decoder: of the request.
        engine: with a drafter, if the decoder drafts.
        known: measured costs; added to, so that each is measured once.

    Returns:
        None: the trees have one budget, or there are none.
    """
    if not isinstance(decoder, Tree) or decoder.budget != AUTO or engine.drafter is None:
        return None
    n_slots = engine.drafter.block_size - 1
    return AutoBudget(decoder.costs or known.of_trees(engine, n_slots), n_slots=n_slots)


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

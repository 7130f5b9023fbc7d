"""How long a request's drafts are: what its decoder asks for, fit to the drafter and to the machine."""

from typing import TYPE_CHECKING, Any

from dspec.core.cut_pass import DraftLength
from dspec.core.draft_length import AutoLength, Costs, FixedLength
from dspec.errors import ConfigError, explain
from dspec.speculative_decoder import AUTO, Speculative

if TYPE_CHECKING:
    from dspec.engine import Engine

# A pass is measured after so many positions: costs depend on them little until there are thousands.
CONTEXT, REPETITIONS = 64, 5


def length_of(decoder: Any, engine: "Engine", known: dict[int, Costs]) -> DraftLength | None:
    """Return the draft length that a decoder asks for, its costs measured where it gives none; None: all K.

    Spec: DL-13.

    Args:
        decoder: of the request.
        engine: with a drafter, if the decoder drafts.
        known: measured costs by K; added to, so that each is measured once.

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
    if costs is None:
        costs = known[n_slots] if n_slots in known else known.setdefault(n_slots, measure_costs(engine))
    return AutoLength(costs)


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
    longest = engine.target.max_positions
    room = CONTEXT if longest is None else max(1, min(CONTEXT, longest - width))
    sizes = [2**i for i in range(width.bit_length()) if 2**i < width]
    times = measure_passes(engine, [0] * room, new_tokens=sizes, repetitions=REPETITIONS, typical=min)
    # A clock that stood still must not make a pass free.
    verify = tuple(max(sum(times.at(n)), 1e-9) for n in range(1, width + 1))
    return Costs(verify=verify, draft=times.draft)

"""From a decoder's settings and a model's facts to what the loops of core take."""

from typing import Any

from dspec.core.canvas import Editing, Filling, Review, WideNarrow
from dspec.core.estimates import Estimator
from dspec.core.plans import Plan
from dspec.core.routing import Route
from dspec.core.selection import Selection
from dspec.decoders import Autoregressive, Diffusion, SelfSpeculative, Wino, check_sizes
from dspec.errors import ConfigError, explain

# Confidence above which a family's own decoder commits.
THRESHOLDS = {"sdar": 0.85, "fast_dllm_v2": 0.9, "llada2": 0.95}
# Of the fused layout: passes a token, greedy, on the shipped models with blocks of 16, over those of the
# published loop, were 0.73 to 0.75 without guesses, 0.61 to 0.62 with 4, 0.58 to 0.59 with 6.
GUESSES = 6


def plan_of(decoder: Any, model: Any) -> Plan | Filling:
    """Return how a decoder fills or speculates with a model.

    Spec: SS-14, SS-23, SS-26.

    Args:
        decoder: `Autoregressive`, `Diffusion`, `Wino` or `SelfSpeculative`.
        model: a `BlockModel`.

    Returns:
        A `Plan` of exact rounds, or a `Filling` of blocks.

    Raises:
        ConfigError: sizes that do not fit, or a decoder that the family cannot honour.
    """
    facts = {"mask_id": model.mask_id, "shifted": model.shifted}
    if isinstance(decoder, Autoregressive):
        return Plan(**facts, block_size=1)
    block_size = decoder.block_size or model.block_size
    if isinstance(decoder, SelfSpeculative) and decoder.exact:
        return _rounds(decoder, block_size, facts)
    check_sizes(block_size, getattr(decoder, "steps", None), getattr(decoder, "sub_block", None))
    common = {**facts, "vocab_size": model.vocab_size, "block_size": block_size}
    if isinstance(decoder, Wino):
        return _wino(decoder, common)
    threshold = decoder.threshold
    if threshold is None and decoder.select in (None, "dynamic"):
        threshold = THRESHOLDS.get(model.config.family)
    selection = Selection.parse(decoder.select or "dynamic", threshold)
    edit = decoder.edit
    filling = Filling(
        **common,
        steps=decoder.steps or block_size,
        selection=selection,
        sub_block=decoder.sub_block or block_size,
        cache_mask=decoder.cache_mask,
        draft_mask=decoder.draft_mask,
        commit=decoder.commit,
        editing=None if edit is None else Editing(edit.threshold, edit.max_passes),
        review=None if isinstance(decoder, Diffusion) else _review(decoder, selection, model),
    )
    return filling


def _rounds(decoder: SelfSpeculative, block_size: int, facts: dict[str, Any]) -> Plan:
    """Exact rounds; the fused layout needs something to draft."""
    if decoder.layout == "fused" and block_size < 2:
        raise ConfigError(explain("block_size", block_size, "at least 2 with layout='fused'", clause="SS-18"))
    return Plan(
        **facts,
        block_size=block_size,
        draft_mask=decoder.draft_mask,
        window=decoder.window,
        commit=decoder.commit,
        bonus=decoder.bonus,
        layout=decoder.layout,
        guesses=GUESSES if decoder.guesses is None and decoder.layout == "fused" else decoder.guesses or 0,
    )


def _wino(decoder: Wino, common: dict[str, Any]) -> Filling:
    """Leave-one-out needs a mask slot that predicts its own position."""
    if common["shifted"]:
        remedy = "Use Diffusion or SelfSpeculative for this model."
        needed = "a position-aligned family (sdar, llada2)"
        raise ConfigError(
            explain("decoder=Wino", "a token-shifted model", needed, remedy=remedy, clause="SS-25")
        )
    size = common["block_size"]
    return Filling(
        **common,
        steps=size,
        selection=Selection("dynamic", decoder.commit_above),
        sub_block=size,
        wino=WideNarrow(decoder.commit_above, decoder.keep_above),
    )


def _review(decoder: SelfSpeculative, selection: Selection, model: Any) -> Review:
    """The hybrid's verification; "confident" means above the fallback's threshold."""
    threshold = selection.number if selection.name == "dynamic" else THRESHOLDS.get(model.config.family, 0.85)
    return Review(
        route=Route.parse(decoder.route or "span(1)"),
        estimator=Estimator.parse(decoder.estimator or "margin"),
        cost=1.0 if decoder.cost is None else decoder.cost,
        dynamic=decoder.score == "dynamic",
        threshold=threshold,
        min_commit=decoder.min_commit or 1,
        power=decoder.lossy_ratio_power,
    )


def scratch_of(plan: Plan | Filling) -> int:
    """Return the slots that a pass may write past the positions of prompt and output.

    Example:
        >>> scratch_of(Plan(mask_id=9, shifted=True, block_size=1))
        7
    """
    size = plan.block_size
    if isinstance(plan, Plan) and plan.layout == "fused":
        branches = size + plan.guesses * (plan.guesses + 1) // 2
        return 3 * size + branches * size + 4
    return 3 * size + 4

"""Ways to decode: small settings objects that `generate(decoder=...)` takes."""

from dataclasses import dataclass, fields
from typing import Any

from dspec.core.draft_length import Costs as Costs
from dspec.core.estimates import Estimator
from dspec.core.routing import Route
from dspec.core.selection import Selection
from dspec.core.settings import read_integer, read_number
from dspec.core.tree_budget import TreeCosts as TreeCosts
from dspec.errors import ConfigError, explain
from dspec.speculative_decoder import Speculative as Speculative
from dspec.tree_decoder import Tree as Tree

MASKS = {"cache_mask": ("block", "causal"), "draft_mask": ("block", "partially_causal")}
COMMITS = ("fused", "separate", "always")


@dataclass(frozen=True)
class Autoregressive:
    """One token a pass: the baseline. Of a block-diffusion model, its block-size-one mode.

    Example:
        >>> Autoregressive()
        Autoregressive()
    """


@dataclass(frozen=True, kw_only=True)
class Editing:
    """Replace tokens of the block that are decided already, as LLaDA2.1 does.

    Spec: SS-21.

    Args:
        threshold: a replacement needs more confidence; >= 1 never edits.
        max_passes: most passes after a block's last mask is filled.

    Example:
        >>> Editing(threshold=0.5).max_passes
        4
    """

    threshold: float = 0.9
    max_passes: int = 4

    def __post_init__(self) -> None:
        _number(self, "threshold", 0.0, float("inf"), "a number >= 0", "SS-21")
        _integer(self, "max_passes", 0)


@dataclass(frozen=True, kw_only=True)
class Diffusion:
    """Fill blocks of masks, several positions a pass, without verification: fast, and not exact.

    Spec: SS-4, SS-5, SS-8, SS-9, SS-21, SS-26.

    Args:
        block_size: B; None: the model's own.
        steps: S, passes that the schedule spreads a block over; None: B.
        select: "static", "sequential", "dynamic", "entropy", "factor" or "frechet".
        threshold: the rule's number; None: its default, for "dynamic" the family's.
        cache_mask: "block" or "causal".
        draft_mask: "block" or "partially_causal".
        sub_block: positions that take part at a time; divides B; None: B.
        commit: "fused": the next block's first pass keeps a block; "separate": a pass of its own, where
            something follows; "always": also after the last block.
        edit: replace decided tokens; None: never.

    Example:
        >>> Diffusion(block_size=8, select="static", steps=4).select
        'static'
    """

    block_size: int | None = None
    steps: int | None = None
    select: str = "dynamic"
    threshold: float | None = None
    cache_mask: str = "block"
    draft_mask: str = "block"
    sub_block: int | None = None
    commit: str = "fused"
    edit: Editing | None = None

    def __post_init__(self) -> None:
        _check_blocks(self)
        _check_masks(self)
        Selection.parse(self.select, self.threshold)
        _check_edit(self.edit)


@dataclass(frozen=True, kw_only=True)
class Wino:
    """Commit widely, mask doubtful tokens again: leave-one-out verification. Aligned families only.

    Spec: SS-25.

    Args:
        block_size: B; None: the model's own.
        commit_above: a masked position is committed above this confidence.
        keep_above: a decided one is masked again below this one.

    Example:
        >>> Wino(block_size=8).keep_above
        0.9
    """

    block_size: int | None = None
    commit_above: float = 0.6
    keep_above: float = 0.9

    def __post_init__(self) -> None:
        _integer(self, "block_size", 1, optional=True)
        for name in ("commit_above", "keep_above"):
            _number(self, name, 0.0, 1.0, "a number in [0, 1]", "SS-25")


@dataclass(frozen=True, kw_only=True)
class SelfSpeculative:
    """Draft a block, verify it with the same weights at block size one.

    `exact=True` keeps the block-size-one law, in rounds of a draft and a verify pass. Without it a step
    verifies where the route says so, and falls back to a selection by confidence: nearer to
    block-size-one decoding than `Diffusion`, and not exact.

    Spec: SS-14..SS-20.

    Args:
        block_size: B; None: the model's own.
        exact: keep the law; the options marked (hybrid) are then refused.
        policy: (exact) how drafts are drawn and judged: "rejection" (default: sampled drafts), "block",
            "one_hot", "sample_match"; at temperature 0 all are greedy.
        window: (exact) "sliding" drafts B positions from the first unknown one, "aligned" those left in
            its block.
        bonus: (exact) judge the position after the drafts too.
        layout: (exact) "separate", or "fused": one pass a round.
        guesses: (exact, layout "fused") how many likely corrections of the first draft get a branch of
            their own in the pass, one less of each later draft; 0 lays it out as TiDAR does. None: 6.
        commit: see `Diffusion`.
        cache_mask: "causal", or (hybrid) "block".
        draft_mask: "partially_causal" or, with window="aligned" or without `exact`, "block".
        route: (hybrid) when to verify: "span(t)", "score(t)", "hysteresis(on, off)", "ucb(beta)", "cost" or
            "cost(c)", "never"; None: "span(1)", every step.
        estimator: (hybrid) guess of the acceptance: "margin(t)", "entropy(t)", "confidence(g)",
            "clipped_margin(m)", "entropy_exp(b)", "renyi"; None: "margin".
        score: (hybrid) "static" or "dynamic"; None: "static".
        cost: (hybrid) c of the score; None: 1.
        select, threshold, steps, sub_block: (hybrid) the fallback, as for `Diffusion`; None: its defaults.
        min_commit: (hybrid) tokens that a step commits at least; None: 1.
        lossy_ratio_power: (hybrid) exponent of the acceptance ratio; 1 is the exact rule.
        edit: (hybrid) as for `Diffusion`.

    Example:
        >>> SelfSpeculative(exact=True, layout="fused").window
        'sliding'
        >>> SelfSpeculative(route="hysteresis(0, -1)", estimator="entropy_exp").exact
        False
    """

    block_size: int | None = None
    exact: bool = False
    policy: str | None = None
    window: str = "sliding"
    bonus: bool = True
    layout: str = "separate"
    guesses: int | None = None
    commit: str = "fused"
    cache_mask: str = "causal"
    draft_mask: str = "partially_causal"
    route: str | None = None
    estimator: str | None = None
    score: str | None = None
    cost: float | None = None
    select: str | None = None
    threshold: float | None = None
    steps: int | None = None
    sub_block: int | None = None
    min_commit: int | None = None
    lossy_ratio_power: float = 1.0
    edit: Editing | None = None

    def __post_init__(self) -> None:
        _check_blocks(self)
        _check_masks(self)
        _check_edit(self.edit)
        _among("window", self.window, ("sliding", "aligned"), "SS-14")
        _among("layout", self.layout, ("separate", "fused"), "SS-18")
        _among("score", self.score, (None, "static", "dynamic"), "SS-12")
        _number(self, "lossy_ratio_power", 0.0, 1e9, "a number >= 0; 1 is exact", "SS-20")
        if self.cost is not None:
            _number(self, "cost", 0.0, 1e9, "a number >= 0", "SS-12")
        _integer(self, "min_commit", 1, optional=True)
        _integer(self, "guesses", 0, optional=True)
        Route.parse(self.route or "span(1)")
        Estimator.parse(self.estimator or "margin")
        Selection.parse(self.select or "dynamic", self.threshold)
        for name in ("exact", "bonus"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(explain(name, repr(getattr(self, name)), "True or False", clause="SS-23"))
        _refuse_mixed(self)


DECODERS = (Speculative, Tree, Autoregressive, Diffusion, Wino, SelfSpeculative)
HYBRID = ("route", "estimator", "score", "cost", "select", "threshold", "steps", "sub_block", "min_commit")
HYBRID += ("lossy_ratio_power", "edit")
EXACT = ("policy", "window", "bonus", "layout", "guesses")


def _refuse_mixed(decoder: SelfSpeculative) -> None:
    """Refuse what contradicts `exact`, or means nothing without it."""
    default = {f.name: f.default for f in fields(decoder)}
    changed = [name for name in default if getattr(decoder, name) != default[name]]
    for name in HYBRID if decoder.exact else EXACT:
        if name in changed:
            needed = f"exact={not decoder.exact}"
            remedy = "Leave it out." if decoder.exact else f"Leave {name} out, or ask for exact=True."
            got = f"{getattr(decoder, name)!r} with exact={decoder.exact}"
            raise ConfigError(explain(name, got, needed, remedy=remedy, clause="SS-23"))
    if decoder.exact and decoder.cache_mask != "causal":
        remedy = "Exact decoding keeps causal keys and values."
        got = f"{decoder.cache_mask!r} with exact=True"
        raise ConfigError(explain("cache_mask", got, "'causal'", remedy=remedy, clause="SS-23"))
    if decoder.exact and decoder.window == "sliding" and decoder.draft_mask == "block":
        # Its window begins at the first unknown position: it holds no known tokens that could see its masks.
        remedy = "Take window='aligned', or leave draft_mask out."
        got = "'block' with window='sliding'"
        raise ConfigError(explain("draft_mask", got, "'partially_causal'", remedy=remedy, clause="SS-23"))
    if decoder.guesses is not None and decoder.layout != "fused":
        got = f"{decoder.guesses} with layout={decoder.layout!r}"
        raise ConfigError(explain("guesses", got, "layout='fused'", clause="SS-18"))
    if decoder.layout == "fused":
        for name, needed in (("bonus", True), ("window", "sliding"), ("commit", "fused")):
            if getattr(decoder, name) != needed:
                got = f"{getattr(decoder, name)!r} with layout='fused'"
                raise ConfigError(explain(name, got, repr(needed), clause="SS-18"))


def _check_blocks(decoder: Any) -> None:
    """Sizes are whole numbers that fit each other, as far as they are given."""
    for name in ("block_size", "steps", "sub_block"):
        _integer(decoder, name, 1, optional=True)
    if decoder.block_size is not None:
        check_sizes(decoder.block_size, decoder.steps, decoder.sub_block)


def check_sizes(block_size: int, steps: int | None, sub_block: int | None) -> None:
    """Raise unless the sub-block divides the block and the steps are no more than its positions.

    Spec: SS-9, SS-23.

    Raises:
        ConfigError: they do not fit.

    Example:
        >>> check_sizes(8, 4, 2)
    """
    if sub_block is not None and block_size % sub_block:
        needed = f"a multiple of sub_block={sub_block}"
        raise ConfigError(explain("block_size", block_size, needed, clause="SS-23"))
    if steps is not None and steps > block_size:
        needed = f"at most block_size={block_size}"
        raise ConfigError(explain("steps", steps, needed, clause="SS-9"))


def _check_masks(decoder: Any) -> None:
    for name, allowed in MASKS.items():
        _among(name, getattr(decoder, name), allowed, "SS-5" if name == "cache_mask" else "SS-4")
    _among("commit", decoder.commit, COMMITS, "SS-16")


def _check_edit(edit: Any) -> None:
    if edit is not None and not isinstance(edit, Editing):
        needed = "dspec.decoders.Editing(...) or None"
        raise ConfigError(explain("edit", repr(edit), needed, clause="SS-21"))


def _among(name: str, value: Any, allowed: tuple[Any, ...], clause: str) -> None:
    if not any(value is one or (isinstance(value, str) and value == one) for one in allowed):
        needed = "one of " + ", ".join(str(one) for one in allowed)
        raise ConfigError(explain(name, repr(value), needed, clause=clause))


def _integer(decoder: Any, name: str, low: int, *, optional: bool = False) -> None:
    value = getattr(decoder, name)
    if value is not None or not optional:
        needed = f"an integer >= {low}" + (", or None" if optional else "")
        object.__setattr__(decoder, name, read_integer(name, value, low, 2**31, needed, clause="SS-23"))


def _number(decoder: Any, name: str, low: float, high: float, needed: str, clause: str) -> None:
    value = read_number(name, getattr(decoder, name), lambda x: low <= x <= high, needed, clause=clause)
    object.__setattr__(decoder, name, value)

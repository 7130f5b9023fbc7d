"""Wrong samplers that the checks must catch, and right ones that they must let pass, as data.

Loop specimens run a whole generation on symbolic uniforms (`check_exact_law`); the numbers are those of
the survey of field bugs that they stand for. Array specimens are in `dspec.testing.specimens.arrays`.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from dspec.oracle.rejection import argmax, draw, residual
from dspec.oracle.warp import keep_top_p, normalised
from dspec.testing.models.loop import (
    Block,
    Loop,
    drafts_by,
    greedy,
    match,
    sampled,
    stop,
    verifier,
    whole_block,
)
from dspec.testing.models.worlds import LIES, World
from dspec.testing.specimens.blocks import BLOCK_CONTROLS, BLOCK_MUTANTS
from dspec.testing.specimens.sampled_trees import SAMPLED_TREE_CONTROLS, SAMPLED_TREE_MUTANTS
from dspec.testing.specimens.siblings import (
    Siblings,
    likeliest,
    soft_likeliest,
    unconditional,
    without_replacement,
)
from dspec.testing.specimens.specimen import Specimen
from dspec.testing.specimens.trees import TREE_CONTROLS, TREE_MUTANTS

HALF = Fraction(1, 2)


def _greedy_soft(world: World, context: Any, uniforms: Any) -> tuple[Block, list[Any]]:
    return drafts_by(world, context, lambda law, slot: argmax(law), world.num_drafts)


def _raw_rows(world: World, context: Any, uniforms: Any) -> tuple[Block, list[Any]]:
    drafts, _ = sampled(world, context, uniforms)
    rows = [normalised(world.raw_drafter(context, tuple(drafts[:k]))) for k in range(len(drafts))]
    return drafts, rows


def _next_rows(world: World, context: Any, uniforms: Any) -> tuple[Block, list[Any]]:
    drafts, rows = sampled(world, context, uniforms)
    return drafts, rows[1:] + rows[:1]


def _other_temperature(world: World, context: Any, uniforms: Any) -> tuple[Block, list[Any]]:
    drafts, rows = sampled(world, context, uniforms)
    return drafts, [normalised([mass**2 for mass in row]) for row in rows]


def _cut_by_row(world: World, context: Any, uniforms: Any) -> tuple[Block, list[Any]]:
    """Right: the length depends on laws and on tokens that are kept."""
    sure = [max(world.drafter(context, ())) > HALF]
    drafts, rows = sampled(world, context, uniforms)
    slots = len(drafts) if sure[0] else 1
    return drafts[:slots], rows[:slots]


def _cut_after_unlikely(world: World, context: Any, uniforms: Any) -> tuple[Block, list[Any]]:
    """Right: stops drafting after an unlikely token, which is still verified."""
    drafts, rows = sampled(world, context, uniforms)
    for slot, (token, row) in enumerate(zip(drafts, rows)):
        if row[token] < Fraction(1, 3):
            return drafts[: slot + 1], rows[: slot + 1]
    return drafts, rows


def _drop_unlikely(world: World, context: Any, uniforms: Any) -> tuple[Block, list[Any]]:
    drafts, rows = sampled(world, context, uniforms)
    for slot, (token, row) in enumerate(zip(drafts, rows)):
        if row[token] < Fraction(1, 3):
            return drafts[:slot], rows[:slot]
    return drafts, rows


def _without(p: Any, q: Any, x: int) -> Any:
    left = [mass if token != x else 0 for token, mass in enumerate(p)]
    return left if sum(left) else p


def _unnormalised(law: Any, k: int, accept: Any, close: Any) -> int:
    return draw([*law, 1 - sum(law)], close[0]) % len(law) if sum(law) < 1 else draw(law, close[0])


def _lottery(targets: Any, drafts: Block, rows: Any, accept: Any, close: Any, *, then: Any) -> Block:
    """Sample-match by the accept uniforms, then a second, wrong draw at the mismatch."""
    for k, token in enumerate(drafts):
        if draw(targets[k], accept[k]) != token:
            return [*drafts[:k], draw(then(targets[k], rows[k], token), close[0])]
    return [*drafts, draw(targets[-1], close[0])]


def _greedy_by(pick: Callable[[Any], int], *, any_max: bool = False) -> Callable[..., Block]:
    def verify(targets: Any, drafts: Block, rows: Any, accept: Any, close: Any) -> Block:
        block: Block = []
        for law, token in zip(targets, [*drafts, None]):
            tied = any_max and token is not None and law[token] == max(law)
            block.append(token if tied and token is not None else pick(law))
            if block[-1] != token:
                break
        return block

    return verify


def _unwarped_drafts(world: World, context: Any, uniforms: Any) -> tuple[Block, list[Any]]:
    """Right: drafts from the drafter's raw law, which is the law that is reported."""
    rows: list[Any] = []
    drafts: Block = []
    for slot in range(world.num_drafts):
        rows.append(normalised(world.raw_drafter(context, tuple(drafts))))
        drafts.append(draw(rows[-1], uniforms("draft", len(context) - 1, slot)))
    return drafts, rows


def _last_argmax(law: Any) -> int:
    return max(range(len(law)), key=lambda token: (law[token], token))


# Target laws ----------------------------------------------------------------------------------------


def _weights(world: World, context: Any) -> Any:
    return world.raw_target(context)


def _unwarped(world: World, context: Any) -> Any:
    return normalised(_weights(world, context))


def _top_p_first(world: World, context: Any) -> Any:
    kept = keep_top_p(normalised(_weights(world, context)), world.warp.top_p)
    power = int(1 / Fraction(world.warp.temperature))
    return normalised([mass**power for mass in kept])


def _tempered_twice(world: World, context: Any) -> Any:
    return normalised([mass * mass for mass in world.target(context)])


# Keys -----------------------------------------------------------------------------------------------


def _shared(wrong: str, other: str, *, slot: int | None = None) -> Callable[..., Any]:
    """Return a key map on which purpose `wrong` reads the uniform of purpose `other`."""

    def key(purpose: str, position: int, index: int) -> tuple[Any, ...]:
        if purpose == wrong:
            return (other, position, index if slot is None else slot)
        return (purpose, position, index)

    return key


def _no_position(purpose: str, position: int, index: int) -> tuple[Any, ...]:
    return (purpose, 0, index)


def _wrong(number: int, name: str, *, warps: tuple[str, ...] = ("plain",), **parts: Any) -> Specimen:
    return Specimen(name, Loop(**parts), True, number, warps)


def _lying(lie: str) -> Specimen:
    return Specimen(f"right verification of a drafter that lies: {lie}", Loop(), True, 0, lies=(lie,))


def _right(name: str, *, warps: tuple[str, ...] = ("plain", "mixed"), **parts: Any) -> Specimen:
    return Specimen(name, Loop(**parts), False, 0, warps)


def _several(number: int | str, name: str, *, wrong: bool = True, **parts: Any) -> Specimen:
    return Specimen(name, Siblings(**parts), wrong, number)


def _verdicts(parts: Sequence[tuple[int, str, dict[str, Any]]]) -> list[Specimen]:
    return [_wrong(number, name, verify=verifier(**changed)) for number, name, changed in parts]


GREEDY: dict[str, Any] = {"propose": greedy, "target": _unwarped, "warps": ("ties",)}

MUTANTS: list[Specimen] = [
    *_verdicts(
        [
            (1, "accept min(1, q/p)", {"accepts": lambda p, q, x, u: u * p[x] < q[x]}),
            (2, "residual not renormalised", {"pick": _unnormalised}),
            (3, "residual |p - q|", {"closing": lambda p, q, x: [abs(a - b) for a, b in zip(p, q)]}),
            (4, "resample from p", {"closing": lambda p, q, x: p}),
            (5, "resample from p without x", {"closing": _without}),
            (6, "target row off by one in the ratio", {"ratio_row": 1}),
            (7, "target row off by one in the residual", {"residual_row": 1}),
            (8, "bonus from q", {"bonus": lambda targets, rows: rows[-1]}),
            (9, "bonus from row K", {"bonus": lambda targets, rows: targets[-2]}),
            (10, "accept u reused for the residual", {"pick": lambda law, k, a, c: draw(law, a[k])}),
            (14, "always accept", {"accepts": lambda p, q, x, u: True}),
            (15, "goes on after a rejection", {"goes_on": True}),
            (16, "lenience 1/2", {"accepts": lambda p, q, x, u: u * (q[x] * HALF) < p[x]}),
            (17, "accept with p(x)/max p", {"accepts": lambda p, q, x, u: u * max(p) < p[x]}),
            (18, "typical acceptance", {"accepts": lambda p, q, x, u: p[x] >= HALF * max(p)}),
        ]
    ),
    _wrong(11, "draft u reused for acceptance", key=_shared("accept", "draft")),
    _wrong(12, "one accept u for all slots", key=_shared("accept", "accept", slot=0)),
    _wrong(
        19,
        "sample-match, then drawn again",
        verify=lambda *args: _lottery(*args, then=lambda p, q, x: p),
    ),
    _wrong(
        20,
        "sample-match, then the residual",
        verify=lambda *args: _lottery(*args, then=lambda p, q, x: residual(p, q)),
    ),
    _wrong(21, "greedy drafts with a soft q", propose=_greedy_soft),
    _wrong(22, "draft and closing token share a uniform", key=_shared("close", "draft", slot=0)),
    _wrong(23, "raw q in the ratio, warped q drawn", propose=_raw_rows, warps=("half", "top_p")),
    _wrong(24, "warp on the drafter only", target=_unwarped, warps=("half", "top_p")),
    _wrong(25, "top-p before temperature in verify", target=_top_p_first, warps=("mixed",)),
    _wrong(26, "temperature applied twice to the target", target=_tempered_twice, warps=("half",)),
    _wrong(27, "rejected drafts stay in the cache", rewinds=False),
    _wrong(28, "emits past the stop token", end=lambda tokens, world: tuple(tokens[: world.max_new_tokens])),
    _wrong(
        29,
        "drops the stop token",
        end=lambda tokens, world: tuple(t for t in stop(tokens, world) if t != world.eos),
    ),
    _wrong(
        30,
        "loses the correction after accepted drafts",
        keep=lambda block, drafted: block[:-1] if 1 < len(block) <= drafted else block,
    ),
    _wrong(35, "greedy ties to the last index", verify=_greedy_by(_last_argmax), **GREEDY),
    _wrong(35, "greedy accepts any maximum", verify=_greedy_by(argmax, any_max=True), **GREEDY),
    _wrong(37, "drops a drawn token of low probability", propose=_drop_unlikely),
    _wrong(0, "drafter rows one slot off", propose=_next_rows),
    _wrong(0, "q reported at another temperature", propose=_other_temperature),
    _wrong(0, "the same uniforms in every pass", key=_no_position),
    _several("m1", "several drafts: the law is not updated", left=lambda p, q, x: p),
    _several("m2", "drafts without replacement, unconditional q", children=unconditional),
    _several("m3", "likeliest drafts with a soft q", children=soft_likeliest),
    *[_lying(lie) for lie in LIES],
    *BLOCK_MUTANTS,
    *TREE_MUTANTS,
    *SAMPLED_TREE_MUTANTS,
]

CONTROLS: list[Specimen] = [
    _right("token verification"),
    _right("token verification in parts", verify=verifier()),
    _right("one-hot drafts", propose=greedy),
    _right("sample-match, argmax drafts", propose=greedy, verify=match),
    _right(
        "sample-match, then drawn again without the draft",
        verify=lambda *args: _lottery(*args, then=_without),
    ),
    _right("sample-match, sampled drafts", verify=match),
    _right("sample-match sharing the drafts' uniforms", verify=match, key=_shared("close", "draft")),
    _right("draft length chosen from the drafter's laws", propose=_cut_by_row),
    _right("draft cut after an unlikely token that is kept", propose=_cut_after_unlikely),
    _right("warp on the target only", propose=_unwarped_drafts, warps=("half", "top_p", "mixed")),
    _right("block verification", verify=whole_block),
    _right("no drafts at all", propose=lambda world, context, uniforms: ([], [])),
    Specimen("sample-match of drafters that lie", Loop(verify=match), False, lies=LIES),
    _several(0, "several drafts, each for itself", wrong=False),
    _several(0, "drafts without replacement, conditional q", wrong=False, children=without_replacement),
    _several(0, "likeliest drafts, one-hot", wrong=False, children=likeliest),
    _right("greedy", verify=_greedy_by(argmax), **GREEDY),
    *BLOCK_CONTROLS,
    *TREE_CONTROLS,
    *SAMPLED_TREE_CONTROLS,
]

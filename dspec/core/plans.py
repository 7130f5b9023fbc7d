"""How rounds of self-speculation are laid out: the plan, and the layouts of its passes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dspec.core.layouts import Layout, behind, causal, drafted, join, masks, together


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How rounds are laid out; every choice keeps the law.

    Spec: SS-14, SS-16, SS-17, SS-18.

    Args:
        mask_id: the mask token.
        shifted: alignment of the family.
        block_size: B; 1 decodes one token a pass, without drafts.
        draft_mask: "partially_causal" or "block".
        window: "sliding": B positions from the first unknown one; "aligned": those left in its block.
        commit: "fused", or a pass of its own for each finished block: "separate", unless nothing follows
            it, or "always".
        bonus: judge the position after the drafts too.
        layout: "separate" draft and verify passes, or "fused".
        guesses: G, of the fused layout: the G - a likeliest corrections of draft a = 0, 1, ... get a branch
            of their own. Fewer for later drafts: a round seldom gets there.
    """

    mask_id: int
    shifted: bool
    block_size: int
    draft_mask: str = "partially_causal"
    window: str = "sliding"
    commit: str = "fused"
    bonus: bool = True
    layout: str = "separate"
    guesses: int = 0


def drafting(known: Sequence[int], cached: int, count: int, plan: Plan) -> Layout:
    """Return the layout that drafts: known tokens that are not kept yet, then masks.

    Spec: SS-4, SS-14.

    Args:
        known: all tokens so far.
        cached: how many of them the cache holds.
        count: drafts; aligned a mask for each, shifted one less.
        plan: block size, window and draft mask.

    Example:
        >>> drafting([5, 6], 1, 2, Plan(mask_id=9, shifted=True, block_size=4)).tokens
        (6, 9)
    """
    start = len(known)
    opened = start // plan.block_size * plan.block_size
    # Under the draft mask "block" the block's known tokens see its masks: they are read again, unkept.
    again = plan.draft_mask == "block" and plan.window == "aligned"
    first = min(cached, opened) if again else cached
    split = max(first, min(opened, start)) if again else start
    hidden = (plan.mask_id,) * (count - plan.shifted)
    before = causal(tuple(known[first:split]), start=first, reach=first)
    return join(before, together((*known[split:], *hidden), start=split))


def verifying(known: Sequence[int], start: int, count: int, plan: Plan) -> Layout:
    """Return the layout that judges `count` drafts from position `start`, after known tokens not kept yet.

    Spec: SS-6, SS-17.

    Args:
        known: the tokens before `start` that the cache does not hold.
        start: position of the first draft.
        count: number of drafts; of none, the law of position `start` alone.
        plan: alignment, mask token and bonus.

    Returns:
        The layout: known tokens, drafts, and aligned a mask slot for each law.

    Example:
        >>> plan = Plan(mask_id=9, shifted=False, block_size=4)
        >>> verifying([5], 3, 1, plan).tokens, verifying([5], 3, 1, plan).positions
        ((5, -1, 9, 9), (2, 3, 3, 4))
    """
    drafts = tuple(drafted(k) for k in range(count))
    clean = causal((*known, *drafts), start=start - len(known))
    if plan.shifted:
        return clean
    n_laws = count + (plan.bonus or count == 0)
    reads = tuple(len(known) - 1 + k for k in range(n_laws))
    positions = tuple(range(start, start + n_laws))
    return behind(clean, masks(plan.mask_id, positions=positions, reads=reads))


def branching(
    known: Sequence[int], start: int, count: int, width: int, plan: Plan, *, columns: int = 0
) -> Layout:
    """Return the layout of `verifying`, and for each number of accepted drafts a branch of mask slots.

    Spec: SS-18.

    Args:
        known, start, count, plan: see `verifying`.
        width: drafts of a branch, of the positions after the closing token's.
        columns: drafts of the longest row, behind which the guesses stand on the device.

    Returns:
        The layout; branch a begins at position start + a, the closing token's, which aligned families
        fill with one more mask. Then, for each draft and guess of its correction, the same branch with
        the guess in the closing token's place.

    Example:
        >>> plan = Plan(mask_id=9, shifted=True, block_size=3, guesses=1)
        >>> branching([5], 3, 1, 2, plan, columns=1).tokens
        (5, -1, 9, 9, 9, 9, -2, 9)
    """
    size = width + (not plan.shifted)

    def branch(a: int, *first: int) -> Layout:
        positions, reads = tuple(range(start + a, start + a + size)), (len(known) - 1 + a,) * size
        made = masks(plan.mask_id, positions=positions, reads=reads, group=1)
        return replace(made, tokens=(*first, *made.tokens[len(first) :]))

    branches = [branch(a) for a in range(count + 1)]
    for a in range(min(count, plan.guesses)):
        refs = range(columns + a * plan.guesses, columns + a * plan.guesses + plan.guesses - a)
        branches += [branch(a, drafted(ref)) for ref in refs]
    return behind(verifying(known, start, count, plan), *branches)


def branch_slots(
    held: int, count: int, n_accepted: int, width: int, plan: Plan, *, guess: int | None = None
) -> list[int]:
    """Return the slots whose logits draft the next round after `n_accepted` drafts stood.

    Spec: SS-18.

    Args:
        held, count: known tokens and drafts of the pass.
        n_accepted: which branch.
        width, plan: see `branching`.
        guess: number of the guess that the closing token turned out to be; None: of none.

    Example:
        >>> plan = Plan(mask_id=9, shifted=True, block_size=3, guesses=1)
        >>> branch_slots(1, 1, 1, 2, plan), branch_slots(1, 1, 0, 2, plan, guess=0)
        ([4, 5], [6, 7])
    """
    before = held + count + (0 if plan.shifted else count + 1)
    branch = n_accepted
    if guess is not None:  # behind the branches without a guess, and those of the drafts before
        branch = count + 1 + n_accepted * plan.guesses - n_accepted * (n_accepted - 1) // 2 + guess
    first = before + branch * (width + (not plan.shifted)) + (not plan.shifted)
    return list(range(first, first + width))

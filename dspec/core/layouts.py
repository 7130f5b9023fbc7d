"""What one forward pass of a block-diffusion model reads: slots, and which of them see which.

A pass holds slots of three sorts: known tokens, drafts that are still on the device, and masks. Four
numbers a slot say what it sees, so that every mask of this library is one formula (`visible`).
"""

from dataclasses import dataclass, replace
from typing import Any

from dspec.core.types import Array

SHARED = 0  # the group of slots that others may see by their rank
ALL = 2**30  # a rank that no slot reaches


def drafted(k: int) -> int:
    """Return what stands in `Layout.tokens` for the k-th draft of the row, counted from 0.

    Example:
        >>> drafted(0), drafted(2)
        (-1, -3)
    """
    return -1 - k


@dataclass(frozen=True)
class Layout:
    """The slots of one row in one forward pass.

    Slot i sees the cached positions before `reach`, and slot j of the pass iff j is shared, of a rank up
    to what i reads, and not the one i skips; or j is of i's own group, which is not the shared one.

    Spec: SS-3.

    Args:
        tokens: ids; `drafted(k)` stands for the row's k-th draft.
        positions: position ids.
        ranks: order of the shared slots; of the others nothing reads it.
        reads: largest rank of a shared slot that it sees; -1: none.
        groups: `SHARED`, or the number of a private group, > 0, whose slots see each other.
        skips: a slot of the pass that it does not see, or -1.
        reach: cached positions that are seen; None: all.

    Example:
        >>> causal((7, 8), start=3).positions
        (3, 4)
    """

    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    ranks: tuple[int, ...]
    reads: tuple[int, ...]
    groups: tuple[int, ...]
    skips: tuple[int, ...]
    reach: int | None = None

    @property
    def size(self) -> int:
        """Number of slots."""
        return len(self.tokens)


def visible(ranks: Array, reads: Array, groups: Array, skips: Array, *, xp: Any) -> Array:
    """Return which slot sees which.

    Spec: SS-3.

    Args:
        ranks, reads, groups, skips: (..., P) integers; see `Layout`.
        xp: their array namespace.

    Returns:
        (..., P, P) bool; row i: what slot i sees.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> parts = [np.array(x) for x in ([0, 1], [0, 1], [0, 0], [-1, -1])]
        >>> visible(*parts, xp=xp).astype(int).tolist()
        [[1, 0], [1, 1]]
    """
    column = xp.astype(xp.cumulative_sum(xp.ones_like(ranks), axis=-1) - 1, ranks.dtype)
    shared = (groups == SHARED)[..., None, :] & (ranks[..., None, :] <= reads[..., :, None])
    own = (groups[..., None, :] == groups[..., :, None]) & (groups != SHARED)[..., None, :]
    return (shared | own) & (column[..., None, :] != skips[..., :, None])


def causal(tokens: tuple[int, ...], *, start: int, reach: int | None = None) -> Layout:
    """Return the layout of tokens that each see what stands before them, and themselves.

    Spec: SS-3, SS-5.

    Args:
        tokens: ids.
        start: position of the first one.
        reach: see `Layout`.

    Returns:
        The layout.

    Example:
        >>> causal((7, 8), start=3).reads
        (0, 1)
    """
    return blocked(tokens, start=start, block_size=1, reach=reach)


def blocked(tokens: tuple[int, ...], *, start: int, block_size: int, reach: int | None = None) -> Layout:
    """Return the layout of tokens that each see all of their block and of the blocks before it.

    Blocks are counted from position 0; size 1 is causal.

    Spec: SS-3, SS-5.

    Args:
        tokens: ids.
        start: position of the first one.
        block_size: positions a block.
        reach: see `Layout`.

    Returns:
        The layout.

    Example:
        >>> blocked((7, 8, 9), start=0, block_size=2).reads
        (0, 0, 1)
    """
    positions = tuple(range(start, start + len(tokens)))
    ranks = tuple(position // block_size for position in positions)
    shift = ranks[0] if ranks else 0
    ranks = tuple(rank - shift for rank in ranks)
    shared, none = (SHARED,) * len(tokens), (-1,) * len(tokens)
    return Layout(tuple(tokens), positions, ranks, ranks, shared, none, reach)


def together(tokens: tuple[int, ...], *, start: int, reach: int | None = None) -> Layout:
    """Return the layout of tokens that all see each other: a block under the draft mask "block".

    Spec: SS-4.

    Example:
        >>> together((7, 8), start=3).reads
        (0, 0)
    """
    return blocked(tokens, start=start, block_size=start + len(tokens) + 1, reach=reach)


def join(first: Layout, second: Layout) -> Layout:
    """Return one layout of both; the second's slots see all shared slots of the first as well.

    Spec: SS-3, SS-4.

    Args:
        first: its `reach` counts for both.
        second: slots after it.

    Returns:
        The layout.

    Example:
        >>> join(causal((7,), start=0), together((8, 9), start=1)).reads
        (0, 1, 1)
    """
    after = 1 + max((r for r, g in zip(first.ranks, first.groups, strict=True) if g == SHARED), default=-1)
    last = max(first.groups, default=SHARED)
    return Layout(
        first.tokens + second.tokens,
        first.positions + second.positions,
        first.ranks + tuple(rank + after for rank in second.ranks),
        first.reads + tuple(after + max(read, -1) for read in second.reads),
        first.groups + tuple(group + last if group else SHARED for group in second.groups),
        first.skips + tuple(skip + first.size if skip >= 0 else -1 for skip in second.skips),
        first.reach,
    )


def masks(mask_id: int, *, positions: tuple[int, ...], reads: tuple[int, ...], group: int = 0) -> Layout:
    """Return mask slots that nothing else sees: each alone, or together as one private group.

    Spec: SS-3, SS-6, SS-18.

    Args:
        mask_id: the mask token.
        positions: of the slots.
        reads: largest rank that each sees, of the shared slots it stands behind.
        group: the group of all; 0: each has one of its own.

    Returns:
        The layout, to be put behind shared slots whose ranks `reads` counts (`behind`).

    Example:
        >>> masks(9, positions=(4, 5), reads=(0, 1)).groups
        (1, 2)
    """
    size = len(positions)
    groups = (group,) * size if group else tuple(range(1, size + 1))
    return Layout((mask_id,) * size, positions, (0,) * size, reads, groups, (-1,) * size)


def behind(shared: Layout, *private: Layout) -> Layout:
    """Return shared slots with private ones behind them, whose `reads` count the shared ones' ranks.

    Spec: SS-6, SS-18.

    Example:
        >>> both = behind(causal((7, 8), start=0), masks(9, positions=(1,), reads=(0,)))
        >>> both.reads, both.groups
        ((0, 1, 0), (0, 0, 1))
    """
    whole = shared
    for part in private:
        last = max(whole.groups, default=SHARED)
        whole = Layout(
            whole.tokens + part.tokens,
            whole.positions + part.positions,
            whole.ranks + part.ranks,
            whole.reads + part.reads,
            whole.groups + tuple(group + last for group in part.groups),
            whole.skips + part.skips,
            whole.reach,
        )
    return whole


def leave_one_out(mask_id: int, positions: tuple[int, ...], skips: tuple[int, ...]) -> Layout:
    """Return mask slots that see every shared slot but one, and themselves.

    Spec: SS-25.

    Args:
        mask_id: the mask token.
        positions: of the slots.
        skips: the slot, of the layout they are put behind, that each does not see.

    Returns:
        The layout, for `behind`.

    Example:
        >>> leave_one_out(9, (3,), (1,)).skips
        (1,)
    """
    alone = masks(mask_id, positions=positions, reads=(ALL,) * len(positions))
    return replace(alone, skips=skips)

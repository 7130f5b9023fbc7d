"""Who sees whom in one pass: each mask written out by its own definition, not by the formula of SS-3.

`sees[i, j]` says whether slot i sees slot j of the same pass; cached positions are not in these
matrices. Letters: n known tokens x_0..x_{n-1}, of which the last few may be *pending*: known, but not
cached yet, so the pass carries them in its first slots.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dspec.errors import ConfigError, explain

Sees = NDArray[np.bool_]


def matrix(n_slots: int, sees: Callable[[int, int], bool]) -> Sees:
    """Return the matrix of a rule for pairs of slots."""
    rows = [[sees(i, j) for j in range(n_slots)] for i in range(n_slots)]
    return np.array(rows, dtype=np.bool_).reshape(n_slots, n_slots)


def picture(sees: Sees) -> str:
    """Return a matrix as text, a row a line: 1 where the slot sees, a dot where it does not.

    Example:
        >>> print(picture(causal(3)))
        1..
        11.
        111
    """
    return "\n".join("".join("1" if seen else "." for seen in row) for row in sees)


def causal(n_slots: int) -> Sees:
    """Return the mask in which each slot sees the slots up to itself.

    Spec: SS-5, SS-6.
    """
    return matrix(n_slots, lambda i, j: j <= i)


def block_causal(n_slots: int, block_size: int, *, start: int = 0) -> Sees:
    """Return the mask in which each slot sees its whole block and the blocks before it.

    Spec: SS-5.

    Args:
        n_slots: slots at the positions start, start + 1, ...
        block_size: B; blocks are aligned to position 0.
        start: position of slot 0.

    Example:
        >>> print(picture(block_causal(3, 2, start=1)))
        1..
        111
        111
    """
    return matrix(n_slots, lambda i, j: (start + j) // block_size <= (start + i) // block_size)


def draft(
    masked: Sequence[bool],
    *,
    n_clean: int = 0,
    rule: str = "block",
    clean: str = "causal",
    block_size: int = 0,
) -> Sees:
    """Return the mask of a draft pass: clean slots of earlier blocks, then the slots of one block.

    Spec: SS-4.

    Args:
        masked: whether each slot of the block holds the mask token.
        n_clean: slots before them, of the positions right before the block.
        rule: draft mask, "block" or "partially_causal".
        clean: cache mask of the clean slots, "causal" or "block".
        block_size: B; 0 takes the number of slots of the block.

    Example:
        >>> print(picture(draft([False, False, True], n_clean=1, rule="partially_causal")))
        1...
        11..
        111.
        1111
    """
    if rule not in ("block", "partially_causal") or clean not in ("causal", "block"):
        needed = "block or partially_causal; causal or block"
        raise ConfigError(explain("draft mask, cache mask", (rule, clean), needed, clause="SS-4"))
    size = block_size or len(masked)
    first_mask = masked.index(True) if True in masked else len(masked)

    def sees(i: int, j: int) -> bool:
        if i < n_clean and j < n_clean:
            # The block starts at a multiple of B, so blocks before it are counted back from there.
            return j <= i if clean == "causal" else (j - n_clean) // size <= (i - n_clean) // size
        if i < n_clean:
            return False
        if j < n_clean:
            return True
        if rule == "partially_causal" and i - n_clean < first_mask:
            return j <= i
        return True

    return matrix(n_clean + len(masked), sees)


def doubled(n_drafts: int, *, n_known: int = 0, bonus: bool = False) -> Sees:
    """Return the verify mask of aligned families: pending tokens and drafts, then a mask slot a position.

    Spec: SS-6, SS-17.

    Args:
        n_drafts: L.
        n_known: pending known tokens.
        bonus: one more mask slot, at the position after the last draft.

    Example:
        >>> print(picture(doubled(2, bonus=True)))
        1....
        11...
        ..1..
        1..1.
        11..1
    """
    n_clean = n_known + n_drafts

    def sees(i: int, j: int) -> bool:
        if i < n_clean:
            return j <= i
        if j < n_known:
            return True
        if j < n_clean:
            return j - n_known < i - n_clean  # the drafts strictly before the mask slot's position
        return i == j

    return matrix(n_clean + n_drafts + bonus, sees)


def doubled_positions(n: int, n_drafts: int, *, n_known: int = 0, bonus: bool = False) -> list[int]:
    """Return the position of every slot of `doubled`, with n known tokens in all.

    Spec: SS-6.

    Example:
        >>> doubled_positions(8, 2, n_known=1, bonus=True)
        [7, 8, 9, 8, 9, 10]
    """
    clean = list(range(n - n_known, n + n_drafts))
    return clean + list(range(n, n + n_drafts + bonus))


def leave_one_out(n_slots: int, reviewed: Sequence[int]) -> Sees:
    """Return WINO's mask: the slots of a block, then a mask slot for each reviewed one.

    Such a mask slot sees the block without the slot of its own position, and itself; none sees it.

    Spec: SS-25.

    Args:
        n_slots: slots of the block; they see each other.
        reviewed: slots of the block whose tokens are verified.

    Example:
        >>> print(picture(leave_one_out(3, [1])))
        111.
        111.
        111.
        1.11
    """

    def sees(i: int, j: int) -> bool:
        if j >= n_slots:
            return i == j
        return i < n_slots or j != reviewed[i - n_slots]

    return matrix(n_slots + len(reviewed), sees)


def fused_slots(n_known: int, n_drafts: int, width: int, *, aligned: bool) -> list[tuple[str, int, int]]:
    """Return (kind, a, index) of every slot of the fused layout, in its order.

    Kinds: "known" (pending), "draft", "verify" (aligned families only, one for each a = 0..L) and
    "branch" (W + 1 slots for each a if aligned, else W). `a` is the number of drafts that a verify or
    branch slot takes as accepted; `index` counts the slots of one kind and one a.

    Spec: SS-18.

    Example:
        >>> fused_slots(1, 1, 1, aligned=False)
        [('known', 0, 0), ('draft', 0, 0), ('branch', 0, 0), ('branch', 1, 0)]
    """
    outcomes = range(n_drafts + 1)
    slots = [("known", 0, index) for index in range(n_known)]
    slots += [("draft", 0, index) for index in range(n_drafts)]
    slots += [("verify", a, 0) for a in outcomes if aligned]
    return slots + [("branch", a, index) for a in outcomes for index in range(width + aligned)]


def fused(n_known: int, n_drafts: int, width: int, *, aligned: bool) -> Sees:
    """Return the mask of the fused layout; the order of its slots is that of `fused_slots`.

    Spec: SS-18.

    Args:
        n_known: pending known tokens.
        n_drafts: L drafts of the last pass, verified by this one.
        width: W drafts of the next pass, for each number of accepted ones.
        aligned: the family's alignment (SS-1).

    Example:
        >>> print(picture(fused(1, 1, 2, aligned=False)))
        1.....
        11....
        1.11..
        1.11..
        11..11
        11..11
    """
    slots = fused_slots(n_known, n_drafts, width, aligned=aligned)

    def sees(i: int, j: int) -> bool:
        (kind, a, _), (other, b, index) = slots[i], slots[j]
        if kind in ("known", "draft"):
            return j <= i
        if other == "known":
            return True
        if other == "draft":
            return index < a
        return kind == other and a == b

    return matrix(len(slots), sees)


def fused_positions(n: int, n_known: int, n_drafts: int, width: int, *, aligned: bool) -> list[int]:
    """Return the position of every slot of `fused`, with n known tokens in all.

    Spec: SS-18.

    Example:
        >>> fused_positions(8, 1, 1, 2, aligned=False)
        [7, 8, 8, 9, 9, 10]
    """
    first = {"known": n - n_known, "draft": n, "verify": n, "branch": n}
    slots = fused_slots(n_known, n_drafts, width, aligned=aligned)
    return [first[kind] + a + index for kind, a, index in slots]

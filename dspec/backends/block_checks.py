"""What every block-diffusion session refuses before it touches a device; the same words in both rooms."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from typing import Any

from dspec.core.layouts import SHARED, Layout
from dspec.errors import ConfigError, ShapeError, explain


def check_rows(rows: int) -> int:
    """Return a number of rows; one below 1 is a ConfigError.

    Example:
        >>> check_rows(2)
        2
    """
    if type(rows) is not int or rows < 1:
        raise ConfigError(explain("rows", repr(rows), "at least 1 request", clause="SS-22"))
    return rows


def check_opened(model: Any, *, family: str | None, mask_token_id: int | None, tokenizer: Any) -> None:
    """Check that settings agree with a model that is loaded already.

    Spec: SS-23.

    Args:
        model: has `config` and `mask_id`.
        family: asked for, or None.
        mask_token_id: asked for, or None.
        tokenizer: anything but None is refused: an opened model has its own.

    Raises:
        ConfigError: a setting contradicts the model.
    """
    settings = (("family", family, model.config.family), ("mask_token_id", mask_token_id, model.mask_id))
    for name, asked, found in settings:
        if asked not in (None, found):
            remedy = f"Leave {name} out, or open the model's folder."
            raise ConfigError(
                explain(name, repr(asked), f"{found}, the model's", remedy=remedy, clause="SS-23")
            )
    if tokenizer is not None:
        remedy = "Leave tokenizer out: an opened model has its own."
        raise ConfigError(explain("tokenizer", "one beside an opened model", "none", remedy=remedy))


def check_read(
    layouts: Sequence[Layout | None],
    lengths: Sequence[int],
    *,
    capacity: int,
    vocab_size: int,
    drafts: tuple[int, ...] | None,
) -> None:
    """Check what a pass is to read.

    Spec: SS-3, SS-5, NT-3.

    Args:
        layouts: one a row, or None.
        lengths: committed positions of the rows.
        capacity: most positions of a row.
        vocab_size: V.
        drafts: shape of the drafts on the device, or None.

    Raises:
        ShapeError: another number of rows, no slots at all, a layout whose parts differ in length, an id
            outside the vocabulary, a draft that is not there, a position that the session has not, or a
            slot that sees nothing.
        ConfigError: more positions than the capacity.

    Example:
        >>> from dspec.core.layouts import causal
        >>> check_read([causal((7, 8), start=0)], [0], capacity=2, vocab_size=9, drafts=None)
    """
    _check_count("layouts", layouts, len(lengths))
    if not any(layout is not None and layout.size for layout in layouts):
        raise ShapeError(explain("layouts", "no slot in any row", "at least one slot", clause="SS-3"))
    if drafts is not None and (len(drafts) != 2 or drafts[0] != len(lengths)):
        raise ShapeError(explain("drafts", drafts, f"({len(lengths)}, K)", clause="SS-3"))
    for row, (layout, length) in enumerate(zip(layouts, lengths)):
        if layout is None:
            continue
        _check_parts(layout, f"layouts[{row}]")
        _check_tokens(layout, f"layouts[{row}].tokens", vocab_size, 0 if drafts is None else drafts[1])
        if length + layout.size > capacity:
            remedy = "Open the session with a larger capacity."
            needed = f"at most {capacity} positions a row"
            raise ConfigError(explain("capacity", length + layout.size, needed, remedy=remedy))
        _check_positions(layout, f"layouts[{row}].positions", capacity)
        if min(length, length if layout.reach is None else layout.reach) <= 0:
            _check_sight(layout, f"layouts[{row}]")


def check_slots(slots: Sequence[Sequence[int]], *, rows: int, width: int) -> int:
    """Return W, how many slots every row lists.

    Spec: SS-3.

    Args:
        slots: of each row.
        rows: R.
        width: P, slots of the pass.

    Raises:
        ShapeError: another number of rows, rows of uneven length, or a slot that the pass has not.

    Example:
        >>> check_slots([[0, 2], [1, 1]], rows=2, width=3)
        2
    """
    _check_count("slots", slots, rows)
    if len({len(row) for row in slots}) > 1:
        found = f"rows of {', '.join(str(len(row)) for row in slots)}"
        raise ShapeError(explain("slots", found, "as many slots in every row", clause="SS-3"))
    for row, listed in enumerate(slots):
        for slot in listed:
            if not 0 <= slot < width:
                needed = f"slots in [0, {width}) of the last pass"
                raise ShapeError(explain(f"slots[{row}]", slot, needed, clause="SS-3"))
    return len(slots[0])


def check_commit(counts: Sequence[int], pending: Sequence[int]) -> None:
    """Check how many slots of the last pass are to be kept.

    Spec: SS-5.

    Args:
        counts: of each row.
        pending: slots of each row's last pass that are not committed or overwritten yet.

    Raises:
        ShapeError: another number of rows, or a count that the last pass has not.

    Example:
        >>> check_commit([1, 0], [2, 0])
    """
    _check_count("counts", counts, len(pending))
    for row, (count, most) in enumerate(zip(counts, pending)):
        if not 0 <= count <= most:
            needed = f"0 to {most}, the row's slots of the last pass"
            raise ShapeError(explain(f"counts[{row}]", count, needed, clause="SS-5"))


def check_rewind(lengths: Sequence[int], rows: int) -> None:
    """Check lengths to rewind to.

    Spec: SS-5.

    Args:
        lengths: of each row; more than the row has changes nothing.
        rows: R.

    Raises:
        ShapeError: another number of rows, or a length below 0.

    Example:
        >>> check_rewind([3, 0], 2)
    """
    _check_count("lengths", lengths, rows)
    for row, length in enumerate(lengths):
        if length < 0:
            needed = "a number of positions >= 0"
            raise ShapeError(explain(f"lengths[{row}]", length, needed, clause="SS-5"))


def _check_count(name: str, values: Sequence[object], rows: int) -> None:
    if len(values) != rows:
        raise ShapeError(explain(name, f"{len(values)} rows", f"{rows}, one a request", clause="SS-22"))


def _check_parts(layout: Layout, where: str) -> None:
    """Every part of a layout is as long as its tokens."""
    for name in ("positions", "ranks", "reads", "groups", "skips"):
        found = len(getattr(layout, name))
        if found != layout.size:
            needed = f"{layout.size}, one a token"
            raise ShapeError(explain(f"{where}.{name}", f"{found} entries", needed, clause="SS-3"))


def _check_tokens(layout: Layout, where: str, vocab_size: int, drafts: int) -> None:
    for slot, token in enumerate(layout.tokens):
        if token < -drafts or token >= vocab_size:
            needed = f"an id in [0, {vocab_size})"
            needed += f", or one of {drafts} drafts, -1 to {-drafts}" if drafts else ", there being no drafts"
            raise ShapeError(explain(f"{where}[{slot}]", token, needed, clause="NT-3"))


def _check_positions(layout: Layout, where: str, capacity: int) -> None:
    for slot, position in enumerate(layout.positions):
        if not 0 <= position < capacity:
            needed = f"a position in [0, {capacity}), the session's capacity"
            raise ShapeError(explain(f"{where}[{slot}]", position, needed, clause="SS-3"))


def _check_sight(layout: Layout, where: str) -> None:
    """Every slot sees something: attention over nothing is NaN, and would stay in the cache."""
    ranks, groups, skips = layout.ranks, layout.groups, layout.skips
    shared = sorted(rank for rank, group in zip(ranks, groups) if group == SHARED)
    members = Counter(groups)
    for slot, (read, group, skip) in enumerate(zip(layout.reads, groups, skips)):
        seen = bisect_right(shared, read) + (members[group] if group != SHARED else 0)
        if 0 <= skip < layout.size:
            among = ranks[skip] <= read if groups[skip] == SHARED else groups[skip] == group
            seen -= among
        if seen < 1:
            needed = "at least one position that the slot sees"
            raise ShapeError(explain(f"{where}: slot {slot}", "none", needed, clause="SS-3"))

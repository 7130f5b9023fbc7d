"""What every session of several requests refuses before it touches a device; the same words everywhere."""

from collections.abc import Sequence
from typing import Any

from dspec.backends.judge import check_ids
from dspec.errors import ConfigError, ShapeError, explain


def batch_of(model: Any) -> Any:
    """Return a model's method `batch`; None: it decodes one request at a time.

    A model that changes how sessions are opened, by a subclass or a wrapper, has no batches but its own:
    those of the model inside would go past what it does.

    Spec: DL-12.

    Args:
        model: a target or a drafter.

    Example:
        >>> batch_of(object()) is None
        True
    """
    for place in (getattr(model, "__dict__", {}), *(vars(cls) for cls in type(model).__mro__)):
        if "batch" in place:
            return model.batch
        if "session" in place:
            return None
    return None


def check_batch_rows(rows: int) -> int:
    """Return a number of rows; one below 1 is a ConfigError.

    Spec: DL-12.

    Example:
        >>> check_batch_rows(2)
        2
    """
    if type(rows) is not int or rows < 1:
        raise ConfigError(explain("rows", repr(rows), "at least 1 request", clause="DL-12"))
    return rows


def check_prompt_row(row: int, lengths: Sequence[int]) -> None:
    """Check that a row is there and free.

    Spec: DL-12.

    Args:
        row: its number.
        lengths: committed positions of the rows.

    Raises:
        ShapeError: no such row, or one that holds a request.

    Example:
        >>> check_prompt_row(1, [3, 0])
    """
    if not 0 <= row < len(lengths):
        raise ShapeError(explain("row", row, f"one of {len(lengths)} rows", clause="DL-12"))
    if lengths[row]:
        remedy = "Rewind the row to 0 first."
        got = f"row {row} with {lengths[row]} positions"
        raise ShapeError(explain("prefill", got, "an empty row", remedy=remedy, clause="DL-12"))


def check_rewind_rows(lengths: Sequence[int], held: Sequence[int]) -> list[int]:
    """Return the lengths after a rewind.

    Spec: DL-4, DL-12.

    Args:
        lengths: asked for; more than a row has changes nothing.
        held: of the rows.

    Raises:
        ShapeError: another number of rows, or a length below 0.

    Example:
        >>> check_rewind_rows([5, 1], [3, 3])
        [3, 1]
    """
    if len(lengths) != len(held):
        raise ShapeError(explain("lengths", f"{len(lengths)} rows", f"{len(held)}", clause="DL-12"))
    for row, length in enumerate(lengths):
        if length < 0:
            needed = "a number of positions >= 0"
            raise ShapeError(explain(f"lengths[{row}]", length, needed, clause="DL-4"))
    return [min(old, new) for old, new in zip(held, lengths)]


def check_window(first: int, count: int, rows: int) -> slice:
    """Return the rows of a pass, from the first on.

    Spec: DL-12.

    Args:
        first: number of the first row.
        count: rows of the pass.
        rows: of the batch.

    Raises:
        ShapeError: no rows, or some that are not there.

    Example:
        >>> check_window(1, 2, 3)
        slice(1, 3, None)
    """
    if count < 1 or not 0 <= first <= rows - count:
        got = f"{count} rows from row {first} on"
        raise ShapeError(explain("rows of a pass", got, f"at least one of {rows}", clause="DL-12"))
    return slice(first, first + count)


def check_score_rows(
    anchors: Sequence[int], draft_tokens: Any, lengths: Sequence[int], *, capacity: int, vocab_size: int
) -> None:
    """Check what a target is to score.

    Spec: DL-12, NT-3, NT-4.

    Args:
        anchors: an id a row of the pass.
        draft_tokens: (B, K) array; only its shape is read, its ids stay on the device.
        lengths: committed positions of these rows.
        capacity: most positions of a row.
        vocab_size: V.

    Raises:
        ShapeError: another number of rows, or an anchor outside the vocabulary.
        ConfigError: more positions than the capacity.
    """
    rows, shape = len(lengths), tuple(draft_tokens.shape)
    if len(anchors) != rows or len(shape) != 2 or shape[0] != rows:
        got = f"{len(anchors)} anchors, drafts {shape}"
        raise ShapeError(explain("score", got, f"{rows} anchors, drafts ({rows}, K)", clause="NT-4"))
    check_ids(anchors, vocab_size, "anchors")
    check_room(max(lengths) + shape[1] + 1, capacity)


def check_features(features: Any, rows: int, block_size: int) -> int:
    """Return R, positions a row that the features of the last pass stand for; 0: there are none.

    Spec: DL-12, NT-4.

    Args:
        features: (B, R, F) array, or None; only its shape is read.
        rows: B, rows of the last proposal.
        block_size: 1 + K; the block overwrites what stands past the anchor, so R is at most that.

    Raises:
        ShapeError: another shape.

    Example:
        >>> check_features(None, 2, 4)
        0
    """
    if features is None:
        return 0
    shape = tuple(features.shape)
    if len(shape) != 3 or shape[0] != rows or shape[1] > block_size:
        needed = f"({rows}, R <= {block_size}, F)"
        raise ShapeError(explain("features", shape, needed, clause="NT-4"))
    return int(shape[1])


def check_proposal_rows(
    anchors: Sequence[int],
    positions: Sequence[int],
    lengths: Sequence[int],
    reach: Sequence[int],
    *,
    capacity: int,
    block_size: int,
    vocab_size: int,
) -> None:
    """Check what a drafter is to draft from; the features' width is checked where they are fused.

    Spec: DL-5, DL-12, NT-3, NT-4.

    Args:
        anchors: an id a row of the pass.
        positions: of the anchors.
        lengths: context positions that these rows hold.
        reach: positions that new features add to each of them.
        capacity: most positions of a row.
        block_size: 1 + K.
        vocab_size: V.

    Raises:
        ShapeError: another number of positions, a gap before an anchor, a position that is context
            already, or an anchor outside the vocabulary.
        ConfigError: more positions than the capacity.
    """
    rows = len(lengths)
    if len(anchors) != rows or len(positions) != rows:
        got = f"{len(anchors)} anchors, {len(positions)} positions"
        raise ShapeError(explain("propose", got, f"{rows} of both", clause="DL-12"))
    check_ids(anchors, vocab_size, "anchors")
    for row, (length, position, added) in enumerate(zip(lengths, positions, reach)):
        if not length <= position <= length + added:
            needed = f"{length}..{length + added}, what the row holds and its features reach"
            raise ShapeError(explain(f"positions[{row}]", position, needed, clause="DL-5"))
    check_room(max(positions) + block_size, capacity)


def check_room(end: int, capacity: int) -> None:
    """Raise if a row would hold more positions than there is room for.

    Raises:
        ConfigError: it would.

    Example:
        >>> check_room(4, 4)
    """
    if end > capacity:
        remedy = "Open the batch with a larger capacity."
        raise ConfigError(explain("capacity", end, f"at most {capacity} positions a row", remedy=remedy))

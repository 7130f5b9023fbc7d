"""What every session refuses before it touches a device; the same words whatever the framework."""

from collections.abc import Sequence
from typing import Any

from dspec.backends.judge import check_ids
from dspec.core.tree import Tree
from dspec.errors import ConfigError, ShapeError, explain
from dspec.io.checkpoints import check_fits


def check_prefill(tokens: Sequence[int], *, vocab_size: int) -> None:
    """Check a prompt, or a part of one.

    Spec: DL-1, NT-3.

    Args:
        tokens: token ids.
        vocab_size: V.

    Raises:
        ShapeError: no tokens, or an id outside [0, V).

    Example:
        >>> check_prefill([0, 3], vocab_size=4)
    """
    if len(tokens) == 0:
        raise ShapeError(explain("tokens", "none", "at least one token", clause="DL-1"))
    check_ids(tokens, vocab_size, "tokens")


def check_score(anchor: int, draft_tokens: Any, *, vocab_size: int) -> None:
    """Check what a target is to score.

    Spec: NT-3, NT-4.

    Args:
        anchor: id in [0, V).
        draft_tokens: (1, K) array; only its shape is read, its ids stay on the device.
        vocab_size: V.

    Raises:
        ShapeError: drafts that are not (1, K), or an anchor outside the vocabulary.
    """
    if draft_tokens.ndim != 2 or draft_tokens.shape[0] != 1:
        raise ShapeError(explain("draft_tokens", tuple(draft_tokens.shape), "(1, K)", clause="NT-4"))
    check_ids([anchor], vocab_size, "anchor")


def check_tree(anchor: int, tree: Tree, *, vocab_size: int) -> None:
    """Check a tree that a target is to score; its form is checked where it is made.

    Spec: NT-3, DL-11.

    Args:
        anchor: id in [0, V).
        tree: the drafts after it.
        vocab_size: V.

    Raises:
        ShapeError: no tree, or an id outside the vocabulary.

    Example:
        >>> check_tree(0, Tree((3, 1), (0, 0)), vocab_size=4)
    """
    if not isinstance(tree, Tree):
        raise ShapeError(explain("tree", f"a {type(tree).__name__}", "a core.tree.Tree", clause="DL-11"))
    check_ids([anchor], vocab_size, "anchor")
    check_ids(tree.tokens, vocab_size, "tree.tokens")


def check_path(path: Sequence[int], tree: Tree | None) -> None:
    """Check what is to be kept of a tree: a way down from the anchor.

    Spec: DL-11.

    Args:
        path: node numbers, from the anchor on, which is not listed.
        tree: the one that was scored last; None: none was, or something else was read since.

    Raises:
        ShapeError: no tree, or a node that is no child of the one before it.

    Example:
        >>> check_path((1, 3), Tree((5, 6, 7), (0, 0, 1)))
    """
    if tree is None:
        raise ShapeError(explain("keep", "no tree", "score_tree just before it", clause="DL-11"))
    before = 0
    for node in path:
        if not 1 <= node <= len(tree.tokens) or tree.parents[node - 1] != before:
            needed = f"a child of node {before}"
            raise ShapeError(explain("keep: path", f"node {node} in {tuple(path)}", needed, clause="DL-11"))
        before = node


def check_beside(drafter: Any, target: Any) -> None:
    """Check that a drafter may draft for a target: made for it, and on its device.

    Spec: BD-5, BD-7.

    Args:
        drafter: has `config` and `device`.
        target: has `facts` and `device`.

    Raises:
        CheckpointError: the drafter was made for another target.
        ConfigError: another device.
    """
    check_fits(drafter.config, target.facts)
    if drafter.device != target.device:
        remedy = "Load both on one device."
        raise ConfigError(
            explain("drafter", str(drafter.device), f"the target's {target.device}", remedy=remedy)
        )


def check_proposal(
    anchor: int,
    position: int,
    features: Any,
    *,
    length: int,
    capacity: int,
    block_size: int,
    vocab_size: int,
) -> None:
    """Check what a drafter is to draft from; the features' width is checked where they are fused.

    Spec: DL-5, NT-3, NT-4.

    Args:
        anchor: id in [0, V).
        position: the anchor's.
        features: (1, R, F) array; only its shape is read.
        length: context positions that the session holds.
        capacity: most positions that it can hold.
        block_size: 1 + K.
        vocab_size: V.

    Raises:
        ShapeError: features of another shape, a gap before the anchor, a position that is context
            already, or an anchor outside the vocabulary.
        ConfigError: more positions than the capacity.
    """
    check_ids([anchor], vocab_size, "anchor")
    shape = tuple(getattr(features, "shape", ()))
    if len(shape) != 3 or shape[0] != 1:
        raise ShapeError(explain("features", shape, "(1, R, F)", clause="NT-4"))
    if position < length:
        remedy = "Rewind to the anchor's position first."
        raise ShapeError(explain("position", position, f">= {length}", remedy=remedy, clause="DL-5"))
    written = length + shape[1]
    if written < position:
        needed = f"rows for positions {length}..{position - 1}"
        raise ShapeError(explain("features", f"{shape[1]} rows", needed, clause="DL-5"))
    end = max(written, position + block_size)
    if end > capacity:
        remedy = "Open the session with a larger capacity."
        raise ConfigError(explain("capacity", end, f"at most {capacity} positions", remedy=remedy))

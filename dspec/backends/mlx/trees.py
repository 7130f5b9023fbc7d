"""Draft trees on mlx-lm's models: they are refused, and why."""

from typing import Any

from dspec.errors import BackendUnavailable, explain


def refuse_unless_trees(model: Any) -> None:
    """Raise: no model of mlx-lm reads draft trees.

    Its attention turns a pass's keys by one offset (`rope(keys, offset=cache.offset)`), so that two
    nodes cannot share a position. Offsets by row exist, but nodes as rows would have MLX's attention
    copy the cache once a node.

    Spec: DL-11.

    Args:
        model: an mlx-lm model.

    Raises:
        BackendUnavailable: always.
    """
    needed = "a position a node, where mlx-lm's attention has one offset a pass"
    remedy = "Use Speculative(), or load the target with backend='cuda' or 'cpu'."
    raise BackendUnavailable(
        explain(type(model).__name__, "a draft tree", needed, remedy=remedy, clause="DL-11")
    )

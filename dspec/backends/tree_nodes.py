"""What every framework's trees share: which nodes a node sees, and the tree that a model is tried on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dspec.core.tree import Tree


def ancestors(tree: Tree) -> NDArray[np.bool_]:
    """Return (N + 1, N + 1): whether the node of a row sees that of a column, itself or an ancestor.

    Spec: DL-11.

    Args:
        tree: the nodes after the anchor.

    Returns:
        Rows and columns in the order of the nodes, the anchor first.

    Example:
        >>> ancestors(Tree((5, 6), (0, 0))).astype(int).tolist()
        [[1, 0, 0], [1, 1, 0], [1, 0, 1]]
    """
    seen = np.eye(len(tree.tokens) + 1, dtype=np.bool_)
    for number, parent in enumerate(tree.parents, 1):
        seen[number] |= seen[parent]
    return seen


@dataclass(frozen=True)
class Probe:
    """A tree with a path behind two siblings of its first node: seen or counted, they would change it.

    Args:
        anchor: the token before the tree.
        tree: the nodes.
        path: numbers of the anchor and of the path's nodes.
        same: most mean difference of the path's states beside the siblings and alone, relative: 0.14 and
            more on ten small models with a wrong position or mask, below 0.01 by rounding in bfloat16;
            between them, so that one expert that rounding routes elsewhere is no fault.
    """

    anchor: int
    tree: Tree
    path: tuple[int, ...]
    same: float

    def tokens(self, vocabulary: int) -> list[int]:
        """Return anchor and nodes: ids above those of padding, whose embedding may be zero, where there are.

        Example:
            >>> PROBE.tokens(6)
            [4, 5, 0, 1, 2, 3, 4]
        """
        return [token % vocabulary for token in (self.anchor, *self.tree.tokens)]


PROBE = Probe(4, Tree(tokens=(5, 6, 7, 8, 9, 10), parents=(0, 0, 0, 3, 4, 5)), (0, 3, 4, 5, 6), same=0.05)

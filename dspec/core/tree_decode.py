"""A pass over a draft tree, in the place of a pass over a block: `decode(..., one_pass=tree_pass)`."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from dspec.core.decode import Outcome
from dspec.core.tree import Tree, walk
from dspec.core.types import Scores


class TreeJudge(Protocol):
    """Settings and uniforms of one request, bound to a backend's arrays."""

    def first(self, scores: Scores, position: int) -> int:
        """Return the token after the prompt; `position` is the last prompt token's."""
        ...

    def rule(self, position: int) -> Callable[..., Tree]:
        """Return the rule that turns draft logits into a tree on the host: the first wait of the pass."""
        ...

    def drawn(self, scores: Scores, tree: Tree, position: int) -> Sequence[int]:
        """Return the target's own token at each of the N + 1 nodes on the host: the second wait."""
        ...


def tree_pass(
    target: Any, drafter: Any, judge: TreeJudge, anchor: int, position: int, features: Any
) -> Outcome:
    """Propose a tree, score it in one target pass, walk along the target's tokens, keep what stands.

    Spec: DL-11, RS-23.

    Args:
        target: a `TargetSession` that reads trees; holds the positions before the anchor.
        drafter: a `DrafterSession`; returns from `propose` what the judge's rule made.
        judge: settings and uniforms of the request.
        anchor: the last emitted token.
        position: its position.
        features: of the positions that the drafter has not taken in.

    Returns:
        What stands, the closing token behind it, and the features of anchor and drafts that stand.
    """
    tree: Tree = drafter.propose(anchor, position, features, judge.rule(position))
    scores = target.score_tree(anchor, tree)
    path, closing = walk(tree, judge.drawn(scores, tree, position))
    standing = [tree.tokens[node - 1] for node in path]
    return Outcome((*standing, closing), max(tree.depths), target.keep(path))

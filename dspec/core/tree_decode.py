"""A pass over a draft tree, in the place of a pass over a block: `decode(..., one_pass=tree_pass)`."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from dspec.core.decode import Outcome
from dspec.core.tree import Tree, walk
from dspec.core.types import Scores
from dspec.core.unseen import DraftArrays, Unseen


class TreeJudge(Protocol):
    """Settings and uniforms of one request, bound to a backend's arrays."""

    def first(self, scores: Scores, position: int) -> int:
        """Return the token after the prompt, or after an anchor that no tree follows, at `position`."""
        ...

    def rule(self, position: int) -> Callable[..., Tree]:
        """Return the rule that turns draft logits into a tree on the host: the first wait of the pass."""
        ...

    def drawn(self, scores: Scores, tree: Tree, position: int) -> Sequence[int]:
        """Return the target's own token at each of the N + 1 nodes on the host: the second wait."""
        ...

    def sized(self, budget: int) -> "TreeJudge":
        """Return the judge of trees of another budget."""
        ...


class TreeSize(Protocol):
    """Says how many nodes a tree has, from what earlier passes of the request showed alone."""

    def choose(self) -> int:
        """Return the budget of the next pass; 0: no tree."""
        ...

    def observe(self, budget: int, path: Sequence[int]) -> None:
        """Take in which nodes of a pass stood."""
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
    return read_tree(target, drafter, judge, anchor, position, features)[0]


def read_tree(
    target: Any, drafter: Any, judge: TreeJudge, anchor: int, position: int, features: Any
) -> tuple[Outcome, tuple[int, ...]]:
    """Do what `tree_pass` does, and return its outcome with the numbers of the nodes that stood.

    Spec: DL-11, RS-23.

    Args:
        target, drafter, judge, anchor, position, features: of `tree_pass`.

    Returns:
        The outcome, and the nodes below the anchor that stood, from it on.
    """
    tree: Tree = drafter.propose(anchor, position, features, judge.rule(position))
    scores = target.score_tree(anchor, tree)
    path, closing = walk(tree, judge.drawn(scores, tree, position))
    standing = [tree.tokens[node - 1] for node in path]
    return Outcome((*standing, closing), max(tree.depths), target.keep(path)), path


class SizedTreePass:
    """Does what `tree_pass` does, with a budget of its own in every pass; belongs to one request.

    Spec: DL-14, DL-11, DL-5.

    Args:
        size: of this request; asked before a pass, told after it.
        arrays: of the backend.
    """

    def __init__(self, size: TreeSize, arrays: DraftArrays) -> None:
        self._size, self._arrays, self._unseen = size, arrays, Unseen(arrays)

    def __call__(
        self, target: Any, drafter: Any, judge: TreeJudge, anchor: int, position: int, features: Any
    ) -> Outcome:
        """Run one pass; arguments and outcome are those of `tree_pass`."""
        budget = self._size.choose()  # before anything of this pass is drawn
        self._unseen.add(features, position)
        if budget:
            unseen = self._unseen.take()
            outcome, path = read_tree(target, drafter, judge.sized(budget), anchor, position, unseen)
        else:
            scores = target.score(anchor, self._arrays.nothing().tokens)
            outcome, path = Outcome((judge.first(scores, position),), 0, scores.features), ()
            target.rewind(position + 1)
        self._size.observe(budget, path)
        return outcome

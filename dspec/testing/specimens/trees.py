"""Passes over draft trees, wrong and right, for `check_exact_law`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dspec.core.decode import Outcome
from dspec.core.tree import Tree
from dspec.core.tree_decode import tree_pass
from dspec.core.types import Scores
from dspec.oracle.rejection import draw
from dspec.testing.models.symbolic_trees import DrawnNodes, ExactTreeJudge, TreeTarget, tree_sampler
from dspec.testing.specimens.specimen import Specimen

BUDGET = 3  # two children of the anchor and a grandchild, or a chain and a sibling


class _DrawsAgain(ExactTreeJudge):
    """A token that the tree does not hold is drawn once more."""

    def drawn(self, scores: Scores, tree: Tree, position: int) -> DrawnNodes:
        drawn = super().drawn(scores, tree, position)
        if (0, drawn[0]) not in tree.children:
            drawn.seen[0] = draw(scores.logits[0], self.uniforms("accept", position, 0))
        return drawn


class _SiblingsLaw(ExactTreeJudge):
    """Every node draws from the law after the node before it, which may be its sibling."""

    def drawn(self, scores: Scores, tree: Tree, position: int) -> DrawnNodes:
        laws = [scores.logits[max(0, node - 1)] for node in range(len(scores.logits))]
        return DrawnNodes(laws, self.uniforms, position)


class _AnchorsUniform(ExactTreeJudge):
    """All nodes read the anchor's uniform."""

    def drawn(self, scores: Scores, tree: Tree, position: int) -> DrawnNodes:
        return DrawnNodes(scores.logits, lambda use, at, node: self.uniforms(use, at, 0), position)


class _KeepsSiblings(TreeTarget):
    """All nodes up to the last that stands are kept."""

    def keep(self, path: Sequence[int]) -> None:
        self.cache += (self.anchor, *self.tree.tokens[: max(path, default=0)])


class _PositionsByNumber(TreeTarget):
    """A node is scored after all nodes before it, as its siblings' keys would have it."""

    def score_tree(self, anchor: int, tree: Tree) -> Scores:
        super().score_tree(anchor, tree)
        rows = range(len(tree.tokens) + 1)
        return Scores([self.world.target((*self.cache, anchor, *tree.tokens[:n])) for n in rows])


def _closes_at_the_anchor(
    target: Any, drafter: Any, judge: Any, anchor: int, position: int, features: Any
) -> Outcome:
    """The closing token is drawn from the anchor's row, wherever the walk ended."""
    laws: list[Any] = []

    class Seen:
        def score_tree(self, anchor: int, tree: Tree) -> Scores:
            scores = target.score_tree(anchor, tree)
            laws.append(scores.logits[0])
            return scores

        def keep(self, path: Sequence[int]) -> Any:
            return target.keep(path)

    found = tree_pass(Seen(), drafter, judge, anchor, position, features)
    if len(found.tokens) == 1:
        return found
    again = draw(laws[0], judge.uniforms("accept", position, 0))
    return replace(found, tokens=(*found.tokens[:-1], again))


def _wrong(name: str, **parts: Any) -> Specimen:
    return Specimen(name, tree_sampler(BUDGET, **parts))


TREE_MUTANTS = [
    _wrong("tree: a miss is drawn again", judge=_DrawsAgain),
    _wrong("tree: a node draws by the law of the node before it", judge=_SiblingsLaw),
    _wrong("tree: all nodes share the anchor's uniform", judge=_AnchorsUniform),
    _wrong("tree: the closing token is drawn from the anchor's row", one_pass=_closes_at_the_anchor),
    _wrong("tree: siblings stay in the cache", target=_KeepsSiblings),
    _wrong("tree: a node sees its siblings", target=_PositionsByNumber),
]
TREE_CONTROLS = [
    Specimen(f"tree of {budget} {'node' if budget == 1 else 'nodes'}", tree_sampler(budget), False)
    for budget in (1, BUDGET)
]

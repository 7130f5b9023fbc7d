"""The library's own passes over draft trees on exact fractions: what makes it possible to enumerate them.

The heap and the walk are `core.tree`'s, the loop is `core.decode`'s; target, drafter and judge are exact.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from dspec.core.decode import Limits, decode
from dspec.core.tree import Tree, best_first
from dspec.core.tree_decode import tree_pass
from dspec.core.types import Scores
from dspec.oracle.enumerate import Source
from dspec.oracle.rejection import Law, draw
from dspec.testing.models.symbolic import ExactDrafter, ExactTarget
from dspec.testing.models.worlds import World


def paths_of(tree: Tree) -> list[tuple[int, ...]]:
    """Return each node as the drafts from the anchor to it.

    Example:
        >>> paths_of(Tree(tokens=(7, 9, 8), parents=(0, 1, 0)))
        [(7,), (7, 9), (8,)]
    """
    paths: list[tuple[int, ...]] = [()]
    for token, parent in zip(tree.tokens, tree.parents, strict=True):
        paths.append((*paths[parent], token))
    return paths[1:]


def raw_laws(world: World, anchor: int) -> list[list[Fraction]]:
    """Return the drafter's laws of all slots before the settings: what a tree is made of (DL-11)."""
    rows = [world.raw_drafter((0, anchor), (0,) * slot) for slot in range(world.num_drafts)]
    return [[Fraction(weight, sum(row)) for weight in row] for row in rows]


def tree_of(laws: Sequence[Sequence[Fraction]], budget: int) -> Tree:
    """Return the library's tree of exact laws.

    Example:
        >>> tree_of([[Fraction(1, 4), Fraction(3, 4)]], 1)
        Tree(tokens=(1,), parents=(0,))
    """
    ranks = [sorted(range(len(law)), key=lambda i, law=law: (-law[i], i))[:budget] for law in laws]
    logs = [
        [math.log(law[i]) if law[i] else -math.inf for i in row] for law, row in zip(laws, ranks, strict=True)
    ]
    return best_first(logs, ranks, budget)


class TreeTarget(ExactTarget):
    """`ExactTarget` that reads trees: a node after its ancestors, nothing else."""

    def score_tree(self, anchor: int, tree: Tree) -> Scores:
        """Read the anchor and the nodes; the law after each."""
        self.anchor, self.tree = anchor, tree
        return Scores([self.world.target((*self.cache, anchor, *path)) for path in [(), *paths_of(tree)]])

    def keep(self, path: Sequence[int]) -> None:
        """Commit the anchor and these nodes."""
        self.cache += (self.anchor, *(self.tree.tokens[node - 1] for node in path))


class TreeDrafter(ExactDrafter):
    """`ExactDrafter` that gives the laws of all slots at once."""

    def propose(self, anchor: int, position: int, features: Any, rule: Any) -> Any:
        """Return the tree that the rule makes of the laws."""
        self.length = position
        return rule(raw_laws(self.world, anchor))


class ExactTreeJudge:
    """`core.tree_decode.TreeJudge` on symbolic uniforms: the node's number is the slot of its key."""

    def __init__(self, uniforms: Source, budget: int) -> None:
        self.uniforms, self.budget = uniforms, budget
        self.trees: list[Tree] = []

    def first(self, scores: Scores, position: int) -> int:
        """Return the token after the prompt."""
        return draw(scores.logits[-1], self.uniforms("close", position, 0))

    def sized(self, budget: int) -> "ExactTreeJudge":
        """Return itself, whose next trees have this budget."""
        self.budget = budget
        return self

    def rule(self, position: int) -> Callable[[Any], Tree]:
        """Return what makes a tree of laws."""
        return lambda laws: tree_of(laws, self.budget)

    def drawn(self, scores: Scores, tree: Tree, position: int) -> Any:
        """Return the target's token at every node."""
        self.trees.append(tree)
        return DrawnNodes(scores.logits, self.uniforms, position)


class DrawnNodes:
    """Tokens of the nodes, drawn where the walk reads them: the others' uniforms would double the paths."""

    def __init__(self, laws: Sequence[Law], uniforms: Callable[..., Any], position: int) -> None:
        self.laws, self.uniforms, self.position = laws, uniforms, position
        self.seen: dict[int, int] = {}

    def __getitem__(self, node: int) -> int:
        if node not in self.seen:
            self.seen[node] = draw(self.laws[node], self.uniforms("close", self.position, node))
        return self.seen[node]


def tree_sampler(
    budget: int,
    *,
    target: Any = TreeTarget,
    drafter: Any = TreeDrafter,
    judge: Any = ExactTreeJudge,
    one_pass: Any = tree_pass,
) -> Callable[[World, Source], tuple[int, ...]]:
    """Return `core.decode` with passes over trees as a sampler of worlds, on symbolic uniforms.

    Spec: RS-1, RS-23, DL-11.

    Args:
        budget: nodes of a tree, the anchor not counted.
        target: world -> the exact target's session.
        drafter: world -> the exact drafter's session.
        judge: (uniforms, budget) -> the judge.
        one_pass: what stands in for `core.tree_decode.tree_pass`.

    Returns:
        A `dspec.testing.checks.laws.Sampler`.

    Example:
        >>> from dspec.testing.models.worlds import make_worlds
        >>> tree_sampler(3)(make_worlds(1, seed=0, warps=("greedy",))[0], lambda *key: 0.5)
        (2,)
    """

    def sampler(world: World, source: Source) -> tuple[int, ...]:
        limits = Limits(world.max_new_tokens, frozenset({world.eos}))
        parts = target(world), drafter(world), judge(source, budget)
        passes = decode(*parts, world.prompt, limits, one_pass=one_pass)
        return tuple(token for step in passes for token in step.tokens)

    return sampler

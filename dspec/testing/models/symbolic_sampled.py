"""The library's own passes over sampled trees on exact fractions: what makes it possible to enumerate them.

The form and the walk are core's, the loop is `core.decode`'s; target, drafter and judge are exact. A node is
drawn, and its law made, where the walk reads it: the others' uniforms would double the paths each.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from dspec.core.sampled_tree import FirstChildren, families, fixed_form
from dspec.core.tree import walk
from dspec.core.tree_decode import tree_pass
from dspec.core.types import Scores
from dspec.oracle.enumerate import Source
from dspec.oracle.rejection import Law, draw
from dspec.oracle.sampled_tree import draw_children
from dspec.oracle.several import verify_several
from dspec.testing.models.symbolic_trees import (
    ExactTreeJudge,
    TreeDrafter,
    TreeTarget,
    raw_laws,
    tree_sampler,
)
from dspec.testing.models.worlds import World

Drafts = tuple[list[int], list[Law]]


class DrawnTree:
    """What `core.tree_decode` and `core.tree.walk` read of a tree, its tokens drawn family by family.

    Args:
        parents: its form.
        family: (a node, its depth, its children) -> their tokens, and the law of each.
    """

    def __init__(self, parents: Sequence[int], family: Callable[[int, int, list[int]], Drafts]) -> None:
        self.parents, self._family = tuple(parents), family
        self.below: list[list[int]] = [[] for _ in range(len(parents) + 1)]
        self._depths = [0]
        for node, parent in enumerate(parents, 1):
            self.below[parent].append(node)
            self._depths.append(self._depths[parent] + 1)
        self.depths = tuple(self._depths[1:])
        self.tokens = _Read(lambda index: self._token(index + 1), len(parents))
        self.children = _Children(self)
        self.drawn: dict[int, Drafts] = {}

    def drafts(self, node: int) -> Drafts:
        """Return the tokens of a node's children, and the law of each given those before it."""
        if node not in self.drawn:
            self.drawn[node] = self._family(node, self._depths[node], self.below[node])
        return self.drawn[node]

    def path(self, node: int) -> tuple[int, ...]:
        """Return the drafts from the anchor to a node."""
        return (*self.path(self.parents[node - 1]), self._token(node)) if node else ()

    def _token(self, node: int) -> int:
        parent = self.parents[node - 1]
        return self.drafts(parent)[0][self.below[parent].index(node)]


class _Read(Sequence[Any]):
    """A sequence whose entries are made where they are read, once."""

    def __init__(self, entry: Callable[[int], Any], length: int) -> None:
        self._entry, self._length, self._seen = entry, length, dict[int, Any]()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        if index not in self._seen:
            self._seen[index] = self._entry(index)
        return self._seen[index]


class _Children:
    """(parent, token) -> the child's number, as `core.tree.Tree.children`."""

    def __init__(self, tree: DrawnTree) -> None:
        self._tree = tree

    def get(self, key: tuple[int, int]) -> int | None:
        """Return the child's number, or None."""
        node, token = key
        tokens = self._tree.drafts(node)[0]
        return self._tree.below[node][tokens.index(token)] if token in tokens else None


class SampledTarget(TreeTarget):
    """`TreeTarget` of sampled trees: a node's law is made where it is read."""

    def score_tree(self, anchor: int, tree: Any) -> Scores:
        """Read the anchor and the nodes; the law after each."""
        self.anchor, self.tree = anchor, tree
        read = self.cache
        laws = _Read(lambda n: self.world.target((*read, anchor, *tree.path(n))), len(tree.parents) + 1)
        return Scores(laws)


class SampledDrafter(TreeDrafter):
    """`ExactDrafter` that gives the laws of all slots at once, under the settings and without them."""

    def propose(self, anchor: int, position: int, features: Any, rule: Any) -> Any:
        """Return the tree that the rule makes of the laws."""
        self.length = position
        raw = raw_laws(self.world, anchor)
        laws = [self.world.warp.law(self.world.raw_drafter((0, anchor), (0,) * k)) for k in range(len(raw))]
        return rule((laws, raw))


class ExactSampledJudge(ExactTreeJudge):
    """`core.tree_decode.TreeJudge` on symbolic uniforms: draws families, tries their children in turn."""

    last: Any = None  # the tree of the pass before, and the tokens at its nodes

    def rule(self, position: int) -> Callable[[Any], Any]:
        """Return what makes a tree of laws."""
        self.seen = self.seen if self.last else FirstChildren()
        if self.last:
            self.seen.note(families(self.last[0].parents), walk(*self.last)[0])

        def rule(given: tuple[list[Law], list[Law]]) -> DrawnTree:
            laws, raw = given
            parents = self.form(len(laws), len(laws[0]))

            def family(node: int, depth: int, nodes: list[int]) -> Drafts:
                if not nodes:
                    return [], []
                uniforms = _Read(lambda j: self.uniforms("draft", position, nodes[j] - 1), len(nodes))
                return self.children(laws[depth], raw[depth], nodes, uniforms)

            return DrawnTree(parents, family)

        return rule

    def form(self, n_slots: int, vocab_size: int) -> Sequence[int]:
        """Return the library's own form."""
        return fixed_form(self.budget, n_slots, vocab_size, self.seen.rank_cost)

    def children(self, law: Law, raw: Law, nodes: list[int], uniforms: Any) -> Drafts:
        """Return the tokens of some siblings, and the law of each."""
        return draw_children(law, len(nodes), uniforms, raw=raw)

    def accept(self, position: int, nodes: list[int]) -> Sequence[Any]:
        """Return the accept uniforms of some siblings."""
        return _Read(lambda j: self.uniforms("accept", position, nodes[j] - 1), len(nodes))

    def drawn(self, scores: Scores, tree: Any, position: int) -> Any:
        """Return the token at every node, by RS-22."""
        tokens = _Read(partial(self.judged, scores.logits, tree, position), len(tree.parents) + 1)
        self.last = tree, tokens
        return tokens

    def judged(self, laws: Sequence[Law], tree: Any, position: int, node: int) -> int:
        """Return the token at one node."""
        return verify_several(
            laws[node],
            *tree.drafts(node),
            self.accept(position, tree.below[node]),
            None,
            draw=lambda law, _: draw(law, self.uniforms("close", position, node)),
        )[1]


def sampled_tree_sampler(
    budget: int, *, target: Any = SampledTarget, judge: Any = ExactSampledJudge, one_pass: Any = tree_pass
) -> Callable[[World, Source], tuple[int, ...]]:
    """Return `core.decode` with passes over sampled trees as a sampler of worlds, on symbolic uniforms.

    Spec: RS-1, RS-24, DL-11.

    Args:
        budget: nodes of a tree, the anchor not counted.
        target: world -> the exact target's session.
        judge: (uniforms, budget) -> the judge.
        one_pass: what stands in for `core.tree_decode.tree_pass`.

    Returns:
        A `dspec.testing.checks.laws.Sampler`.

    Example:
        >>> from dspec.testing.models.worlds import make_worlds
        >>> sampled_tree_sampler(3)(make_worlds(1, seed=0)[0], lambda *key: 0.5)
        (2,)
    """
    return tree_sampler(budget, target=target, drafter=SampledDrafter, judge=judge, one_pass=one_pass)

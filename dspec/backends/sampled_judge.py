"""The judge of one request whose drafts are sampled and form trees, bound to a backend's arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dspec.backends.judge import RequestJudge, malformed
from dspec.backends.tree_judge import RequestTreeJudge
from dspec.core.sampled_tree import (
    FirstChildren,
    draw_children,
    families,
    fixed_form,
    judge_children,
)
from dspec.core.tree import Tree, walk
from dspec.core.types import Array, Scores
from dspec.rng import Purpose


@dataclass(frozen=True)
class SampledTreeJudge(RequestTreeJudge):
    """Decides for one request at a temperature above 0; implements `core.tree_decode.TreeJudge`.

    The children of a node are drawn without replacement from the drafter's law of their slot, under the
    request's own settings, and tried one after another against what the target owes.

    Spec: RN-1, RS-2, RS-16, RS-24, DL-11.

    Args:
        request: the judge of the request's blocks: its arrays, settings, uniforms and K.
        budget: most nodes of a tree, the anchor not counted; >= 1.
        seen: how often first children stood in the request's passes so far: the next form goes by it.
    """

    seen: FirstChildren = field(default_factory=FirstChildren)

    def drawn(self, scores: Scores, tree: Tree, position: int) -> Sequence[int]:
        """Return the token at every node, in one transfer; refuse a malformed law (RS-16)."""
        tokens = super().drawn(scores, tree, position)
        self.seen.note(families(tree.parents), walk(tree, tokens)[0])
        return tokens

    def _tokens(self, scores: Scores, tree: Tree, position: int) -> Array:
        """Return (1, N + 1) the token at every node: a child that stands, or a correction; -1: no law."""
        request, own, xp = self.request, families(tree.parents), self.request.ops.xp
        table = np.asarray(own.table)
        drafted = np.where(table > 0, np.asarray((0, *tree.tokens))[table], -1)
        # Row n - 1 is of node n; what stands where there is no child is not read.
        accept = self._of_nodes(Purpose.ACCEPT, position, (len(tree.tokens), 1))[table - 1, 0]
        close = self._of_nodes(Purpose.CLOSE, position, (len(tree.tokens) + 1, 2))
        by_node = np.argsort((*own.owners, *own.leaves))
        *places, drafted, by_node = self._sent(own.owners, own.slots, own.leaves, drafted, by_node)
        accept, close = self._sent(accept, close)
        found = judge_children(
            scores.logits[0],
            request.sampling,
            tree.probs,
            drafted,
            tuple(places),
            accept,
            close,
            xp=xp,
            warp=request.ops.operation("warp"),
        )
        return xp.take(found, by_node, axis=0)[None, :]

    def _tree(self, logits: Array, position: int) -> Tree:
        """Return a tree of the fixed form, its tokens drawn from the warped laws of logits (1, K, V)."""
        request, xp = self.request, self.request.ops.xp
        parents = fixed_form(self.budget, logits.shape[1], logits.shape[2], self.seen.rank_cost)
        own = families(parents)
        order = [node for nodes in own.rounds for node in nodes]
        uniforms = self._of_nodes(Purpose.DRAFT, position, (len(parents), 2))[np.asarray(order) - 1]
        probs = request.ops.operation("warp")(logits[0], request.sampling, xp=xp)
        widths = [len(nodes) for nodes in own.rounds]
        (slots,), (uniforms,) = self._sent(own.slots), self._sent(uniforms)
        drawn: list[int] = request.ops.to_host(
            draw_children(logits[0], probs, slots, widths, uniforms, xp=xp)
        )
        if min(drawn) < 0:
            raise malformed(request.stream, position)
        by_node = dict(zip(order, drawn, strict=True))
        return Tree(tuple(by_node[node] for node in range(1, len(parents) + 1)), parents, probs)

    def _of_nodes(self, purpose: Purpose, position: int, shape: tuple[int, int]) -> Any:
        return self.request.stream.uniforms(purpose, position, shape)

    def _sent(self, *parts: Any) -> list[Array]:
        """Send some arrays of one kind, integers or uniforms, to the device in one piece."""
        arrays = [np.asarray(part) for part in parts]
        packed = np.concatenate([array.ravel() for array in arrays])
        kind = np.int32 if np.issubdtype(packed.dtype, np.integer) else packed.dtype
        sent, found, start = self.request.ops.from_host(packed.astype(kind)), [], 0
        for array in arrays:
            piece = sent[start : start + array.size]
            found.append(self.request.ops.xp.reshape(piece, array.shape))
            start += array.size
        return found


def tree_judge(request: RequestJudge, budget: int, *, sampled: bool) -> RequestTreeJudge:
    """Return the judge of a request's trees; at temperature 0 nothing is sampled.

    Spec: RS-23, RS-24.

    Args:
        request: the judge of its blocks.
        budget: most nodes of a tree, the anchor not counted; >= 1.
        sampled: draw the drafts, in the place of taking the likeliest.
    """
    kind = SampledTreeJudge if sampled and not request.sampling.greedy else RequestTreeJudge
    return kind(request, budget)

"""The judge of one request whose drafts form trees, bound to a backend's arrays."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dspec.backends.judge import RequestJudge, malformed
from dspec.backends.ledger import pack, reported, unpack
from dspec.core.numerics import widen
from dspec.core.tree import Tree, best_first, draw_nodes, walk
from dspec.core.types import Array, Scores
from dspec.errors import ConfigError, explain
from dspec.rng import Purpose


@dataclass(frozen=True)
class RequestTreeJudge:
    """Decides for one request; implements `core.tree_decode.TreeJudge`.

    Spec: RN-1, RS-16, RS-19, RS-23, DL-11.

    Args:
        request: the judge of the request's blocks: its arrays, settings, uniforms and K.
        budget: most nodes of a tree, the anchor not counted; >= 1.
    """

    request: RequestJudge
    budget: int

    def first(self, scores: Scores, position: int) -> int:
        """Return the token after the prompt, or after an anchor without a tree, as every policy draws it."""
        return self.request.first(scores, position)

    def sized(self, budget: int) -> "RequestTreeJudge":
        """Return the judge of trees of another budget, of the same request."""
        return replace(self, budget=budget)

    def rule(self, position: int) -> Callable[..., Tree]:
        """Return the rule that makes a tree of draft logits (1, K, V), for the anchor at `position`."""

        def rule(logits: Array, first_slot: int | None = None) -> Tree:
            if first_slot is not None:
                needed = "drafted slots that are drawn independently, all in one pass"
                got, remedy = "a drafter that goes slot by slot", "Use Speculative()."
                raise ConfigError(explain("decoder=Tree", got, needed, remedy=remedy, clause="DL-11"))
            return self._tree(logits, position)

        return rule

    def drawn(self, scores: Scores, tree: Tree, position: int) -> Sequence[int]:
        """Return the token at every node, in one transfer; refuse a malformed law (RS-16)."""
        ops = self.request.ops
        found = self._tokens(scores, tree, position)
        told = reported(self.request.reports, scores.logits, found, ops)
        tokens, log_probs = unpack(ops.to_host(pack(found, told, xp=ops.xp))[0], len(tree.tokens) + 1)
        if min(tokens) < 0:
            raise malformed(self.request.stream, position)
        if self.request.ledger is not None:
            self.request.ledger.write([log_probs[node] for node in (0, *walk(tree, tokens)[0])])
        return tokens

    def _tokens(self, scores: Scores, tree: Tree, position: int) -> Array:
        """Return (1, N + 1) the target's own token at every node; -1: no law."""
        ops, sampling = self.request.ops, self.request.sampling
        uniforms = None
        if not sampling.greedy:
            shape = (1, len(tree.tokens) + 1, 2)
            uniforms = ops.from_host(self.request.stream.uniforms(Purpose.CLOSE, position, shape))
        return draw_nodes(scores.logits, sampling, uniforms, xp=ops.xp)

    def _tree(self, logits: Array, position: int) -> Tree:
        """Return the tree of draft logits (1, K, V), on the host; refuse a malformed law (RS-16)."""
        likeliest = self._likeliest(logits)
        if any(math.isnan(number) for row in likeliest for number in row):
            raise malformed(self.request.stream, position)
        half = len(likeliest[0]) // 2
        ids = [[int(number) for number in row[half:]] for row in likeliest]
        return best_first([row[:half] for row in likeliest], ids, self.budget)

    def _likeliest(self, logits: Array) -> list[list[float]]:
        """Return, on the host, each slot's R log-probabilities and then their ids; NaN: no law.

        At temperature 1 and uncut, whatever the request's settings are (DL-11).
        """
        xp = self.request.ops.xp
        logits = widen(logits, xp=xp)[0]
        peak = xp.max(logits, axis=-1, keepdims=True)
        mass = peak + xp.log(xp.sum(xp.exp(logits - peak), axis=-1, keepdims=True))
        values, ids = self.request.ops.top(logits, min(self.budget, logits.shape[-1]))
        # One transfer: float32 holds ids up to 2^24, a hundred times the largest vocabulary.
        packed = xp.concat([values - mass, xp.astype(ids, logits.dtype)], axis=-1)
        found: list[list[float]] = self.request.ops.to_host(packed)
        return found

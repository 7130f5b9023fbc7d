"""Passes over sampled trees, wrong and right, for `check_exact_law`."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from dspec.oracle.rejection import Law, draw
from dspec.oracle.several import without_replacement
from dspec.testing.models.symbolic_sampled import Drafts, ExactSampledJudge, sampled_tree_sampler
from dspec.testing.specimens.specimen import Specimen

BUDGET = 4  # three children of the anchor, and one of the first


class _Unconditional(ExactSampledJudge):
    """Drawn without replacement, reported as if with."""

    def children(self, law: Law, raw: Law, nodes: list[int], uniforms: Any) -> Drafts:
        return super().children(law, raw, nodes, uniforms)[0], [law] * len(nodes)


class _NotDivided(ExactSampledJudge):
    """What is left of the law after a draw is not divided by its sum."""

    def children(self, law: Law, raw: Law, nodes: list[int], uniforms: Any) -> Drafts:
        tokens, laws = super().children(law, raw, nodes, uniforms)
        left = [[0 if x in tokens[:j] else mass for x, mass in enumerate(law)] for j in range(len(tokens))]
        return tokens, [rest if sum(rest) else one for rest, one in zip(left, laws)]


class _SoftLikeliest(ExactSampledJudge):
    """The likeliest tokens, judged as if drawn."""

    def children(self, law: Law, raw: Law, nodes: list[int], uniforms: Any) -> Drafts:
        order = sorted((x for x, mass in enumerate(law) if mass), key=lambda x: (-law[x], x))
        tokens = order[: len(nodes)]
        return tokens, [without_replacement(law, tokens[:j]) for j in range(len(tokens))]


class _DropsUnlikely(ExactSampledJudge):
    """Drawn children of small probability are left out of the tree."""

    def children(self, law: Law, raw: Law, nodes: list[int], uniforms: Any) -> Drafts:
        kept = [
            (x, q) for x, q in zip(*super().children(law, raw, nodes, uniforms)) if law[x] >= Fraction(1, 3)
        ]
        return [x for x, _ in kept], [q for _, q in kept]


class _TriedByProbability(ExactSampledJudge):
    """Children are tried the likeliest first, in the place of as they were drawn."""

    def children(self, law: Law, raw: Law, nodes: list[int], uniforms: Any) -> Drafts:
        tokens = [x for x in super().children(law, raw, nodes, uniforms)[0] if law[x]]
        tokens.sort(key=lambda x: (-law[x], x))
        return tokens, [without_replacement(law, tokens[:j]) for j in range(len(tokens))]


class _PickedAsDrawn(ExactSampledJudge):
    """A draft that is picked where the law is used up is judged by that law, which has nothing there."""

    def children(self, law: Law, raw: Law, nodes: list[int], uniforms: Any) -> Drafts:
        tokens, laws = super().children(law, raw, nodes, uniforms)
        return tokens, [q if law[x] else [0] * len(law) for x, q in zip(tokens, laws)]


class _SharedDraft(ExactSampledJudge):
    """Siblings are drawn by one uniform."""

    def children(self, law: Law, raw: Law, nodes: list[int], uniforms: Any) -> Drafts:
        return super().children(law, raw, nodes, [uniforms[0]] * len(nodes))


class _SharedAccept(ExactSampledJudge):
    """Siblings are tried by one uniform."""

    def accept(self, position: int, nodes: list[int]) -> Sequence[Any]:
        return [self.uniforms("accept", position, nodes[0])] * len(nodes) if nodes else []


class _DraftAgain(ExactSampledJudge):
    """A draft is tried by the uniform that it was drawn by."""

    def accept(self, position: int, nodes: list[int]) -> Sequence[Any]:
        return [self.uniforms("draft", position, node - 1) for node in nodes]


class _CorrectsFromTheTarget(ExactSampledJudge):
    """Where no child stands the token is drawn from the target's law, not from what is owed."""

    def judged(self, laws: Sequence[Law], tree: Any, position: int, node: int) -> int:
        tokens, _ = tree.drafts(node)
        token = super().judged(laws, tree, position, node)
        return token if token in tokens else draw(laws[node], self.uniforms("close", position, -1 - node))


def _wrong(name: str, judge: type[ExactSampledJudge], *warps: str) -> Specimen:
    return Specimen(
        f"sampled tree: {name}", sampled_tree_sampler(BUDGET, judge=judge), warps=warps or ("plain",)
    )


SAMPLED_TREE_MUTANTS = [
    _wrong("siblings are judged by the law of the first", _Unconditional),
    _wrong("what is left of a law is not divided by its sum", _NotDivided),
    _wrong("likeliest tokens with a soft law", _SoftLikeliest),
    _wrong("drops drawn nodes of low probability", _DropsUnlikely),
    _wrong("siblings are tried by probability", _TriedByProbability),
    _wrong("a picked draft is judged as drawn", _PickedAsDrawn, "top_k"),
    _wrong("siblings share a draft uniform", _SharedDraft),
    _wrong("siblings share an accept uniform", _SharedAccept),
    _wrong("a draft's uniform accepts it", _DraftAgain),
    _wrong("a correction is drawn from the target's law", _CorrectsFromTheTarget),
]
SAMPLED_TREE_CONTROLS = [
    Specimen(
        f"sampled tree of {budget} {'node' if budget == 1 else 'nodes'}",
        sampled_tree_sampler(budget),
        False,
        warps=("plain", "mixed", "top_k"),
    )
    for budget in (1, BUDGET)
]

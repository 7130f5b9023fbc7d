"""A pass that verifies the first k drafts of a block: `decode(..., one_pass=CutPass(...))`."""

from typing import Any, Protocol

from dspec.core.decode import Judge, Outcome
from dspec.core.unseen import DraftArrays, Unseen


class DraftLength(Protocol):
    """Says how many drafts a pass verifies, from what earlier passes of the request showed alone."""

    def choose(self) -> int:
        """Return k of the next pass, in 0..K."""
        ...

    def observe(self, n_drafted: int, n_accepted: int) -> None:
        """Take in what became of a pass."""
        ...


class CutPass:
    """Does what `block_pass` does with the first k drafts; belongs to one request.

    A pass of k = 0 runs the target alone: a proposal that nobody reads would be paid for just where drafts
    are not worth their cost. The features that the drafter has not seen wait, those of rejected drafts
    dropped, and go to its next proposal in one piece.

    Spec: DL-13, DL-1, DL-2, DL-4, DL-5, DL-6.

    Args:
        length: of this request; asked before a pass, told after it.
        arrays: of the backend.
    """

    def __init__(self, length: DraftLength, arrays: DraftArrays) -> None:
        self._length, self._arrays = length, arrays
        self._unseen = Unseen(arrays)

    def __call__(
        self, target: Any, drafter: Any, judge: Judge, anchor: int, position: int, features: Any
    ) -> Outcome:
        """Run one pass; arguments and outcome are those of `dspec.core.decode.block_pass`."""
        # Chosen before anything of this pass is drawn: else a draft dropped for what it is biases the law.
        n_slots = self._length.choose()
        self._unseen.add(features, position)
        if n_slots == 0:
            draft = self._arrays.nothing()
        else:
            unseen, rule = self._unseen.take(), judge.rule(position)
            draft = drafter.propose(anchor, position, unseen, rule, n_slots=n_slots)
        scores = target.score(anchor, draft.tokens)
        n_accepted, tokens = judge.verdict(scores, draft, position)
        target.rewind(position + n_accepted + 1)
        self._length.observe(n_slots, n_accepted)
        return Outcome(tokens[: n_accepted + 1], n_slots, scores.features)

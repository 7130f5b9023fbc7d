"""A drafter that remembers what it proposed, so that wasted drafts can be counted afterwards."""

from typing import Any

from dspec.backends.protocol import ArrayOps, DrafterModel, DrafterSession, DraftRule
from dspec.core.types import Array, Draft
from dspec.generation import Generation


class Recorder:
    """A drafter with a memory; proposes exactly what the drafter inside does.

    Proposals stay on the device until they are counted, so that recording adds no synchronisation
    to the loop. One recorder serves one request.

    Args:
        drafter: the one inside.
    """

    def __init__(self, drafter: DrafterModel) -> None:
        self._drafter = drafter
        self.proposed: list[tuple[int, Array]] = []  # anchor position, (1, K) tokens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._drafter, name)

    def session(self, target: Any, *, capacity: int) -> DrafterSession:
        """Return a session of the drafter inside, its proposals recorded."""
        return _Session(self._drafter.session(target, capacity=capacity), self.proposed)

    def waste(self, out: Generation, n_prompt: int, ops: ArrayOps) -> tuple[int, int]:
        """Count the drafted tokens that the output can judge, and the wasted ones among them.

        A drafted token is right if it equals the token that was finally emitted at its position. One
        that is right but stands after its pass's first rejected slot was right in vain: a verifier
        stops at the first rejection. Slots beyond the end of the output are not counted.

        Args:
            out: the finished output.
            n_prompt: tokens of the prompt.
            ops: of the backend.

        Returns:
            Drafted tokens that count, wasted tokens.
        """
        drafted = wasted = 0
        for (anchor, tokens), n_accepted in zip(self.proposed, out.stats.n_accepted):
            first = anchor + 1 - n_prompt  # place in the output of slot 1
            emitted = out.tokens[first:]
            pairs = list(zip(ops.to_host(tokens)[0], emitted))
            drafted += len(pairs)
            wasted += sum(draft == token for draft, token in pairs[n_accepted + 1 :])
        return drafted, wasted


class _Session:
    """A drafter session whose proposals are kept."""

    def __init__(self, session: DrafterSession, proposed: list[tuple[int, Array]]) -> None:
        self._session, self._proposed = session, proposed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def propose(self, anchor: int, position: int, features: Any, rule: DraftRule, **cut: Any) -> Draft:
        """Pass the call on and keep the tokens."""
        draft = self._session.propose(anchor, position, features, rule, **cut)
        self._proposed.append((position, draft.tokens))
        return draft

"""Drafts cut short, on a backend's arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dspec.backends.protocol import ArrayOps
from dspec.core.types import Array, Draft


class DraftArrays:
    """Cuts drafts and joins features; implements `core.cut_pass.DraftArrays`.

    Spec: DL-13.

    Args:
        ops: the backend's array operations.

    Example:
        >>> from dspec.backends.numpy import NumpyOps
        >>> DraftArrays(NumpyOps()).nothing().tokens.shape
        (1, 0)
    """

    def __init__(self, ops: ArrayOps) -> None:
        self._xp = ops.xp
        self._nothing = ops.from_host(np.zeros((1, 0), dtype=np.int32))

    def nothing(self) -> Draft:
        """Return a draft of no tokens."""
        return Draft(self._nothing)

    def cut(self, draft: Draft, n_slots: int) -> Draft:
        """Return its first slots."""
        return cut_draft(draft, n_slots)

    def join(self, parts: Sequence[tuple[Array, int]]) -> Array:
        """Return features (1, R, F) one after the other: of each the first so many rows."""
        return self._xp.concat([features[:, :rows] for features, rows in parts], axis=1)


class CutDrafter:
    """A drafter's session, of one request or a batch, whose blocks end after so many slots.

    Spec: DL-13.

    Args:
        session: whose proposals are cut; all else is its own.
        n_slots: k, in 1..K.
    """

    def __init__(self, session: Any, n_slots: int) -> None:
        self._session, self._n_slots = session, n_slots

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def propose(self, *args: Any, **options: Any) -> Draft:
        """Return the first drafts of the session's proposal."""
        return cut_draft(self._session.propose(*args, **options), self._n_slots)


def cut_draft(draft: Draft, n_slots: int) -> Draft:
    """Return the first slots of a draft, with their laws.

    Spec: DL-13, RS-2.

    Args:
        draft: of K slots.
        n_slots: k <= K.

    Example:
        >>> cut_draft(Draft(np.array([[4, 5, 6]])), 2).tokens.tolist()
        [[4, 5]]
    """
    probs = None if draft.probs is None else draft.probs[:, :n_slots]
    return Draft(draft.tokens[:, :n_slots], probs)

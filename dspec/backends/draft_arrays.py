"""No drafts, and features that waited, on a backend's arrays."""

from collections.abc import Sequence

import numpy as np

from dspec.backends.protocol import ArrayOps
from dspec.core.types import Array, Draft


class DraftArrays:
    """Makes drafts of no tokens and joins features; implements `core.unseen.DraftArrays`.

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

    def join(self, parts: Sequence[tuple[Array, int]]) -> Array:
        """Return features (1, R, F) one after the other: of each the first so many rows."""
        return self._xp.concat([features[:, :rows] for features, rows in parts], axis=1)

"""Rewinding what cannot forget: a recurrent state is put back to a snapshot, and tokens are read again."""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

# Most kept tokens that go into the next pass together with its own. A pass of 48 tokens reads the weights
# once, as one of 16 does; a pass of its own for the kept ones would read them twice.
MERGED = 32


class RecurrentLayer:
    """State of one recurrent layer, as mlx-lm's layers call it: some arrays, or None before any token.

    MLX's arrays are never changed: a layer that goes on puts new ones here, and a snapshot stays as it was.
    """

    lengths = None  # nothing is padded

    def __init__(self, size: int = 2) -> None:
        self.state: tuple[mx.array | None, ...] = (None,) * size

    def __getitem__(self, index: int) -> mx.array | None:
        return self.state[index]

    def __setitem__(self, index: int, array: mx.array) -> None:
        self.state = (*self.state[:index], array, *self.state[index + 1 :])

    @property
    def arrays(self) -> list[mx.array]:
        """The arrays, to evaluate them."""
        return [array for array in self.state if array is not None]

    def advance(self, added: int) -> None:
        """Do nothing: `Replay` keeps the positions."""

    def make_mask(self, N: int) -> None:
        """Return None: every new position counts."""


@dataclass(frozen=True)
class Plan:
    """What the next pass has to read: tokens `start`..`kept` - 1 again, then its own."""

    start: int
    kept: int


class Replay:
    """The states of a cache's recurrent layers, and the tokens to make any earlier one of.

    Spec: DL-4, DL-8.

    Args:
        layers: recurrent layers of one cache; none: there is nothing to replay.
        capacity: most positions.

    Example:
        >>> replay = Replay([RecurrentLayer()], capacity=8)
        >>> replay.begin(0), replay.commit(mx.array([[5, 6, 7]]), Plan(0, 0))
        (Plan(start=0, kept=0), None)
        >>> replay.begin(2), replay.tokens(Plan(0, 2)).tolist()
        (Plan(start=0, kept=2), [[5, 6]])
    """

    def __init__(self, layers: Sequence[RecurrentLayer], *, capacity: int) -> None:
        self._layers = layers
        self._ids = mx.array(np.zeros((1, capacity if layers else 0), dtype=np.int32))  # not lazy
        self._at: int | None = 0  # position of the layers' states; None: a pass failed half way
        self._base, self._snapshot = 0, [layer.state for layer in layers]
        self._first = self._snapshot

    @property
    def needed(self) -> bool:
        """Whether there are recurrent layers."""
        return bool(self._layers)

    @property
    def arrays(self) -> list[mx.array]:
        """States, snapshots and kept tokens: all that the next pass may read, to evaluate it."""
        states = [layer.state for layer in self._layers] + list(self._snapshot)
        return [self._ids, *(array for state in states for array in state if array is not None)]

    def begin(self, length: int) -> Plan:
        """Put the states where the next pass starts.

        Args:
            length: committed positions.

        Returns:
            Where that is, and up to where tokens are read again.
        """
        if self._at == length:
            self._base, self._snapshot = length, [layer.state for layer in self._layers]
        elif length < self._base:
            self._base, self._snapshot = 0, self._first
        for layer, state in zip(self._layers, self._snapshot, strict=True):
            layer.state = state
        self._at = None
        return Plan(self._base, length)

    def tokens(self, plan: Plan) -> mx.array:
        """Return (1, n) tokens that a plan reads again.

        A pass joins its own to them even where n is 0.
        """
        return self._ids[:, plan.start : plan.kept]

    def commit(self, ids: mx.array, plan: Plan) -> None:
        """Take note that a pass has read a plan's tokens and (1, n) new ones."""
        self._at = plan.kept + ids.shape[1]
        self._ids[:, plan.kept : self._at] = ids

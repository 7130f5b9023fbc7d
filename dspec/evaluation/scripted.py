"""A drafter whose acceptance is set beforehand: for timing a decode at a given tau."""

from collections.abc import Sequence
from math import floor
from typing import Any

import numpy as np

from dspec.backends.protocol import ArrayOps, DrafterModel, DrafterSession, DraftRule
from dspec.core.types import Draft
from dspec.errors import ConfigError, explain


class Scripted:
    """A drafter that proposes a known continuation up to a scripted slot, and something else there.

    The drafter inside, if there is one, really runs, and its proposal is then replaced: time is spent as
    ever, and tau is given. Greedy decoding along the text it was told accepts floor or ceil of tau - 1
    drafts a pass, spread evenly, so that the mean over the passes tends to tau.

    Args:
        drafter: the one that runs; None: drafts cost nothing.
        known: ids by position, prompt and continuation.
        tau: wanted, in [1, 1 + n_slots].
        n_slots: K, drafted slots of a pass; they may be others than the drafter's own.
        ops: of the backend.

    Raises:
        ConfigError: a tau that so many slots cannot give.
    """

    def __init__(
        self, drafter: DrafterModel | None, known: Sequence[int], *, tau: float, n_slots: int, ops: ArrayOps
    ) -> None:
        if not 1 <= tau <= 1 + n_slots:
            raise ConfigError(explain("tau", tau, f"a number in [1, {1 + n_slots}], 1 + the drafted slots"))
        self.drafter, self.ops, self.tau = drafter, ops, tau
        self.layer_ids: tuple[int, ...] = () if drafter is None else drafter.layer_ids
        self.known = np.array(known, dtype=np.int32)
        self.block_size = 1 + n_slots

    def session(self, target: Any, *, capacity: int) -> DrafterSession:
        """Return a session of the drafter inside whose proposals are replaced."""
        inside = None
        if self.drafter is not None:
            inside = self.drafter.session(target, capacity=capacity + self.drafter.block_size)
        return _Session(self, inside)

    def accepted(self, number: int) -> int:
        """Return how many drafts of the pass of that number, from 0, are right.

        Example:
            >>> from dspec.backends.numpy import NumpyOps
            >>> drafter = Scripted(None, [0, 1, 2], tau=2.5, n_slots=3, ops=NumpyOps())
            >>> [drafter.accepted(i) for i in range(4)]
            [1, 2, 1, 2]
        """
        return floor((number + 1) * (self.tau - 1)) - floor(number * (self.tau - 1))


class _Session:
    """A session whose proposals follow the script."""

    def __init__(self, script: Scripted, inside: DrafterSession | None) -> None:
        self._script, self._inside = script, inside
        self._passes = 0
        self.length = 0

    def propose(self, anchor: int, position: int, features: Any, rule: DraftRule) -> Draft:
        """Let the drafter inside propose, then return the script's tokens."""
        script, n_slots = self._script, self._script.block_size - 1
        tokens = np.zeros(n_slots, dtype=np.int32)
        ahead = script.known[position + 1 : position + 1 + n_slots]
        tokens[: len(ahead)] = ahead
        right = script.accepted(self._passes)
        if right < n_slots:
            tokens[right] = tokens[right] - 1 if tokens[right] > 0 else 1
        drafts = script.ops.from_host(tokens[None])
        if self._inside is not None:
            own = self._inside.propose(anchor, position, features, rule).tokens
            # Ids are never negative: nothing is added, but a lazy backend has to run the drafter.
            drafts = drafts + script.ops.xp.astype(own[:, :1] < 0, drafts.dtype)
        self._passes, self.length = self._passes + 1, position
        return Draft(drafts)

    def rewind(self, length: int) -> None:
        """Forget every context position >= length."""
        if self._inside is not None:
            self._inside.rewind(length)
        self.length = min(self.length, length)

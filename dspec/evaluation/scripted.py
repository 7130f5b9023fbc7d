"""A drafter whose acceptance is set beforehand: for timing a decode at a given tau."""

from collections.abc import Sequence
from math import ceil, floor
from typing import Any

import numpy as np

from dspec.backends.batch_checks import batch_of
from dspec.backends.batch_judge import NoDrafterBatch
from dspec.backends.protocol import ArrayOps, DrafterModel, DrafterSession, DraftRule
from dspec.core.types import Array, Draft
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

    @property
    def fits_rows(self) -> bool:
        """Whether rows of the drafter inside take in all that a pass may emit: a block of its own at most."""
        return self.drafter is None or ceil(self.tau) <= self.drafter.block_size

    def batch(self, target: Any, *, rows: int, capacity: int) -> Any:
        """Return a session of several requests of the known text; None: the drafter inside has none."""
        if self.drafter is None:
            return _Batch(self, NoDrafterBatch(self.ops, rows))
        of_drafter = batch_of(self.drafter)
        own = self.drafter.block_size
        inside = of_drafter and of_drafter(target, rows=rows, capacity=capacity + own)
        return _Batch(self, inside) if inside else None

    def drafts(self, number: int, positions: Sequence[int]) -> Array:
        """Return the drafts (B, K) of the pass of that number after anchors at some positions."""
        n_slots = self.block_size - 1
        tokens = np.zeros((len(positions), n_slots), dtype=np.int32)
        right = self.accepted(number)
        for row, position in zip(tokens, positions):
            ahead = self.known[position + 1 : position + 1 + n_slots]
            row[: len(ahead)] = ahead
            if right < n_slots:
                row[right] = row[right] - 1 if row[right] > 0 else 1
        return self.ops.from_host(tokens)

    def beside(self, drafts: Array, own: Array) -> Array:
        """Return the drafts, such that a lazy backend has to make the drafter's own as well."""
        # Ids are never negative: nothing is added.
        return drafts + self.ops.xp.astype(own[:, :1] < 0, drafts.dtype)


class _Session:
    """A session whose proposals follow the script."""

    def __init__(self, script: Scripted, inside: DrafterSession | None) -> None:
        self._script, self._inside = script, inside
        self._passes = 0
        self.length = 0

    def propose(
        self, anchor: int, position: int, features: Any, rule: DraftRule, n_slots: int | None = None
    ) -> Draft:
        """Let the drafter inside propose, then return the script's tokens."""
        drafts = self._script.drafts(self._passes, [position])[:, :n_slots]
        if self._inside is not None:
            own = self._inside.propose(anchor, position, features, rule, n_slots).tokens
            drafts = self._script.beside(drafts, own)
        self._passes, self.length = self._passes + 1, position
        return Draft(drafts)

    def rewind(self, length: int) -> None:
        """Forget every context position >= length."""
        if self._inside is not None:
            self._inside.rewind(length)
        self.length = min(self.length, length)


class _Batch:
    """Rows whose proposals follow the script, all in step."""

    def __init__(self, script: Scripted, inside: Any) -> None:
        self._script, self._inside = script, inside
        self._passes = 0

    @property
    def lengths(self) -> list[int]:
        """Committed context positions of each row."""
        lengths: list[int] = self._inside.lengths
        return lengths

    def prefill(self, row: int, features: Any) -> None:
        """Take in the features of one row's prompt."""
        self._inside.prefill(row, features)

    def propose(
        self,
        anchors: Sequence[int],
        positions: Sequence[int],
        features: Any,
        rule: DraftRule,
        *,
        first: int = 0,
        n_slots: int | None = None,
    ) -> Draft:
        """Let the drafter inside propose, then return the script's tokens."""
        drafter = self._script.drafter
        if drafter is not None and features is not None:
            features = features[:, : drafter.block_size]  # its rows take in no more at once
        cut = {"first": first, "n_slots": n_slots}
        own = self._inside.propose(anchors, positions, features, rule, **cut).tokens
        drafts = self._script.drafts(self._passes, positions)[:, :n_slots]
        self._passes += n_slots != 0
        return Draft(drafts if drafter is None or n_slots == 0 else self._script.beside(drafts, own))

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget every row's context positions from `lengths[r]` on."""
        self._inside.rewind(lengths)

    def clear(self, row: int) -> None:
        """Forget a row."""
        self._inside.clear(row)

"""What a backend gives to the decode loop: two sessions and a few array operations.

A session belongs to one request. Positions count from 0 at the first prompt token.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from dspec.core.layouts import Layout
from dspec.core.tree import Tree
from dspec.core.types import Array, Draft, Scores

# Turns draft logits (B, K, V) into a Draft by the policy's rule; made by core.policies, so that a
# drafter cannot report another law than the one its tokens came from (RS-2). A drafter that goes
# slot by slot calls it with (B, 1, V) logits and the slot's number: rule(logits, first_slot). In a tree
# pass the rule makes a `Tree` of (1, K, V) logits, and `propose` returns that.
DraftRule = Callable[..., Draft]


class ArrayOps(Protocol):
    """The operations that the array API lacks."""

    xp: Any

    def to_host(self, array: Array) -> list[Any]:
        """Return nested Python lists: the one synchronisation of a block."""
        ...

    def from_host(self, array: Any) -> Array:
        """Return a numpy array on the backend's device, dtype kept."""
        ...

    def operation(self, name: str) -> Callable[..., Any]:
        """Return the function that runs a named core operation here: the room's override, or core's own."""
        ...

    def top(self, values: Array, count: int) -> tuple[Array, Array]:
        """Return the `count` largest of the last axis and their integer indices, in any order."""
        ...

    def mark(self) -> Any:
        """Return a point in time on the device's clock, without waiting.

        None where the backend has no such clock: a host's clock would time the building of a lazy
        graph, and forcing it to run here would be a wait. `Stats.seconds` then has the total only.
        """
        ...

    def seconds(self, start: Any, end: Any) -> float:
        """Return the seconds between two marks that are not None; may wait for the device."""
        ...


class TargetModel(Protocol):
    """A loaded target: opens sessions, knows its vocabulary and tokenizer.

    It may have a method `batch(*, rows, layer_ids, capacity) -> TargetBatch | None`: a session of several
    requests, or None where this very model cannot (such as one whose attention takes no mask). Requests
    are decoded one after another where the method is missing or gives None.
    """

    eos_ids: frozenset[int]
    tokenizer: Any  # None where the model has none

    @property
    def vocab_size(self) -> int:
        """Number of token ids that logits cover."""
        ...

    @property
    def max_positions(self) -> int | None:
        """Longest sequence the model can read; None: no limit."""
        ...

    def session(self, *, layer_ids: Sequence[int], capacity: int) -> "TargetSession":
        """Return an empty session that taps `layer_ids` and can hold `capacity` positions."""
        ...

    def check_trees(self) -> None:
        """Raise BackendUnavailable unless its sessions read draft trees."""
        ...


class DrafterModel(Protocol):
    """A loaded drafter: opens sessions beside a target.

    It may have a method `batch(target, *, rows, capacity) -> DrafterBatch | None`, as a target may, and one
    `windowed(window) -> DrafterModel` that reads the last positions of its context only.
    """

    layer_ids: tuple[int, ...]  # the target layers whose output it reads

    @property
    def block_size(self) -> int:
        """1 + K."""
        ...

    def session(self, target: Any, *, capacity: int) -> "DrafterSession":
        """Return an empty session."""
        ...


class TargetSession(Protocol):
    """The target and its cache, for one request."""

    length: int  # committed positions in the cache

    def prefill(self, tokens: Sequence[int]) -> Scores:
        """Read the prompt; logits (1, 1, V) of its last position, features of all positions."""
        ...

    def score(self, anchor: int, draft_tokens: Array) -> Scores:
        """Read [anchor, drafts]; logits (1, K + 1, V), features of the K + 1 positions."""
        ...

    def score_tree(self, anchor: int, tree: Tree) -> Scores:
        """Read the anchor and N nodes after it; logits and features of all N + 1. Nothing is committed."""
        ...

    def keep(self, path: Sequence[int]) -> Any:
        """Commit the anchor and these nodes of the last tree, in order; return their features."""
        ...

    def rewind(self, length: int) -> None:
        """Forget every position >= length."""
        ...


class DrafterSession(Protocol):
    """The drafter and its cache, for one request."""

    length: int  # committed context positions in the cache

    def propose(
        self, anchor: int, position: int, features: Any, rule: DraftRule, n_slots: int | None = None
    ) -> Draft:
        """Take in the features of newly scored positions, then propose K tokens after the anchor.

        `features` come from the last `TargetSession` call; their rows stand for the positions
        `length`, `length` + 1, ... and may run past `position` (rows of rejected drafts: shapes
        stay fixed and nothing waits for the host). Afterwards `length` is `position`, the
        anchor's own: context is strictly before the anchor (DL-5). `n_slots`: of the K drafts the first
        k >= 1 alone, as they are in the whole block (DL-13); the loop leaves it out where all are wanted.
        """
        ...

    def rewind(self, length: int) -> None:
        """Forget every context position >= length."""
        ...


class TargetBatch(Protocol):
    """The target and its cache, for several requests of uneven length: one a row.

    A pass runs over some rows beside each other. One among them without a request has length 0; it is fed
    token 0, and what comes of it is not read.
    """

    lengths: list[int]  # committed positions of each row

    def prefill(self, row: int, tokens: Sequence[int]) -> Scores:
        """Read the prompt of one row; logits (1, 1, V) of its last position, features (1, S, F) of all."""
        ...

    def score(self, anchors: Sequence[int], draft_tokens: Array, *, first: int = 0) -> Scores:
        """Read [anchor, drafts] of the rows from `first` on; logits (B, K + 1, V), features (B, K + 1, F)."""
        ...

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget every row's positions from `lengths[r]` on."""
        ...

    def clear(self, row: int) -> None:
        """Forget a row and what its memory holds: a NaN behind a mask would reach a sum."""
        ...


class DrafterBatch(Protocol):
    """The drafter and its cache, for several requests: one a row."""

    lengths: list[int]  # committed context positions of each row

    def prefill(self, row: int, features: Any) -> None:
        """Take in the features (1, S, F) of one row's prompt."""
        ...

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
        """Take in features of newly scored positions, then propose K tokens after the anchors.

        Anchors and positions are those of the rows from `first` on. `features` come from the last
        `TargetBatch.score`, None before the first one: those of the rows of the last proposal, and row r's
        stand for the positions `lengths[r]`, `lengths[r]` + 1, ...; what is past the anchor, or of a row
        taken since, means nothing. Afterwards the lengths of the rows are their positions (DL-5). `rule`
        sees all rows at once. `n_slots`: of the K drafts the first k alone, as they are in the whole block
        (DL-13); at 0 nothing is drafted, the features are taken in all the same.
        """
        ...

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget every row's context positions from `lengths[r]` on."""
        ...

    def clear(self, row: int) -> None:
        """Forget a row and what its memory holds."""
        ...


class BlockModel(Protocol):
    """A loaded block-diffusion language model: opens sessions, knows its vocabulary and family."""

    config: Any  # its `BlockModelConfig`
    eos_ids: frozenset[int]
    tokenizer: Any  # None where the model has none
    mask_id: int
    shifted: bool  # the state at i - 1 predicts token i; otherwise that at i, where a mask stands
    block_size: int  # the one it was trained for, or the largest of them

    @property
    def vocab_size(self) -> int:
        """Number of token ids that logits cover, the mask token among them."""
        ...

    @property
    def max_positions(self) -> int | None:
        """Longest sequence the model can read; None: no limit."""
        ...

    def session(self, *, rows: int, capacity: int) -> "BlockSession":
        """Return an empty session of some rows (requests) that can hold `capacity` positions each."""
        ...


class BlockSession(Protocol):
    """A block-diffusion model and its cache, for several requests of uneven length."""

    lengths: list[int]  # committed positions of each row

    def read(self, layouts: Sequence[Layout | None], drafts: Array | None = None) -> Any:
        """Run one forward pass over the slots of every row; return their hidden states.

        Keys and values are written after each row's committed positions, where the next pass overwrites
        them unless `commit` is called. A row without a layout takes no part. `drafts` is (rows, K)
        integer ids on the device, what `drafted(k)` stands for. The hidden states are the backend's
        own, for `logits` only. Nothing waits for the device.
        """
        ...

    def logits(self, hidden: Any, slots: Sequence[Sequence[int]]) -> Array:
        """Return the logits (rows, W, V) of some slots of the last pass; every row lists W slots."""
        ...

    def commit(self, counts: Sequence[int]) -> None:
        """Keep the keys and values of each row's first `counts[r]` slots of the last pass."""
        ...

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget every row's positions from `lengths[r]` on."""
        ...

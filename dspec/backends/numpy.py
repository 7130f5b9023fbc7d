"""Table language models on numpy: the whole loop without a framework or a network.

A table target knows the law of the next token given the last one and the position, exactly. It
stands in for a model wherever the law of what is emitted must be known.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import array_api_compat.numpy as xp
import numpy as np
from numpy.typing import NDArray

from dspec.backends.override import CORE
from dspec.backends.table_batch import TableDrafterBatch, TableTargetBatch
from dspec.core.tree import Tree
from dspec.core.types import Array, Draft, Scores
from dspec.errors import ShapeError, explain


class NumpyOps:
    """`ArrayOps` on numpy."""

    xp = xp

    def to_host(self, array: Array) -> list[Any]:
        """Return nested lists."""
        return array.tolist()

    def from_host(self, array: Any) -> Array:
        """Return the array itself."""
        return array

    def operation(self, name: str) -> Callable[..., Any]:
        """Return core's own function: this is the reference."""
        return CORE[name]

    def top(self, values: Array, count: int) -> tuple[Array, Array]:
        """Return the `count` largest of the last axis and their indices."""
        ids = np.argpartition(-values, count - 1, axis=-1)[..., :count]
        return np.take_along_axis(values, ids, axis=-1), ids

    def mark(self) -> float:
        """Return the time in seconds."""
        return perf_counter()

    def seconds(self, start: float, end: float) -> float:
        """Return the seconds between two marks."""
        return end - start


@dataclass(frozen=True)
class TableTarget:
    """A target whose law is a table: P(next | last token, position mod period).

    Args:
        table: (P, V, V) probabilities; table[i, a] is the law after token a at a position with
            position mod P == i.
        eos_ids: ids that end an output.

    Raises:
        ShapeError: the table is not (P, V, V), or a row is not a law.

    Example:
        >>> TableTarget(np.full((1, 2, 2), 0.5)).vocab_size
        2
    """

    table: NDArray[np.floating[Any]]
    eos_ids: frozenset[int] = frozenset()
    tokenizer: None = None

    def __post_init__(self) -> None:
        check_table(self.table, "TableTarget.table")

    @property
    def vocab_size(self) -> int:
        """V."""
        return int(self.table.shape[-1])

    @property
    def max_positions(self) -> None:
        """A table has no longest sequence."""
        return None

    def session(self, *, layer_ids: Sequence[int] = (), capacity: int = 0) -> "TableTargetSession":
        """Return an empty session; a table has no layers to tap and no cache to size."""
        return TableTargetSession(self.table)

    def check_trees(self) -> None:
        """A table reads every tree."""

    def batch(self, *, rows: int, layer_ids: Sequence[int] = (), capacity: int = 0) -> TableTargetBatch:
        """Return an empty session of several requests."""
        return TableTargetBatch(self.table, rows)


class TableTargetSession:
    """`TargetSession` over a table; its cache is the list of tokens read."""

    def __init__(self, table: NDArray[np.floating[Any]]) -> None:
        self._table = table
        self._tokens: list[int] = []
        self._nodes: list[int] = []  # tokens of the last tree, the anchor first

    @property
    def length(self) -> int:
        """Committed positions."""
        return len(self._tokens)

    def prefill(self, tokens: Sequence[int]) -> Scores:
        """Read the prompt; the law after its last token."""
        return self._read(tokens, last=1)

    def score(self, anchor: int, draft_tokens: Array) -> Scores:
        """Read anchor and drafts; the law after each."""
        return self._read([anchor, *draft_tokens[0].tolist()], last=draft_tokens.shape[1] + 1)

    def score_tree(self, anchor: int, tree: Tree) -> Scores:
        """Read the anchor and the nodes; the law after each."""
        self._nodes = [anchor, *tree.tokens]
        return self._laws(self._nodes, len(self._tokens) + np.array([0, *tree.depths]))

    def keep(self, path: Sequence[int]) -> Array:
        """Commit the anchor and these nodes; their tokens stand for features."""
        kept = [self._nodes[node] for node in (0, *path)]
        self._tokens.extend(kept)
        return np.asarray(kept)[None, :, None]

    def rewind(self, length: int) -> None:
        """Forget every position >= length."""
        del self._tokens[length:]

    def _read(self, tokens: Sequence[int], *, last: int) -> Scores:
        start = len(self._tokens)
        self._tokens.extend(tokens)
        scores = self._laws(tokens, np.arange(start, len(self._tokens)))
        return Scores(scores.logits[:, -last:], scores.features)

    def _laws(self, tokens: Sequence[int], positions: Array) -> Scores:
        with np.errstate(divide="ignore"):  # log 0 = -inf is what a table's zero means
            logits = np.log(self._table[positions % len(self._table), np.asarray(tokens)])
        return Scores(logits[None], np.asarray(tokens)[None, :, None])


@dataclass(frozen=True)
class TableDrafter:
    """A drafter whose law is a table, either slot by slot on its own or token after token.

    Args:
        table: (K, V, V) probabilities; table[k, a] is the law of slot k + 1 given token a: the
            anchor's, or (autoregressive) the one drafted before.
        autoregressive: whether slots see the drafted token before them.

    Raises:
        ShapeError: the table is not (K, V, V), or a row is not a law.

    Example:
        >>> TableDrafter(np.full((3, 2, 2), 0.5)).block_size
        4
    """

    table: NDArray[np.floating[Any]]
    autoregressive: bool = False
    layer_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_table(self.table, "TableDrafter.table")

    @property
    def block_size(self) -> int:
        """1 + K."""
        return len(self.table) + 1

    def session(self, target: TableTarget, *, capacity: int = 0) -> "TableDrafterSession":
        """Return an empty session."""
        return TableDrafterSession(self)

    def batch(self, target: TableTarget, *, rows: int, capacity: int = 0) -> TableDrafterBatch:
        """Return an empty session of several requests."""
        return TableDrafterBatch(self.table, rows, autoregressive=self.autoregressive)


class TableDrafterSession:
    """`DrafterSession` over a table."""

    def __init__(self, drafter: TableDrafter) -> None:
        self._drafter = drafter
        self.length = 0

    def propose(
        self, anchor: int, position: int, features: Any, rule: Any, n_slots: int | None = None
    ) -> Draft:
        """Return K drafts after the anchor, or the first of them."""
        self.length = position
        with np.errstate(divide="ignore"):
            logits = np.log(self._drafter.table[:n_slots])
        if not self._drafter.autoregressive:
            return rule(logits[None, :, anchor])
        drafts, token = [], anchor
        for slot in range(len(logits)):
            drafts.append(rule(logits[None, slot : slot + 1, token], slot))
            token = int(drafts[-1].tokens[0, 0])
        probs = None if drafts[0].probs is None else np.concatenate([d.probs for d in drafts], axis=1)
        return Draft(np.concatenate([d.tokens for d in drafts], axis=1), probs)

    def rewind(self, length: int) -> None:
        """Forget every position >= length."""
        self.length = length


def check_table(table: NDArray[np.floating[Any]], where: str) -> None:
    """Raise unless `table` is (N, V, V) and its rows are laws.

    Spec: NT-2, NT-4.

    Args:
        table: what to check.
        where: its name, for the message.

    Raises:
        ShapeError: it is not.

    Example:
        >>> check_table(np.full((1, 2, 2), 0.5), "table")
    """
    if table.ndim != 3 or table.shape[1] != table.shape[2]:
        raise ShapeError(explain(where, table.shape, "shape (N, V, V)", clause="NT-4"))
    if not ((table >= 0).all() and np.allclose(table.sum(-1), 1, atol=1e-6)):
        raise ShapeError(explain(where, "a row that is no law", "entries >= 0 summing to 1", clause="NT-2"))

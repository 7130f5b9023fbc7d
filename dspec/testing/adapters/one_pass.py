"""One verify pass of a sampler that draws for itself, as outcomes with a known law.

Drafts are drawn from one table, the sampler accepts, corrects and adds as it does, and what it left
open is completed from the target's table: K + 1 tokens, distributed as the target's chain.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from dspec.testing.models.tabular import checked_table

Sampler = Callable[[Any, Any, Any, Any, int], Sequence[Sequence[int]]]
"""(target_probs (B, K + 1, V), drafts (B, K), draft_probs (B, K, V), bonus (B,), seed) -> tokens of each
row: the accepted drafts and one more, in float32 and int64; `bonus` was drawn from the last target row."""
BATCH = 4096


def from_passes(
    sampler: Sampler, *, target: Any, drafter: Any, start: int, num_drafts: int
) -> Callable[[int, int], Iterator[tuple[int, ...]]]:
    """Return `generate(n, seed)` for `check_distribution`: n outcomes of num_drafts + 1 tokens.

    Args:
        sampler: runs one pass of a batch.
        target: (V, V) table.
        drafter: (V, V) table.
        start: token before the pass.
        num_drafts: K.

    Returns:
        The function. Its law is `chain_law(target, start, K + 1)`.

    Example:
        >>> def accepts_all(target, drafts, laws, bonus, seed):
        ...     return [(*row, last) for row, last in zip(drafts, bonus)]
        >>> swap = [[0, 1], [1, 0]]
        >>> generate = from_passes(accepts_all, target=swap, drafter=swap, start=0, num_drafts=2)
        >>> list(generate(2, 0))
        [(1, 0, 1), (1, 0, 1)]
    """
    wanted, offered = checked_table(target), checked_table(drafter)

    def generate(n: int, seed: int) -> Iterator[tuple[int, ...]]:
        rng = np.random.default_rng(seed)
        for first in range(0, n, BATCH):
            before = np.full((min(BATCH, n - first), num_drafts + 1), start)
            for slot in range(num_drafts):
                before[:, slot + 1] = draw(offered[before[:, slot]], rng)
            laws = wanted[before].astype(np.float32), offered[before[:, :-1]].astype(np.float32)
            bonus = draw(wanted[before[:, -1]], rng)
            for tokens in sampler(laws[0], before[:, 1:], laws[1], bonus, seed * 2**20 + first):
                yield _completed([int(token) for token in tokens], num_drafts + 1, wanted, rng)

    return generate


def draw(laws: Any, rng: np.random.Generator) -> Any:
    """Return (B,) one token of each (B, V) law."""
    edges = np.cumsum(laws, axis=-1)
    return (edges <= rng.random((len(laws), 1)) * edges[:, -1:]).sum(axis=-1)


def _completed(tokens: list[int], length: int, wanted: Any, rng: np.random.Generator) -> tuple[int, ...]:
    # What is no token, or nothing at all, is left as it is: no law allows it.
    while 0 < len(tokens) < length and 0 <= tokens[-1] < len(wanted):
        tokens.append(int(draw(wanted[tokens[-1:]], rng)[0]))
    return tuple(tokens)

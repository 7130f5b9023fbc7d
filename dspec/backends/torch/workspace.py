"""The chunk-sized arrays of the fused operations: allocated once, written over by every chunk of rows."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dspec.errors import ConfigError, explain

# Rows moved at once by `pack`: its copy is then a small part of a chunk.
PACKED = 16
# Numbers of one array that a CPU's own cache holds beside two more such arrays: 1 MB of float32. Row by row
# work on such groups took a law's objective from 1.23 to 1.18 times its three products (V=151,936, D=1,024).
CACHED = 2**18


def wide_of(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of statistics over products of `dtype`: float64 for float64, else float32."""
    return torch.promote_types(dtype, torch.float32)


def parts(rows: int, chunk: int, bounds: Sequence[int] | None) -> list[slice]:
    """Return the chunks that rows are cut into, none of them empty.

    Args:
        rows: R.
        chunk: rows a chunk, >= 1; not read where bounds are given.
        bounds: the end of each chunk, not decreasing; the last is R.

    Returns:
        Slices that cover 0..R in order.

    Raises:
        ConfigError: the bounds do not cover the rows in order, or a chunk has no rows.

    Example:
        >>> parts(5, 2, None), parts(5, 2, [3, 5])
        ([slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)], [slice(0, 3, None), slice(3, 5, None)])
    """
    if chunk < 1:
        raise ConfigError(explain("chunk", chunk, "at least 1 row"))
    if bounds is None:
        bounds = [*range(chunk, rows, chunk), rows]
    starts = [0, *bounds][:-1]
    if [0, *bounds][-1] != rows or any(a > b for a, b in zip(starts, bounds)):
        raise ConfigError(explain("bounds", list(bounds), f"ends of chunks in order, the last {rows}"))
    return [slice(start, end) for start, end in zip(starts, bounds) if start < end]


def groups(rows: int, head: Tensor) -> list[slice]:
    """Return the runs of rows that are worked on at a time between the products of a chunk.

    Args:
        rows: of the chunk.
        head: (V, D); elsewhere than on a CPU there is one run.
    """
    step = max(1, CACHED // len(head)) if head.device.type == "cpu" else max(1, rows)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


class Workspace:
    """Arrays of one chunk of rows by V: `wide` ones for statistics, one in the head's dtype for products.

    Args:
        rows: of the largest chunk.
        head: (V, D).
        wide: how many arrays of the wide dtype are wanted beside a softcap's.
        softcap: None: logits are not capped.
        slope: whether the slope of the cap is wanted, one wide array more.
    """

    def __init__(self, rows: int, head: Tensor, *, wide: int, softcap: float | None, slope: bool):
        self.head, self.softcap = head, softcap
        shape, dtype = (rows, head.shape[0]), wide_of(head.dtype)
        self._wide = [head.new_empty(shape, dtype=dtype) for _ in range(wide)]
        self._narrow = None if head.dtype == dtype else head.new_empty(shape)
        capped = softcap is not None and slope
        self._slope = head.new_empty(shape, dtype=dtype) if capped else None

    def views(self, rows: int) -> Iterator[Tensor]:
        """Return the wide arrays cut to a chunk's rows."""
        return (array[:rows] for array in self._wide)

    def logits(self, hidden: Tensor, out: Tensor, *, slope: bool) -> None:
        """Write the (rows, V) logits of (rows, D) states, capped and wide.

        Args:
            hidden: of any floating dtype; the product runs in the head's.
            out: one of `views`.
            slope: keep the cap's slope, for `capped_slope`.
        """
        narrow = out if self._narrow is None else self._narrow[: len(out)]
        torch.mm(hidden.to(self.head.dtype), self.head.T, out=narrow)
        if self._narrow is not None:
            out.copy_(narrow)
        if self.softcap is not None:
            out.div_(self.softcap).tanh_()
            if slope and self._slope is not None:
                torch.mul(out, out, out=self._slope[: len(out)]).neg_().add_(1)
            out.mul_(self.softcap)

    def capped_slope(self, weights: Tensor) -> None:
        """Turn derivatives by capped logits, in place, into those by the product."""
        if self._slope is not None:
            weights.mul_(self._slope[: len(weights)])

    def back(self, weights: Tensor, z: Tensor | None = None) -> Tensor:
        """Return (rows, D): weights / z times the head, in the head's dtype."""
        if self._narrow is None:
            # Dividing R x D numbers after the product is cheaper than R x V before it ...
            unit = torch.mm(weights, self.head)
            return unit if z is None else unit.div_(z[:, None])
        narrow = self._narrow[: len(weights)]
        # ... but a 16-bit product needs entries of at most 1, or float16 overflows.
        narrow.copy_(weights) if z is None else torch.div(weights, z[:, None], out=narrow)
        return torch.mm(narrow, self.head)

    def pack(self, weights: Tensor, rows: Tensor) -> Tensor:
        """Move some rows of `weights`, and of the slope, to their front; return that front.

        Args:
            weights: one of `views`.
            rows: (n,) indices, ascending.
        """
        for array in (weights,) if self._slope is None else (weights, self._slope):
            for start in range(0, len(rows), PACKED):
                some = rows[start : start + PACKED]
                # A row never moves down, so that none is written over before it was read.
                array[start : start + len(some)] = array[some]
        return weights[: len(rows)]


def softmax_statistics(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-probabilities, hits and row sums; `logits` become exp(logits - max).

    Args:
        logits: (rows, V), written over.
        labels: (rows,) int64.

    Returns:
        log_prob (rows,), hit (rows,) bool, z (rows,): the sums over the vocabulary of what is left.
    """
    top, best = logits.max(dim=1)  # the first of equal maxima (NU-5)
    gold = logits.gather(1, labels[:, None])[:, 0]
    z = logits.sub_(top[:, None]).exp_().sum(dim=1)
    # Never logsumexp minus gold: its error is that of the large number (1e-6 against 6e-7).
    return (gold - top) - z.log(), best == labels, z

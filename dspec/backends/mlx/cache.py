"""Preallocated keys and values: written in place, forgotten by a change of length."""

from collections.abc import Collection, Sequence

import mlx.core as mx

from dspec.backends.extent import Extent, check_capacity
from dspec.backends.mlx.replay import RecurrentLayer


class CacheLayer:
    """Keys and values of one layer in a buffer of fixed capacity, as mlx-lm's attention calls it.

    Sliding-window layers are stored in full as well: the mask hides what left the window, and a rewind
    needs it back.
    """

    def __init__(self, extent: Extent) -> None:
        self._extent = extent
        self.keys: mx.array | None = None
        self.values: mx.array | None = None
        self._moved: tuple[int, list[mx.array]] | None = None  # position, keys and values to be written there

    @property
    def offset(self) -> int:
        """Committed positions: where the next pass begins."""
        return self._extent.length

    @property
    def arrays(self) -> list[mx.array]:
        """The buffers, to evaluate them."""
        return [buffer for buffer in (self.keys, self.values) if buffer is not None]

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write new positions after the committed ones; return views of all up to them."""
        start, end = self._extent.length, self._extent.end(keys.shape[2])
        if self.keys is None or self.values is None:
            self.keys, self.values = self._allocate(keys), self._allocate(values)
        self._write_moved()
        # MLX writes into the buffer itself, as nobody else holds it once the last pass was evaluated.
        self.keys[:, :, start:end] = keys
        self.values[:, :, start:end] = values
        return self.keys[:, :, :end], self.values[:, :, :end]

    def take_out(self, rows: mx.array, to: int) -> list[mx.array]:
        """Return keys and values at some positions, which the next pass writes from `to` on, before its own.

        Not written at once: evaluated beside what takes the rows out, the write copies the whole buffer (8
        of 8 did), which somebody else is still to read; and left lazy, it would belong to one thread.
        """
        taken = [buffer[:, :, rows] for buffer in self.arrays]
        self._moved = to, taken
        return taken

    def make_mask(
        self, N: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | str | None:
        """Return which positions N new ones may see: an array, "causal" or, where they see all, None.

        Args:
            N: new positions.
            return_array: an array in place of "causal".
            window_size: positions that one may see, itself included; None: all before it.
        """
        end = self._extent.end(N)
        return make_mask(self._extent.length, end, window=window_size, as_array=return_array)

    def _write_moved(self) -> None:
        if self._moved is None:
            return
        (to, taken), self._moved = self._moved, None
        for buffer, rows in zip(self.arrays, taken, strict=True):
            buffer[:, :, to : to + rows.shape[2]] = rows

    def _allocate(self, like: mx.array) -> mx.array:
        """Heads, widths and dtype are those of the first keys and values."""
        rows, heads, _, width = like.shape
        return mx.zeros((rows, heads, self._extent.capacity, width), dtype=like.dtype)


def make_mask(start: int, end: int, *, window: int | None, as_array: bool = False) -> mx.array | str | None:
    """Return which of the positions 0..end - 1 those from `start` on may see.

    Args:
        start: first position that asks.
        end: one past the last.
        window: positions that one may see, itself included; None: all before it.
        as_array: an array in place of "causal".

    Returns:
        Booleans (end - start, end); "causal"; or None where one position sees them all.

    Example:
        >>> make_mask(1, 3, window=2).tolist()
        [[True, True, False], [False, True, True]]
    """
    if window is None or window >= end:
        if end - start == 1:
            return None
        if not as_array:
            return "causal"
    queries, keys = mx.arange(start, end)[:, None], mx.arange(end)[None]
    seen = keys <= queries
    return seen if window is None else seen & (keys > queries - window)


class KeyValueCache:
    """A target's cache: a forward pass writes after `length` and `advance` commits what it wrote.

    A pass that fails half way therefore leaves the cache as it was.

    Spec: DL-4, DL-8.

    Args:
        n_layers: decoder layers of the model.
        capacity: most positions held, >= 1.
        recurrent: 0-based layers that hold a state in place of keys and values; `rewind` leaves it, see
            `replay.Replay`.

    Raises:
        ConfigError: the capacity is below 1, or a pass runs past it.

    Example:
        >>> cache = KeyValueCache(1, capacity=4)
        >>> keys, values = cache.layers[0].update_and_fetch(mx.ones((1, 2, 3, 5)), mx.ones((1, 2, 3, 5)))
        >>> cache.advance(3)
        >>> cache.rewind(1)
        >>> keys.shape[2], cache.length
        (3, 1)
    """

    def __init__(self, n_layers: int, *, capacity: int, recurrent: Collection[int] = ()) -> None:
        self._extent = Extent(capacity)
        self.layers = [
            RecurrentLayer() if i in recurrent else CacheLayer(self._extent) for i in range(n_layers)
        ]
        self.recurrent = [layer for layer in self.layers if isinstance(layer, RecurrentLayer)]

    @property
    def length(self) -> int:
        """Committed positions."""
        return self._extent.length

    @property
    def arrays(self) -> list[mx.array]:
        """Every layer's buffers, to evaluate them."""
        return [buffer for layer in self.layers for buffer in layer.arrays]

    def advance(self, added: int) -> None:
        """Commit positions that a finished pass wrote."""
        self._extent.advance(added)

    def gather(self, path: Sequence[int]) -> None:
        """Move rows of the last pass to the places behind its first: row path[i] to i + 1.

        Only those that are elsewhere are moved: at most len(path) rows a layer, with the next pass.

        Args:
            path: row numbers, ascending; row 0 stays where it is.
        """
        stays = next((i for i, row in enumerate(path) if row != i + 1), len(path))
        if stays == len(path):
            return
        rows, to = self.length + mx.array(path[stays:]), self.length + 1 + stays
        mx.async_eval([layer.take_out(rows, to) for layer in self.layers if isinstance(layer, CacheLayer)])

    def rewind(self, length: int) -> None:
        """Forget every position >= length; nothing is copied."""
        self._extent.rewind(length)

    def reset(self) -> None:
        """Forget everything."""
        self.rewind(0)


class ContextCache:
    """A drafter's cache: keys and values of its context in every layer, written by position.

    Args:
        n_layers: layers of the drafter.
        n_heads: key and value heads.
        head_dim: width of a head.
        capacity: most positions held.
        dtype: of keys and values.

    Raises:
        ConfigError: the capacity is below 1.
    """

    def __init__(self, *, n_layers: int, n_heads: int, head_dim: int, capacity: int, dtype: mx.Dtype) -> None:
        self._shape, self._dtype = (1, n_heads, check_capacity(capacity), head_dim), dtype
        # One buffer a layer: a write into one array for all would make every layer wait for the last.
        self._buffers: list[tuple[mx.array, mx.array] | None] = [None] * n_layers

    def write(
        self, layer: int, start: int, keys: mx.array, values: mx.array, *, first: int = 0
    ) -> tuple[mx.array, mx.array]:
        """Write keys and values (1, heads, n, head_dim) at positions start..start + n - 1.

        Returns:
            Views of keys and values at positions first..start + n - 1.
        """
        end = start + keys.shape[2]
        # Made with the first write: left lazy by a thread, they could not be used in another.
        own_keys, own_values = self._buffers[layer] = self._buffers[layer] or (self._blank(), self._blank())
        own_keys[:, :, start:end] = keys
        own_values[:, :, start:end] = values
        return own_keys[:, :, first:end], own_values[:, :, first:end]

    def _blank(self) -> mx.array:
        return mx.zeros(self._shape, dtype=self._dtype)

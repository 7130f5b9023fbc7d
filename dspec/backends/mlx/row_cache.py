"""Keys and values of several rows of uneven length: buffers written in place, at each row's own positions."""

from dataclasses import dataclass

import mlx.core as mx

from dspec.backends.extent import check_capacity


@dataclass(frozen=True)
class Places:
    """Where a pass writes: one row from a position on, or some rows at positions of their own.

    Args:
        end: one past the last position that the pass meets.
        row: the one row; None: several.
        start: first position written in the one row.
        first: first of several rows.
        positions: (B, n) int32 positions written in several rows, or None.
        begin: first position that the pass sees.
    """

    end: int
    row: int | None = None
    start: int = 0
    first: int = 0
    positions: mx.array | None = None
    begin: int = 0


class RowStore:
    """Keys and values of one layer, of fixed capacity.

    Spec: DL-4, DL-12.

    Args:
        keys: of some pass: heads, width and dtype of the buffer are theirs.
        values: likewise.
        rows: B.
        capacity: most positions of a row, >= 1.

    Raises:
        ConfigError: the capacity is below 1.

    Example:
        >>> one = mx.ones((1, 2, 1, 4))
        >>> store = RowStore(one, one, rows=3, capacity=8)
        >>> keys, values = store.write(Places(end=6, row=2, start=5), one, one)
        >>> keys.shape, store.keys[2].sum().item()
        ((1, 2, 6, 4), 8.0)
    """

    def __init__(self, keys: mx.array, values: mx.array, *, rows: int, capacity: int) -> None:
        check_capacity(capacity)
        # Zeros, not what the memory held: a masked NaN would still reach a sum.
        self.keys = mx.zeros((rows, keys.shape[1], capacity, keys.shape[3]), dtype=keys.dtype)
        self.values = mx.zeros((rows, values.shape[1], capacity, values.shape[3]), dtype=values.dtype)
        self._rows = mx.arange(rows)[:, None]
        mx.async_eval(self.arrays, self._rows)  # left lazy by a thread, they could not be used in another

    @property
    def arrays(self) -> list[mx.array]:
        """The buffers, to evaluate them."""
        return [self.keys, self.values]

    def write(self, places: Places, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write keys and values (1 or B, H, n, d); return views of the positions that are seen."""
        # MLX writes into the buffer itself, as nobody else holds it once the last pass was evaluated.
        first = places.first if places.row is None else places.row
        part = slice(first, first + keys.shape[0])
        for buffer, new in ((self.keys, keys), (self.values, values)):
            if places.row is None:
                buffer[self._rows[part], :, places.positions] = new.swapaxes(1, 2)
            else:
                buffer[part, :, places.start : places.end] = new
        seen = slice(places.begin, places.end)
        return self.keys[part, :, seen], self.values[part, :, seen]

    def clear(self, row: int) -> None:
        """Write zeros over a row: what a failed request left there may be NaN."""
        for buffer in self.arrays:
            buffer[row] = 0
        mx.async_eval(self.arrays)


class RowLayer:
    """One layer's store, as mlx-lm's attention calls it; where to write is set before a pass."""

    def __init__(self, cache: "RowCache") -> None:
        self._cache = cache
        self.store: RowStore | None = None

    @property
    def offset(self) -> int | mx.array:
        """Where the pass begins: a number for one row, (B,) for all."""
        places = self._cache.places
        return places.start if places.positions is None else places.positions[:, 0]

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write the pass's positions; return views of all up to its end."""
        if self.store is None:
            self.store = RowStore(keys, values, rows=self._cache.rows, capacity=self._cache.capacity)
        return self.store.write(self._cache.places, keys, values)


class RowCache:
    """A target's cache for several rows; who holds it knows the lengths.

    Spec: DL-4, DL-12.

    Args:
        n_layers: decoder layers of the model.
        rows: B.
        capacity: most positions of a row, >= 1.

    Raises:
        ConfigError: the capacity is below 1.
    """

    def __init__(self, n_layers: int, *, rows: int, capacity: int) -> None:
        self.rows, self.capacity = rows, check_capacity(capacity)
        self.places = Places(end=0)
        self.layers = [RowLayer(self) for _ in range(n_layers)]

    @property
    def length(self) -> int:
        """First position that a pass over one row writes."""
        return self.places.start

    @property
    def arrays(self) -> list[mx.array]:
        """Every layer's buffers, to evaluate them."""
        return [buffer for layer in self.layers if layer.store is not None for buffer in layer.store.arrays]

    def clear(self, row: int) -> None:
        """Write zeros over a row in every layer."""
        for layer in self.layers:
            if layer.store is not None:
                layer.store.clear(row)

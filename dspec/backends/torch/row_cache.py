"""Keys and values of several rows of uneven length: buffers written in place, at each row's own positions."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from dspec.backends.extent import check_capacity


@dataclass(frozen=True)
class Places:
    """Where a pass writes: one row from a position on, or some rows at positions of their own.

    Args:
        end: one past the last position that the pass meets.
        row: the one row; None: several.
        start: first position written in the one row.
        first: first of several rows.
        positions: (B, n) int64 positions written in several rows, or None.
        begin: first position that the pass sees.
    """

    end: int
    row: int | None = None
    start: int = 0
    first: int = 0
    positions: Tensor | None = None
    begin: int = 0


class RowStore:
    """Keys and values of one layer, of fixed capacity.

    Spec: DL-4, DL-12.

    Args:
        keys: of some pass: heads, width, dtype and device of the buffer are theirs.
        values: likewise.
        rows: B.
        capacity: most positions of a row, >= 1.

    Raises:
        ConfigError: the capacity is below 1.

    Example:
        >>> one = torch.ones(1, 2, 1, 4)
        >>> store = RowStore(one, one, rows=3, capacity=8)
        >>> keys, values = store.write(Places(end=6, row=2, start=5), one, one)
        >>> tuple(keys.shape), float(store.keys[2].sum())
        ((1, 2, 6, 4), 8.0)
    """

    def __init__(self, keys: Tensor, values: Tensor, *, rows: int, capacity: int) -> None:
        check_capacity(capacity)
        # Zeros, not what the memory held: a masked NaN would still reach a sum.
        self.keys = keys.new_zeros(rows, keys.shape[1], capacity, keys.shape[3])
        self.values = values.new_zeros(rows, values.shape[1], capacity, values.shape[3])
        self._rows = torch.arange(rows, device=keys.device)[:, None]

    def write(self, places: Places, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write keys and values (1 or B, H, n, d); return views of the positions that are seen."""
        first = places.first if places.row is None else places.row
        own_keys, own_values = (buffer[first : first + len(keys)] for buffer in (self.keys, self.values))
        for own, new in ((own_keys, keys), (own_values, values)):
            if places.row is None:
                own[self._rows[: len(new)], :, places.positions] = new.transpose(1, 2)
            else:
                own[:, :, places.start : places.end] = new
        seen = slice(places.begin, places.end)
        return own_keys[:, :, seen], own_values[:, :, seen]

    def clear(self, row: int) -> None:
        """Write zeros over a row: what a failed request left there may be NaN."""
        self.keys[row].zero_()
        self.values[row].zero_()


class RowLayer(CacheLayerMixin):
    """One layer's store, as transformers' attention calls it; where to write is set before a pass."""

    is_sliding = False

    def __init__(self, cache: "RowCache") -> None:
        super().__init__()
        self._cache = cache
        self.store: RowStore | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the buffers."""
        self.store = RowStore(key_states, value_states, rows=self._cache.rows, capacity=self._cache.capacity)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the pass's positions; return views of all up to its end."""
        if self.store is None:
            self.lazy_initialization(key_states, value_states)
        assert self.store is not None
        return self.store.write(self._cache.places, key_states, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many keys the queries of one row meet, and the position of the first: always 0."""
        return self._cache.places.start + query_length, 0

    def get_seq_length(self) -> int:
        """Return the committed length of the one row that a pass reads."""
        return self._cache.places.start

    def get_max_length(self) -> int:
        """Return the capacity."""
        return self._cache.capacity


class RowCache(Cache):
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
        super().__init__(layers=[RowLayer(self) for _ in range(n_layers)])

    def clear(self, row: int) -> None:
        """Write zeros over a row in every layer."""
        for layer in self.layers:
            if layer.store is not None:
                layer.store.clear(row)

"""Preallocated keys and values: written in place, forgotten by a change of length."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from dspec.backends.extent import Extent, check_capacity
from dspec.errors import BackendUnavailable, explain

# Layers whose whole state is the keys and values of past positions: forgetting is a change of length.
REWINDABLE = ("full_attention", "sliding_attention")


class CacheLayer(CacheLayerMixin):
    """Keys and values of one layer in a buffer of fixed capacity.

    Sliding-window layers are stored in full as well: transformers' mask hides what left the window,
    and a rewind needs it back.
    """

    is_sliding = False

    def __init__(self, extent: Extent) -> None:
        super().__init__()
        self._extent = extent

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the buffers; heads, widths, dtype and device are those of the first keys and values."""
        rows, capacity = key_states.shape[0], self._extent.capacity
        self.keys = key_states.new_empty(rows, key_states.shape[1], capacity, key_states.shape[3])
        self.values = value_states.new_empty(rows, value_states.shape[1], capacity, value_states.shape[3])
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write new positions after the committed ones; return views of all up to them."""
        end = self._extent.end(key_states.shape[2])
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys[:, :, self._extent.length : end] = key_states
        self.values[:, :, self._extent.length : end] = value_states
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many keys the queries meet, and the position of the first: always 0."""
        return self._extent.length + query_length, 0

    def get_seq_length(self) -> int:
        """Return the committed length."""
        return self._extent.length

    def get_max_length(self) -> int:
        """Return the capacity."""
        return self._extent.capacity


class KeyValueCache(Cache):
    """A target's cache: a forward pass writes after `length` and `advance` commits what it wrote.

    A pass that fails half way therefore leaves the cache as it was.

    Spec: DL-4, DL-8.

    Args:
        n_layers: decoder layers of the model.
        capacity: most positions held, >= 1.

    Raises:
        ConfigError: the capacity is below 1, or a pass runs past it.

    Example:
        >>> cache = KeyValueCache(1, capacity=4)
        >>> keys, values = cache.update(torch.ones(1, 2, 3, 5), torch.ones(1, 2, 3, 5), 0)
        >>> cache.advance(3)
        >>> cache.rewind(1)
        >>> keys.shape[2], cache.length
        (3, 1)
    """

    def __init__(self, n_layers: int, *, capacity: int) -> None:
        self._extent = Extent(capacity)
        super().__init__(layers=[CacheLayer(self._extent) for _ in range(n_layers)])

    @property
    def length(self) -> int:
        """Committed positions."""
        return self._extent.length

    def advance(self, added: int) -> None:
        """Commit positions that a finished pass wrote."""
        self._extent.advance(added)

    def gather(self, path: Sequence[int], rows: Tensor) -> None:
        """Move rows of the last pass to the places behind its first: row path[i] to i + 1.

        Only those that are elsewhere are moved: at most len(path) rows a layer.

        Args:
            path: row numbers, ascending; row 0 stays where it is.
            rows: the same on the device.
        """
        stays = next((i for i, row in enumerate(path) if row != i + 1), len(path))
        start, end = self.length + 1 + stays, self.length + 1 + len(path)
        if start == end:
            return
        for layer in self.layers:
            # Taken out before they are written: a place may be the old one of a later row.
            layer.keys[:, :, start:end] = layer.keys[:, :, self.length + rows[stays:]]
            layer.values[:, :, start:end] = layer.values[:, :, self.length + rows[stays:]]

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
        device: where they live.

    Raises:
        ConfigError: the capacity is below 1.
    """

    def __init__(
        self,
        *,
        n_layers: int,
        n_heads: int,
        head_dim: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (n_layers, 1, n_heads, check_capacity(capacity), head_dim)
        self._keys = torch.empty(shape, dtype=dtype, device=device)
        self._values = torch.empty(shape, dtype=dtype, device=device)

    def write(
        self, layer: int, start: int, keys: Tensor, values: Tensor, *, first: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Write keys and values (1, heads, n, head_dim) at positions start..start + n - 1.

        Returns:
            Views of keys and values at positions first..start + n - 1.
        """
        end = start + keys.shape[2]
        self._keys[layer, :, :, start:end] = keys
        self._values[layer, :, :, start:end] = values
        return self._keys[layer, :, :, first:end], self._values[layer, :, :, first:end]


def refuse_unless_rewindable(model: Any) -> None:
    """Raise unless every layer's state is keys and values of past positions.

    A recurrent state cannot forget one token; such a cache is refused before any token is read.

    Spec: DL-8.

    Args:
        model: a transformers model.

    Raises:
        BackendUnavailable: names what the model holds instead.
    """
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ()) - set(REWINDABLE)
    found = ""
    if getattr(model.config, "is_encoder_decoder", False):
        found = "an encoder and a decoder"
    elif kinds:
        found = "layers of kind " + ", ".join(sorted(map(str, kinds)))
    elif getattr(config, "num_kv_shared_layers", 0) or getattr(config, "kv_sharing_modes", None):
        found = "layers that share keys and values"
    elif getattr(model, "_is_stateful", False):
        found = "a recurrent state"
    if found:
        needed = "only attention layers with keys and values of their own (" + ", ".join(REWINDABLE) + ")"
        remedy = "Its cache cannot forget rejected tokens; such targets are not supported."
        raise BackendUnavailable(explain(type(model).__name__, found, needed, remedy=remedy, clause="DL-8"))

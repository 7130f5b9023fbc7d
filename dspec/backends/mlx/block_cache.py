"""Keys and values of several requests of uneven length, written in place."""

import mlx.core as mx

from dspec.backends.block_pass import Pass
from dspec.backends.extent import check_capacity


class BlockCache:
    """A buffer of fixed capacity for every layer and row; who holds it knows the lengths.

    Spec: SS-5, SS-22.

    Args:
        n_layers: layers of the model.
        rows: requests.
        n_heads: key and value heads.
        head_dim: width of a head.
        capacity: most positions of a row.
        dtype: of keys and values.

    Raises:
        ConfigError: the capacity is below 1.
    """

    def __init__(
        self, *, n_layers: int, rows: int, n_heads: int, head_dim: int, capacity: int, dtype: mx.Dtype
    ) -> None:
        # Zeros: a masked NaN would still reach a sum. The last position of several rows takes what padding
        # writes. One buffer a layer: a write into one for all would make every layer wait for the last.
        shape = (rows, n_heads, check_capacity(capacity) + (rows > 1), head_dim)
        self._keys = [mx.zeros(shape, dtype=dtype) for _ in range(n_layers)]
        self._values = [mx.zeros(shape, dtype=dtype) for _ in range(n_layers)]
        self._rows = mx.arange(rows)[:, None]
        mx.async_eval(self.arrays, self._rows)  # left lazy by a thread, they could not be used in another

    @property
    def arrays(self) -> list[mx.array]:
        """Every layer's buffers, to evaluate them."""
        return [*self._keys, *self._values]

    def write(
        self, layer: int, plan: Pass, places: mx.array, keys: mx.array, values: mx.array
    ) -> tuple[mx.array, mx.array]:
        """Write the keys and values (R, H, P, d) of a pass after each row's own positions.

        Args:
            layer: of the model.
            plan: of the pass.
            places: (R, P) positions to write at; read where the rows' lengths differ.
            keys: of the slots.
            values: of the slots.

        Returns:
            Views (R, H, plan.end, d) of keys and values.
        """
        # MLX writes into the buffer itself, as nobody else holds it once the last pass was evaluated.
        own_keys, own_values = self._keys[layer], self._values[layer]
        for buffer, new in ((own_keys, keys), (own_values, values)):
            if plan.start is None:
                buffer[self._rows, :, places] = new.swapaxes(1, 2)
            else:
                buffer[:, :, plan.start : plan.start + plan.width] = new
        return own_keys[:, :, : plan.end], own_values[:, :, : plan.end]

"""Keys and values of several requests of uneven length, written in place."""

import torch
from torch import Tensor

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
        device: where they live.

    Raises:
        ConfigError: the capacity is below 1.
    """

    def __init__(
        self,
        *,
        n_layers: int,
        rows: int,
        n_heads: int,
        head_dim: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        # Zeros, not what the memory held: a masked NaN would still reach a sum. The last position of
        # several rows takes what padding writes.
        shape = (n_layers, rows, n_heads, check_capacity(capacity) + (rows > 1), head_dim)
        self._keys = torch.zeros(shape, dtype=dtype, device=device)
        self._values = torch.zeros(shape, dtype=dtype, device=device)
        self._rows = torch.arange(rows, device=device)[:, None]

    def write(
        self, layer: int, plan: Pass, places: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
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
        for buffer, new in ((self._keys[layer], keys), (self._values[layer], values)):
            if plan.start is None:
                buffer[self._rows, :, places] = new.transpose(1, 2)
            else:
                buffer[:, :, plan.start : plan.start + plan.width] = new
        return self._keys[layer, :, :, : plan.end], self._values[layer, :, :, : plan.end]

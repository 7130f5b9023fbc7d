"""A target's unembedding on MLX: one matrix, dense or quantised."""

import mlx.core as mx
import mlx.nn as nn

from dspec.errors import BackendUnavailable, explain

KINDS = (nn.Linear, nn.Embedding, nn.QuantizedLinear, nn.QuantizedEmbedding)


class Head:
    """The matrix W (V, D) that turns hidden states into logits; a quantised one is never unpacked whole.

    Args:
        module: linear layer without a bias, or the embedding of a model that ties the two.

    Raises:
        BackendUnavailable: another module, or one with a bias.

    Example:
        >>> head = Head(nn.Linear(4, 6, bias=False))
        >>> head.shape, head.quantised, head.logits(mx.ones((1, 4))).shape
        ((6, 4), False, (1, 6))
    """

    def __init__(self, module: nn.Module) -> None:
        if not isinstance(module, KINDS) or "bias" in module:
            found = f"a {type(module).__name__}" + (" with a bias" if "bias" in module else "")
            raise BackendUnavailable(explain("head", found, "a head that is one matrix", clause="BD-6"))
        self._module = module
        self.quantised = isinstance(module, (nn.QuantizedLinear, nn.QuantizedEmbedding))

    @property
    def dtype(self) -> mx.Dtype:
        """Of the products: the weight's, or of a quantised one its scales'."""
        return (self._module.scales if self.quantised else self._module.weight).dtype

    @property
    def shape(self) -> tuple[int, int]:
        """(V, D)."""
        rows, columns = self._module.weight.shape
        return rows, columns * 32 // self._module.bits if self.quantised else columns

    @property
    def weight(self) -> mx.array:
        """(V, D) matrix; of a quantised head it is unpacked anew on each call."""
        if not self.quantised:
            return self._module.weight
        return mx.dequantize(*self._packed(), **self._layout())

    def logits(self, hidden: mx.array) -> mx.array:
        """Return hidden @ W.T: (..., V) of (..., D), in the head's dtype."""
        hidden = hidden.astype(self.dtype)
        if not self.quantised:
            return hidden @ self._module.weight.T
        return mx.quantized_matmul(hidden, *self._packed(), transpose=True, **self._layout())

    def back(self, weights: mx.array) -> mx.array:
        """Return weights @ W: (R, D) of (R, V), in the head's dtype."""
        weights = weights.astype(self.dtype)
        if not self.quantised:
            return weights @ self._module.weight
        return mx.quantized_matmul(weights, *self._packed(), transpose=False, **self._layout())

    def _packed(self) -> tuple[mx.array, mx.array, mx.array | None]:
        return self._module.weight, self._module.scales, self._module.get("biases")

    def _layout(self) -> dict[str, object]:
        module = self._module
        return {"group_size": module.group_size, "bits": module.bits, "mode": module.mode}

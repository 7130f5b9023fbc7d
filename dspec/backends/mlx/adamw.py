"""AdamW on MLX, number for number what torch.optim.AdamW does.

MLX's own takes the bias corrections in float32, where 1 - 0.999 is 5e-5 off, and keeps its state under
other names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from dspec.backends.learner import COUNT

FIRST, SECOND = "exp_avg", "exp_avg_sq"


@dataclass
class AdamW:
    """Moments by name of the weight, and the step that they make of gradients.

    Args:
        betas: decay of the two moments.
        weight_decay: decoupled: share of the weight times the rate, lost a step.
        eps: added to the root of the corrected second moment.
        state: name -> the moments `exp_avg` and `exp_avg_sq`, of the weight's shape, and `step`, how often
            it was updated; a weight that is not there has not been.

    Example:
        >>> moved = AdamW((0.9, 0.999), 0.0).apply({"w": mx.ones(1)}, {"w": mx.ones(1)}, rate=0.5)
        >>> round(moved["w"].item(), 6)
        0.5

    Source: Loshchilov and Hutter (arXiv 1711.05101), algorithm 2, with the schedule in `rate`.
    """

    betas: tuple[float, float]
    weight_decay: float
    eps: float = 1e-8
    state: dict[str, dict[str, Any]] = field(default_factory=dict)

    def moments(self, name: str, weight: mx.array) -> dict[str, Any]:
        """Return a weight's moments: zeros before its first step."""
        blank = {COUNT: 0, FIRST: mx.zeros_like(weight), SECOND: mx.zeros_like(weight)}
        return self.state.get(name, blank)

    def apply(
        self, weights: Mapping[str, mx.array], gradients: Mapping[str, mx.array], *, rate: float
    ) -> dict[str, mx.array]:
        """Return the weights after one step, and move the moments; nothing is evaluated."""
        return {name: self._move(name, weight, gradients[name], rate) for name, weight in weights.items()}

    def _move(self, name: str, weight: mx.array, gradient: mx.array, rate: float) -> mx.array:
        first, second = self.betas
        old = self.moments(name, weight)
        count = old[COUNT] + 1
        mean = old[FIRST] + (1 - first) * (gradient - old[FIRST])
        square = second * old[SECOND] + (1 - second) * gradient * gradient
        self.state[name] = {COUNT: count, FIRST: mean, SECOND: square}
        # The corrections in Python's double precision, as torch takes them.
        root = mx.sqrt(square) / (1 - second**count) ** 0.5 + self.eps
        return weight * (1 - rate * self.weight_decay) - rate / (1 - first**count) * (mean / root)


def clip(gradients: Mapping[str, mx.array], limit: float) -> tuple[dict[str, mx.array], mx.array]:
    """Return gradients of a norm of at most about `limit`, and the norm before.

    As torch's clip_grad_norm_: the norm is that of all gradients together, and 1e-6 is added to it before
    dividing.

    Example:
        >>> clipped, norm = clip({"w": mx.array([3.0, 4.0])}, 1.0)
        >>> norm.item(), round(clipped["w"][0].item(), 4)
        (5.0, 0.6)
    """
    # Row by row first: on a CPU MLX adds one by one, and a layer's millions of squares lose digits.
    squares = [(gradient * gradient).sum(axis=-1).sum() for gradient in gradients.values()]
    norm = mx.sqrt(mx.stack(squares).sum())
    scale = mx.minimum(limit / (norm + 1e-6), 1.0)
    return {name: gradient * scale for name, gradient in gradients.items()}, norm

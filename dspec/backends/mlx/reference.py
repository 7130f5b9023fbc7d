"""The target's own greedy decoding: mlx-lm's loop and cache, for comparison."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.generate import generate_step

NAME = "mlx-lm generate_step"


def own_greedy(target: Any, ids: Sequence[int], *, max_new_tokens: int) -> tuple[int, ...]:
    """Return what mlx-lm's own `generate_step` emits without a sampler: another loop, another cache.

    Spec: DL-7.

    Args:
        target: an opened target.
        ids: of the prompt, at least one.
        max_new_tokens: most tokens, >= 1.

    Returns:
        The new token ids; an end token is kept.
    """
    tokens: list[int] = []
    steps = generate_step(mx.array(list(ids)), target.model, max_tokens=max_new_tokens)
    for token, _ in steps:
        tokens.append(int(token))
        if tokens[-1] in target.eos_ids:
            break
    steps.close()
    return tuple(tokens)

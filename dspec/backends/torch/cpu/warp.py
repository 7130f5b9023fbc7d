"""Laws from logits: torch's softmax where nothing is filtered."""

from typing import Any

import array_api_compat.torch as namespace
import torch
from torch import Tensor

from dspec.core.numerics import widen
from dspec.core.types import Sampling
from dspec.core.warp import warp


def fused_warp(logits: Tensor, sampling: Sampling, *, xp: Any = None) -> Tensor:
    """Return `dspec.core.warp.warp`; without top-k, top-p and min-p by one softmax, which makes no copies.

    Spec: RS-13, NU-2, NU-5.

    Args:
        logits: (..., V) floating, nats; -inf allowed.
        sampling: the settings.
        xp: torch's namespace; here because every override has its operation's signature.

    Returns:
        (..., V) float32 or float64; rows are non-negative and sum to 1.

    Example:
        >>> fused_warp(torch.tensor([0.0, 0.0]), Sampling(temperature=0.5)).tolist()
        [0.5, 0.5]
    """
    if sampling.greedy or sampling.truncates:
        return warp(logits, sampling, xp=namespace)
    logits = widen(logits, xp=namespace)
    return torch.softmax(logits if sampling.temperature == 1 else logits / sampling.temperature, dim=-1)

"""Log-probabilities of the tokens that a verdict emits: only their rows of logits are read."""

from typing import Any

import array_api_compat.torch as namespace
import torch
from torch import Tensor

from dspec.core.log_probs import log_probs
from dspec.core.numerics import widen
from dspec.core.types import Sampling


def log_probs_of_emitted(logits: Tensor, tokens: Tensor, sampling: Sampling, *, xp: Any = None) -> Tensor:
    """Return `dspec.core.log_probs.log_probs`; rows whose token is -1 are not read.

    How many rows these are is asked of the host, so this is for tensors on a CPU.

    Spec: RS-19, NU-2, NU-5.

    Args:
        logits: (..., V) floating, nats; -inf allowed.
        tokens: (...) integer ids; -1: the row is asked nothing.
        sampling: the settings.
        xp: torch's namespace; here because every override has its operation's signature.

    Returns:
        (...) float32 or float64, nats; 0 where the token is -1.

    Example:
        >>> logits, tokens = torch.zeros(1, 2, 4), torch.tensor([[3, -1]])
        >>> log_probs_of_emitted(logits, tokens, Sampling(temperature=1.0)).exp().tolist()
        [[0.25, 1.0]]
    """
    emitted = tokens >= 0
    rows, ids = widen(logits[emitted], xp=namespace), tokens[emitted].long()
    if sampling.greedy or sampling.truncates:
        told = log_probs(rows, ids, sampling, xp=namespace)
    else:
        scaled = rows if sampling.temperature == 1 else rows / sampling.temperature
        told = scaled.gather(1, ids[:, None])[:, 0] - scaled.logsumexp(dim=-1)
    return torch.zeros(tokens.shape, dtype=rows.dtype).masked_scatter_(emitted, told)

"""Log-probabilities of tokens under the target's law: raw, or as the request's settings warp it."""

from typing import Any

from dspec.core.numerics import gather, widen
from dspec.core.types import Array, Sampling
from dspec.core.warp import weigh
from dspec.errors import ConfigError, explain

RAW, WARPED = "raw", "warped"


def reported_law(name: str | None, sampling: Sampling) -> Sampling | None:
    """Return the settings of the law whose log-probabilities are reported; None: nothing is.

    Spec: RS-19.

    Args:
        name: "raw": temperature 1, nothing cut; "warped": those of the request; None: nothing.
        sampling: settings of the request.

    Raises:
        ConfigError: another name.

    Example:
        >>> reported_law("raw", Sampling(temperature=0.5, top_k=3))
        Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
    """
    if name is None:
        return None
    laws = {RAW: Sampling(temperature=1.0), WARPED: sampling}
    if isinstance(name, str) and name in laws:
        return laws[name]
    needed = "'raw' (log-softmax of the logits), 'warped' (under the request's settings) or None"
    raise ConfigError(explain("log_probs", repr(name), needed, clause="RS-19"))


def log_probs(logits: Array, tokens: Array, sampling: Sampling, *, xp: Any) -> Array:
    """Return the log-probability of one token a row, under the law of `warp`.

    By the logarithm of the law's mass, not of the law: an unlikely token's probability may be 0 in float32
    where its log-probability is -200.

    Spec: RS-19, NU-2, NU-5.

    Args:
        logits: (..., V) floating, nats; -inf allowed.
        tokens: (...) integer ids; -1: the row is asked nothing.
        sampling: the settings; greedy: the law is the argmax, whose log-probability is 0.
        xp: array namespace of both.

    Returns:
        (...) float32 or float64, nats, <= 0 up to rounding; -inf for what is cut, 0 where the token is -1.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> logits = np.log([[0.5, 0.3, 0.2]] * 2)
        >>> log_probs(logits, np.array([1, -1]), Sampling(temperature=1.0, top_k=2), xp=xp).round(4).tolist()
        [-0.9808, 0.0]
    """
    logits = widen(logits, xp=xp)
    ids = xp.where(tokens < 0, xp.zeros_like(tokens), tokens)
    nothing = xp.zeros_like(logits[..., 0])
    cut = xp.full_like(nothing, -float("inf"))
    if sampling.greedy:
        found = xp.where(xp.argmax(logits, axis=-1) == ids, nothing, cut)
    else:
        shifted, weights = weigh(logits, sampling, xp=xp)
        found = gather(shifted, ids, xp=xp) - xp.log(xp.sum(weights, axis=-1))
        if sampling.truncates:
            found = xp.where(gather(weights, ids, xp=xp) > 0, found, cut)
    return xp.where(tokens < 0, nothing, found)

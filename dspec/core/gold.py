"""What an objective sees of the drafter: the log-probability of each gold token, and whether it hit.

`gold_log_probs` is the named operation that backends override: this reference keeps R x V logits.
"""

from typing import Any

from dspec.core.numerics import gather, widen
from dspec.core.types import Array
from dspec.errors import ShapeError, explain


def gold_log_probs(
    hidden: Array, head: Array, labels: Array, *, softcap: float | None = None, xp: Any
) -> tuple[Array, Array]:
    """Log-probability of each row's gold token, and whether the argmax is that token.

    The logits are the model's own (its dtype); every statistic of them is at least float32.

    Spec: OB-1, OB-10, NU-2, NU-5.

    Args:
        hidden: (R, D) floating, of the head's dtype or that widened to float32; the drafter's output
            after its final norm.
        head: (V, D); the target's unembedding. The product runs in its dtype.
        labels: (R,) integer in [0, V).
        softcap: c > 0 replaces a logit l by c * tanh(l / c) (Gemma); None leaves it.
        xp: their array namespace.

    Returns:
        log_prob (R,), nats, at least float32; hit (R,) bool, ties go to the lowest index.

    Raises:
        ShapeError: the arrays do not fit each other.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> log_prob, hit = gold_log_probs(np.eye(2), np.eye(2), np.array([0, 0]), xp=xp)
        >>> log_prob.round(3).tolist(), hit.tolist()
        ([-0.313, -1.313], [True, False])
    """
    check_gold(hidden, head, labels, xp=xp)
    narrow = hidden if hidden.dtype == head.dtype else xp.astype(hidden, head.dtype)
    logits = widen(xp.matmul(narrow, xp.matrix_transpose(head)), xp=xp)
    if softcap is not None:
        logits = softcap * xp.tanh(logits / softcap)
    top = xp.max(logits, axis=-1)
    # Label minus maximum first: 6e-7 from float64 at V = 152k, where log_softmax is off by 1e-5.
    gold = gather(logits, labels, xp=xp) - top
    log_prob = gold - xp.log(xp.sum(xp.exp(logits - top[:, None]), axis=-1))
    return log_prob, xp.argmax(logits, axis=-1) == labels


def check_gold(hidden: Array, head: Array, labels: Array, *, xp: Any) -> None:
    """Check what every `gold_log_probs` takes; here so that overrides refuse alike.

    Args:
        hidden: see `gold_log_probs`.
        head: likewise.
        labels: likewise.
        xp: their array namespace.

    Raises:
        ShapeError: the three arrays do not fit each other.
    """
    shapes = tuple(hidden.shape), tuple(head.shape), tuple(labels.shape)
    fits = [len(shape) for shape in shapes] == [2, 2, 1]
    if not (fits and shapes[0][1] == shapes[1][1] and shapes[0][0] == shapes[2][0]):
        got = ", ".join(str(shape) for shape in shapes)
        raise ShapeError(explain("hidden, head, labels", got, "(R, D), (V, D), (R,)", clause="OB-1"))
    # Wide hidden states over a narrow head keep the gradient wide: only the product is narrow.
    if hidden.dtype not in (head.dtype, widen(head[:0, :], xp=xp).dtype):
        got = f"{hidden.dtype} and {head.dtype}"
        raise ShapeError(explain("hidden, head", got, "one dtype", remedy="cast hidden", clause="NU-2"))
    if not xp.isdtype(labels.dtype, "integral"):
        raise ShapeError(explain("labels", labels.dtype, "integers", clause="OB-1"))

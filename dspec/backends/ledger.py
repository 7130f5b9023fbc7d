"""The ledger of one request: log-probabilities of what its passes emit, from the judge to the chunks."""

from collections.abc import Sequence
from typing import Any

from dspec.backends.protocol import ArrayOps
from dspec.core.numerics import widen
from dspec.core.types import Array, Sampling
from dspec.errors import SpecViolation, explain


class Ledger:
    """Holds the log-probabilities of a request's last pass.

    The judge writes them, and what makes a chunk of the pass reads as many as it has tokens, before the
    next pass. So the loops carry tokens alone: they need not know what is reported about them.

    Spec: RS-19, DL-6.

    Args:
        law: settings of the law that is reported.

    Example:
        >>> ledger = Ledger(Sampling(temperature=1.0))
        >>> ledger.write([-0.5, -0.25])
        >>> ledger.read(1)
        (-0.5,)
    """

    def __init__(self, law: Sampling) -> None:
        self.law = law
        self._last: tuple[float, ...] = ()

    def write(self, log_probs: Sequence[float]) -> None:
        """Keep those of a pass, uncut, in the place of the last one's."""
        self._last = tuple(log_probs)

    def read(self, count: int) -> tuple[float, ...]:
        """Return those of the first tokens of the last pass, once.

        Raises:
            SpecViolation: there are fewer: the pass's judge wrote none, and an older pass's are not its.
        """
        found, self._last = self._last, ()
        if len(found) < count:
            needed = f"{count}, as many as the pass's tokens"
            raise SpecViolation(explain("log_probs", f"{len(found)} of a pass", needed, clause="RS-19"))
        return found[:count]


def reported(
    law: Sampling | None, logits: Array, tokens: Array, ops: ArrayOps, *, wide: bool = False
) -> Array | None:
    """Return the log-probabilities of tokens on the device; None: nobody asks for them.

    Spec: RS-19.

    Args:
        law: settings of the law that is reported, or None.
        logits: (B, N, V), the target's.
        tokens: (B, N) ids, -1 where nothing is emitted.
        ops: array operations of both.
        wide: zeros in the place of None, as others of the transfer are asked for theirs.

    Returns:
        (B, N) floating, or None.
    """
    if law is None and wide:
        return ops.xp.astype(ops.xp.zeros_like(tokens), widen(logits[:0], xp=ops.xp).dtype)
    if law is None:
        return None
    return ops.operation("log_probs")(logits, tokens, law, xp=ops.xp)


def pack(ids: Array, log_probs: Array | None, *, xp: Any) -> Array:
    """Return ids and log-probabilities as one array, so that one transfer brings both to the host.

    Spec: DL-6, RS-19.

    Args:
        ids: (B, M) integer.
        log_probs: (B, N) floating, or None.
        xp: array namespace of both.

    Returns:
        (B, M) integer, or (B, M + N) of the dtype of the log-probabilities.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> unpack(pack(np.array([[1, 7]]), np.array([[-0.5]]), xp=xp)[0].tolist(), 2)
        ([1, 7], [-0.5])
    """
    if log_probs is None:
        return ids
    # float32 holds ids up to 2^24, a hundred times the largest vocabulary.
    return xp.concat([xp.astype(ids, log_probs.dtype), log_probs], axis=1)


def unpack(row: Sequence[Any], n_ids: int) -> tuple[list[int], list[float]]:
    """Return ids and log-probabilities, if there are any, of one row of `pack` on the host.

    Spec: RS-19.

    Args:
        row: numbers.
        n_ids: M.

    Example:
        >>> unpack([1, 7, 8], 3)
        ([1, 7, 8], [])
    """
    if len(row) == n_ids:
        return list(row), []
    return [int(number) for number in row[:n_ids]], list(row[n_ids:])

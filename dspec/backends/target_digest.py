"""What tells one target from another, whatever it is called and whatever framework opened it."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from dspec.config import TargetFacts

SAMPLE = 2**20  # values of a large tensor that a digest reads, at least


def stride(size: int) -> int:
    """Return every how many values of a flattened tensor of `size` values a digest reads.

    Example:
        >>> stride(1000), stride(2**22)
        (1, 4)
    """
    return max(1, size // SAMPLE)


def target_digest(
    facts: TargetFacts, softcap: float | None, weights: Iterable[tuple[str, tuple[int, ...], bytes]]
) -> str:
    """Return a digest of a target, whatever it is called.

    Every tensor counts, the large ones by a million evenly spaced values: another target differs
    everywhere, and billions of weights are not to be read twice.

    Args:
        facts: of the target; the name is left out.
        softcap: of the logits.
        weights: in the order of their names: name, shape, and the little-endian bytes of every
            `stride`-th value, row by row.

    Returns:
        64 hexadecimal digits.
    """
    seen = hashlib.sha256(f"{replace(facts, name='-')} {softcap}".encode())
    for name, shape, values in weights:
        seen.update(f"{name} {shape}".encode())
        seen.update(values)
    return seen.hexdigest()

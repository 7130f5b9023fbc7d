"""Uniforms as a pure function of a key, drawn on the host by numpy's Philox.

No state is kept: the same key gives the same numbers on every backend, whatever else is decoded
beside it, and a rejected slot is drafted again from a later anchor, hence under another key.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Purpose(IntEnum):
    """What a uniform decides; part of its key. Values are fixed for ever (RN-2)."""

    DRAFT = 0
    ACCEPT = 1
    CLOSE = 2
    ANCHORS = 3
    ORDER = 4
    INIT = 5
    DENOISE = 6
    REVIEW = 7


@dataclass(frozen=True)
class Stream:
    """The key of one request's (or one training run's) uniforms.

    Spec: RN-1, RN-2.

    Args:
        seed: user seed, 0 <= seed < 2^64.
        request: number of the request under that seed, 0 <= request < 2^64.

    Example:
        >>> a = Stream(seed=1).uniforms(Purpose.ACCEPT, position=7, shape=(3, 1))
        >>> b = Stream(seed=1).uniforms(Purpose.ACCEPT, position=7, shape=(3, 1))
        >>> bool((a == b).all()), a.dtype.name
        (True, 'float32')
    """

    seed: int
    request: int = 0

    def __post_init__(self) -> None:
        from dspec.errors import ConfigError, explain

        for name in ("seed", "request"):
            value = getattr(self, name)
            if not 0 <= value < 2**64:
                raise ConfigError(explain(name, value, "an integer in [0, 2^64)", clause="RN-1"))

    def generator(self, purpose: Purpose, position: int) -> np.random.Generator:
        """Return the numpy generator of one key; its counter starts at 0."""
        # Word 0 of the counter counts draws (Philox raises it), so keys never overlap.
        counter = np.array([0, position, int(purpose), 0], dtype=np.uint64)
        key = np.array([self.seed, self.request], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(counter=counter, key=key))

    def uniforms(self, purpose: Purpose, position: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return multiples of 2^-24 in [0, 1), float32; element i is the i-th draw of the key.

        Args:
            purpose: what they decide.
            position: anchor position of the pass, >= 0 (a step number in training).
            shape: (slots, draws a slot).

        Returns:
            float32 array of that shape.
        """
        n = int(np.prod(shape))
        raw = self.generator(purpose, position).bit_generator.random_raw(n)
        # The top 24 bits fill a float32 mantissa exactly: 1 cannot occur, 0 does (RN-3).
        return ((raw >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)).reshape(shape)

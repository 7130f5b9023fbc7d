"""How far the buffers of a cache are written: one number that every layer of it shares."""

from dspec.errors import ConfigError, ShapeError, explain


class Extent:
    """Committed positions of a cache of fixed capacity.

    Spec: DL-4, DL-8.

    Args:
        capacity: most positions held, >= 1.

    Raises:
        ConfigError: the capacity is below 1.

    Example:
        >>> extent = Extent(4)
        >>> extent.advance(3)
        >>> extent.rewind(1)
        >>> extent.length, extent.end(2)
        (1, 3)
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = check_capacity(capacity)
        self.length = 0

    def end(self, added: int) -> int:
        """Return the length after `added` positions; one past the capacity is a ConfigError."""
        end = self.length + added
        if end > self.capacity:
            remedy = "Open the session with a larger capacity."
            raise ConfigError(explain("capacity", end, f"at most {self.capacity} positions", remedy=remedy))
        return end

    def advance(self, added: int) -> None:
        """Commit positions that a finished pass wrote."""
        self.length = self.end(added)

    def rewind(self, length: int) -> None:
        """Forget every position >= length; nothing is copied."""
        self.length = min(self.length, at_least_zero(length))


def check_capacity(capacity: int) -> int:
    """Return a number of positions to make room for; one below 1 is a ConfigError.

    Example:
        >>> check_capacity(4)
        4
    """
    if capacity < 1:
        raise ConfigError(explain("capacity", capacity, "at least 1 position"))
    return capacity


def at_least_zero(length: int) -> int:
    """Return a length to rewind to; a negative one is a ShapeError.

    Spec: DL-4.

    Example:
        >>> at_least_zero(3)
        3
    """
    if length < 0:
        raise ShapeError(explain("length", length, "a number of positions >= 0", clause="DL-4"))
    return length

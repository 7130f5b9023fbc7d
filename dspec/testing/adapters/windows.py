"""Many outcomes from few long generations: disjoint windows of a chain, each with the same known law.

Where the next-token law depends on the last token only, the tokens after any occurrence of `start` are
distributed as those after a prompt that ends in it (strong Markov property), whatever came before. One
generation of some hundred tokens thus gives many independent outcomes, at every distance from the
edges of the speculative blocks, for the price of one prefill.
"""

from collections.abc import Callable, Iterator, Sequence

from dspec.errors import ConfigError, explain

Chain = Callable[[int], Sequence[int]]
"""seed -> the tokens of one generation after a prompt that ends in `start`."""
WRONG = -1  # no token: an outcome that holds it has probability 0 under every law


def windows(
    tokens: Sequence[int], *, start: int, length: int, asked: int, eos: int | None = None
) -> Iterator[tuple[int, ...]]:
    """Yield the disjoint windows of one generation.

    A window counts only if `length` tokens were asked for after its start, so that which windows
    count does not depend on what is in them. A generation that ends early without `eos`, late, or goes
    on after `eos`, gives one outcome that no law allows.

    Args:
        tokens: generated, without the prompt.
        start: last token of the prompt; a window begins after it.
        length: of a window.
        asked: tokens that were asked for.
        eos: token that ends a generation.

    Returns:
        Token tuples; shorter than `length` only where they end in `eos`.

    Example:
        >>> list(windows([0, 1, 0, 2, 2, 1], start=0, length=2, asked=6))
        [(0, 1), (2, 2)]
    """
    place = 0
    while place + length <= asked and place < len(tokens):
        outcome = tuple(tokens[place : place + length])
        if len(outcome) == length or outcome[-1] == eos:
            yield outcome
        place += len(outcome)
        while place <= len(tokens) and tokens[place - 1] != start:
            place += 1
    ended = bool(tokens) and tokens[-1] == eos
    beyond = eos is not None and eos in tokens[:-1]
    if beyond or len(tokens) > asked or (len(tokens) < asked and not ended):
        yield (*tokens[-1:], WRONG)


def from_chains(
    chain: Chain, *, start: int, length: int, asked: int, eos: int | None = None
) -> Callable[[int, int], Iterator[tuple[int, ...]]]:
    """Return `generate(n, seed)` for `check_distribution`: the first n windows of chain after chain.

    Args:
        chain: one generation; call i gets seed * 2^20 + i.
        start: see `windows`.
        length: see `windows`.
        asked: see `windows`.
        eos: see `windows`.

    Returns:
        The function.

    Raises:
        ConfigError: fewer tokens are asked for than a window has.
    """
    if not 1 <= length <= asked:
        raise ConfigError(explain("length of a window", length, f"a number in [1, {asked}]"))

    def generate(n: int, seed: int) -> Iterator[tuple[int, ...]]:
        left, call = n, seed * 2**20
        while left > 0:
            found = list(windows(chain(call), start=start, length=length, asked=asked, eos=eos))[:left]
            yield from found
            left, call = left - len(found), call + 1

    return generate

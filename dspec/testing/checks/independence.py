"""Whether what should be independent is: rows, requests, seeds, positions over a pass's edge, keys.

Two draws that share a uniform each have the right law; only their joint law tells. So pairs of outcomes
are held against the product of their laws, and the keys of all uniforms are looked through for one that
was read twice.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from dspec.errors import ConfigError, explain
from dspec.rng import Purpose, Stream
from dspec.testing.checks.laws import count_outcomes, least_detectable, log_e_value
from dspec.testing.report import Report

CLAUSES = ("RS-8", "RN-2")
ALPHA, BETA = 1e-9, 1e-6

Pairs = Callable[[int, int], Iterable[tuple[Hashable, Hashable]]]
"""(n, seed) -> n pairs of outcomes, each pair from draws that no other pair has a part in."""

Outputs = Callable[[int, int], Sequence[tuple[int, ...]]]
"""(seed, count) -> the tokens of requests 0..count - 1 under that seed."""

Key = tuple[int, int, int, int, int]
"""(seed, request, position, purpose, element)"""


def check_independence(
    generate_pairs: Pairs | Mapping[str, Pairs],
    law: Mapping[Hashable, Any] | Sequence[tuple[Any, Any]],
    *,
    n: int = 1000,
    seed: int = 0,
    alpha: float = ALPHA,
    beta: float = BETA,
    keys: Callable[[int], Iterable[Key]] | None = None,
    only: str | None = None,
) -> Report:
    """Check that pairs of outcomes have the product of their laws, and that no key is read twice.

    Each kind of pairs fails if its e-value or its empirical total variation passes a bound that a right
    sampler passes with chance alpha / (2 kinds), or if a pair comes up that the law forbids.

    Spec: RS-8, RN-2.

    Args:
        generate_pairs: see `Pairs`; or several kinds by name, such as `kinds_of(outputs, ...)`.
        law: outcome -> probability, the law of each member of a pair.
        n: pairs of each kind.
        seed: of the subject.
        alpha: chance that a right sampler fails.
        beta: chance that a pair law whose total variation from the product is over `delta` passes.
        keys: seed -> keys that requests under it have read, as `logged_keys` tells them; None: not known.
        only: the kind of pairs to look at, or "keys"; None: all.

    Returns:
        The report.

    Raises:
        ConfigError: there is no such kind of pairs.
        ShapeError: a kind gave another number of pairs than n.

    Example:
        >>> both = lambda n, seed: [(i % 2, i % 2) for i in range(n)]
        >>> check_independence(both, {0: 0.5, 1: 0.5}, n=200).passed
        False
    """
    kinds = generate_pairs if isinstance(generate_pairs, Mapping) else {"pairs": generate_pairs}
    if only is not None and only not in (*kinds, "keys"):
        raise ConfigError(explain("only", repr(only), f"one of {', '.join((*kinds, 'keys'))}"))
    items = law.items() if isinstance(law, Mapping) else law
    laws = {_hashable(outcome): float(chance) for outcome, chance in items if chance}
    share = alpha / (2 * max(len(kinds), 1))
    tried = {"pairs": 0, "keys": 0}
    found = None
    if keys is not None and only in (None, "keys"):
        found = _read_twice(keys(seed), tried)
    for kind, pairs in kinds.items() if found is None else ():
        if found is None and only in (None, kind):
            found = _dependent(kind, count_outcomes(pairs(n, seed), n), laws, share, tried)
    arguments = {"n": n, "seed": seed, "alpha": alpha, "beta": beta, "only": found and found["kind"]}
    arguments["law"] = [[_listed(outcome), chance] for outcome, chance in laws.items()]
    return Report(
        check="independence",
        passed=found is None,
        tried=tried,
        alpha=alpha,
        beta=beta,
        delta=least_detectable(len(laws) ** 2, n, alpha=share, beta=beta),
        clauses=CLAUSES,
        counterexample=found and {"seed": seed, **found},
        replay=found and {"check": "independence", "arguments": arguments},
    )


def _listed(outcome: Hashable) -> Any:
    return list(outcome) if isinstance(outcome, tuple) else outcome


def _hashable(outcome: Any) -> Hashable:
    return tuple(outcome) if isinstance(outcome, list) else outcome


def _dependent(
    kind: str, counts: Counter[Any], laws: Mapping[Any, float], share: float, tried: dict[str, int]
) -> dict[str, Any] | None:
    """Return the pair that is furthest off if the counts are not those of independent members, or None."""
    total = sum(counts.values())
    tried["pairs"] += total
    chances = {pair: laws[pair[0]] * laws[pair[1]] for pair in itertools.product(laws, repeat=2)}
    foreign = [pair for pair in counts if pair not in chances]
    if foreign:
        return {"kind": kind, "forbidden pair": foreign[0]}
    log_e = log_e_value([counts[pair] for pair in chances], list(chances.values()))
    distance = sum(abs(counts[pair] / total - chance) for pair, chance in chances.items()) / 2
    bound = math.sqrt((len(chances) * math.log(2) - math.log(share)) / (2 * total))
    if log_e < -math.log(share) and distance <= bound:
        return None
    worst = max(chances, key=lambda pair: abs(counts[pair] / total - chances[pair]))
    return {
        "kind": kind,
        "pair": worst,
        "came": counts[worst],
        "of": total,
        "independent would give": round(chances[worst] * total, 1),
        "log_e": round(log_e, 1),
        "total variation": round(distance, 3),
    }


def _read_twice(keys: Iterable[Key], tried: dict[str, int]) -> dict[str, Any] | None:
    """Return the first key that was read before, or None."""
    seen: dict[Key, int] = {}
    for key in keys:
        tried["keys"] += 1
        if key in seen:
            first = {"read first as number": seen[key], "again as number": tried["keys"]}
            return {"kind": "keys", "key": name_key(key), **first}
        seen[key] = tried["keys"]
    return None


def name_key(key: Key) -> dict[str, Any]:
    """Return a key with its parts named, for a person.

    Example:
        >>> name_key((0, 1, 7, 1, 2))["purpose"]
        'ACCEPT'
    """
    seed, request, position, purpose, element = key
    return {
        "seed": seed,
        "request": request,
        "position": position,
        "purpose": Purpose(purpose).name,
        "element": element,
    }


def kinds_of(outputs: Outputs, *, width: int = 1, apart: int | None = None) -> dict[str, Pairs]:
    """Return the kinds of pairs to be independent, of a subject whose requests are told by seed and number.

    rows: requests 2i and 2i + 1 of one call; halves: requests i and n + i; seeds: request i + 1 under a
    seed and request i under the next (a key of seed + request makes them one); positions: tokens of one
    output, `apart` places apart.

    Args:
        outputs: see `Outputs`; all requests alike.
        width: leading tokens of an output that make an outcome.
        apart: distance that no pass spans, K + 1; only for a target whose tokens are independent, which
            gives outputs of at least apart + 2 tokens; None: no such pairs.

    Returns:
        Kinds by name.

    Example:
        >>> list(kinds_of(lambda seed, count: [(0, 0, 0, 0)] * count, apart=2))
        ['rows', 'halves', 'seeds', 'positions']
    """

    found: dict[int, Sequence[tuple[int, ...]]] = {}

    def all_of(seed: int, count: int) -> Sequence[tuple[int, ...]]:
        # One long list a seed serves every kind: generating is what costs.
        if len(found.get(seed, ())) < count:
            found[seed] = outputs(seed, count)
        return found[seed][:count]

    def heads(seed: int, count: int) -> list[tuple[int, ...]]:
        return [tuple(tokens[:width]) for tokens in all_of(seed, count)]

    def rows(n: int, seed: int) -> list[Any]:
        made = heads(seed, 2 * n)
        return list(zip(made[::2], made[1::2]))

    def halves(n: int, seed: int) -> list[Any]:
        made = heads(seed, 2 * n)
        return list(zip(made[:n], made[n:]))

    def seeds(n: int, seed: int) -> list[Any]:
        return list(zip(heads(seed, n + 1)[1:], heads(seed + 1, n)))

    def positions(n: int, seed: int) -> list[Any]:
        # Place 0 is the prefill's, so that place 1 opens the first pass and 1 + apart is in a later one.
        place = apart or 0
        return [((tokens[1],), (tokens[1 + place],)) for tokens in all_of(seed, n)]

    kinds: dict[str, Pairs] = {"rows": rows, "halves": halves, "seeds": seeds}
    return kinds if apart is None else {**kinds, "positions": positions}


def logged_keys(run: Callable[[], Any]) -> list[Key]:
    """Return the keys of all uniforms that `run` takes from `dspec.rng.Stream`, in order.

    Replaces `Stream.uniforms` while it runs: not for use beside other threads.

    Args:
        run: generates something.

    Returns:
        The keys, as often as they were read.

    Example:
        >>> logged_keys(lambda: Stream(3).uniforms(Purpose.CLOSE, 5, (1, 2)))
        [(3, 0, 5, 2, 0), (3, 0, 5, 2, 1)]
    """
    keys: list[Key] = []
    plain = Stream.uniforms

    def logging(self: Stream, purpose: Purpose, position: int, shape: tuple[int, ...]) -> Any:
        count = math.prod(shape)
        keys.extend((self.seed, self.request, position, int(purpose), element) for element in range(count))
        return plain(self, purpose, position, shape)

    Stream.uniforms = logging  # type: ignore[method-assign]
    try:
        run()
    finally:
        Stream.uniforms = plain  # type: ignore[method-assign]
    return keys

"""Checks of whole samplers: exact by enumeration, statistical by e-value, and the short battery."""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from dspec.errors import ConfigError, ShapeError, explain
from dspec.oracle.enumerate import Source, enumerate_law
from dspec.testing.checks.boundaries import check_boundaries
from dspec.testing.checks.coupling import check_coupling
from dspec.testing.checks.lattice import Verify, check_lattice
from dspec.testing.models.worlds import World, read_world
from dspec.testing.report import Report, merge

LAW_CLAUSES = ("RS-1", "RS-3", "RS-4", "RS-5", "RS-6", "RS-8", "RS-14", "RS-18", "DL-1", "DL-3")
Sampler = Callable[[World, Source], tuple[int, ...]]
"""(world, symbolic uniforms) -> generated tokens; may only compare uniforms with `<`."""


def check_exact_law(
    sampler: Sampler, worlds: Sequence[World | Mapping[str, Any]], *, once: bool = True
) -> Report:
    """Check that a sampler's law of whole generations is the target's, as fractions.

    Spec: RS-1, RS-3, RS-4, RS-5, RS-6, RS-8, RS-14, RS-18, DL-1, DL-3, RN-2.

    Args:
        sampler: runs one generation of a world on symbolic uniforms.
        worlds: where to check; `World`s, or what `World.plain` wrote of them.
        once: fail if the sampler asks for the uniform of a key twice.

    Returns:
        The report; alpha is 0.

    Example:
        >>> from dspec.testing.models.worlds import make_worlds
        >>> print(check_exact_law(lambda world, source: (world.eos,), make_worlds(1, seed=0)).passed)
        False
    """
    paths = 0

    def on(world: World) -> Callable[[Source], tuple[int, ...]]:
        def counted(source: Source) -> tuple[int, ...]:
            nonlocal paths
            paths += 1
            return sampler(world, source)

        return counted

    clauses = (*LAW_CLAUSES, "RN-2") if once else LAW_CLAUSES
    for index, given in enumerate(worlds):
        world = given if isinstance(given, World) else read_world(given)
        law = enumerate_law(on(world), once=once)
        needed = world.law()
        if law != needed:
            return Report(
                check="exact_law",
                passed=False,
                tried={"worlds": index + 1, "paths": paths},
                counterexample={"world": repr(world), **worst_outcome(law, needed)},
                clauses=clauses,
                replay={"check": "exact_law", "arguments": {"worlds": [world.plain()], "once": once}},
            )
    return Report(
        check="exact_law", passed=True, tried={"worlds": len(worlds), "paths": paths}, clauses=clauses
    )


def worst_outcome(got: Mapping[Any, Any], needed: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the outcome whose probability is furthest off, and the total variation."""
    zero = Fraction(0)
    gaps = {key: abs(got.get(key, zero) - needed.get(key, zero)) for key in got.keys() | needed.keys()}
    worst = max(gaps, key=lambda key: gaps[key])
    return {
        "outcome": worst,
        "got": got.get(worst, 0),
        "needed": needed.get(worst, 0),
        "tv": sum(gaps.values()) / 2,
    }


def log_e_value(counts: Sequence[int], chances: Sequence[float]) -> float:
    """Return ln of the Krichevsky-Trofimov mixture against the law: its mean under the law is e^0.

    Args:
        counts: (m,) how often each outcome came.
        chances: (m,) their probabilities under the law, > 0.

    Returns:
        Natural logarithm of the e-value; rejecting at >= ln(1/alpha) is wrong with chance <= alpha.

    Example:
        >>> log_e_value([50, 50], [0.5, 0.5]) < 0 < log_e_value([90, 10], [0.5, 0.5])
        True

    Source: Krichevsky and Trofimov 1981; Ville's inequality.
    """
    n, m = sum(counts), len(counts)
    mixture = math.lgamma(m / 2) - m * math.lgamma(0.5) - math.lgamma(n + m / 2)
    mixture += sum(math.lgamma(count + 0.5) for count in counts)
    return mixture - sum(count * math.log(chance) for count, chance in zip(counts, chances))


def least_detectable(m: int, n: int, *, alpha: float, beta: float) -> float:
    """Return the total variation that n draws over m outcomes miss with chance at most beta.

    At most 1: nothing lies further off, and what does lie there gives a forbidden outcome at once.

    Example:
        >>> round(least_detectable(16, 109_449, alpha=1e-9, beta=1e-6), 4)
        0.02
    """
    noise = math.sqrt((m * math.log(2) + math.log(1 / alpha)) / 2) + math.sqrt(math.log(1 / beta) / 2)
    return min(noise / math.sqrt(n), 1.0)


def check_distribution(
    generate: Callable[[int, int], Iterable[Hashable]],
    law: Mapping[Any, Any] | Sequence[Sequence[Any]],
    *,
    n: int,
    seed: int,
    alpha: float = 1e-9,
    beta: float = 1e-6,
) -> Report:
    """Check the law of a black box by drawing from it.

    Fails if the e-value of all outcomes reaches 2/alpha, or the empirical total variation passes its
    fixed-n bound at alpha/2, or an outcome comes up that the law forbids.

    Spec: RS-1.

    Args:
        generate: (n, seed) -> n outcomes: tuples of tokens, or anything that can be a key; lists and
            arrays count as tuples.
        law: outcome -> probability, 1 in all; or pairs (tokens, probability), probabilities may be "a/b".
        n: number of draws.
        seed: of the black box.
        alpha: chance that a right sampler fails.
        beta: chance that a sampler further off than the reported discrepancy passes.

    Returns:
        The report; `delta` is the total variation it misses with chance beta at most.

    Raises:
        ConfigError: `law` is none.
        ShapeError: `generate` gave another number of outcomes than n: all stated rates rest on it.
    """
    law = _law(law)
    counts, total = count_outcomes(generate(n, seed), n), n
    outcomes = [key for key in law if law[key] > 0]
    m = len(outcomes)
    observed = [counts[key] for key in outcomes]
    chances = [float(law[key]) for key in outcomes]
    delta = least_detectable(m, total, alpha=alpha / 2, beta=beta)
    tried = {"draws": total, "outcomes": m}
    foreign = [key for key in counts if key not in law or not law[key] > 0]
    log_e = log_e_value(observed, chances) if not foreign else math.inf
    distance = sum(abs(c / total - p) for c, p in zip(observed, chances)) / 2
    bound = math.sqrt((m * math.log(2) + math.log(2 / alpha)) / (2 * total))
    passed = not foreign and log_e < math.log(2 / alpha) and distance <= bound
    example = {"forbidden": foreign[:3], "log_e": log_e, "tv": distance, "bound": bound, "seed": seed}
    again = {"n": n, "seed": seed, "alpha": alpha, "beta": beta, "law": _pairs(law)}
    return Report(
        check="distribution",
        passed=passed,
        tried=tried,
        alpha=alpha,
        beta=beta,
        delta=delta,
        counterexample=None if passed else example,
        clauses=("RS-1",),
        replay=None if passed else {"check": "distribution", "arguments": again},
    )


def _law(law: Mapping[Any, Any] | Sequence[Sequence[Any]]) -> Mapping[Any, Any]:
    """Return a law as a mapping; weights that are no probabilities would fail a right sampler."""
    if not isinstance(law, Mapping):
        law = {tuple(tokens): Fraction(chance) for tokens, chance in law}
    total = float(sum(law.values()))
    # A law of float32 laws multiplied is off by less than 1e-6.
    if not abs(total - 1) < 1e-5 or any(chance < 0 for chance in law.values()):
        raise ConfigError(explain("law", f"numbers that add up to {total:g}", "probabilities, 1 in all"))
    return law


def count_outcomes(found: Any, n: int) -> Counter[Hashable]:
    """Return how often each outcome came, of exactly n.

    Args:
        found: what a generator gave.
        n: outcomes that it was asked for.

    Raises:
        ShapeError: it gave another number of them, or nothing that can be counted.

    Example:
        >>> count_outcomes([[0, 1], (0, 1)], 2)
        Counter({(0, 1): 2})
    """
    needed = f"{n} outcomes, as many as were asked for"
    if not isinstance(found, Iterable):
        raise ShapeError(explain("generate", f"a {type(found).__name__}", needed))
    counts = Counter(map(_outcome, found))
    if counts.total() != n or not n:
        raise ShapeError(explain("generate", f"{counts.total()} outcomes", needed))
    return counts


def _outcome(value: Any) -> Hashable:
    """Return an outcome as laws have it: whatever holds numbers becomes a tuple of Python's own."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(map(_outcome, value)) if isinstance(value, list | tuple) else value


def _pairs(law: Mapping[Any, Any]) -> list[list[Any]]:
    """Return a law as JSON has it; an outcome that is no sequence becomes one of length 1."""
    return [
        [list(key) if isinstance(key, Sequence) else [key], str(Fraction(chance))]
        for key, chance in law.items()
    ]


def smoke(
    verify: Verify,
    *,
    xp: Any,
    dtype: Any = None,
    mode: str = "rejection",
    to_numpy: Callable[[Any], Any] = np.asarray,
) -> Report:
    """Run the short battery on an array verifier: lattice, boundaries, coupling; about 10 seconds.

    Spec: RS-20.

    Args:
        verify: see `dspec.testing.checks.lattice.Verify`.
        xp: array namespace of its arguments.
        dtype: floating dtype of the laws; None: float32.
        mode: "rejection", "block", "one_hot" or "match".
        to_numpy: brings results to the host.

    Returns:
        One merged report.
    """
    common: dict[str, Any] = {"xp": xp, "mode": mode, "to_numpy": to_numpy}
    dtype = xp.float32 if dtype is None else dtype
    reports = [
        check_lattice(verify, dtype=dtype, count=10, **common),
        check_boundaries(verify, **common),
        check_coupling(verify, rows=2000, vocab=64, **common),
    ]
    return merge("smoke", reports)

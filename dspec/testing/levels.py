"""How much a check tries: three levels, each a table of counts."""

from dataclasses import dataclass

from dspec.errors import ConfigError, explain

# Chance that a whole run at one level, all its parts together, fails a right library.
SUITE_ALPHA = 9e-10


@dataclass(frozen=True, kw_only=True)
class Level:
    """How much one run tries. Counts are per verifier and, for arrays, per backend and dtype.

    Spec: RS-20.

    Args:
        name: "smoke", "full" or "nightly".
        worlds: table worlds whose law is enumerated.
        instances: dyadic instances of the lattice.
        coupled_rows: rows of V = 64 against the scalar float64 reference.
        wide_rows: rows of V = 151,936 against the same.
        pair_rows: rows of numpy against another backend; of these, both see the same arrays.
        draws: outputs of an engine whose law is known.
        independent: pairs of outputs whose joint law is looked at.
        steps: steps of the state machine that rewinds caches.
        cases: batches of greedy rows with forced ties, proposals whose honesty is checked, keys of uniforms.
        longest: largest limit of a scripted request.
    """

    name: str
    worlds: int
    instances: int
    coupled_rows: int
    wide_rows: int
    pair_rows: int
    draws: int
    independent: int
    steps: int
    cases: int
    longest: int


SMOKE = Level(
    name="smoke",
    worlds=20,
    instances=17,
    coupled_rows=10_000,
    wide_rows=2,
    pair_rows=50_000,
    draws=300,
    independent=100,
    steps=60,
    cases=64,
    longest=4,
)
FULL = Level(
    name="full",
    worlds=100,
    instances=200,
    coupled_rows=40_000,
    wide_rows=40,
    pair_rows=2_000_000,
    draws=2_000,
    independent=1_000,
    steps=500,
    cases=1_000,
    longest=7,
)
NIGHTLY = Level(
    name="nightly",
    worlds=500,
    instances=1_000,
    coupled_rows=200_000,
    wide_rows=200,
    pair_rows=10_000_000,
    draws=10_000,
    independent=5_000,
    steps=2_500,
    cases=5_000,
    longest=9,
)
LEVELS = {level.name: level for level in (SMOKE, FULL, NIGHTLY)}


def level_named(name: str | Level) -> Level:
    """Return the level of a name; a `Level` is returned as it is.

    Args:
        name: "smoke", "full" or "nightly".

    Raises:
        ConfigError: no such level.

    Example:
        >>> level_named("full").worlds
        100
    """
    if isinstance(name, Level):
        return name
    if name not in LEVELS:
        raise ConfigError(explain("level", repr(name), f"one of {', '.join(LEVELS)}"))
    return LEVELS[name]

"""The checks on trial: every wrong sampler must fail the check named for it, every right one pass them all.

A kill table says which check sees which fault, and how much it took; it is docs/kill-table.md, made by
`python -m dspec.testing.adequacy --output docs/kill-table.md`.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import array_api_compat.numpy as npx
import numpy as np

from dspec.oracle.enumerate import enumerate_law
from dspec.testing.checks.boundaries import check_boundaries
from dspec.testing.checks.coupling import check_coupled_arrays, check_coupling
from dspec.testing.checks.lattice import check_lattice
from dspec.testing.checks.laws import check_exact_law, log_e_value, worst_outcome
from dspec.testing.levels import FULL, SMOKE, Level
from dspec.testing.report import Report
from dspec.testing.specimens.arrays import ARRAY_CONTROLS, ARRAY_MUTANTS, Arrays, ArraySpecimen
from dspec.testing.specimens.loops import CONTROLS, MUTANTS, Specimen
from dspec.testing.specimens.pipelines import PIPELINE_CONTROLS, PIPELINE_MUTANTS, PipelineSpecimen

ALPHA = 1e-9  # of the distribution test whose draws are counted
FIRST, CAP = 250, 2_048_000  # draws: at first, doubled up to

ARRAY_CHECKS: dict[str, Callable[[Any], Report]] = {
    "lattice": lambda verify: check_lattice(verify, xp=npx, dtype=npx.float32, count=4),
    "boundaries": lambda verify: check_boundaries(verify, xp=npx),
    "coupling": lambda verify: check_coupling(verify, xp=npx, rows=1000),
    "coupled_arrays": lambda verify: check_coupled_arrays(Arrays(), verify, rows=12_000),
}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One sampler, what the checks said of it, and what that took.

    Args:
        kind: "loop", "arrays" or "pipeline".
        number: of the field bug in the survey; 0 for none.
        name: what the sampler does.
        must_fail: check that must fail on it; "" for a right one.
        passed: checks that passed it.
        killed: check that failed on it -> what it took, such as {"worlds": 5, "paths": 238}.
        seen: worlds of those tried whose law is off, and the largest total variation; None: not looked at.
        draws: draws to a rejection at 1e-9 in each world that is off; None: more than the cap.
    """

    kind: str
    number: int | str
    name: str
    must_fail: str
    passed: tuple[str, ...] = ()
    killed: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    seen: tuple[int, int, float] | None = None
    draws: tuple[int | None, ...] = ()

    @property
    def survives(self) -> bool:
        """Whether a wrong sampler got past the check named for it."""
        return bool(self.must_fail) and self.must_fail not in self.killed

    @property
    def false_alarm(self) -> bool:
        """Whether a check failed on a right sampler."""
        return not self.must_fail and bool(self.killed)


@dataclass(frozen=True)
class AdequacyReport:
    """All trials.

    Spec: RS-20.

    Args:
        rows: wrong samplers and right ones.
        level: name of the level.
    """

    rows: tuple[Trial, ...]
    level: str

    @property
    def survivors(self) -> tuple[Trial, ...]:
        """Wrong samplers that the check named for them passed: must be empty."""
        return tuple(row for row in self.rows if row.survives)

    @property
    def false_alarms(self) -> tuple[Trial, ...]:
        """Right samplers that some check failed on: must be empty."""
        return tuple(row for row in self.rows if row.false_alarm)

    def to_markdown(self) -> str:
        """Return the kill table as Markdown."""
        wrong = [row for row in self.rows if row.must_fail]
        right = [row for row in self.rows if not row.must_fail]
        text = HEADING.format(
            level=self.level,
            wrong=len(wrong),
            right=len(right),
            survivors=len(self.survivors),
            alarms=len(self.false_alarms),
            alpha=ALPHA,
            first=FIRST,
            cap=CAP,
        )
        kills = _table(
            ("#", "kind", "wrong sampler", "failed by", "passes", "law off in", "draws"), map(_kill, wrong)
        )
        passes = _table(("kind", "right sampler", "passes"), map(_pass, right))
        return "\n".join([text, *kills, "", "## Right samplers that look wrong", "", *passes, ""])


def adequacy(*, level: Level = SMOKE) -> AdequacyReport:
    """Run the kit over every wrong and every right sampler that it has.

    Spec: RS-18, RS-20.

    Args:
        level: smoke tries the check that is named for a wrong sampler and stops at the first failure;
            above it every check runs, laws are compared in all worlds, and draws to a rejection counted.

    Returns:
        The trials; `survivors` and `false_alarms` are empty if the kit is adequate.
    """
    thorough = level.name != SMOKE.name
    rows = [_loop(specimen, thorough) for specimen in [*MUTANTS, *CONTROLS]]
    rows += [_arrays(specimen, thorough) for specimen in [*ARRAY_MUTANTS, *ARRAY_CONTROLS]]
    rows += [_pipeline(specimen) for specimen in [*PIPELINE_MUTANTS, *PIPELINE_CONTROLS]]
    return AdequacyReport(tuple(rows), level.name)


def _loop(specimen: Specimen, thorough: bool) -> Trial:
    """Try a whole generation by enumeration."""
    worlds = specimen.worlds()
    report = check_exact_law(specimen.sampler, worlds, once=False)
    laws = [
        (enumerate_law(lambda source, world=world: specimen.sampler(world, source), once=False), world.law())
        for world in (worlds if thorough and specimen.wrong else [])
    ]
    off = [(got, needed) for got, needed in laws if got != needed]
    return Trial(
        kind="loop",
        number=specimen.number,
        name=specimen.name,
        must_fail="exact_law" if specimen.wrong else "",
        **_verdicts({"exact_law": report}),
        seen=(len(off), len(laws), max(float(worst_outcome(*pair)["tv"]) for pair in off)) if off else None,
        draws=tuple(draws_to_kill(*pair, seed=index) for index, pair in enumerate(off)),
    )


def _arrays(specimen: ArraySpecimen, thorough: bool) -> Trial:
    """Try an array verifier by every check, or by the one that must fail."""
    names = [specimen.killed_by] if specimen.killed_by and not thorough else list(ARRAY_CHECKS)
    return Trial(
        kind="arrays",
        number=specimen.number,
        name=specimen.name,
        must_fail=specimen.killed_by,
        **_verdicts({name: ARRAY_CHECKS[name](specimen.verify) for name in names}),
    )


def _pipeline(specimen: PipelineSpecimen) -> Trial:
    """Try what surrounds the accept rule by the check that it is made for."""
    return Trial(
        kind="pipeline",
        number=specimen.number,
        name=specimen.name,
        must_fail=specimen.killed_by,
        **_verdicts({specimen.check: specimen.run()}),
    )


def _verdicts(reports: Mapping[str, Report]) -> dict[str, Any]:
    return {
        "passed": tuple(name for name, report in reports.items() if report.passed),
        "killed": {name: report.tried for name, report in reports.items() if not report.passed},
    }


def draws_to_kill(got: Mapping[Any, Any], needed: Mapping[Any, Any], *, seed: int) -> int | None:
    """Return after how many draws from a wrong law the e-value rejects at 1e-9; None: not by the cap.

    Args:
        got: the sampler's law, outcome -> probability.
        needed: the right law.
        seed: of the draws.

    Returns:
        A number of draws, 250 doubled; None beyond 2,048,000.

    Example:
        >>> draws_to_kill({0: 0.6, 1: 0.4}, {0: 0.5, 1: 0.5}, seed=0)
        2000
    """
    outcomes = [*needed, *(key for key in got if not needed.get(key))]
    chances = np.asarray([float(got.get(key, 0)) for key in outcomes])
    law = [float(needed.get(key, 0)) for key in outcomes]
    allowed = sum(mass > 0 for mass in law)  # they come first
    rng = np.random.default_rng(seed)
    counts, n = np.zeros(len(outcomes), np.int64), FIRST
    while n <= CAP:
        counts += rng.multinomial(n - counts.sum(), chances / chances.sum())
        if counts[allowed:].any():
            return n
        if log_e_value(counts[:allowed].tolist(), law[:allowed]) >= math.log(1 / ALPHA):
            return n
        n *= 2
    return None


HEADING = """# Kill table of the exactness kit

Made by `python -m dspec.testing.adequacy --output docs/kill-table.md` at level {level}; do not edit.
Numbers are those of the survey of field bugs; 0 stands for none.

- {wrong} wrong samplers, {survivors} survivors;
- {right} right samplers that look wrong, {alarms} false alarms.

*Failed by*: checks that see the fault and what they tried until then; the first is the one that must.
*Law off in*: worlds of those tried whose law of whole generations is wrong, and the largest total variation.
*Draws*: fewest and most, over these worlds, until the e-value rejects at {alpha:g}; in steps of {first}
doubled, up to {cap:,}. A dash: only checks without draws are meant to see the fault.

## Wrong samplers
"""


def _table(names: tuple[str, ...], rows: Any) -> Iterator[str]:
    yield f"| {' | '.join(names)} |"
    yield "|" + "---|" * len(names)
    for row in rows:
        yield f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |"


def _kill(row: Trial) -> tuple[Any, ...]:
    order = sorted(row.killed, key=lambda name: name != row.must_fail)
    took = [f"{name} ({_counts(row.killed[name])})" for name in order]
    seen = "–" if row.seen is None else f"{row.seen[0]} of {row.seen[1]} worlds, TV ≤ {row.seen[2]:.3f}"
    return (
        row.number,
        row.kind,
        row.name,
        "; ".join(took) or "**none**",
        ", ".join(row.passed) or "–",
        seen,
        _range(row.draws),
    )


def _counts(tried: Mapping[str, int]) -> str:
    """Return "1 world, 79 paths"; what was not found is left out."""
    return ", ".join(f"{n:,} {_one(what) if n == 1 else what}" for what, n in tried.items() if n)


def _one(what: str) -> str:
    return what.removesuffix("es") if what.endswith("ches") else what.removesuffix("s")


def _range(draws: tuple[int | None, ...]) -> str:
    if not draws:
        return "–"
    ends = [min(draws, key=lambda n: n or math.inf), max(draws, key=lambda n: n or math.inf)]
    return " to ".join(dict.fromkeys(f"{n:,}" if n else f"> {CAP:,}" for n in ends))


def _pass(row: Trial) -> tuple[str, str, str]:
    alarms = "".join(f"; **false alarm: {name}**" for name in row.killed)
    return row.kind, row.name, ", ".join(row.passed) + alarms


def main(arguments: list[str] | None = None) -> int:
    """Write the kill table; return 1 if a wrong sampler survives or a right one fails."""
    parser = argparse.ArgumentParser(prog="python -m dspec.testing.adequacy", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="Markdown file to write")
    report = adequacy(level=FULL)
    parser.parse_args(arguments).output.write_text(report.to_markdown(), encoding="utf-8")
    return int(bool(report.survivors or report.false_alarms))


if __name__ == "__main__":
    raise SystemExit(main())

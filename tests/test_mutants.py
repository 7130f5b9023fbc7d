"""The checks themselves: every wrong sampler fails the check named for it, every right one passes."""

import array_api_compat.numpy as npx
import pytest

from dspec.testing.array_mutants import ARRAY_CONTROLS, ARRAY_MUTANTS
from dspec.testing.boundaries import check_boundaries
from dspec.testing.checks import check_distribution, check_exact_law
from dspec.testing.coupling import check_coupling
from dspec.testing.lattice import check_lattice
from dspec.testing.mutants import CONTROLS, MUTANTS
from dspec.testing.report import Report, merge
from dspec.testing.worlds import make_worlds, mixed_worlds

ARRAY_CHECKS = {
    "lattice": lambda verify: check_lattice(verify, xp=npx, dtype=npx.float32, count=6),
    "boundaries": lambda verify: check_boundaries(verify, xp=npx),
    "coupling": lambda verify: check_coupling(verify, xp=npx),
}


def names(specimens):
    return [f"{specimen.number}-{specimen.name}" for specimen in specimens]


@pytest.mark.clause("RS-18")
@pytest.mark.parametrize("mutant", MUTANTS, ids=names(MUTANTS))
def test_exact_law_fails_every_wrong_loop(mutant):
    report = check_exact_law(mutant.sampler, mixed_worlds(seed=1, warps=mutant.warps), once=False)
    assert not report.passed
    assert report.counterexample["tv"] > 0


@pytest.mark.clause("RS-18", "RS-3")
@pytest.mark.parametrize("control", CONTROLS, ids=names(CONTROLS))
def test_exact_law_passes_every_right_loop(control):
    report = check_exact_law(control.sampler, mixed_worlds(seed=1, warps=control.warps), once=False)
    assert report.passed, report


@pytest.mark.clause("RS-4", "RS-5", "RS-6")
@pytest.mark.parametrize("mutant", ARRAY_MUTANTS, ids=names(ARRAY_MUTANTS))
def test_the_named_check_fails_every_wrong_verifier(mutant):
    assert not ARRAY_CHECKS[mutant.killed_by](mutant.verify).passed


@pytest.mark.clause("RS-4", "RS-5", "RS-6")
@pytest.mark.parametrize("check", ARRAY_CHECKS)
@pytest.mark.parametrize("control", ARRAY_CONTROLS, ids=names(ARRAY_CONTROLS))
def test_every_check_passes_right_verifiers(control, check):
    report = ARRAY_CHECKS[check](control.verify)
    assert report.passed, report


def sampled_world(shift):
    """A world's law and a black box whose law is mixed with `shift` of its first outcome."""
    import numpy as np

    law = make_worlds(1, seed=8)[0].law()
    outcomes = list(law)
    chances = np.asarray([float(law[key]) for key in outcomes]) * (1 - shift)
    chances[0] += shift

    def generate(n, seed):
        picks = np.random.default_rng(seed).choice(len(outcomes), size=n, p=chances)
        return [outcomes[index] for index in picks]

    return law, generate


def test_distribution_passes_the_right_law():
    """False-fail rate 1e-9 by the e-value and the total-variation bound; the seed is fixed."""
    law, generate = sampled_world(0.0)
    report = check_distribution(generate, law, n=50_000, seed=3)
    assert report.passed, report


def test_distribution_fails_a_law_off_by_its_least_detectable_discrepancy():
    """A shift of 5 % is above the least detectable discrepancy, so the false-pass rate is below 1e-6."""
    law, generate = sampled_world(0.06)
    report = check_distribution(generate, law, n=50_000, seed=3)
    first = float(next(iter(law.values())))
    assert report.delta < 0.06 * (1 - first)
    assert not report.passed


def test_distribution_fails_at_one_forbidden_outcome():
    law, generate = sampled_world(0.0)
    report = check_distribution(lambda n, seed: [*generate(n, seed), (99,)], law, n=100, seed=0)
    assert not report.passed and report.counterexample["forbidden"] == [(99,)]


def test_reports_read_alike_for_people_and_programs():
    bad = check_exact_law(lambda world, source: (world.eos,), make_worlds(1, seed=0))
    assert "FAILED" in str(bad) and "tv" in str(bad)
    assert '"passed": false' in bad.to_json()
    both = merge("both", [Report(check="a", passed=True, tried={"rows": 2}), bad])
    assert not both.passed and both.tried["rows"] == 2 and both.counterexample["check"] == "exact_law"

"""Parts of the checks: worlds that lie and reach back, the law of draws, reports that can be tried again."""

import pytest

from dspec.testing.checks.laws import check_distribution, check_exact_law
from dspec.testing.models.loop import Loop, match
from dspec.testing.models.worlds import KINDS, LIES, make_worlds
from dspec.testing.report import Report, merge
from dspec.testing.specimens.loops import MUTANTS


@pytest.mark.clause("RS-2", "RS-3")
@pytest.mark.parametrize("lie", LIES)
def test_a_drafter_that_lies_is_seen_where_its_law_is_read(lie):
    """Verification that reads q fails; sample-match does not read it, and stays exact."""
    worlds = make_worlds(3, seed=1, lies=(lie,), num_drafts=1, max_new_tokens=3)
    assert not check_exact_law(Loop(), worlds).passed
    assert check_exact_law(Loop(verify=match), worlds).passed


@pytest.mark.clause("RS-3")
def test_an_honest_drafter_reports_the_law_it_draws_from():
    for world in make_worlds(6, seed=3, kinds=KINDS):
        assert all(world.drawn((a,), (b,)) == world.drafter((a,), (b,)) for a in range(3) for b in range(3))


def test_a_target_that_reaches_back_reads_more_than_the_last_token():
    near, far = (make_worlds(1, seed=3, reach=reach)[0] for reach in (1, 2))
    assert all(near.target((a, 1)) == near.target((0, 1)) for a in range(3))
    assert far.target((1, 1)) != far.target((0, 1)) and far.target((0, 1)) == near.target((0, 1))
    assert far.law() != near.law()


def test_a_failing_world_is_replayed_from_the_report_alone():
    """The report's JSON holds the world: the same sampler fails on it again, a right one passes."""
    mutant = next(m for m in MUTANTS if m.number == 12)
    report = Report.from_json(check_exact_law(mutant.sampler, mutant.worlds(), once=False).to_json())
    assert report.replay["check"] == "exact_law" and len(report.replay["arguments"]["worlds"]) == 1
    again = check_exact_law(mutant.sampler, **report.replay["arguments"])
    assert not again.passed and str(again.counterexample["tv"]) == report.counterexample["tv"]
    assert check_exact_law(Loop(), **report.replay["arguments"]).passed


def test_a_failing_distribution_is_replayed_from_the_report_alone():
    law, generate = sampled_world(0.3)
    report = Report.from_json(check_distribution(generate, law, n=2000, seed=3).to_json())
    again = check_distribution(generate, **report.replay["arguments"])
    assert not again.passed and again.counterexample["log_e"] == report.counterexample["log_e"]


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
    report = check_distribution(lambda n, seed: [*generate(n - 1, seed), (99,)], law, n=100, seed=0)
    assert not report.passed and report.counterexample["forbidden"] == [(99,)]


def test_reports_read_alike_for_people_and_programs():
    bad = check_exact_law(lambda world, source: (world.eos,), make_worlds(1, seed=0))
    assert "FAILED" in str(bad) and "tv" in str(bad)
    assert '"passed": false' in bad.to_json()
    both = merge("both", [Report(check="a", passed=True, tried={"rows": 2}), bad])
    assert not both.passed and both.tried["rows"] == 2 and both.counterexample["check"] == "exact_law"

"""Wrong and right pipelines of one check, as parameters, and what a test asserts of each."""

import json

import pytest

from dspec.testing.specimens.pipelines import PIPELINE_CONTROLS, PIPELINE_MUTANTS


def mutants_of(check):
    """Parameters: the wrong pipelines that this check must fail on."""
    return _of(PIPELINE_MUTANTS, check)


def controls_of(check):
    """Parameters: the right pipelines that this check must pass; at least four look wrong."""
    found = _of(PIPELINE_CONTROLS, check)
    assert len(found) >= 5
    return found


def _of(specimens, check):
    return [pytest.param(one, id=one.name.replace(" ", "-")) for one in specimens if one.check == check]


def assert_killed(mutant):
    """The named check fails it, with a counterexample that fits a screen and can be sent as JSON."""
    report = mutant.run()
    assert not report.passed, mutant.name
    assert report.clauses and report.replay["check"] == report.check
    assert len(str(report)) < 1500 and max(map(len, str(report).splitlines())) < 400, report
    assert json.loads(json.dumps(report.replay)) == report.replay
    return report


def assert_passes(control):
    """The check passes it, and says that it tried something."""
    report = control.run()
    assert report.passed, report
    assert report.counterexample is None and report.clauses and sum(report.tried.values()) > 0
    return report

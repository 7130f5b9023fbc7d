"""The pytest plugin in a suite of somebody else's."""

import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
ROOT = Path(__file__).parent.parent
# An editable install made before the entry point was there does not load it by itself.
INSTALLED = "dspec.testing.plugin" in {found.value for found in entry_points(group="pytest11")}
LOADED = () if INSTALLED else ("-p", "dspec.testing.plugin")

SUITE = """
def first_drafts(target, drafts, laws, accept, close):
    return drafts, 0 * drafts[:, 0]

def test_level(dspec_level):
    assert dspec_level == {level!r}

def test_wrong_sampler(check_exactness):
    check_exactness(first_drafts)

def test_fair_coin(check_exactness):
    from random import Random
    from dspec.testing.adapters import from_callable
    coin = from_callable(lambda n, seed: Random(seed).choices("HT", k=n), law={{"H": 0.5, "T": 0.5}})
    assert check_exactness(coin, level="smoke").passed
"""


def suite(pytester, *options, level="smoke"):
    pytester.makepyfile(SUITE.format(level=level))
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *LOADED, *options)


@pytest.mark.clause("RS-20")
def test_a_wrong_sampler_fails_with_its_counterexample_and_a_right_one_passes(pytester):
    result = suite(pytester)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*FAILED*tried*", "counterexample:*", "*check: *"])
    assert "check_subject" not in result.stdout.str(), "no frames of the kit above the counterexample"


def test_the_level_is_an_option(pytester):
    result = suite(pytester, "--dspec-level", "full", "-k", "test_level", level="full")
    result.assert_outcomes(passed=1, deselected=2)
    assert suite(pytester, "--dspec-level", "deep").ret == pytest.ExitCode.USAGE_ERROR


def test_reports_go_into_the_junit_file(pytester):
    suite(pytester, "--junitxml", "out.xml", "-k", "coin", "-o", "junit_family=xunit1")
    text = (pytester.path / "out.xml").read_text()
    assert 'name="dspec_report"' in text and "distribution" in text


def test_a_run_that_does_not_use_it_loads_nothing_and_warns_of_nothing(pytester):
    pytester.makepyfile(
        """
        import sys

        def test_nothing_is_loaded():
            heavy = {"numpy", "torch", "mlx", "transformers", "hypothesis", "rich", "typer"}
            heavy |= {"dspec.testing.run", "dspec.api"}
            assert "dspec.testing.plugin" in sys.modules
            assert not heavy & set(sys.modules)
        """
    )
    # Hypothesis brings a plugin of its own, which would load it here.
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:hypothesispytest", *LOADED],
        cwd=pytester.path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr


def test_the_package_declares_it():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"dspec": "dspec.testing.plugin"}

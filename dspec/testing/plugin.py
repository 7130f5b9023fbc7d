"""A pytest plugin: the exactness kit in other projects' suites.

`pytest --dspec-level full` sets how much the fixture `check_exactness` tries. A run that uses neither
pays for the import of this file only: it imports pytest and nothing else.
"""

from collections.abc import Callable
from typing import Any

import pytest

LEVELS = ("smoke", "full", "nightly")  # of dspec.testing.levels, which is not imported for this


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--dspec-level`."""
    group = parser.getgroup("dspec", "exactness of speculative samplers")
    group.addoption(
        "--dspec-level",
        choices=LEVELS,
        default="smoke",
        help="how much check_exactness tries (default: smoke)",
    )


@pytest.fixture(scope="session")
def dspec_level(pytestconfig: pytest.Config) -> str:
    """The level that `--dspec-level` names: smoke, full or nightly."""
    return str(pytestconfig.getoption("--dspec-level"))


@pytest.fixture
def check_exactness(dspec_level: str, record_property: Callable[[str, object], None]) -> Callable[..., Any]:
    """`dspec.check_exactness` at the run's level; a failed check fails the test with its counterexample.

    Spec: RS-20.

    Example (in a test file):
        def test_my_sampler_is_exact(check_exactness):
            check_exactness(my_verifier)
    """

    def check(subject: Any, *, level: str | None = None) -> Any:
        import dspec

        __tracebackhide__ = True
        report = dspec.check_exactness(subject, level=dspec_level if level is None else level)
        record_property("dspec_report", report.to_json())
        if report.status != "passed":
            pytest.fail(str(report), pytrace=False)
        return report

    return check

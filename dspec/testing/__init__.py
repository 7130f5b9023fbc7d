"""The public exactness kit: worlds with known laws, checks, wrong samplers they must catch.

Nothing that is shipped to generate text imports this room. A check is loaded when it is first used: the
pytest plugin lies in this room too, and must cost nothing where it is not used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dspec.testing.checks.boundaries import check_boundaries
    from dspec.testing.checks.coupling import check_coupled_arrays, check_coupling
    from dspec.testing.checks.honesty import check_honesty
    from dspec.testing.checks.independence import check_independence
    from dspec.testing.checks.isolation import check_isolation
    from dspec.testing.checks.lattice import check_lattice
    from dspec.testing.checks.laws import check_distribution, check_exact_law, smoke
    from dspec.testing.checks.pairs import compare_engines
    from dspec.testing.checks.requests import check_requests
    from dspec.testing.checks.rollback import check_rollback
    from dspec.testing.checks.self_speculation import check_self_speculation
    from dspec.testing.checks.several import check_several
    from dspec.testing.checks.several_coupling import check_several_coupling
    from dspec.testing.checks.stops import check_stop_rules
    from dspec.testing.checks.streams import check_streams
    from dspec.testing.checks.ties import check_greedy
    from dspec.testing.report import Report
    from dspec.testing.run import check_subject

__all__ = [
    "Report",
    "check_boundaries",
    "check_coupled_arrays",
    "check_coupling",
    "check_distribution",
    "check_exact_law",
    "check_greedy",
    "check_honesty",
    "check_independence",
    "check_isolation",
    "check_lattice",
    "check_requests",
    "check_rollback",
    "check_self_speculation",
    "check_several",
    "check_several_coupling",
    "check_stop_rules",
    "check_streams",
    "check_subject",
    "compare_engines",
    "smoke",
]

_HOMES = {
    "Report": "report",
    "check_boundaries": "checks.boundaries",
    "check_coupled_arrays": "checks.coupling",
    "check_coupling": "checks.coupling",
    "check_distribution": "checks.laws",
    "check_exact_law": "checks.laws",
    "check_greedy": "checks.ties",
    "check_honesty": "checks.honesty",
    "check_independence": "checks.independence",
    "check_isolation": "checks.isolation",
    "check_lattice": "checks.lattice",
    "check_requests": "checks.requests",
    "check_rollback": "checks.rollback",
    "check_self_speculation": "checks.self_speculation",
    "check_several": "checks.several",
    "check_several_coupling": "checks.several_coupling",
    "check_stop_rules": "checks.stops",
    "check_streams": "checks.streams",
    "check_subject": "run",
    "compare_engines": "checks.pairs",
    "smoke": "checks.laws",
}


def __getattr__(name: str) -> Any:
    """Load a public name's home on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'dspec.testing' has no attribute {name!r}")
    return getattr(import_module(f"dspec.testing.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

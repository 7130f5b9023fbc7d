"""The public exactness kit: worlds with known laws, checks, wrong samplers they must catch.

Nothing that is shipped to generate text imports this room. A check is loaded when it is first used: the
pytest plugin lies in this room too, and must cost nothing where it is not used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dspec.testing.boundaries import check_boundaries
    from dspec.testing.checks import check_distribution, check_exact_law, smoke
    from dspec.testing.coupling import check_coupled_arrays, check_coupling
    from dspec.testing.honesty import check_honesty
    from dspec.testing.independence import check_independence
    from dspec.testing.isolation import check_isolation
    from dspec.testing.lattice import check_lattice
    from dspec.testing.pairs import compare_engines
    from dspec.testing.report import Report
    from dspec.testing.requests import check_requests
    from dspec.testing.rollback import check_rollback
    from dspec.testing.run import check_subject
    from dspec.testing.stops import check_stop_rules
    from dspec.testing.streams import check_streams
    from dspec.testing.ties import check_greedy

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
    "check_stop_rules",
    "check_streams",
    "check_subject",
    "compare_engines",
    "smoke",
]

_HOMES = {
    "Report": "report",
    "check_boundaries": "boundaries",
    "check_coupled_arrays": "coupling",
    "check_coupling": "coupling",
    "check_distribution": "checks",
    "check_exact_law": "checks",
    "check_greedy": "ties",
    "check_honesty": "honesty",
    "check_independence": "independence",
    "check_isolation": "isolation",
    "check_lattice": "lattice",
    "check_requests": "requests",
    "check_rollback": "rollback",
    "check_stop_rules": "stops",
    "check_streams": "streams",
    "check_subject": "run",
    "compare_engines": "pairs",
    "smoke": "checks",
}


def __getattr__(name: str) -> Any:
    """Load a public name's home on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'dspec.testing' has no attribute {name!r}")
    return getattr(import_module(f"dspec.testing.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

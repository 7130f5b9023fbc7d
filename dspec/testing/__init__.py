"""The public exactness kit: worlds with known laws, checks, wrong samplers they must catch.

Nothing that is shipped to generate text imports this room.
"""

from dspec.testing.boundaries import check_boundaries
from dspec.testing.checks import check_distribution, check_exact_law, smoke
from dspec.testing.coupling import check_coupling
from dspec.testing.lattice import check_lattice
from dspec.testing.pairs import compare_engines
from dspec.testing.report import Report

__all__ = [
    "Report",
    "check_boundaries",
    "check_coupling",
    "check_distribution",
    "check_exact_law",
    "check_lattice",
    "compare_engines",
    "smoke",
]

"""Core in float32 against the scalar float64 witness, same uniforms, token by token.

Declared near-edge rule (RS-10): a row may differ only if one of its uniforms lies within 2^-20 of a
threshold, relative to p(d) for the acceptance test and to the law's mass for a draw.
"""

import pytest

from dspec.testing.coupling import check_coupling, edge_distance, random_case, reference
from tests.namespaces import NAMESPACES
from tests.rooms import of_rooms
from tests.verifiers import MODES, core_verify

REAL_V = 151_936


@pytest.mark.clause("RS-10", "RS-12", "NU-1", "NU-2")
@pytest.mark.parametrize("mode", MODES)
def test_small_vocabulary(xp, mode):
    report = check_coupling(core_verify(xp, mode), xp=xp, mode=mode, rows=3000, seed=2)
    assert report.passed, report
    # About 2^-19 of the rows for each of some 20 thresholds: 0.1 expected in 3000 rows.
    assert report.tried["near-edge mismatches"] <= 3


@pytest.mark.clause("RS-10", "NU-1")
@pytest.mark.parametrize("spread", (0.0, 2.0), ids=("flat", "peaked"))
@pytest.mark.parametrize("namespace", of_rooms(["numpy", "torch", "mlx"]))
def test_real_vocabulary(namespace, spread):
    namespace = NAMESPACES[namespace]
    verify = core_verify(namespace, "rejection")
    settings = {"rows": 6, "vocab": REAL_V, "num_drafts": 2, "seed": 4, "spread": spread}
    report = check_coupling(verify, xp=namespace, **settings)
    assert report.passed, report
    assert report.tried["near-edge mismatches"] <= 1


@pytest.mark.clause("RS-10")
def test_the_near_edge_rule_excuses_little():
    """The rule must not excuse rows wholesale: fewer than 1 % of rows lie near an edge at V = 64."""
    case = random_case(1000, 64, 3, mode="rejection", seed=6, spread=2.0)
    rows = [[part[index] for part in case] for index in range(1000)]
    near = sum(edge_distance(row, reference(row, "rejection"), "rejection") <= 2.0**-20 for row in rows)
    assert near < 10

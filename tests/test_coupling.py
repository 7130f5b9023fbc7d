"""Core in float32 against the scalar float64 witness, same uniforms, token by token.

Declared near-edge rule (RS-10): a row may differ only if one of its uniforms lies within 2^-20 of a
threshold, relative to p(d) for the acceptance test and to the law's mass for a draw.
"""

import pytest

from dspec.testing.checks import coupling
from dspec.testing.checks.coupling import (
    check_coupled_arrays,
    check_coupling,
    edge_distance,
    random_case,
    reference,
)
from dspec.testing.report import Report
from dspec.testing.specimens.arrays import ARRAY_MUTANTS, Arrays
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


def on_host(room, mode):
    """A room's verifier with numpy arrays in and out."""
    verify = core_verify(room.xp, mode)
    return lambda *arrays: [
        room.numpy(x) for x in verify(*[x if x is None else room.array(x) for x in arrays])
    ]


@pytest.mark.clause("RS-10", "RS-12", "NU-1", "NU-2")
@pytest.mark.parametrize("mode", MODES)
def test_two_namespaces_agree_by_the_thousand(room, mode):
    """A float64 verifier written apart against each backend: 20,000 rows a second; nightly, 10 million."""
    apart = mode in ("rejection", "one_hot")
    witness = Arrays() if apart else core_verify(NAMESPACES["numpy"], mode)
    report = check_coupled_arrays(witness, on_host(room, mode), rows=20_000, mode=mode, seed=5)
    assert report.passed, report
    assert report.tried["rows"] == 20_000 and report.tried["near-edge mismatches"] <= 5


@pytest.mark.clause("RS-10")
@pytest.mark.parametrize("check", ("coupling", "coupled_arrays"))
def test_a_failing_row_is_replayed_from_the_report_alone(check):
    mutant = next(m for m in ARRAY_MUTANTS if m.number == 34)
    run = {
        "coupling": lambda **settings: check_coupling(mutant.verify, xp=NAMESPACES["numpy"], **settings),
        "coupled_arrays": lambda **settings: check_coupled_arrays(Arrays(), mutant.verify, **settings),
    }[check]
    first = run(rows=5000)
    report = Report.from_json(first.to_json())
    assert report.replay["check"] == first.check == check
    again = run(**report.replay["arguments"])
    assert not again.passed and again.counterexample == first.counterexample


@pytest.mark.clause("RS-10")
def test_one_wrong_row_in_the_last_batch_is_found(monkeypatch):
    """Batches are drawn afresh, all rows are compared, the last batch may be short, and n_accepted counts."""
    monkeypatch.setattr(coupling, "CHUNK", 64)
    seen = []

    def spoiled(target, *arrays):
        tokens, n_accepted = Arrays()(target, *arrays)
        seen.append((len(target), float(target[0, 0, 0])))
        if len(target) == 8:
            n_accepted[7] -= 1 if n_accepted[7] else -1
        return tokens, n_accepted

    report = check_coupled_arrays(Arrays(), spoiled, rows=200)
    assert [size for size, _ in seen] == [64, 64, 64, 8] and len({mass for _, mass in seen}) == 4
    assert not report.passed and (report.counterexample["chunk"], report.counterexample["row"]) == (3, 7)


@pytest.mark.clause("RS-10")
def test_near_edge_rows_are_excused_and_counted(monkeypatch):
    """A verifier whose uniforms are all a little larger differs next to edges only: excused, but counted.

    Both distances are 2^14 times what is declared, or one row in 4 million would show it.
    """

    def nudged(target, drafts, drafter, accept, close):
        return Arrays()(target, drafts, drafter, accept + 2.0**-13, close)

    settings = {"rows": 150_000, "vocab": 3, "num_drafts": 1}
    assert not check_coupled_arrays(Arrays(), nudged, **settings).passed
    monkeypatch.setattr(coupling, "NEAR", 2.0**-6)
    report = check_coupled_arrays(Arrays(), nudged, **settings)
    assert report.passed and 0 < report.tried["near-edge mismatches"] < 40, report

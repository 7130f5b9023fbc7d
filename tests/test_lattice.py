"""The accept rules' laws on every namespace and dtype, by counting; tolerance zero."""

import array_api_compat.numpy as npx
import pytest
from hypothesis import given, settings

from dspec.oracle.rejection import one_hot, residual
from dspec.testing.checks.instances import UNIT, make_instances
from dspec.testing.checks.lattice import check_lattice
from dspec.testing.models.strategies import dyadic_instances
from dspec.testing.report import Report
from dspec.testing.specimens.arrays import ARRAY_MUTANTS
from tests.namespaces import NAMESPACES, with_dtypes
from tests.verifiers import MODES, core_verify


@pytest.mark.clause("RS-1", "RS-3", "RS-4", "RS-5", "RS-6", "RS-18", "NU-1")
@pytest.mark.parametrize(("namespace", "dtype"), with_dtypes())
@pytest.mark.parametrize("mode", MODES)
def test_counted_law_is_the_targets(namespace, mode, dtype):
    xp = NAMESPACES[namespace]
    report = check_lattice(core_verify(xp, mode), xp=xp, dtype=getattr(xp, dtype), mode=mode, count=4)
    assert report.passed, report


@pytest.mark.clause("RS-1", "RS-3")
@settings(deadline=None, max_examples=10, derandomize=True)
@given(instance=dyadic_instances())
def test_counted_law_holds_on_instances_found_by_hypothesis(instance):
    verify = core_verify(npx, "rejection")
    report = check_lattice(verify, xp=npx, dtype=npx.float32, instances=[instance])
    assert report.passed, report


@pytest.mark.clause("NU-2", "RS-12")
@pytest.mark.parametrize("dtype", ("bfloat16", "float16"))
@pytest.mark.parametrize("mode", MODES)
def test_narrow_inputs_have_the_same_law(room, mode, dtype):
    xp = room.xp
    report = check_lattice(core_verify(xp, mode), xp=xp, dtype=getattr(xp, dtype), mode=mode, seed=1, count=4)
    assert report.passed, report


@pytest.mark.clause("RS-5")
@pytest.mark.parametrize("mode", ("rejection", "one_hot"))
def test_no_residual_is_one_hot(mode):
    """From a residual of one token every uniform draws the same: faults of that draw would not show."""
    rejected = 0
    for instance in make_instances(100, seed=3, mode=mode):
        for slot, rows in enumerate(instance.drafter):
            for p, q in zip(instance.target[slot], rows):
                drafts = [one_hot(token, len(p)) for token in range(len(p)) if q[token]]
                for law in [[UNIT * x for x in row] for row in drafts] if mode == "one_hot" else [q]:
                    left = sum(mass > 0 for mass in residual(p, law))
                    assert left > 1 or tuple(law) == p
                    rejected += tuple(law) != p
    assert rejected > 500


@pytest.mark.clause("RS-1")
def test_a_failing_instance_is_replayed_from_the_report_alone():
    mutant = next(m for m in ARRAY_MUTANTS if m.number == 12)
    first = check_lattice(mutant.verify, xp=npx, dtype=npx.float32, count=6)
    assert first.tried["instances"] > 1
    report = Report.from_json(first.to_json())
    again = check_lattice(mutant.verify, xp=npx, **report.replay["arguments"])
    assert again.tried["instances"] == 1 and again.counterexample["tv"] == first.counterexample["tv"]
    assert check_lattice(core_verify(npx, "rejection"), xp=npx, **report.replay["arguments"]).passed


def test_ids_outside_the_vocabulary_and_flagged_rows_are_no_outcomes_of_the_law():
    """What the counting clips must still differ from every right outcome."""
    right = core_verify(npx, "rejection")

    def changed(change):
        def verify(*arrays):
            tokens, n_accepted = (part.copy() for part in right(*arrays))
            change(tokens, n_accepted)
            return tokens, n_accepted

        return check_lattice(verify, xp=npx, dtype=npx.float32, count=1)

    assert changed(lambda tokens, n: None).passed
    assert not changed(lambda tokens, n: tokens.__setitem__((0, 0), 99)).passed
    assert not changed(lambda tokens, n: tokens.__setitem__((0, 0), -1)).passed
    assert not changed(lambda tokens, n: n.__setitem__(0, -1)).passed
    assert not changed(lambda tokens, n: n.__setitem__(n == 0, 1)).passed

"""The accept rules' laws on every namespace and dtype, by counting; tolerance zero."""

import array_api_compat.numpy as npx
import pytest
from hypothesis import given, settings

from dspec.testing.lattice import check_lattice
from dspec.testing.strategies import dyadic_instances
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

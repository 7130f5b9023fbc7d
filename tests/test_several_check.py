"""The checks of several drafts of a slot: they pass core on every backend, and fail what is wrong."""

import json
from fractions import Fraction

import numpy as np
import pytest

from dspec.backends.registry import open_ops
from dspec.errors import ShapeError
from dspec.oracle.several import verify_several
from dspec.testing.bench import several_on_device
from dspec.testing.checks import slot_instances
from dspec.testing.checks.several import check_several
from dspec.testing.checks.several_coupling import check_several_coupling, edge_distance, random_slots
from dspec.testing.checks.slot_instances import KINDS, ROWS, Slot, make_slots
from dspec.testing.plan import Part
from dspec.testing.run import run_part
from dspec.testing.specimens.faulty_slots import WRONG, WRONG_MAPS, Slots
from tests.pipeline_cases import assert_killed, assert_passes, controls_of, mutants_of
from tests.rooms import DEVICES, ROOMS, of_rooms

pytestmark = pytest.mark.clause("RS-22")


@pytest.mark.clause("RS-7", "NU-2")
@pytest.mark.parametrize("mutant", mutants_of("several"))
def test_the_count_fails_every_wrong_verifier(mutant):
    report = assert_killed(mutant)
    again = check_several(mutant.subject, **report.replay["arguments"])
    assert again.counterexample == report.counterexample
    assert check_several(Slots(), **report.replay["arguments"]).passed


@pytest.mark.parametrize("mutant", mutants_of("several_coupling"))
def test_the_coupling_fails_every_other_map(mutant):
    report = assert_killed(mutant)
    again = check_several_coupling(mutant.subject, **report.replay["arguments"])
    assert again.counterexample == report.counterexample
    assert check_several_coupling(Slots(), **report.replay["arguments"]).passed


@pytest.mark.parametrize("control", controls_of("several"))
def test_the_count_passes_right_verifiers(control):
    assert_passes(control)
    for kind in KINDS:
        assert check_several_coupling(control.subject, rows=300, kind=kind).passed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", of_rooms(["numpy", *ROOMS]))
def test_core_passes_on_every_backend_and_dtype(backend, kind):
    ops = open_ops(DEVICES.get(backend, backend))
    for dtype in ("float32", "bfloat16", "float16") if kind != "apart" else ("float32",):
        if hasattr(ops.xp, dtype):
            report = check_several(several_on_device(ops, dtype), kind=kind, count=6, seed=4)
            assert report.passed and report.tried["slots"] == 6, report
    report = check_several_coupling(several_on_device(ops), rows=1000, kind=kind, seed=4)
    assert report.passed and report.tried["near-edge mismatches"] <= 2, report


@pytest.mark.parametrize("kind", KINDS)
def test_slots_are_of_their_kind_and_leave_something_to_see(kind):
    slots = make_slots(12, seed=5, kind=kind)
    assert {slot.count for slot in slots} == {1, 2, 3} and {len(slot.target) for slot in slots} == {4, 5}
    for slot in slots:
        assert sum(path.chance for path in slot.paths) == 1 and slot.rows <= ROWS
        # An accept uniform that no draft can fall by and a choice that is none show no fault.
        assert any(len(path.shares) == slot.count and 0 < path.shares[-1] < 1 for path in slot.paths)
        for path in slot.paths:
            laws = slot.laws(path.drafted)
            assert all(sum(law) == 1 and law[token] > 0 for token, law in zip(path.drafted, laws))
            assert kind == "alike" or len(set(path.drafted)) == slot.count
            assert kind != "alike" or all(law == laws[0] for law in laws)


def test_the_grid_of_a_sequence_holds_every_threshold():
    """The scalar rule answers alike on the whole cell around each midpoint, so that counting is exact."""
    for kind in KINDS:
        for slot in make_slots(3, seed=1, kind=kind):
            target = [Fraction(mass, 16) for mass in slot.target]
            for path in slot.paths[:4]:
                laws = slot.laws(path.drafted)
                near = [
                    verify_several(
                        target,
                        path.drafted,
                        laws,
                        [Fraction(2 * j + 1, 2 * n) + shift / n for n, j in zip(path.grid, cell)],
                        (Fraction(1, 2),),
                        draw=lambda law, close: -1,
                    )
                    for shift in (Fraction(-49, 100), Fraction(0), Fraction(49, 100))
                    for cell in np.ndindex(*path.grid[: slot.count])
                ]
                size = len(near) // 3
                assert near[:size] == near[size : 2 * size] == near[2 * size :]


def test_the_law_of_thirds_is_no_law_in_bfloat16():
    """Why drafts without replacement are counted in float32 alone: 2/3 and 1/3 sum to 1.002 there."""
    slot = Slot((4, 4, 8, 0), (8, 4, 4, 0), 2, "apart")
    assert slot.laws((1, 0))[1] == [Fraction(2, 3), 0, Fraction(1, 3), 0]
    laws = np.asarray([[[0.5, 0.25, 0.25], [0.66796875, 0.0, 0.333984375]]], np.float32)
    drafts, uniforms = np.asarray([[1, 0]], np.int32), np.zeros((2, 1, 2), np.float32)
    verify = several_on_device(open_ops("numpy"))
    assert verify(np.asarray([[0.25, 0.25, 0.5]], np.float32), drafts, laws, *uniforms)[0] == [-1]


@pytest.mark.parametrize("check", [check_several, check_several_coupling])
def test_answers_of_other_shapes_are_refused(check):
    for answer in (0, (np.zeros(3, int), np.zeros(3, int)), (0.5, 1)):
        with pytest.raises(ShapeError, match="needs"):
            check(lambda *arrays, answer=answer: answer)


def test_an_index_that_contradicts_its_token_is_seen():
    """The law of the token alone would pass it."""

    def wrong(*arrays):
        index, tokens = Slots()(*arrays)
        return np.zeros_like(index), tokens

    assert not check_several(wrong).passed


def test_replay_from_the_text_of_a_report(monkeypatch):
    part = Part(
        "several", "numpy", "float32", "alike", {"kind": "alike", "dtype": "float32", "count": 3, "seed": 0}
    )
    assert run_part(part).passed
    mutant = WRONG["several drafts: what is owed is not updated"]
    monkeypatch.setattr("dspec.testing.entries.several_on_device", lambda ops, dtype="float32": mutant)
    report = run_part(part)
    narrowed = json.loads(json.dumps(report.replay))["arguments"]
    assert run_part(part, only=narrowed).counterexample == report.counterexample
    given = {"kind": "alike", "rows": 300, "vocab": 64, "seed": 0}
    assert not run_part(Part("several_coupling", "numpy", "float32", "alike", given)).passed


@pytest.mark.clause("RS-10")
def test_only_rows_next_to_an_edge_are_excused():
    """The distance is of masses: the second draft's is scaled by what the first one left."""
    half = [0.5, 0.5, 0.0]
    given = [[0.25, 0.5, 0.25], [0, 1], [half, half], [0.75, 0.5], [0.3, 0.5]]
    assert edge_distance(given, None) == pytest.approx(min(0.75 / 2 - 0.25, 0.25 * 0.25))
    assert slot_instances.ROWS >= 10_000 and len(WRONG_MAPS) == 3
    target, tokens, laws, *_ = random_slots(500, 9, 3, kind="apart", seed=1)
    assert all(len(set(row)) == 3 for row in tokens.tolist())
    assert np.allclose(laws.sum(-1), 1, atol=1e-6) and np.allclose(target.sum(-1), 1, atol=1e-6)

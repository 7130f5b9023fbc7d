"""Schedules of an objective's numbers: values at each step, text form, refusals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspec.core.objectives import Objective, Progress, sums
from dspec.core.schedules import SHAPES, Schedule
from dspec.core.terms import Decay
from dspec.errors import ConfigError
from dspec.oracle import schedules as oracle
from tests.core_objective_cases import example

pytestmark = pytest.mark.clause("OB-18")

finite = st.floats(-1e6, 1e6)


@given(finite, finite, st.sampled_from(SHAPES), st.floats(0.01, 1), st.integers(1, 9), st.data())
def test_value_at_a_step_is_the_oracles(start, end, shape, share, steps, data):
    step, epochs = data.draw(st.integers(0, steps - 1)), data.draw(st.integers(1, 4))
    progress = Progress(step, steps, data.draw(st.integers(0, epochs - 1)), epochs)
    found = Schedule(start, end, shape, share).at(progress)
    settings = {"shape": shape, "share": share, "step": step, "steps": steps}
    settings |= {"epoch": progress.epoch, "epochs": epochs}
    assert found == pytest.approx(oracle.value_at(start, end, **settings), rel=1e-9, abs=1e-6)
    assert min(start, end) <= found <= max(start, end)


@given(finite, finite, st.sampled_from(SHAPES), st.floats(0.01, 1))
def test_text_reads_back_to_the_same_schedule(start, end, shape, share):
    schedule = Schedule(start, end, shape, share)
    assert Schedule.read(str(schedule)) == schedule


@pytest.mark.parametrize(
    ("text", "gamma"),
    [
        ("decay(4.5->10.5)", Schedule(4.5, 10.5)),
        ("decay( 1 -> 2:cosine )", Schedule(1, 2, "cosine")),
        ("decay(gamma=1->2:epoch@0.5)", Schedule(1, 2, "epoch", 0.5)),
        ("decay(1e+1->2@.25)", Schedule(10, 2, "linear", 0.25)),
        ("dflare", Schedule(4.5, 10.5)),
    ],
)
def test_an_objective_s_text_may_hold_one(text, gamma):
    objective = Objective.parse(text)
    assert objective.terms == (Decay(gamma),)
    assert Objective.parse(str(objective)) == objective


def test_the_numbers_of_a_step_replace_it():
    objective = Objective.parse(
        "decay(4->8)+first_error(0.3)+chain(0->40:cosine@0.5)", reduction="weighted_mean"
    )
    begun, middle, done = (objective.at(Progress(step, 5)) for step in (0, 1, 4))
    assert [str(x) for x in (begun, done)] == [
        f"decay({g})+first_error(0.3)+chain({w})" for g, w in ((4, 0), (8, 40))
    ]
    assert middle.terms[0].gamma == 5 and middle.terms[2].weight == pytest.approx(20)
    assert middle.reduction == "weighted_mean"
    # first_error follows the decay of the step, not that of another.
    assert [term.gamma for term in middle.resolved()[:2]] == [5, 5]


def test_without_a_schedule_nothing_changes():
    objective = Objective.parse("ltr")
    assert objective.at(Progress(3, 9)) is objective


def test_an_epoch_schedule_stands_still_within_an_epoch():
    ramp = Schedule(0, 6, "epoch")
    assert [ramp.at(Progress(step, 6, step // 2, 3)) for step in range(6)] == [0, 0, 3, 3, 6, 6]
    with pytest.raises(ConfigError, match="no epochs"):
        ramp.at(Progress(0, 6))


def test_a_scheduled_objective_has_no_value_of_its_own():
    arrays = example()
    with pytest.raises(ConfigError, match=r"objective\.at"):
        sums(Objective.parse("chain(0->40)"), *arrays, xp=np)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("decay(0->10)", "gamma"),
        ("decay(10->inf)", "finite"),
        ("chain(-1->40)", "weight"),
        ("dpace(0.5->1.5)", "alpha"),
        ("kl(10, temperature=1->0)", "temperature"),
        ("lk(-1->3)", "eta"),
        ("chain(0->40:stairs)", "linear, cosine, epoch"),
        ("chain(0->40@0)", "share"),
        ("chain(0->40@2)", "share"),
        ("chain(0->)", "schedule such as"),
        ("chain(0->40->50)", "schedule such as"),
    ],
)
def test_what_no_step_could_use_is_refused(text, said):
    with pytest.raises(ConfigError, match=said):
        Objective.parse(text)

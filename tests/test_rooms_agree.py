"""The rooms train alike: same weights, data and anchors give the same gradients and the same curves."""

import numpy as np
import pytest

from dspec.core.objectives import PRESETS
from tests.rooms import ROOMS
from tests.test_learner import gradient, read, weights_of
from tests.tiny_training import make_config, make_learner, make_target
from tests.tolerances import ROOMS_CURVE, ROOMS_GRADIENT

pytestmark = pytest.mark.mlx


@pytest.fixture(scope="module")
def targets():
    if not all(room.installed for room in ROOMS.values()):
        pytest.skip("not every room is installed")
    return {name: make_target(room) for name, room in ROOMS.items()}


def learners(targets, config, objective="ltr", **options):
    return {
        name: make_learner(room, targets[name], config, objective, **options) for name, room in ROOMS.items()
    }


def both_gradients(targets, config, objective, *, parts=1):
    made = learners(targets, config, objective)
    return [
        gradient(room, made[name], read(room, targets[name], config, parts)) for name, room in ROOMS.items()
    ]


@pytest.mark.clause("OB-8")
@pytest.mark.parametrize("reduction", ["block_sum", "weighted_mean"])
@pytest.mark.parametrize("objective", [*PRESETS, "first_error(1)", "chain(40)"])
def test_gradients_of_a_whole_drafter_agree_before_the_first_step(targets, objective, reduction):
    config = make_config(reduction=reduction, layers=2)
    (value, grads), (other_value, others) = both_gradients(targets, config, objective)
    assert value == pytest.approx(other_value, rel=ROOMS_GRADIENT)
    assert grads.keys() == others.keys() and max(np.abs(grad).max() for grad in grads.values()) > 0.02
    for name, grad in grads.items():
        assert grad.any(), f"{name}: nothing to compare"
        np.testing.assert_allclose(grad, others[name], atol=ROOMS_GRADIENT, rtol=0, err_msg=name)


@pytest.mark.clause("OB-7")
@pytest.mark.parametrize("objective", ["ltr", "dflash"])
def test_gradients_agree_over_micro_batches_a_softcap_and_recomputed_layers(objective):
    targets = {name: make_target(room, softcap=2.0) for name, room in ROOMS.items()}
    config = make_config(layers=2, recompute=True)
    (value, grads), (other_value, others) = both_gradients(targets, config, objective, parts=4)
    assert value == pytest.approx(other_value, rel=ROOMS_GRADIENT)
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, others[name], atol=ROOMS_GRADIENT, rtol=0, err_msg=name)


@pytest.mark.parametrize(
    ("objective", "parts", "changes"),
    [
        ("ltr", 1, {}),
        ("dflash", 2, {"weight_decay": 0.1, "clip": 0.1, "betas": (0.8, 0.95), "warmup": 0.2}),
    ],
)
def test_curves_agree_for_twenty_steps(targets, objective, parts, changes):
    config = make_config(steps=20, layers=2, **changes)
    made = learners(targets, config, objective)
    before = weights_of(ROOMS["mlx"], made["mlx"])
    for step in range(20):
        pair = [
            made[name].train_step(read(room, targets[name], config, parts, step=step))
            for name, room in ROOMS.items()
        ]
        assert pair[0].loss == pytest.approx(pair[1].loss, rel=ROOMS_CURVE), step
        assert pair[0].grad_norm == pytest.approx(pair[1].grad_norm, rel=ROOMS_CURVE), step
        assert pair[0].lr == pair[1].lr
    theirs, ours = (weights_of(room, made[name]) for name, room in ROOMS.items())
    for name, weight in ours.items():
        assert np.abs(weight - before[name]).max() > 0.005, f"{name} has not moved"
        np.testing.assert_allclose(weight, theirs[name], atol=ROOMS_CURVE, rtol=0, err_msg=name)


def test_evaluations_agree(targets):
    config = make_config(layers=2)
    made = learners(targets, config, "ltr")
    first, second = (
        made[name].evaluate(read(room, targets[name], config)[0]) for name, room in ROOMS.items()
    )
    np.testing.assert_allclose(first.sums, second.sums, rtol=ROOMS_GRADIENT)
    assert first.acceptance.as_dict() == second.acceptance.as_dict()


def test_a_state_of_one_room_goes_on_in_the_other(targets):
    """What a run's files hold is the same in both: moments and step counts included."""
    config = make_config(layers=2)
    made = learners(targets, config)
    parts = {name: read(room, targets[name], config) for name, room in ROOMS.items()}
    for _ in range(3):
        made["mlx"].train_step(parts["mlx"])
    state = made["mlx"].state()
    assert {value.dtype for value in state.values()} == {np.dtype("float32")}
    made["torch"].restore(state, 3)
    assert made["torch"].state().keys() == state.keys()
    assert all((value == state[name]).all() for name, value in made["torch"].state().items())
    ours, theirs = (made[name].train_step(parts[name]) for name in ROOMS)
    assert ours.loss == pytest.approx(theirs.loss, rel=ROOMS_CURVE) and ours.lr == theirs.lr
    for name, value in made["torch"].state().items():
        np.testing.assert_allclose(made["mlx"].state()[name], value, atol=ROOMS_CURVE, rtol=0, err_msg=name)

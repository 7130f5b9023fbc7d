"""Objectives of the core: equal to the scalar oracle, with weights that are their gradient."""

import array_api_compat.torch as torch_xp
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from dspec.core.numerics import gather
from dspec.core.objectives import PRESETS, Objective, accepted_prefix, sums, value, wasted_hits, weights
from dspec.errors import ShapeError
from dspec.oracle import objectives as oracle
from tests import tolerances
from tests.core_objective_cases import CASES, batches, example
from tests.namespaces import NAMESPACES, close, gradient_close, narrowed, place, to_numpy
from tests.rooms import ROOMS, of_rooms

assert set(PRESETS) - {"dflare"} <= set(CASES)  # a schedule has no value: tests/test_core_schedules.py
REDUCTIONS = ("block_sum", "weighted_mean")
every_case = pytest.mark.parametrize("text", CASES)
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)


def whole_value(objective, batch, xp, **extra):
    return value(objective, sums(objective, *batch, xp=xp, **extra), xp=xp)


def whole_weights(objective, batch, xp):
    return weights(objective, *batch, sums(objective, *batch, xp=xp), xp=xp)


def gradient(room, objective, log_prob, hit, mask):
    """Return the gradient of the value with respect to log_prob, by autograd in the widest dtype."""
    log_prob, *flags = place((log_prob, hit, mask), room.xp)
    stop = room.stop_gradient
    return room.gradient(lambda x: whole_value(objective, (x, *flags), room.xp, stop_gradient=stop), log_prob)


@pytest.mark.clause("OB-2")
@pytest.mark.clause("OB-3")
@pytest.mark.clause("OB-4")
@pytest.mark.clause("OB-5")
@pytest.mark.clause("OB-7")
@every_case
@every_reduction
@pytest.mark.parametrize("namespace", of_rooms(NAMESPACES))
@settings(max_examples=40, deadline=None)
@given(batch=batches())
def test_value_and_weights_are_the_oracles(namespace, text, reduction, batch):
    xp, objective = NAMESPACES[namespace], Objective.parse(text, reduction=reduction)
    arrays, batch = place(batch, xp), narrowed(batch, xp)
    found = to_numpy(whole_value(objective, arrays, xp))
    np.testing.assert_allclose(found, oracle.objective_value(CASES[text], *batch, reduction), **close(xp))
    expected = -np.asarray(oracle.objective_gradient(CASES[text], *batch, reduction))
    np.testing.assert_allclose(to_numpy(whole_weights(objective, arrays, xp)), expected, **close(xp))


@pytest.mark.clause("OB-8")
@every_case
@every_reduction
@pytest.mark.parametrize("name", of_rooms())
@settings(max_examples=40, deadline=None)
@given(batch=batches())
def test_autograd_of_the_value_is_minus_the_weights_and_the_hand_gradient(name, text, reduction, batch):
    room, objective = ROOMS[name], Objective.parse(text, reduction=reduction)
    batch = narrowed(batch, room.xp)
    found = gradient(room, objective, *batch)
    c = to_numpy(whole_weights(objective, place(batch, room.xp), room.xp))
    np.testing.assert_allclose(found, -c, **gradient_close(room.xp))
    hand = oracle.objective_gradient(CASES[text], *batch, reduction)
    np.testing.assert_allclose(found, np.asarray(hand), **gradient_close(room.xp))
    assert (c >= 0).all()
    assert (c[~batch[2]] == 0).all()


@pytest.mark.clause("OB-8")
@every_case
@every_reduction
def test_gradient_in_the_logits_is_that_of_the_weighted_cross_entropy(room, text, reduction):
    objective, xp = Objective.parse(text, reduction=reduction), room.xp
    rng = np.random.default_rng(3)
    logits, labels = place((2 * rng.normal(size=(6, 7, 5)), rng.integers(0, 5, size=(6, 7))), xp)
    mask = room.array(example()[2])

    def log_prob(x):
        top = xp.max(x, axis=-1, keepdims=True)
        return gather(x - top - xp.log(xp.sum(xp.exp(x - top), axis=-1, keepdims=True)), labels, xp=xp)

    def total(x):
        batch = (log_prob(x), xp.argmax(x, axis=-1) == labels, mask)
        return whole_value(objective, batch, xp, stop_gradient=room.stop_gradient)

    true = room.gradient(total, logits)
    hit = xp.argmax(logits, axis=-1) == labels
    c = whole_weights(objective, (log_prob(logits), hit, mask), xp)
    found = room.gradient(lambda x: xp.sum(c * -log_prob(x)), logits)
    assert np.abs(true).max() > 1e-3
    np.testing.assert_allclose(found, true, **gradient_close(xp))


@pytest.mark.clause("OB-2")
def test_decay_without_end_is_uniform(xp):
    batch = example()
    log_prob, _, mask = batch
    uniform = Objective.parse("uniform")
    expected = -(log_prob * mask).sum() / mask.any(axis=1).sum()
    arrays = place(batch, xp)
    np.testing.assert_allclose(to_numpy(whole_value(uniform, arrays, xp)), expected, **close(xp))
    slow = Objective.parse("decay(1e13)")
    np.testing.assert_allclose(to_numpy(whole_value(slow, arrays, xp)), expected, **close(xp))


@pytest.mark.clause("OB-2")
def test_decay_to_nothing_keeps_the_first_slot_only(xp):
    log_prob, hit, _ = example()
    objective = Objective.parse("decay(0.001)")
    c = to_numpy(whole_weights(objective, place((log_prob, hit, np.ones_like(hit)), xp), xp))
    np.testing.assert_allclose(c[:, 0] * len(c), 1, **close(xp))
    assert (c[:, 1:] == 0).all()


@pytest.mark.clause("OB-3")
def test_a_block_without_an_error_adds_nothing_to_first_error(xp):
    log_prob, hit, mask = example()
    objective = Objective.parse("first_error(0.3, gamma=5)")
    before = to_numpy(sums(objective, *place((log_prob, hit, mask), xp), xp=xp))
    right = (log_prob[:1], np.ones_like(hit[:1]), np.ones_like(mask[:1]))
    longer = [np.concatenate(pair) for pair in zip((log_prob, hit, mask), right)]
    after = to_numpy(sums(objective, *place(longer, xp), xp=xp))
    assert before[0, 1] > 0
    np.testing.assert_allclose(after, before, **close(xp))
    assert to_numpy(whole_value(objective, place(right, xp), xp)) == 0
    assert (to_numpy(whole_weights(objective, place(right, xp), xp)) == 0).all()


@pytest.mark.clause("OB-4")
@pytest.mark.clause("OB-5")
@every_reduction
def test_gradient_of_chain_is_that_of_unsmoothed_dpace_scaled(room, reduction):
    batch = example()
    chain = gradient(room, Objective.parse("chain(40)", reduction=reduction), *batch)
    dpace = gradient(room, Objective.parse("dpace(0)", reduction=reduction), *batch)
    assert np.abs(dpace).max() > 0.1
    np.testing.assert_allclose(chain, 40 / batch[0].shape[1] * dpace, **gradient_close(room.xp))


@pytest.mark.clause("OB-4")
def test_chain_is_the_share_of_slots_in_the_expected_prefix(xp):
    """Against the expected length of a run of coin flips, counted outcome by outcome."""
    chances = [0.5, 0.25, 0.75]
    expected = 0.0
    for outcome in range(8):
        flips = [bool(outcome >> k & 1) for k in range(3)]
        chance = np.prod([p if f else 1 - p for p, f in zip(chances, flips)])
        expected += chance * (flips.index(False) if False in flips else 3) / 3
    yes = np.ones((1, 3), dtype=bool)
    found = whole_value(Objective.parse("chain(1)"), place((np.log([chances]), yes, yes), xp), xp)
    np.testing.assert_allclose(to_numpy(found), -expected, **close(xp))


@pytest.mark.clause("OB-9")
@every_case
@every_reduction
def test_a_fully_masked_block_changes_nothing_whatever_it_holds(xp, text, reduction):
    objective = Objective.parse(text, reduction=reduction)
    log_prob, hit, mask = example()
    bad = np.array([[np.nan, -np.inf, 3.0, np.inf, 0.0, -1.0, np.nan]])
    longer = [
        np.concatenate(pair)
        for pair in zip((log_prob, hit, mask), (bad, bad == 0, np.zeros(bad.shape, dtype=bool)))
    ]
    before = to_numpy(sums(objective, *place((log_prob, hit, mask), xp), xp=xp))
    np.testing.assert_allclose(to_numpy(sums(objective, *place(longer, xp), xp=xp)), before, **close(xp))
    c = to_numpy(whole_weights(objective, place(longer, xp), xp))
    expected = to_numpy(whole_weights(objective, place(example(), xp), xp))
    np.testing.assert_allclose(c[:-1], expected, **close(xp))
    assert (c[-1] == 0).all()


@pytest.mark.clause("OB-9")
@every_case
@every_reduction
def test_a_batch_without_supervised_slots_is_worth_zero(xp, text, reduction):
    objective = Objective.parse(text, reduction=reduction)
    log_prob, hit, mask = example()
    arrays = place((log_prob, hit, np.zeros_like(mask)), xp)
    assert to_numpy(whole_value(objective, arrays, xp)) == 0
    assert (to_numpy(whole_weights(objective, arrays, xp)) == 0).all()


@pytest.mark.clause("OB-7")
@every_case
@every_reduction
def test_cutting_a_batch_in_parts_changes_nothing(xp, text, reduction):
    objective = Objective.parse(text, reduction=reduction)
    batch = example(n=9)
    parts = [[x[a:b] for x in batch] for a, b in ((0, 1), (1, 2), (2, 6), (6, 9))]
    whole = sums(objective, *place(batch, xp), xp=xp)
    added = xp.sum(xp.stack([sums(objective, *place(part, xp), xp=xp) for part in parts]), axis=0)
    np.testing.assert_allclose(to_numpy(added), to_numpy(whole), **close(xp))
    c = [to_numpy(weights(objective, *place(part, xp), added, xp=xp)) for part in parts]
    expected = to_numpy(weights(objective, *place(batch, xp), whole, xp=xp))
    np.testing.assert_allclose(np.concatenate(c), expected, **close(xp))


@pytest.mark.clause("OB-10")
@every_case
def test_an_impossible_token_gives_finite_weights_and_gradients(room, text):
    """log_prob = -inf: the same weights as e^-800, which no float64 tells from 0."""
    objective = Objective.parse(text)
    log_prob, hit, mask = example()
    log_prob[0, 1] = log_prob[2, 0] = log_prob[3, -1] = -np.inf
    hit = hit & (log_prob > -np.inf)
    xp = room.xp
    c = to_numpy(whole_weights(objective, place((log_prob, hit, mask), xp), xp))
    near = place((np.maximum(log_prob, -800), hit, mask), xp)
    np.testing.assert_array_equal(c, to_numpy(whole_weights(objective, near, xp)))
    assert np.isfinite(c).all()
    assert not np.isnan(to_numpy(whole_value(objective, place((log_prob, hit, mask), xp), xp)))
    np.testing.assert_allclose(gradient(room, objective, log_prob, hit, mask), -c, **gradient_close(xp))


@pytest.mark.clause("OB-10")
def test_prefix_products_of_an_untrained_drafter_underflow_to_zero(xp):
    yes = np.ones((1, 31), dtype=bool)
    log_prob = np.full((1, 31), -12.0, dtype=np.float32)
    c = to_numpy(whole_weights(Objective.parse("chain(31)"), place((log_prob, yes, yes), xp), xp))
    assert c.dtype == np.float32
    expected = np.exp(-12.0 * np.arange(1, 32)) / (1 - np.exp(-12.0))
    np.testing.assert_allclose(c[0, :7], expected[:7], rtol=100 * tolerances.FLOAT32)
    assert (c[0, 10:] == 0).all()


@pytest.mark.clause("OB-10")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_widened_before_any_arithmetic(room, dtype):
    objective, xp = Objective.parse("ltr"), room.xp
    log_prob, hit, mask = place(example(), xp)
    narrow = xp.astype(log_prob, getattr(xp, dtype))
    found = sums(objective, narrow, hit, mask, xp=xp)
    assert found.dtype == xp.float32
    expected = sums(objective, xp.astype(narrow, xp.float32), hit, mask, xp=xp)
    np.testing.assert_array_equal(to_numpy(found), to_numpy(expected))
    assert whole_weights(objective, (narrow, hit, mask), xp).dtype == xp.float32


@pytest.mark.clause("OB-1")
@every_case
@every_reduction
def test_no_value_is_read_and_no_array_is_made_elsewhere(text, reduction):
    """torch's meta device holds shapes only: reading a value, or mixing with the host's arrays, raises."""
    objective = Objective.parse(text, reduction=reduction)
    batch = [torch.tensor(x).to("meta") for x in example()]
    total = sums(objective, *batch, xp=torch_xp)
    assert total.shape == (len(CASES[text]), 2)
    assert weights(objective, *batch, total, xp=torch_xp).device.type == "meta"
    assert value(objective, total, xp=torch_xp).device.type == "meta"
    assert accepted_prefix(*batch[1:], xp=torch_xp).device.type == "meta"
    assert wasted_hits(*batch[1:], xp=torch_xp).device.type == "meta"


@pytest.mark.clause("OB-11")
@given(batch=batches())
def test_statistics_count_the_accepted_and_the_wasted(batch):
    _, hit, mask = batch
    for xp in NAMESPACES.values():
        flags = place((hit, mask), xp)
        assert to_numpy(accepted_prefix(*flags, xp=xp)).tolist() == oracle.accepted_prefix(hit, mask)
        assert to_numpy(wasted_hits(*flags, xp=xp)).tolist() == oracle.wasted_hits(hit, mask)


@pytest.mark.clause("OB-1")
def test_arrays_that_do_not_agree_are_refused(xp):
    log_prob, hit, mask = place(example(), xp)
    objective = Objective.parse("ltr")
    with pytest.raises(ShapeError, match=r"log_prob, hit, mask: got \(6, 7\), \(6, 7\), \(6, 6\)"):
        sums(objective, log_prob, hit, mask[:, :-1], xp=xp)
    with pytest.raises(ShapeError, match=r"\(6,\), \(6,\), \(6,\)"):
        sums(objective, log_prob[:, 0], hit[:, 0], mask[:, 0], xp=xp)
    with pytest.raises(ShapeError, match=r"mask: got .*; needs booleans"):
        sums(objective, log_prob, hit, xp.astype(mask, xp.float32), xp=xp)
    with pytest.raises(ShapeError, match=r"sums: got \(1, 2\); needs \(3, 2\)"):
        value(objective, xp.zeros((1, 2)), xp=xp)

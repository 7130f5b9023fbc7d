"""Objectives of the core: equal to the scalar oracle, with weights that are their gradient."""

import array_api_compat.torch as torch_xp
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from dspec.core.objectives import PRESETS, Objective, accepted_prefix, sums, value, wasted_hits, weights
from dspec.errors import ShapeError
from dspec.oracle import objectives as oracle
from tests import tolerances
from tests.conftest import NAMESPACES
from tests.core_objective_cases import CASES, batches, example, place, to_numpy

assert set(PRESETS) <= set(CASES)
REDUCTIONS = ("block_sum", "weighted_mean")
every_case = pytest.mark.parametrize("text", CASES)
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)
CLOSE = {"rtol": tolerances.FLOAT64, "atol": tolerances.FLOAT64}
GRADIENT = {"rtol": tolerances.GRADIENT_F64, "atol": tolerances.GRADIENT_F64}


def whole_value(objective, batch, xp, **extra):
    return value(objective, sums(objective, *batch, xp=xp, **extra), xp=xp)


def whole_weights(objective, batch, xp):
    return weights(objective, *batch, sums(objective, *batch, xp=xp), xp=xp)


def gradient(objective, log_prob, hit, mask):
    """Return the gradient of the value with respect to log_prob, by autograd in float64."""
    leaf = torch.tensor(log_prob, requires_grad=True)
    batch = (leaf, torch.tensor(hit), torch.tensor(mask))
    whole_value(objective, batch, torch_xp, stop_gradient=torch.Tensor.detach).backward()
    return leaf.grad.numpy()


@pytest.mark.clause("OB-2")
@pytest.mark.clause("OB-3")
@pytest.mark.clause("OB-4")
@pytest.mark.clause("OB-5")
@pytest.mark.clause("OB-7")
@every_case
@every_reduction
@pytest.mark.parametrize("namespace", NAMESPACES)
@settings(max_examples=40, deadline=None)
@given(batch=batches())
def test_value_and_weights_are_the_oracles(namespace, text, reduction, batch):
    xp, objective = NAMESPACES[namespace], Objective.parse(text, reduction=reduction)
    arrays = place(batch, xp)
    found = to_numpy(whole_value(objective, arrays, xp))
    np.testing.assert_allclose(found, oracle.objective_value(CASES[text], *batch, reduction), **CLOSE)
    expected = -np.asarray(oracle.objective_gradient(CASES[text], *batch, reduction))
    np.testing.assert_allclose(to_numpy(whole_weights(objective, arrays, xp)), expected, **CLOSE)


@pytest.mark.clause("OB-8")
@every_case
@every_reduction
@settings(max_examples=40, deadline=None)
@given(batch=batches())
def test_autograd_of_the_value_is_minus_the_weights_and_the_hand_gradient(text, reduction, batch):
    objective = Objective.parse(text, reduction=reduction)
    found = gradient(objective, *batch)
    c = to_numpy(whole_weights(objective, place(batch, torch_xp), torch_xp))
    np.testing.assert_allclose(found, -c, **GRADIENT)
    hand = oracle.objective_gradient(CASES[text], *batch, reduction)
    np.testing.assert_allclose(found, np.asarray(hand), **GRADIENT)
    assert (c >= 0).all()
    assert (c[~batch[2]] == 0).all()


@pytest.mark.clause("OB-8")
@every_case
@every_reduction
def test_gradient_in_the_logits_is_that_of_the_weighted_cross_entropy(text, reduction):
    objective = Objective.parse(text, reduction=reduction)
    rng = np.random.default_rng(3)
    logits = torch.tensor(2 * rng.normal(size=(6, 7, 5)), requires_grad=True)
    labels = torch.tensor(rng.integers(0, 5, size=(6, 7, 1)))
    log_prob = torch.log_softmax(logits, -1).gather(-1, labels)[..., 0]
    batch = (log_prob, logits.argmax(-1) == labels[..., 0], torch.tensor(example()[2]))
    total = whole_value(objective, batch, torch_xp, stop_gradient=torch.Tensor.detach)
    (true,) = torch.autograd.grad(total, logits, retain_graph=True)
    c = whole_weights(objective, (log_prob.detach(), *batch[1:]), torch_xp)
    (found,) = torch.autograd.grad((c * -log_prob).sum(), logits)
    assert true.abs().max() > 1e-3
    np.testing.assert_allclose(found.numpy(), true.numpy(), **GRADIENT)


@pytest.mark.clause("OB-2")
def test_decay_without_end_is_uniform(xp):
    batch = example()
    log_prob, _, mask = batch
    uniform = Objective.parse("uniform")
    expected = -(log_prob * mask).sum() / mask.any(axis=1).sum()
    arrays = place(batch, xp)
    np.testing.assert_allclose(to_numpy(whole_value(uniform, arrays, xp)), expected, **CLOSE)
    slow = Objective.parse("decay(1e13)")
    np.testing.assert_allclose(to_numpy(whole_value(slow, arrays, xp)), expected, **CLOSE)


@pytest.mark.clause("OB-2")
def test_decay_to_nothing_keeps_the_first_slot_only(xp):
    log_prob, hit, _ = example()
    objective = Objective.parse("decay(0.001)")
    c = to_numpy(whole_weights(objective, place((log_prob, hit, np.ones_like(hit)), xp), xp))
    np.testing.assert_allclose(c[:, 0] * len(c), 1, **CLOSE)
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
    np.testing.assert_allclose(after, before, **CLOSE)
    assert to_numpy(whole_value(objective, place(right, xp), xp)) == 0
    assert (to_numpy(whole_weights(objective, place(right, xp), xp)) == 0).all()


@pytest.mark.clause("OB-4")
@pytest.mark.clause("OB-5")
@every_reduction
def test_gradient_of_chain_is_that_of_unsmoothed_dpace_scaled(reduction):
    batch = example()
    chain = gradient(Objective.parse("chain(40)", reduction=reduction), *batch)
    dpace = gradient(Objective.parse("dpace(0)", reduction=reduction), *batch)
    assert np.abs(dpace).max() > 0.1
    np.testing.assert_allclose(chain, 40 / batch[0].shape[1] * dpace, **GRADIENT)


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
    np.testing.assert_allclose(to_numpy(found), -expected, **CLOSE)


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
    np.testing.assert_allclose(to_numpy(sums(objective, *place(longer, xp), xp=xp)), before, **CLOSE)
    c = to_numpy(whole_weights(objective, place(longer, xp), xp))
    expected = to_numpy(whole_weights(objective, place(example(), xp), xp))
    np.testing.assert_allclose(c[:-1], expected, **CLOSE)
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
    np.testing.assert_allclose(to_numpy(added), to_numpy(whole), **CLOSE)
    c = [to_numpy(weights(objective, *place(part, xp), added, xp=xp)) for part in parts]
    expected = to_numpy(weights(objective, *place(batch, xp), whole, xp=xp))
    np.testing.assert_allclose(np.concatenate(c), expected, **CLOSE)


@pytest.mark.clause("OB-10")
@every_case
def test_an_impossible_token_gives_finite_weights_and_gradients(xp, text):
    """log_prob = -inf: the same weights as e^-800, which no float64 tells from 0."""
    objective = Objective.parse(text)
    log_prob, hit, mask = example()
    log_prob[0, 1] = log_prob[2, 0] = log_prob[3, -1] = -np.inf
    hit = hit & (log_prob > -np.inf)
    c = to_numpy(whole_weights(objective, place((log_prob, hit, mask), xp), xp))
    near = place((np.maximum(log_prob, -800), hit, mask), xp)
    np.testing.assert_array_equal(c, to_numpy(whole_weights(objective, near, xp)))
    assert np.isfinite(c).all()
    assert not np.isnan(to_numpy(whole_value(objective, place((log_prob, hit, mask), xp), xp)))
    np.testing.assert_allclose(gradient(objective, log_prob, hit, mask), -c, **GRADIENT)


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
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_before_any_arithmetic(dtype):
    objective = Objective.parse("ltr")
    log_prob, hit, mask = place(example(), torch_xp)
    narrow = log_prob.to(dtype)
    found = sums(objective, narrow, hit, mask, xp=torch_xp)
    assert found.dtype == torch.float32
    expected = sums(objective, narrow.to(torch.float32), hit, mask, xp=torch_xp)
    assert torch.equal(found, expected)
    assert whole_weights(objective, (narrow, hit, mask), torch_xp).dtype == torch.float32


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
        sums(objective, log_prob, hit, xp.astype(mask, xp.float64), xp=xp)
    with pytest.raises(ShapeError, match=r"sums: got \(1, 2\); needs \(3, 2\)"):
        value(objective, xp.zeros((1, 2)), xp=xp)

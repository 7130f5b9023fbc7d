"""The gold log-probability of the core: equal to a float64 sum term by term, in every namespace."""

from math import exp, fsum, log, tanh

import array_api_compat.torch as torch_xp
import numpy as np
import pytest
import torch

from dspec.core.gold import gold_log_probs
from dspec.errors import ShapeError
from tests import tolerances
from tests.namespaces import NAMESPACES, close, gradient_close, narrowed, place, widest


def example(dtype="float64", rows=9, width=6, vocab=50, scale=3.0):
    rng = np.random.default_rng(5)
    hidden = (scale * rng.normal(size=(rows, width))).astype(dtype)
    return hidden, rng.normal(size=(vocab, width)).astype(dtype), rng.integers(0, vocab, rows)


def reference(hidden, head, labels, softcap=None):
    """Return log-probabilities and hits in float64, one sum a row, the first of equal maxima."""
    log_prob, hit = [], []
    for row, label in zip(hidden.astype(np.float64), labels):
        logits = [fsum(row * column) for column in head.astype(np.float64)]
        if softcap is not None:
            logits = [softcap * tanh(x / softcap) for x in logits]
        top = max(logits)
        log_prob.append(logits[label] - top - log(fsum(exp(x - top) for x in logits)))
        hit.append(logits.index(top) == label)
    return np.array(log_prob), hit


@pytest.mark.clause("OB-1")
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_log_prob_and_hit_are_those_of_a_term_by_term_sum(xp, softcap):
    hidden, head, labels = example(widest(xp))
    labels[::2] = (hidden @ head.T).argmax(-1)[::2]  # else no row of the example is a hit
    expected, hits = reference(hidden, head, labels, softcap)
    assert True in hits
    assert False in hits
    log_prob, hit = gold_log_probs(*place((hidden, head, labels), xp), softcap=softcap, xp=xp)
    np.testing.assert_allclose(np.asarray(log_prob), expected, **close(xp))
    assert np.asarray(hit).tolist() == hits


@pytest.mark.clause("OB-10")
def test_float32_stays_float32_and_close_to_float64(xp):
    hidden, head, labels = example("float32", vocab=3000)
    log_prob, _ = gold_log_probs(*map(xp.asarray, (hidden, head, labels)), xp=xp)
    assert log_prob.dtype == xp.float32
    expected, _ = reference(hidden, head, labels)
    np.testing.assert_allclose(
        np.asarray(log_prob), expected, rtol=tolerances.FLOAT32, atol=tolerances.FLOAT32
    )


@pytest.mark.clause("NU-5")
def test_of_equal_logits_the_lowest_index_is_the_argmax(xp):
    _, head, _ = example(widest(xp))
    head[7] = head[3]
    hidden = np.stack([head[3]] * 3) * 100
    labels = np.array([3, 7, 4])
    log_prob, hit = gold_log_probs(*map(xp.asarray, (hidden, head, labels)), xp=xp)
    assert np.asarray(hit).tolist() == [True, False, False]
    np.testing.assert_allclose(np.asarray(log_prob)[:2], log(0.5), **close(xp))


@pytest.mark.clause("OB-10")
def test_logits_beyond_the_range_of_exp_stay_finite(xp):
    hidden, head, labels = example("float32", scale=1e4)
    log_prob, _ = gold_log_probs(*map(xp.asarray, (hidden, head, labels)), xp=xp)
    expected, _ = reference(hidden, head, labels)
    assert expected.min() < -1e4
    np.testing.assert_allclose(np.asarray(log_prob), expected, rtol=tolerances.FLOAT32, atol=0.1)


@pytest.mark.clause("NU-2")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_logits_get_float32_statistics(room, dtype):
    """Exact products: 16-bit inputs on a coarse grid, so that only the statistics can lose digits."""
    rng = np.random.default_rng(2)
    hidden, head = rng.integers(-2, 3, (9, 6)) / 2.0, rng.integers(-2, 3, (50, 6)) / 2.0
    labels = rng.integers(0, 50, 9)
    narrow = [room.array(x.astype(np.float32), dtype) for x in (hidden, head)]
    log_prob, hit = gold_log_probs(*narrow, room.array(labels), xp=room.xp)
    expected, hits = reference(hidden, head, labels)
    assert log_prob.dtype == room.xp.float32
    np.testing.assert_allclose(
        room.numpy(log_prob), expected, rtol=tolerances.FLOAT32, atol=tolerances.FLOAT32
    )
    assert hit.tolist() == hits


@pytest.mark.clause("OB-8")
def test_gradient_is_softmax_minus_one_hot_through_the_head(room):
    hidden, head, labels = narrowed(example(), room.xp)
    rest = room.array(head), room.array(labels)

    def loss(x):
        return room.xp.sum(-gold_log_probs(x, *rest, xp=room.xp)[0])

    found = room.gradient(loss, room.array(hidden))
    logits = hidden.astype(np.float64) @ head.T
    law = np.exp(logits - logits.max(-1, keepdims=True))
    expected = (law / law.sum(-1, keepdims=True) - np.eye(50)[labels]) @ head
    np.testing.assert_allclose(found, expected, **gradient_close(room.xp))


@pytest.mark.clause("OB-1")
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_labels_may_be_any_integers(xp, dtype):
    hidden, head, labels = example(widest(xp))
    found, _ = gold_log_probs(*map(xp.asarray, (hidden, head, labels.astype(dtype))), xp=xp)
    np.testing.assert_allclose(np.asarray(found), reference(hidden, head, labels)[0], **close(xp))


@pytest.mark.clause("OB-1")
def test_no_value_is_read_and_no_array_is_made_elsewhere():
    arrays = [torch.tensor(x).to("meta") for x in example()]
    log_prob, hit = gold_log_probs(*arrays, softcap=30.0, xp=torch_xp)
    assert (log_prob.device.type, hit.device.type) == ("meta", "meta")


@pytest.mark.clause("OB-1")
def test_arrays_that_do_not_fit_are_refused():
    xp = NAMESPACES["numpy"]
    hidden, head, labels = example()
    with pytest.raises(ShapeError, match=r"got \(9, 5\), \(50, 6\), \(9,\)"):
        gold_log_probs(hidden[:, :5], head, labels, xp=xp)
    with pytest.raises(ShapeError, match=r"got \(9, 6\), \(50, 6\), \(8,\)"):
        gold_log_probs(hidden, head, labels[:8], xp=xp)
    with pytest.raises(ShapeError, match=r"got \(9, 6\), \(50, 6\), \(9, 1\)"):
        gold_log_probs(hidden, head, labels[:, None], xp=xp)
    with pytest.raises(ShapeError, match="float64 and float32"):
        gold_log_probs(hidden, head.astype(np.float32), labels, xp=xp)
    with pytest.raises(ShapeError, match="labels: got float64; needs integers"):
        gold_log_probs(hidden, head, labels.astype(float), xp=xp)

"""Core's warp against the witness: support and values, away from the edges of the filters."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dspec.core.types import Sampling
from dspec.core.warp import warp
from dspec.oracle.warp import keep_top_k, keep_top_p, normalised, warp_logits, warp_weights
from dspec.testing.models.strategies import warps, weight_rows
from tests.namespaces import NAMESPACES, place, with_dtypes
from tests.tolerances import FLOAT32, FLOAT64

EDGE = Fraction(1, 10**5)


def off_edges(weights, setting):
    """Whether no token lies within 1e-5 of a filter's threshold: there rounding may decide."""
    law = normalised([weight ** int(1 / Fraction(setting.temperature)) for weight in weights])
    cut = normalised(keep_top_k(law, setting.top_k))
    before, masses = Fraction(0), sorted(cut, reverse=True)
    for mass in masses:
        if setting.top_p < 1 and abs(before - setting.top_p) < EDGE:
            return False
        before += mass
    kept = keep_top_p(cut, setting.top_p)
    return all(abs(mass / max(kept) - setting.min_p) > EDGE for mass in kept if setting.min_p > 0)


def core_law(weights, setting, namespace, dtype):
    xp = NAMESPACES[namespace]
    with np.errstate(divide="ignore"):
        logits = np.log(np.asarray([weights], dtype=np.float64))
    sampling = Sampling(
        temperature=float(setting.temperature),
        top_k=setting.top_k,
        top_p=float(setting.top_p),
        min_p=float(setting.min_p),
    )
    return np.asarray(warp(xp.asarray(logits.astype(dtype)), sampling, xp=xp))[0]


@pytest.mark.clause("RS-13", "NU-5")
@pytest.mark.parametrize(("namespace", "dtype"), with_dtypes())
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_core_gives_the_witness_law(namespace, dtype, data):
    weights, setting = data.draw(weight_rows()), data.draw(warps())
    assume(off_edges(weights, setting))
    needed = setting.law(tuple(weights))
    got = core_law(weights, setting, namespace, dtype)
    assert [mass > 0 for mass in got] == [mass > 0 for mass in needed]
    tolerance = FLOAT64 if dtype == "float64" else FLOAT32
    assert np.abs(got - np.asarray(needed, dtype=np.float64)).max() <= tolerance


@pytest.mark.clause("RS-13")
def test_order_of_the_filters(xp):
    """Temperature before top-p, top-k before top-p, min-p last: each other order gives another support."""
    logits = xp.log(xp.asarray([[8.0, 6.0, 5.0, 1.0]]))
    cold = warp(logits, Sampling(temperature=0.5, top_p=0.75), xp=xp)
    assert np.count_nonzero(np.asarray(cold)) == 2  # squares 64 36 25 1; if top-p came first, 3 would stay
    few = warp(logits, Sampling(temperature=1.0, top_k=2, top_p=0.55), xp=xp)
    assert np.count_nonzero(np.asarray(few)) == 1  # 8/14 of the kept mass; of all mass 8/20
    low = warp(logits, Sampling(temperature=1.0, top_p=0.99, min_p=0.3), xp=xp)
    assert np.count_nonzero(np.asarray(low)) == 3  # a share of the maximum; as a probability 0.3 would keep 2
    assert np.asarray(low)[0].tolist() == pytest.approx([8 / 19, 6 / 19, 5 / 19, 0])


@pytest.mark.clause("RS-13")
def test_thresholds_themselves(xp):
    """Mass before a token equal to top-p drops it; probability equal to min-p's floor keeps it."""
    flat = xp.zeros((1, 4))
    assert np.asarray(warp(flat, Sampling(temperature=1.0, top_p=0.5), xp=xp)).tolist() == [[0.5, 0.5, 0, 0]]
    assert np.asarray(warp(flat, Sampling(temperature=1.0, min_p=1.0), xp=xp)).tolist() == [[0.25] * 4]


@pytest.mark.clause("RS-11", "RS-13", "NU-5")
def test_temperature_zero_is_the_lowest_argmax(xp):
    law = warp(xp.asarray([[1.0, 3.0, 3.0]]), Sampling(), xp=xp)
    assert np.asarray(law).tolist() == [[0, 1, 0]] == [warp_weights([1, 3, 3], temperature=0)]


@pytest.mark.clause("RS-13", "NU-5")
def test_equal_tokens_are_kept_from_the_lowest_index(xp):
    for setting in (Sampling(temperature=1.0, top_k=2), Sampling(temperature=1.0, top_p=0.3)):
        law = np.asarray(warp(xp.zeros((1, 5)), setting, xp=xp))[0]
        assert law.tolist() == [0.5, 0.5, 0, 0, 0]


@pytest.mark.clause("NU-2")
def test_bfloat16_logits_are_widened_first(room):
    """The law of bfloat16 logits is the float64 law of those same values, to float32 accuracy."""
    values = 3 * np.random.default_rng(0).standard_normal((1, 500), dtype=np.float32)
    logits = room.array(values, "bfloat16")
    got = warp(logits, Sampling(temperature=0.7, top_p=0.9), xp=room.xp)
    needed = warp_logits(logits[0].tolist(), temperature=0.7, top_p=0.9)
    assert got.dtype == room.xp.float32
    assert np.abs(room.numpy(got)[0] - np.asarray(needed)).max() <= FLOAT32


@pytest.mark.clause("RS-17")
def test_logits_are_not_modified(xp):
    (logits,) = place([np.random.default_rng(1).standard_normal((3, 9))], xp)
    before = np.asarray(logits).copy()
    warp(logits, Sampling(temperature=0.5, top_k=4, top_p=0.8, min_p=0.1), xp=xp)
    assert np.array_equal(before, np.asarray(logits))


@pytest.mark.clause("RS-16")
@pytest.mark.parametrize("bad", (np.nan, np.inf))
def test_a_bad_row_gives_no_law_and_leaves_others_alone(xp, bad):
    logits = np.zeros((2, 3))
    logits[1, 0] = bad
    with np.errstate(invalid="ignore"):
        law = np.asarray(warp(*place([logits], xp), Sampling(temperature=1.0, top_p=0.9), xp=xp))
    assert np.isnan(law[1]).any()
    assert law[0].sum() == pytest.approx(1)

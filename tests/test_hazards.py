"""What an array library may do in silence, and core must be right in spite of.

On MLX: argmax counts in uint32, running sums of 16-bit floats stay 16-bit, a sort promises no order of
equal entries, a sum of 152k terms is added one by one, a categorical draw from NaN gives token 0.
"""

import numpy as np
import pytest

from dspec.core.gold import gold_log_probs
from dspec.core.numerics import draw, indices_like, leading
from dspec.core.policies import POLICIES, draft_tokens, judge
from dspec.core.types import Draft, Sampling, Uniforms
from dspec.core.warp import warp
from dspec.oracle.warp import warp_logits
from dspec.testing.checks.boundaries import TOP
from tests.namespaces import to_numpy
from tests.tolerances import FLOAT32

REAL_V = 151_936
NARROW = ("bfloat16", "float16")


@pytest.mark.clause("NU-5", "RS-13")
@pytest.mark.parametrize("vocab", (9, 2048, 40_000))
def test_equal_weights_are_cut_by_top_k_from_the_end(xp, vocab):
    """Four values over the whole vocabulary: every cut falls into a run of ties, also across sort blocks."""
    logits = np.random.default_rng(vocab).integers(0, 4, (2, vocab)).astype(np.float32)
    for k in {1, vocab // 3, vocab // 2 + 1, vocab - 1}:
        law = to_numpy(warp(xp.asarray(logits), Sampling(temperature=1.0, top_k=k), xp=xp))
        kept = np.argsort(-logits, axis=-1, kind="stable")[:, :k]
        for row in range(2):
            assert np.flatnonzero(law[row]).tolist() == sorted(kept[row].tolist())


@pytest.mark.clause("NU-5", "RS-11")
def test_token_ids_are_signed(xp):
    """An unsigned id would wrap at the first subtraction, and -1 would be no mark for "nothing"."""
    logits = xp.asarray(np.asarray([[[3.0, 0.0], [3.0, 0.0]]], np.float32))
    uniforms = Uniforms(xp.zeros((1, 1)), xp.zeros((1, 2, 2)))
    for name, policy in POLICIES.items():
        sampling = Sampling(temperature=0.0 if name == "greedy" else 1.0)
        draft = draft_tokens(logits[:, :1, :], policy, sampling, xp.zeros((1, 1, 2)), xp=xp)
        verdict = judge(logits, draft, policy, sampling, uniforms, xp=xp)
        for ids in (draft.tokens, verdict.tokens, verdict.n_accepted):
            assert ids.dtype == xp.int32, name
        assert to_numpy(draft.tokens - 1).tolist() == [[-1]], name


@pytest.mark.clause("RS-16")
@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("settings", ({}, {"top_k": 2}, {"top_p": 0.9, "min_p": 0.1}), ids=str)
@pytest.mark.parametrize("bad", ("nan", "inf", "all -inf"))
def test_a_row_without_a_law_is_flagged_and_the_others_are_judged(xp, name, settings, bad):
    logits = np.tile(np.asarray([0.0, 9.0, 0.0, 0.0], np.float32), (3, 2, 1))
    logits[1, 1] = -np.inf if bad == "all -inf" else [0, float(bad), 0, 0]
    greedy = name == "greedy"
    sampling = Sampling() if greedy else Sampling(temperature=1.0, **settings)
    uniforms = Uniforms(xp.full((3, 1), 0.5), xp.full((3, 2, 2), 0.5))
    tokens = xp.asarray(np.ones((3, 1), np.int32))
    probs = warp(xp.asarray(logits[:, :1]), sampling, xp=xp) if name == "rejection" else None
    with np.errstate(invalid="ignore"):
        verdict = judge(xp.asarray(logits), Draft(tokens, probs), POLICIES[name], sampling, uniforms, xp=xp)
    assert to_numpy(verdict.n_accepted).tolist() == [1, -1, 1]
    assert to_numpy(verdict.tokens).tolist() == [[1, 1], [-1, -1], [1, 1]]


@pytest.mark.clause("NU-2", "RS-13")
@pytest.mark.parametrize("dtype", NARROW)
def test_running_sums_of_narrow_logits_are_wide(room, dtype):
    """A thousand equal tokens: a bfloat16 running sum would stop at 256 of them."""
    logits = room.xp.zeros((1, 1000), dtype=getattr(room.xp, dtype))
    law = room.numpy(warp(logits, Sampling(temperature=1.0, top_p=0.5), xp=room.xp))[0]
    assert np.flatnonzero(law).tolist() == list(range(500))
    assert room.numpy(indices_like(logits, xp=room.xp))[0].tolist() == list(range(1000))
    policy, sampling = POLICIES["rejection"], Sampling(temperature=1.0)
    top = room.array(np.full((1, 1, 2), TOP, np.float32))
    draft = draft_tokens(logits[:, None, :], policy, sampling, top, xp=room.xp)
    assert room.numpy(draft.tokens).tolist() == [[999]]


def test_long_runs_of_flags_are_counted_in_wide_integers(xp):
    flags = np.ones((2, 1000), bool)
    flags[1, 700:] = False  # 300 of them: a count in 8 bits would be 0 again at the 256th
    assert to_numpy(leading(xp.asarray(flags), xp=xp)).tolist() == [1000, 700]


@pytest.mark.clause("NU-1", "RS-16", "OB-10")
def test_sums_over_a_real_vocabulary_keep_their_digits(xp):
    """All tokens alike is the law of an untrained drafter: added one by one in float32, 1.7e-3 is lost."""
    logits = xp.zeros((1, REAL_V), dtype=xp.float32)
    law = to_numpy(warp(logits, Sampling(temperature=1.0), xp=xp)).astype(np.float64)
    assert abs(law.sum() - 1) < FLOAT32
    assert law[0, 0] * REAL_V == pytest.approx(1, rel=FLOAT32)
    head, labels = xp.ones((REAL_V, 1), dtype=xp.float32), xp.asarray(np.asarray([5]))
    log_prob, _ = gold_log_probs(xp.zeros((1, 1), dtype=xp.float32), head, labels, xp=xp)
    assert float(log_prob[0]) == pytest.approx(-np.log(REAL_V), abs=FLOAT32)
    corners = [(a, b) for a in (0.0, TOP) for b in (0.0, TOP)]
    laws = xp.full((4, REAL_V), 1 / REAL_V, dtype=xp.float32)
    ids = to_numpy(draw(laws, xp.asarray(np.asarray(corners, np.float32)), xp=xp)).tolist()
    assert ids[0] == 0 and ids[3] == REAL_V - 1 and ids == sorted(ids)


@pytest.mark.clause("RS-13", "NU-2")
def test_the_law_of_spread_logits_over_a_large_vocabulary(xp):
    """Against sums in float64, at a size where the order of a float32 sum shows."""
    logits = 2 * np.random.default_rng(3).standard_normal((1, 20_000), dtype=np.float32)
    law = to_numpy(warp(xp.asarray(logits), Sampling(temperature=0.7), xp=xp))[0]
    expected = np.asarray(warp_logits(logits[0].tolist(), temperature=0.7))
    np.testing.assert_allclose(law, expected, rtol=FLOAT32)

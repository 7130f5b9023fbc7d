"""Verdicts slot by slot on a CPU: what core's verdict is, without a look behind the closing token."""

import array_api_compat.torch as xp
import numpy as np
import pytest
import torch

from dspec.backends.torch.cpu.judge import judge_lazily
from dspec.core.policies import BLOCK, GREEDY, ONE_HOT, POLICIES, REJECTION, SAMPLE_MATCH, draft_tokens, judge
from dspec.core.types import Draft, Sampling, Uniforms
from dspec.errors import ShapeError
from dspec.oracle.rejection import verify_sample_match, verify_tokens
from dspec.testing.checks.boundaries import check_boundaries

HOT = Sampling(temperature=1.0)
LAZY = [policy for policy in POLICIES.values() if policy is not BLOCK]


def pass_of(policy, *, rows=64, slots=5, vocab=97, seed=0, closeness=1.0):
    """Logits, a draft by the policy and uniforms."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, slots + 1, vocab, generator=generator)
    near = logits[:, :slots] + closeness * torch.randn(rows, slots, vocab, generator=generator)
    sampling = Sampling() if policy is GREEDY else HOT
    draft = draft_tokens(near, policy, sampling, torch.rand(rows, slots, 2, generator=generator), xp=xp)
    u = Uniforms(
        torch.rand(rows, slots, generator=generator), torch.rand(rows, slots + 1, 2, generator=generator)
    )
    return logits, draft, policy, sampling, u


@pytest.mark.clause("RS-18", "RS-11", "RS-13")
@pytest.mark.parametrize("policy", LAZY, ids=lambda policy: policy.name)
def test_verdicts_are_core_s(policy):
    """At 64 rows of 6 slots all accepted lengths occur, the whole block included."""
    seen = set()
    for seed in range(8):
        given = pass_of(policy, seed=seed, closeness=0.3)
        lazy, core = judge_lazily(*given), judge(*given, xp=xp)
        assert torch.equal(lazy.tokens, core.tokens) and torch.equal(lazy.n_accepted, core.n_accepted)
        assert lazy.tokens.dtype == core.tokens.dtype and lazy.n_accepted.dtype == core.n_accepted.dtype
        seen |= set(core.n_accepted.tolist())
    assert seen == set(range(6))


@pytest.mark.clause("RS-16")
@pytest.mark.parametrize("policy", LAZY, ids=lambda policy: policy.name)
def test_rows_behind_the_closing_token_are_not_read(policy):
    given = pass_of(policy)
    before = judge_lazily(*given)
    for row, n in enumerate(before.n_accepted.tolist()):
        given[0][row, n + 1 :] = torch.nan
    after = judge_lazily(*given)
    assert torch.equal(after.tokens, before.tokens)


@pytest.mark.clause("RS-16", "RS-9")
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("policy", LAZY, ids=lambda policy: policy.name)
def test_a_malformed_row_that_is_reached_is_flagged_alone(policy, bad):
    given = pass_of(policy)
    before = judge_lazily(*given)
    at = int(before.n_accepted[2])
    given[0][2, at, 5] = bad
    after = judge_lazily(*given)
    assert after.n_accepted[2] == -1 and (after.tokens[2] == -1).all()
    others = torch.arange(64) != 2
    assert torch.equal(after.tokens[others], before.tokens[others])


@pytest.mark.clause("RS-11", "RS-16")
@pytest.mark.parametrize("slots", [0, 5])
def test_a_greedy_row_alone_is_judged_as_among_others(slots):
    logits, draft, policy, sampling, _ = pass_of(GREEDY, closeness=0.3, slots=slots)
    logits[::7, 0, 3], logits[1::7, slots, 4], logits[2::7, 0] = torch.nan, torch.inf, -torch.inf
    logits[3::7, 0, 10:30] = 50.0  # a tie: the lowest index
    together = judge_lazily(logits, draft, policy, sampling, None)
    assert {-1, 0, slots} <= set(together.n_accepted.tolist())
    for row in range(64):
        alone = judge_lazily(logits[row][None], Draft(draft.tokens[row][None]), policy, sampling, None)
        assert torch.equal(alone.tokens[0], together.tokens[row])
        assert torch.equal(alone.n_accepted[0], together.n_accepted[row])
        assert (alone.tokens.dtype, alone.n_accepted.dtype) == (torch.int32, torch.int32)


@pytest.mark.clause("RS-16")
def test_a_draft_s_malformed_law_is_flagged():
    given = pass_of(REJECTION)
    given[1].probs[7, 0] *= 2
    assert judge_lazily(*given).n_accepted[7] == -1


def as_verifier(policy):
    """The kit's form of a verifier: laws in, their logarithms to the rule."""

    def verify(target, tokens, probs, accept, close):
        arrays = [None if x is None else torch.from_numpy(x) for x in (tokens, probs, accept, close)]
        logits = torch.from_numpy(np.log(target))
        verdict = judge_lazily(logits, Draft(*arrays[:2]), policy, HOT, Uniforms(*arrays[2:]))
        return verdict.tokens.numpy(), verdict.n_accepted.numpy()

    return verify


@pytest.mark.clause("RS-4", "RS-5", "RS-7", "RS-9", "RS-17", "NU-3", "NU-4")
@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize(
    ("policy", "mode"), [(REJECTION, "rejection"), (ONE_HOT, "one_hot"), (SAMPLE_MATCH, "match")]
)
def test_boundary_battery(policy, mode):
    """The cases that survive a logarithm: no malformed laws, no law one step below another."""
    import array_api_compat.numpy as npx

    from dspec.testing.checks.battery import battery

    kept = [
        case
        for case in battery(mode)
        if case.malformed is None and case.name not in ("empty residual", "rows beside a NaN row")
    ]
    report = check_boundaries(as_verifier(policy), xp=npx, mode=mode, given=kept)
    assert len(kept) > 200 and report.passed, report


@pytest.mark.clause("RS-10")
@pytest.mark.parametrize("policy", [REJECTION, ONE_HOT, SAMPLE_MATCH], ids=lambda policy: policy.name)
def test_the_scalar_witness_agrees(policy):
    """Against float64 code written apart, so that core and this cannot be wrong alike; 24 of 24 rows."""
    from dspec.oracle.rejection import draw_two_level

    logits, draft, _, _, u = given = pass_of(policy, rows=24)
    verdict = judge_lazily(*given)
    for row in range(24):
        p = torch.softmax(logits[row].double(), dim=-1).tolist()
        q = None if draft.probs is None else draft.probs[row].double().tolist()
        tokens, accept, close = (x[row].tolist() for x in (draft.tokens, u.accept, u.close))
        if policy is SAMPLE_MATCH:
            needed = verify_sample_match(p, tokens, close, draw=draw_two_level)
        else:
            needed = verify_tokens(p, tokens, q, accept, close, draw=draw_two_level)
        assert verdict.tokens[row, : len(needed)].tolist() == needed


@pytest.mark.clause("NU-4")
@pytest.mark.parametrize("probs", [None, torch.tensor([[[1.0, 0.0]]])], ids=("one-hot", "soft"))
def test_an_empty_residual_is_replaced_by_the_law(probs):
    """Nothing is left of a law that has all its mass on the draft, rejected by a uniform that rounds to 1."""
    draft = Draft(torch.tensor([[0]]), probs)
    u = Uniforms(torch.ones(1, 1), torch.zeros(1, 2, 2))
    logits = torch.tensor([[[0.0, -torch.inf], [0.0, 0.0]]])
    assert judge_lazily(logits, draft, REJECTION, HOT, u).tokens.tolist() == [[0, -1]]


@pytest.mark.clause("RS-17")
@pytest.mark.parametrize("policy", LAZY, ids=lambda policy: policy.name)
def test_arguments_stay_as_they_were(policy):
    given = pass_of(policy)
    arrays = [given[0], given[1].tokens, given[4].accept, given[4].close]
    arrays += [] if given[1].probs is None else [given[1].probs]
    before = [array.clone() for array in arrays]
    judge_lazily(*given)
    assert all(torch.equal(a, b) for a, b in zip(arrays, before))


def test_shapes_are_checked():
    logits, draft, *rest = pass_of(ONE_HOT)
    with pytest.raises(ShapeError, match=r"K\+1=6"):
        judge_lazily(logits[:, :-1], draft, *rest)

"""Block verification on arrays: what only it promises, and its wrong readings."""

import array_api_compat.numpy as npx
import numpy as np
import pytest

from dspec.core import joint
from dspec.core.joint import verify_block
from dspec.core.rejection import verify_tokens
from dspec.core.types import Draft, Uniforms
from dspec.errors import ShapeError
from dspec.testing.checks.coupling import check_coupling, random_case
from dspec.testing.checks.lattice import check_lattice
from tests.verifiers import core_verify

GRID = np.arange(1, 2**11, 2, dtype=np.float32) / 2**11  # midpoints of 1,024 cells


def mean_accepted(rule, target, tokens, probs):
    """The mean over both accept uniforms of one row of K = 2, by counting a grid."""
    accept = np.stack([axis.ravel() for axis in np.meshgrid(GRID[::8], GRID[::8])], axis=-1)
    rows = len(accept)
    target, tokens, probs = (np.repeat(x[None], rows, axis=0) for x in (target, tokens, probs))
    uniforms = Uniforms(accept, np.full((rows, 3, 2), 0.5, np.float32))
    return rule(target, Draft(tokens, probs), uniforms, xp=npx).n_accepted.mean()


@pytest.mark.clause("RS-21", "RS-18")
def test_the_papers_example():
    """p = (1/3, 2/3), q = (2/3, 1/3): 11/9 accepted where token verification has 10/9."""
    p, q = np.asarray([1, 2], np.float32) / 3, np.asarray([2, 1], np.float32) / 3
    found = {}
    for rule in (verify_tokens, verify_block):
        mean = 0.0
        for draft in ((0, 0), (0, 1), (1, 0), (1, 1)):
            chance = q[draft[0]] * q[draft[1]]
            mean += chance * mean_accepted(
                rule, np.stack([p] * 3), np.asarray(draft, np.int32), np.stack([q] * 2)
            )
        found[rule] = mean
    # 128 cells a uniform: each threshold is off by half a cell at most, there are three.
    assert found[verify_tokens] == pytest.approx(10 / 9, abs=0.012)
    assert found[verify_block] == pytest.approx(11 / 9, abs=0.012)


@pytest.mark.clause("RS-21")
def test_one_hot_drafts_are_verified_one_by_one(xp):
    target, tokens, _, accept, close = random_case(500, 9, 4, mode="one_hot", seed=4, spread=1.0)
    args = xp.asarray(target), Draft(xp.asarray(tokens)), Uniforms(xp.asarray(accept), xp.asarray(close))
    block, token = (rule(*args, xp=xp) for rule in (verify_block, verify_tokens))
    assert np.array_equal(np.asarray(block.tokens), np.asarray(token.tokens))


@pytest.mark.clause("RS-21")
def test_more_drafts_stand_than_one_by_one():
    """The same 20,000 passes of 6 drafts by both rules; block's mean is above, by far more than its noise."""
    target, tokens, probs, accept, close = random_case(20_000, 12, 6, mode="block", seed=8, spread=1.5)
    given = target, Draft(tokens, probs), Uniforms(accept, close)
    token, block = (rule(*given, xp=npx).n_accepted for rule in (verify_tokens, verify_block))
    gain = block.astype(float) - token
    assert gain.mean() > 6 * gain.std() / len(gain) ** 0.5


def wrong_left(target, probs, tokens, *, xp):
    """Ratios that are never bounded by 1 on the way."""
    ratio = np.take_along_axis(target[:, :-1], tokens[..., None], axis=2)[..., 0]
    ratio = ratio / np.take_along_axis(probs, tokens[..., None], axis=2)[..., 0]
    whole = np.cumprod(np.concatenate([np.ones_like(ratio[:, :1]), ratio], axis=1), axis=1)
    return np.minimum(whole, 1)


def first_that_falls(target, probs, left, accept_u, *, xp):
    """Stops at the first prefix that does not hold, in place of the last that does."""
    holds = [
        joint_longest(target[:, : i + 2], probs[:, : i + 1], left[:, : i + 2], accept_u[:, : i + 1]) > i
        for i in range(left.shape[1] - 1)
    ]
    return np.cumprod(np.stack(holds, axis=1), axis=1).sum(axis=1).astype(np.int32)


def joint_longest(*given, longest=joint._longest):
    return longest(*given, xp=npx)


def whole_residual(target, probs, left, n_accepted, *, xp):
    """The residual of token verification: max(p - q, 0), without w."""
    return right_closing(target, probs, np.ones_like(left), n_accepted, xp=npx)


right_closing = joint._closing_law
MUTANTS = {
    "ratios bounded only at the end": ("_left", wrong_left),
    "stops at the first that falls": ("_longest", first_that_falls),
    "residual without w": ("_closing_law", whole_residual),
}


@pytest.mark.clause("RS-21", "RS-20")
@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_readings_are_killed(name, monkeypatch):
    monkeypatch.setattr(joint, *MUTANTS[name])
    verify = core_verify(npx, "block")
    assert not check_lattice(verify, xp=npx, dtype=npx.float32, mode="block", count=8).passed
    assert not check_coupling(verify, xp=npx, mode="block", rows=2000).passed


def test_shapes_are_checked():
    p, q = np.full((1, 3, 2), 0.5), np.full((1, 1, 2), 0.5)
    with pytest.raises(ShapeError, match=r"draft\.probs"):
        verify_block(p, Draft(np.zeros((1, 2), np.int32), q), None, xp=npx)

"""The tempered ratio: power 1 is the exact rule, others are the oracle's, and keep no law."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspec.core.rejection import verify_tempered, verify_tokens
from dspec.core.types import Draft, Uniforms
from dspec.errors import ShapeError
from dspec.oracle.enumerate import enumerate_law
from dspec.oracle.rejection import draw, draw_two_level, residual
from dspec.oracle.self_speculation import accepts_tempered
from dspec.testing.checks.lattice import check_lattice
from tests.namespaces import NAMESPACES, place, to_numpy, with_dtypes
from tests.rooms import of_rooms

everywhere = pytest.mark.parametrize(("namespace", "dtype"), with_dtypes())
POWERS = (0.0, 0.25, 0.5, 1.0, 2.0, 3.0)
# Uniforms k / 251: of laws over 16 no draw is then nearer to an edge than 1 / (16 * 251).
PRIME, UNIT = 251, 16
EDGE = 1e-5


@st.composite
def laws(draw, size):
    """A law over sixteenths; most tokens have none."""
    cuts = draw(st.lists(st.integers(0, UNIT), min_size=size - 1, max_size=size - 1))
    return np.diff([0, *sorted(cuts), UNIT]) / UNIT


@st.composite
def passes(draw):
    """Return (target, tokens, probs, accept, close) of a few rows, drafts of positive draft mass."""
    n_rows, n_drafts, size = draw(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(2, 6)))
    uniforms = st.integers(0, PRIME - 1).map(lambda k: np.float32(k / PRIME))

    def several(count, strategy):
        return np.array([draw(strategy) for _ in range(count)])

    target = several(n_rows * (n_drafts + 1), laws(size)).reshape(n_rows, n_drafts + 1, size)
    probs = several(n_rows * n_drafts, laws(size)).reshape(n_rows, n_drafts, size)
    drawn = [draw(st.sampled_from(np.flatnonzero(row).tolist())) for row in probs.reshape(-1, size)]
    tokens = np.array(drawn, np.int32).reshape(n_rows, n_drafts)
    accept = several(n_rows * n_drafts, uniforms).reshape(n_rows, n_drafts)
    close = several(n_rows * (n_drafts + 1) * 2, uniforms).reshape(n_rows, n_drafts + 1, 2)
    return target, tokens, probs, accept, close


def verified(namespace, dtype, world, power, rule=verify_tempered):
    """Lists (n_accepted, tokens) of core's verdict."""
    xp = NAMESPACES[namespace]
    target, tokens, probs, accept, close = world
    draft = Draft(xp.asarray(tokens), xp.asarray(probs.astype(dtype)))
    arguments = xp.asarray(target.astype(dtype)), draft, Uniforms(xp.asarray(accept), xp.asarray(close))
    verdict = rule(*arguments, *([power] if rule is verify_tempered else []), xp=xp)
    return to_numpy(verdict.n_accepted).tolist(), to_numpy(verdict.tokens).tolist()


def expected(target, tokens, probs, accept, close, power):
    """What the oracle emits for one row, or None where rounding may decide."""
    for k, token in enumerate(tokens):
        p, q = target[k].tolist(), probs[k].tolist()
        u, reached = float(accept[k]), p[token] ** power
        if reached > 0 and abs(u * q[token] ** power - reached) <= EDGE * reached:
            return None
        if not accepts_tempered(p, q, token, u, power):
            return [*tokens[:k], draw_two_level(residual(p, q), close[0].tolist())]
    return [*tokens, draw_two_level(target[-1].tolist(), close[0].tolist())]


@pytest.mark.clause("SS-20")
@everywhere
@settings(max_examples=80, deadline=None)
@given(world=passes(), power=st.sampled_from([p for p in POWERS if p]) | st.floats(0.125, 4))
def test_verdicts_are_the_oracles(namespace, dtype, world, power):
    n_accepted, tokens = verified(namespace, dtype, world, power)
    for row, found in enumerate(tokens):
        needed = expected(*(part[row] for part in world), power)
        if needed is not None:
            assert found == [*needed, *[-1] * (len(found) - len(needed))]
            assert n_accepted[row] == len(needed) - 1


@pytest.mark.clause("SS-20")
@everywhere
@settings(max_examples=40, deadline=None)
@given(world=passes())
def test_power_one_is_the_exact_rule(namespace, dtype, world):
    found = verified(namespace, dtype, world, 1.0)
    assert found == verified(namespace, dtype, world, None, rule=verify_tokens)
    assert found == verified(namespace, dtype, world, 1)


def one_token(xp, power, *, target, probs):
    """The law of one token after one draft, counted over 16 midpoints of each uniform."""
    grid = (np.arange(16) + 0.5) / 16
    law = np.zeros(len(target))
    for token, mass in enumerate(probs):
        accept, close = (x.ravel() for x in np.meshgrid(grid, grid, indexing="ij"))
        n = len(accept)
        uniforms = np.full((n, 2, 2), 0.5)
        uniforms[:, 0, 1] = close  # of two tokens the first level has one block
        arrays = [
            np.tile([target, target], (n, 1, 1)),
            np.tile([probs], (n, 1, 1)),
            accept[:, None],
            uniforms,
        ]
        target_, probs_, accept_, close_ = place([x.astype(np.float32) for x in arrays], xp)
        draft = Draft(xp.asarray(np.full((n, 1), token, np.int32)), probs_)
        verdict = verify_tempered(target_, draft, Uniforms(accept_, close_), power, xp=xp)
        first = to_numpy(verdict.tokens)[:, 0]
        law += mass * np.bincount(first, minlength=len(target)) / n
    return law.tolist()


@pytest.mark.clause("SS-20")
def test_the_law_of_one_token_by_hand(xp):
    """p = (1/4, 3/4), q = (1/2, 1/2): token 0 stands with chance (1/2)^g, else the correction is token 1."""
    quarter, half = [0.25, 0.75], [0.5, 0.5]
    assert one_token(xp, 1.0, target=quarter, probs=half) == [0.25, 0.75]
    for power, share in ((2.0, 1 / 8), (3.0, 1 / 16), (0.0, 1 / 2)):
        assert one_token(xp, power, target=quarter, probs=half) == [share, 1 - share]


@pytest.mark.clause("SS-20")
@pytest.mark.parametrize("power", [1, 2, 3])
def test_the_oracles_law_of_one_token_is_the_same(power):
    p, q = [Fraction(1, 4), Fraction(3, 4)], [Fraction(1, 2)] * 2

    def sampler(source):
        token = draw(q, source("draft"))
        stands = accepts_tempered(p, q, token, source("accept"), power)
        return token if stands else draw(residual(p, q), source("close"))

    law = enumerate_law(sampler)
    assert law == {0: Fraction(1, 2 ** (power + 1)), 1: 1 - Fraction(1, 2 ** (power + 1))}
    assert (law == dict(enumerate(p))) == (power == 1)


@pytest.mark.clause("SS-20", "RS-3")
@pytest.mark.parametrize("namespace", of_rooms(NAMESPACES))
@pytest.mark.parametrize("power", POWERS)
def test_only_power_one_keeps_the_law(namespace, power):
    def verify(target, tokens, probs, accept, close):
        verdict = verify_tempered(target, Draft(tokens, probs), Uniforms(accept, close), power, xp=xp)
        return verdict.tokens, verdict.n_accepted

    xp = NAMESPACES[namespace]
    report = check_lattice(verify, xp=xp, dtype=xp.float32, count=2, to_numpy=to_numpy)
    assert report.passed == (power == 1), report


@pytest.mark.clause("SS-20")
@pytest.mark.parametrize("power", POWERS)
def test_a_token_without_mass_never_stands(xp, power):
    """Even at u = 0 and power 0, where u q^0 < p^0: MASK has none (SS-7)."""
    target, probs = place([[[[0.0, 1.0], [0.5, 0.5]]], [[[1.0, 0.0]]]], xp)
    for u in (0.0, 0.5):
        uniforms = Uniforms(*place([[[u]], [[[0.0, 0.0]] * 2]], xp))
        draft = Draft(xp.asarray(np.array([[0]], np.int32)), probs)
        verdict = verify_tempered(target, draft, uniforms, power, xp=xp)
        assert to_numpy(verdict.tokens).tolist() == [[1, -1]]


@pytest.mark.clause("SS-20")
def test_a_lower_power_accepts_more(xp):
    rng = np.random.default_rng(1)
    target, probs = rng.dirichlet(np.ones(6), (400, 4)), rng.dirichlet(np.ones(6), (400, 3))
    tokens = np.array([[rng.choice(6, p=row) for row in rows] for rows in probs], np.int32)
    world = target, tokens, probs, rng.random((400, 3), np.float32), rng.random((400, 4, 2), np.float32)
    name = next(name for name, known in NAMESPACES.items() if known is xp)
    found = np.array([verified(name, "float32", world, power)[0] for power in POWERS])
    assert (np.diff(found, axis=0) <= 0).all() and (np.diff(found.sum(1)) < 0).all()
    assert (found[0] == 3).all(), "power 0 accepts all"


@pytest.mark.clause("RS-16", "SS-20")
@pytest.mark.parametrize("power", POWERS)
def test_malformed_laws_are_flagged_and_wrong_shapes_refused(xp, power):
    target, probs = np.full((3, 2, 2), 0.5), np.full((3, 1, 2), 0.5)
    target[1, 1], probs[2, 0] = np.nan, [0.9, 0.9]
    target, probs, accept, close = place([target, probs, np.zeros((3, 1)), np.zeros((3, 2, 2))], xp)
    tokens, uniforms = xp.asarray(np.zeros((3, 1), np.int32)), Uniforms(accept, close)
    verdict = verify_tempered(target, Draft(tokens, probs), uniforms, power, xp=xp)
    assert to_numpy(verdict.n_accepted).tolist() == [1, -1, -1]
    with pytest.raises(ShapeError, match="NT-4"):
        verify_tempered(target[:, :1, ...], Draft(tokens, probs), uniforms, power, xp=xp)

"""Uniforms and their keys: the grid, known answers, no key twice in a real decode, no shared state."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest

from dspec.backends.judge import RequestJudge
from dspec.backends.numpy import NumpyOps, TableDrafter, TableTarget
from dspec.core.decode import Limits, decode
from dspec.core.policies import POLICIES, choose_policy
from dspec.core.types import Sampling
from dspec.engine import Engine
from dspec.errors import ConfigError
from dspec.rng import Purpose, Stream
from dspec.testing.checks.laws import check_distribution, log_e_value

V, K = 5, 3


def tables(seed):
    """A table target and a drafter that agrees with it about half of the time."""
    rng = np.random.default_rng(seed)
    target = rng.dirichlet(np.ones(V), (4, V))
    drafter = rng.dirichlet(np.ones(V), (K, V))
    return TableTarget(target, frozenset({V - 1})), TableDrafter((drafter + target[:K]) / 2)


@dataclass(frozen=True)
class LoggedStream(Stream):
    """A stream that remembers the elements of every key that were asked for."""

    log: list = field(default_factory=list, compare=False)

    def uniforms(self, purpose, position, shape):
        self.log.extend((purpose, position, element) for element in range(int(np.prod(shape))))
        return super().uniforms(purpose, position, shape)


@pytest.mark.clause("RN-1", "RN-2", "RS-8")
@pytest.mark.parametrize("name", POLICIES)
def test_a_decode_reads_no_key_twice(name):
    """400 tokens through the judge that every backend uses, with many rejections."""
    target, drafter = tables(1)
    sampling = Sampling(temperature=0.0 if name == "greedy" else 1.0)
    stream = LoggedStream(3, 2)
    judge = RequestJudge(NumpyOps(), choose_policy(name, sampling), sampling, stream, K)
    steps = list(decode(target.session(), drafter.session(target), judge, [0, 1, 2], Limits(400)))
    assert len({step.n_accepted for step in steps}) > 2  # rejections at several slots did happen
    used = Counter(stream.log)
    assert max(used.values(), default=1) == 1
    if name == "greedy":
        assert not used
        return
    passes = len(steps) - 1
    # One CLOSE key of the prefill at the last prompt position, then K + 1 pairs, K accepts a pass.
    assert sum(purpose is Purpose.CLOSE for purpose, *_ in used) == 2 + passes * 2 * (K + 1)
    assert {at for purpose, at, _ in used if purpose is Purpose.CLOSE and at < 3} == {2}
    assert sum(purpose is Purpose.ACCEPT for purpose, *_ in used) == passes * K
    drafts = passes * 2 * K if POLICIES[name].samples else 0
    assert sum(purpose is Purpose.DRAFT for purpose, *_ in used) == drafts
    anchors, position = set(), 3
    for step in steps[1:]:
        anchors.add(position)
        position += step.n_emitted
    assert {at for _, at, _ in used} - {2} == anchors  # every key is at its pass's anchor


@pytest.mark.clause("RN-3")
def test_uniforms_are_multiples_of_two_to_the_minus_24_below_one():
    values = Stream(5).uniforms(Purpose.DRAFT, 0, (200_000, 1))
    scaled = values.astype(np.float64) * 2**24
    assert values.dtype == np.float32
    assert (scaled == np.floor(scaled)).all() and values.min() >= 0 and values.max() < 1
    assert (scaled % 2).mean() == pytest.approx(0.5, abs=0.01)  # the lowest bit is used


@pytest.mark.clause("RN-3")
def test_the_ends_of_the_grid(monkeypatch):
    """All 64 raw bits set give 1 - 2^-24, not 1; none set gives 0."""

    class Raw:
        bit_generator = property(lambda self: self)

        def random_raw(self, n):
            return np.asarray([2**64 - 1, 0], dtype=np.uint64)

    monkeypatch.setattr(Stream, "generator", lambda *args: Raw())
    assert Stream(0).uniforms(Purpose.DRAFT, 0, (2, 1)).ravel().tolist() == [1 - 2**-24, 0]


# (seed, request, purpose, position) -> the first four elements, times 2^24.
KNOWN = {
    (0, 0, 0, 0): [193722, 4052523, 1869415, 9469306],
    (1, 2, 1, 7): [2695903, 14484325, 13972627, 10202797],
    (2**64 - 1, 5, 2, 123456): [1672676, 7256472, 12622545, 9627119],
}


def philox_block(counter, key):
    """Philox4x64-10 on one counter block, in plain integers: a second implementation of RN-1.

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011, section 4.
    """
    word = 2**64
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * c[0], word)
        high1, low1 = divmod(0xCA5A826395121157 * c[2], word)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B97F4A7C15) % word, (k[1] + 0xBB67AE8584CAA73B) % word]
    return c


@pytest.mark.clause("RN-1")
def test_a_second_implementation_gives_the_same_uniforms():
    seed, request, position, purpose = 12345678901234567890, 42, 77, Purpose.CLOSE
    raw = [x for block in (1, 2, 3) for x in philox_block((block, position, purpose, 0), (seed, request))]
    values = Stream(seed, request).uniforms(purpose, position, (6, 2)).ravel()
    assert [int(value * 2**24) for value in values] == [x >> 40 for x in raw]


@pytest.mark.clause("RN-1", "RS-10")
@pytest.mark.parametrize("key", KNOWN)
def test_known_answers(key):
    """Written down once: a change of these changes every output that a user has recorded."""
    seed, request, purpose, position = key
    values = Stream(seed, request).uniforms(Purpose(purpose), position, (2, 2))
    assert [int(value * 2**24) for value in values.ravel()] == KNOWN[key]


@pytest.mark.clause("RN-1")
@pytest.mark.parametrize("key", ({"seed": -1}, {"seed": 2**64}, {"seed": 0, "request": -1}))
def test_keys_outside_of_64_bits_raise(key):
    with pytest.raises(ConfigError, match="RN-1"):
        Stream(**key)


@pytest.mark.clause("RN-1", "RN-4", "RS-8")
def test_every_part_of_the_key_matters_and_shapes_do_not():
    def first(seed=1, request=1, purpose=Purpose.DRAFT, position=1, shape=(8, 2)):
        return tuple(Stream(seed, request).uniforms(purpose, position, shape).ravel()[:8].tolist())

    others = [first(seed=2), first(request=2), first(purpose=Purpose.ACCEPT), first(position=2)]
    swapped = [first(seed=2, request=3), first(seed=3, request=2)]
    assert len({first(), *others, *swapped}) == 7
    assert first() == first(shape=(4, 2)) == first(shape=(100, 1))


@pytest.mark.clause("RN-4", "RS-9")
def test_a_request_does_not_depend_on_its_neighbours():
    engine = Engine(*tables(2), NumpyOps())
    settings = {"max_new_tokens": 40, "temperature": 1.0, "seed": 9, "ignore_eos": True}
    for policy in ("one_hot", "rejection", "sample_match"):
        beside = engine.generate([[0], [1, 2]], policy=policy, **settings)[1].tokens
        other = engine.generate([[3, 3, 3], [1, 2], [0]], policy=policy, **settings)[1].tokens
        assert beside == other
    a, b = engine.generate([[0], [0]], **settings)
    assert a.tokens != b.tokens  # the request's number is part of the key


@pytest.mark.clause("RS-8", "RN-2")
@pytest.mark.parametrize("pair", ("purpose", "position", "request", "slot"))
def test_pairs_of_uniforms_are_independent(pair):
    """e-value of 4 x 4 cells against the product law, 8000 pairs; false-fail rate 1e-9.

    Least detectable discrepancy by the same count: total variation 0.08, false-pass rate 1e-6.
    """
    left, right = [], []
    for number in range(80):
        one, two = Stream(11, number), Stream(11, number + 1000 * (pair == "request"))
        purposes = (Purpose.DRAFT, Purpose.ACCEPT if pair == "purpose" else Purpose.DRAFT)
        at = (7, 8 if pair == "position" else 7)
        rows = [s.uniforms(p, t, (101, 1)).ravel() for s, p, t in zip((one, two), purposes, at)]
        shift = 1 if pair == "slot" else 0
        left.extend(rows[0][:100])
        right.extend(rows[1][shift : 100 + shift])
    cells = np.floor(np.asarray(left) * 4) * 4 + np.floor(np.asarray(right) * 4)
    counts = np.bincount(cells.astype(int), minlength=16).tolist()
    assert log_e_value(counts, [1 / 16] * 16) < np.log(1e9)


@pytest.mark.clause("RS-1", "RS-8", "RN-2")
@pytest.mark.parametrize("policy", ("one_hot", "rejection", "sample_match"))
def test_law_of_the_whole_pipeline(policy):
    """Engine, loop, judge, core and generator together: 3 tokens, up to 85 outcomes, 4000 draws.

    False-fail rate 1e-9; a law further off than total variation 0.15 passes with chance 1e-6 at most.
    """
    target, drafter = tables(4)
    engine = Engine(target, drafter, NumpyOps())
    law, stack = {}, [((0,), 1.0)]
    while stack:
        context, mass = stack.pop()
        for token, chance in enumerate(target.table[(len(context) - 1) % 4, context[-1]]):
            path = (*context, token)
            ended = len(path) == 4 or token in target.eos_ids
            if ended:
                law[path[1:]] = mass * float(chance)
            else:
                stack.append((path, mass * float(chance)))

    def generate(n, seed):
        settings = {"max_new_tokens": 3, "temperature": 1.0, "policy": policy, "seed": seed}
        return [out.tokens for out in engine.generate([[0]] * n, **settings)]

    report = check_distribution(generate, law, n=4000, seed=5)
    assert report.passed, report
    assert report.delta < 0.15

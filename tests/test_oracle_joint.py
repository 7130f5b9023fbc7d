"""Block verification of the witness, as fractions: the law, what it accepts, and its wrong readings."""

import itertools
from collections import Counter
from fractions import Fraction
from functools import partial

import pytest

from dspec.oracle.decode import generate
from dspec.oracle.enumerate import enumerate_law
from dspec.oracle.joint import holds, owed, prefix_weights, verify_block
from dspec.oracle.policies import POLICIES, Policy
from dspec.oracle.rejection import argmax, draw, residual, verify_tokens
from dspec.testing.checks.laws import check_exact_law, worst_outcome
from dspec.testing.models.worlds import KINDS, make_worlds, mixed_worlds

SAMPLED = ("plain", "half", "third", "top_p", "top_k", "mixed")
HALF = Fraction(1, 2)


def run(world, source, policy=POLICIES["block"]):
    """A generation of several passes."""
    return generate(world.target, world.drafter, policy, source, **world.loop()).tokens


def rows_of(world, drafts):
    """The laws of a pass after the prompt: K + 1 of the target, K of the drafter."""
    before = [tuple(drafts[:k]) for k in range(len(drafts) + 1)]
    laws = [world.target(world.prompt + path) for path in before]
    return laws, [world.drafter(world.prompt, path) for path in before[:-1]]


def paths_of(world):
    """(drafts, their probability) of one pass after the prompt."""
    for drafts in itertools.product(range(world.vocab_size), repeat=world.num_drafts):
        chance = Fraction(1)
        for token, law in zip(drafts, rows_of(world, drafts)[1]):
            chance *= law[token]
        if chance:
            yield drafts, chance


def counts(verify, world, drafts):
    """The law of n_accepted given all drafts of a pass; which closing token comes does not matter."""
    target, drafter = rows_of(world, drafts)

    def sampler(source):
        accept = [source("accept", slot) for slot in range(len(drafts))]
        return len(verify(target, drafts, drafter, accept, [None], draw=lambda law, uniform: 0)) - 1

    return enumerate_law(sampler)


def tails(verify, world):
    """(d_1..d_i) -> the chance of n_accepted >= i given these i drafts, over the later ones."""
    total, reached = Counter(), Counter()
    for drafts, chance in paths_of(world):
        law = counts(verify, world, drafts)
        for i in range(1, len(drafts) + 1):
            total[drafts[:i]] += chance
            reached[drafts[:i]] += chance * sum(mass for n, mass in law.items() if n >= i)
    return {prefix: reached[prefix] / total[prefix] for prefix in total}


def mean_accepted(verify, world):
    laws = [(chance, counts(verify, world, drafts)) for drafts, chance in paths_of(world)]
    return sum(chance * sum(n * mass for n, mass in law.items()) for chance, law in laws)


# ---- the law


@pytest.mark.clause("RS-1", "RS-3", "RS-8", "RS-21", "RN-2")
def test_law_of_whole_generations_is_the_targets():
    found = mixed_worlds(seed=11, warps=SAMPLED, size=2)
    report = check_exact_law(run, found)
    assert report.passed, report


@pytest.mark.clause("RS-1", "RS-21")
@pytest.mark.parametrize("kind", KINDS)
def test_law_holds_for_three_drafts_of_any_kind(kind):
    """The shortest blocks with two inner prefixes, and a fourth token that only a bonus can give."""
    size = 3 if kind == "deterministic" else 2
    found = make_worlds(3, seed=4, vocab_size=size, num_drafts=3, max_new_tokens=5, kinds=(kind,))
    assert check_exact_law(run, found).passed


@pytest.mark.clause("RS-21")
def test_one_hot_drafts_give_the_law_of_token_verification():
    for world in make_worlds(6, seed=6, num_drafts=3, kinds=("deterministic",)):
        drafts = []
        for _ in range(3):
            drafts.append(argmax(world.drafter(world.prompt, tuple(drafts))))
        target = rows_of(world, drafts)[0]

        def emitted(source, verify, target=target, drafts=drafts):
            accept = [source("accept", slot) for slot in range(3)]
            return tuple(verify(target, drafts, None, accept, [source("close")]))

        laws = [enumerate_law(partial(emitted, verify=verify)) for verify in (verify_block, verify_tokens)]
        assert laws[0] == laws[1] and len(laws[0]) > 3


@pytest.mark.clause("RS-21")
def test_no_drafts_give_a_draw_of_the_target():
    for rows in (None, []):
        assert verify_block([[0.5, 0.5]], [], rows, [], [0.7]) == [1]
    assert prefix_weights([[0.5, 0.5]], [], []) == [1]


@pytest.mark.clause("RS-7", "RS-21")
@pytest.mark.parametrize("q", [[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]])
def test_a_token_that_the_target_forbids_never_stands(q):
    """Also at uniform 0, also beside a drafter that forbids it, in the first and in the last slot."""
    p, fine = [0.0, 1.0], [0.5, 0.5]
    assert verify_block([p, fine], [0], [q], [0.0], [0.0]) == [1]
    assert verify_block([p, fine, fine], [0, 0], [q, fine], [0.0, 0.0], [0.0]) == [1]
    assert verify_block([fine, p, fine], [0, 0], [fine, q], [0.0, 0.0], [0.0])[1:] in ([1], [])


@pytest.mark.clause("RS-4", "RS-21")
def test_tests_of_a_prefix_are_strict():
    assert holds(HALF, None, Fraction(1, 4)) and not holds(HALF, None, HALF)
    assert not holds(HALF, HALF, HALF) and holds(HALF, HALF, Fraction(1, 4))
    assert not holds(1, 0, 0.0) and holds(1, 0.25, 1 - 2**-24)


# ---- how much it accepts


@pytest.mark.clause("RS-21")
def test_the_figure_of_the_paper():
    """Two slots of p = (1/3, 2/3) and q = (2/3, 1/3): 10/9 drafts stand one by one, 11/9 together."""
    third = Fraction(1, 3)
    p, q = [third, 2 * third], [2 * third, third]

    def accepted(source, verify):
        drafts = [draw(q, source("draft", slot)) for slot in range(2)]
        accept = [source("accept", slot) for slot in range(2)]
        return len(verify([p] * 3, drafts, [q] * 2, accept, [source("close")])) - 1

    means = []
    for verify in (verify_tokens, verify_block):
        law = enumerate_law(partial(accepted, verify=verify))
        means.append(sum(n * chance for n, chance in law.items()))
    assert means == [Fraction(10, 9), Fraction(11, 9)]


@pytest.mark.clause("RS-21")
def test_a_prefix_stands_with_its_weight_and_no_less_than_by_token_verification():
    """Theorem 3 and its claim a_i = w_i, prefix by prefix."""
    for world in make_worlds(12, seed=8, num_drafts=3, vocab_size=2, kinds=KINDS):
        jointly, singly = tails(verify_block, world), tails(verify_tokens, world)
        for prefix, chance in jointly.items():
            target, drafter = rows_of(world, prefix)
            assert chance == prefix_weights(target, prefix, drafter)[-1] >= singly[prefix]


@pytest.mark.clause("RS-21")
def test_it_accepts_no_less_than_token_verification_on_a_hundred_worlds():
    worlds = make_worlds(90, seed=1, warps=SAMPLED, kinds=KINDS)
    worlds += make_worlds(10, seed=2, vocab_size=2, num_drafts=3)
    more = 0
    for world in worlds:
        gain = mean_accepted(verify_block, world) - mean_accepted(verify_tokens, world)
        assert gain >= 0
        more += gain > 0
        assert gain == 0 or world.kind != "deterministic"
    assert len(worlds) == 100 and more > 30


@pytest.mark.clause("RS-21")
def test_no_less_holds_over_the_later_drafts_not_given_each_of_them():
    """Given a later draft that the target likes too little, the first stands less often than one by one."""
    shortfalls = 0
    for world in make_worlds(20, seed=3):
        for drafts, _ in paths_of(world):
            first = [1 - counts(verify, world, drafts).get(0, 0) for verify in (verify_block, verify_tokens)]
            shortfalls += first[0] < first[1]
    assert shortfalls > 0


# ---- wrong readings


def longest(stands):
    return max((i for i, stood in enumerate(stands, 1) if stood), default=0)


def until_the_first_failure(stands):
    return next((i for i, stood in enumerate(stands) if not stood), len(stands))


def wrong_block(
    choose=longest,
    weigh=prefix_weights,
    left=owed,
    test=holds,
    closing=lambda n, accept, close: close[0],
    bonus=lambda target, last: target[last],
):
    """Block verification of given parts, every prefix tested; the defaults are right."""

    def verify(target, drafts, rows, accept, close, *, draw=draw):
        last, weights = len(drafts), weigh(target, drafts, rows)
        masses = [sum(owed(target[i], rows[i], weights[i])) for i in range(last)]
        masses.append(None)
        n = choose([test(weights[i], masses[i], accept[i - 1]) for i in range(1, last + 1)])
        law = left(target[n], rows[n], weights[n]) if n < last else bonus(target, last)
        law = law if sum(law) > 0 else target[n]
        return [*drafts[:n], draw(law, closing(n, accept, close))]

    return Policy(samples_drafts=True, verify=verify)


def one_uniform(target, drafts, rows, accept, close, *, draw=draw):
    return verify_block(target, drafts, rows, [accept[0]] * len(drafts), close, draw=draw)


def uncapped(target, drafts, rows):
    weights = [Fraction(1)]
    for k, token in enumerate(drafts):
        weights.append(weights[-1] * target[k][token] / rows[k][token])
    return [min(weight, 1) for weight in weights]


def token_weights(target, drafts, rows):
    """The product of min(1, p/q) of token verification."""
    weights = [Fraction(1)]
    for k, token in enumerate(drafts):
        weights.append(weights[-1] * min(Fraction(1), target[k][token] / rows[k][token]))
    return weights


def accept_of_the_prefix(n, accept, close):
    return accept[max(n - 1, 0)]


def accept_of_the_next(n, accept, close):
    return accept[min(n, len(accept) - 1)]


MUTANTS = {
    "early exit": wrong_block(choose=until_the_first_failure),
    "residual without w": wrong_block(left=lambda p, q, w: residual(p, q)),
    "closing token from p": wrong_block(left=lambda p, q, w: p),
    "uniform of the acceptance closes": wrong_block(closing=accept_of_the_prefix),
    "uniform of the failed prefix closes": wrong_block(closing=accept_of_the_next),
    "one uniform for all prefixes": Policy(samples_drafts=True, verify=one_uniform),
    "inner prefixes stand by w": wrong_block(test=lambda w, r, u: u < w),
    "weights capped at the end only": wrong_block(weigh=uncapped),
    "weights of token verification": wrong_block(weigh=token_weights),
    "bonus from the row before": wrong_block(bonus=lambda target, last: target[last - 1]),
}


@pytest.mark.clause("RS-21")
def test_the_parts_of_the_wrong_readings_are_right_by_default():
    assert check_exact_law(partial(run, policy=wrong_block()), mixed_worlds(seed=13)).passed


@pytest.mark.clause("RS-1", "RS-8", "RS-21")
@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_readings_change_the_law(name):
    """In some world, though they ask for each key once; the total variation is positive."""
    wrong = partial(run, policy=MUTANTS[name])
    distances = []
    for world in make_worlds(4, seed=12, num_drafts=2, max_new_tokens=4):
        law = enumerate_law(partial(wrong, world))
        distances.append(worst_outcome(law, world.law())["tv"])
    assert max(distances) > 0

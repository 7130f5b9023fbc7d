"""Terms that read the target's law: equal to the oracle, with weights that are their gradient."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dspec.core.objectives import Law, Objective, Progress, sums, value, weights, weights_by_signal
from dspec.core.overlap import overlap_statistics
from dspec.errors import ConfigError, ShapeError
from dspec.oracle import law as law_oracle
from dspec.oracle import objectives as oracle
from tests.core_objective_cases import LAW_CASES, batches, example
from tests.namespaces import NAMESPACES, close, gradient_close, narrowed, place, to_numpy
from tests.rooms import of_rooms

REDUCTIONS = ("block_sum", "weighted_mean")
every_case = pytest.mark.parametrize("text", LAW_CASES)
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)


@st.composite
def laws(draw, shape):
    """Return (overlap, divergence, confidence): also overlaps of 1 and of nearly nothing."""
    overlap = hnp.arrays(np.float64, shape, elements=st.floats(1e-4, 1) | st.sampled_from([1.0, 1e-12]))
    divergence = hnp.arrays(np.float64, shape, elements=st.floats(0, 20))
    confidence = hnp.arrays(np.float64, shape, elements=st.floats(-12, 0))
    return draw(overlap), draw(divergence), draw(confidence)


@st.composite
def cases(draw):
    batch = draw(batches())
    return batch, draw(laws(batch[0].shape))


def law_example(n=6, k=7, seed=5):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.05, 1, (n, k)), rng.exponential(1.0, (n, k)), np.log(rng.random((n, k)))


def whole(objective, batch, law, xp, **extra):
    total = sums(objective, *batch, law=Law(*law), xp=xp, **extra)
    return value(objective, total, xp=xp), total


def unmixed(objective, found, overlap):
    """Weights as numpy, that of `mixed` parted between the overlap and the divergence."""
    found = {signal: to_numpy(c) for signal, c in found.items()}
    mixed = found.pop("mixed", None)
    if mixed is not None:
        share = np.exp(-objective.eta * np.where(mixed > 0, overlap, 0))
        for signal, part in (("overlap", 1 - share), ("divergence", share)):
            found[signal] = found.get(signal, 0.0) + part * mixed
    return found


@pytest.mark.clause("OB-12", "OB-13", "OB-14", "OB-15", "OB-16", "OB-17", "OB-19", "OB-20")
@every_case
@every_reduction
@pytest.mark.parametrize("namespace", of_rooms(NAMESPACES))
@settings(max_examples=12, deadline=None)
@given(case=cases())
def test_value_and_weights_are_the_oracles(namespace, text, reduction, case):
    xp, objective = NAMESPACES[namespace], Objective.parse(text, reduction=reduction)
    batch, law = (narrowed(part, xp) for part in case)
    placed, its_law = place(batch, xp), place(law, xp)
    found, total = whole(objective, placed, its_law, xp)
    expected = oracle.objective_value(LAW_CASES[text], *batch, reduction, law=law)
    np.testing.assert_allclose(to_numpy(found), expected, **close(xp))
    ours = weights_by_signal(objective, *placed, total, law=Law(*its_law), xp=xp)
    assert tuple(ours) == objective.signals
    ours = unmixed(objective, ours, law[0])
    theirs = oracle.objective_gradients(LAW_CASES[text], *batch, reduction, law=law)
    for signal, slope in theirs.items():
        rising = slope if signal == "divergence" else -slope
        c = ours.get(signal, np.zeros_like(slope))
        # A chain's slope in an overlap near 0 is its own quotient; compare what it adds to the loss.
        scale = np.maximum(law[0], 1e-30) if signal == "overlap" else 1.0
        np.testing.assert_allclose(c * scale, rising * scale, **close(xp))
        assert (c >= 0).all() and (c[~batch[2]] == 0).all()


@pytest.mark.clause("OB-8", "OB-12")
@every_case
@every_reduction
def test_autograd_of_the_value_is_the_weights_signal_by_signal(room, text, reduction):
    xp, objective = room.xp, Objective.parse(text, reduction=reduction)
    batch, law = place(example(), xp), place(law_example(), xp)
    _, total = whole(objective, batch, law, xp)
    ours = weights_by_signal(objective, *batch, total, law=Law(*law), xp=xp)
    ours = unmixed(objective, ours, to_numpy(law[0]))
    stop = {"stop_gradient": room.stop_gradient}
    at = {
        "gold": lambda x: whole(objective, (x, *batch[1:]), law, xp, **stop)[0],
        "overlap": lambda x: whole(objective, batch, (x, *law[1:]), xp, **stop)[0],
        "divergence": lambda x: whole(objective, batch, (law[0], x, law[2]), xp, **stop)[0],
    }
    for signal, start in (("gold", batch[0]), ("overlap", law[0]), ("divergence", law[1])):
        if signal not in ours:
            continue
        found = room.gradient(at[signal], start)
        sign = 1 if signal == "divergence" else -1
        np.testing.assert_allclose(found, sign * ours[signal], **gradient_close(xp))
        assert np.abs(found).max() > 1e-4


@pytest.mark.clause("OB-9", "OB-12")
@every_case
def test_what_is_not_supervised_may_hold_anything(xp, text):
    objective, (log_prob, hit, mask), law = Objective.parse(text), example(), law_example()
    spoilt = [np.where(mask, x, np.nan) for x in law]
    for reduction in REDUCTIONS:
        objective = Objective.parse(text, reduction=reduction)
        batch = place((log_prob, hit, mask), xp)
        clean, total = whole(objective, batch, place(law, xp), xp)
        found, same = whole(objective, batch, place(spoilt, xp), xp)
        assert to_numpy(found) == to_numpy(clean) and (to_numpy(same) == to_numpy(total)).all()
        ours = weights_by_signal(objective, *batch, total, law=Law(*place(spoilt, xp)), xp=xp)
        assert all(np.isfinite(to_numpy(c)).all() and not to_numpy(c)[~mask].any() for c in ours.values())


@pytest.mark.clause("OB-16", "OB-17")
@pytest.mark.parametrize(
    ("text", "like", "signal"),
    [
        ("log_overlap(3)", "decay(3)", "overlap"),
        ("overlap_chain(4)", "chain(4)", "overlap"),
        ("kl(3)", "decay(3)", None),
    ],
)
def test_a_target_that_is_sure_of_the_gold_token_makes_it_the_gold_objective(xp, text, like, signal):
    """Then the overlap is the gold probability and the divergence the cross-entropy."""
    log_prob, hit, mask = example()
    batch, law = place((log_prob, hit, mask), xp), place((np.exp(log_prob), -log_prob, 0 * log_prob), xp)
    ours, gold = Objective.parse(text), Objective.parse(like)
    found, _ = whole(ours, batch, law, xp)
    expected = value(gold, sums(gold, *batch, xp=xp), xp=xp)
    slack = {"rtol": 1e-4, "atol": 1e-4} if text.startswith("log") else close(xp)  # its 1e-6
    np.testing.assert_allclose(to_numpy(found), to_numpy(expected), **slack)


@pytest.mark.clause("OB-14")
def test_the_two_halves_of_dpace_multiply_to_its_credit(xp):
    batch = place(example(), xp)

    def coefficients(text):
        objective = Objective.parse(text)
        total = sums(objective, *batch, xp=xp)
        return to_numpy(weights(objective, *batch, total, xp=xp)) * to_numpy(total)[0, 1]

    product = coefficients("dpace_cumulative(0.3)") * coefficients("dpace_continuation(0.3)")
    np.testing.assert_allclose(product, coefficients("dpace(0.3)"), **close(xp))


@pytest.mark.clause("OB-20")
@pytest.mark.parametrize(("first", "like"), [(1e-9, 0.5), (1.0, 0.0)])
def test_revive_is_dpace_where_prefixes_are_dead_and_the_chain_where_they_live(first, like):
    """Of a living prefix, the sure slots: what follows the first unsure one is smoothed again."""
    log_prob = np.log(np.array([[first, 1 - 1e-9, 1 - 1e-9, 1 - 1e-9]]))
    yes = np.ones((1, 4), dtype=bool)
    both = []
    for text in ("revive(0.5)", f"dpace({like})"):
        objective = Objective.parse(text)
        both.append(weights(objective, log_prob, yes, yes, sums(objective, log_prob, yes, yes, xp=np), xp=np))
    np.testing.assert_allclose(both[0], both[1], rtol=1e-7)


@pytest.mark.clause("OB-20")
def test_revive_smooths_by_what_is_dead_of_the_prefix():
    log_prob, yes = np.log(np.array([[0.5, 0.5]])), np.ones((1, 2), dtype=bool)
    objective = Objective.parse("revive(0.5)")
    found = weights(objective, log_prob, yes, yes, sums(objective, log_prob, yes, yes, xp=np), xp=np)
    first, second = 0.5 + 0.5 * 0.5 * 0.5, 0.5 + 0.5 * 0.75 * 0.5
    np.testing.assert_allclose(found, [[first + first * second, first * second]], rtol=1e-12)


@pytest.mark.clause("OB-12")
@pytest.mark.parametrize(
    "text", ["kl", "tv", "lk", "log_overlap", "overlap_chain", "reach", "cat", "uniform+kl"]
)
def test_without_the_target_s_law_it_says_what_is_missing(text):
    with pytest.raises(ConfigError, match="OB-12"):
        sums(Objective.parse(text), *example(), xp=np)


@pytest.mark.clause("OB-12")
def test_two_temperatures_in_one_sum_are_refused():
    assert Objective.parse("kl(10, temperature=0.5)+tv(temperature=0.5)").temperature == 0.5
    assert Objective.parse("ltr").temperature == 1
    with pytest.raises(ConfigError, match="one temperature"):
        Objective.parse("kl(10, temperature=0.5)+tv")
    with pytest.raises(ConfigError, match="temperature"):
        Objective.parse("kl(10, temperature=0)")


@pytest.mark.clause("OB-16", "OB-18")
def test_two_etas_in_one_sum_are_refused():
    assert Objective.parse("lk(2, 10)+kl+lk(2)").eta == 2 and Objective.parse("lk").eta == 3
    assert Objective.parse("kl").eta == 0  # nobody reads the mix
    for text in ("lk(2)+lk", "lk(2)+lk(0->2)"):
        with pytest.raises(ConfigError, match=r"one eta.*\[OB-16\]"):
            Objective.parse(text)
    scheduled = Objective.parse("lk(0->3, 10)+lk(0->3)")
    assert [scheduled.at(Progress(step, 3)).eta for step in range(3)] == [0, 1.5, 3]


@pytest.mark.clause("OB-12")
def test_an_objective_says_what_it_must_be_shown():
    told = {text: Objective.parse(text) for text in ("ltr", "cat", "reach", "lk+decay(10)", "overlap_chain")}
    assert {text: x.signals for text, x in told.items()} == {
        "ltr": ("gold",),
        "cat": ("gold",),
        "reach": ("divergence",),
        "lk+decay(10)": ("gold", "mixed"),
        "overlap_chain": ("overlap",),
    }
    assert [x.needs_law for x in told.values()] == [False, False, True, True, True]
    assert [x.needs_confidence for x in told.values()] == [False, True, False, False, False]


def rows(rows=5, width=4, vocab=9, seed=0):
    rng = np.random.default_rng(seed)
    made = [rng.normal(size=shape) for shape in ((rows, width), (vocab, width), (rows, width))]
    return *(2 * x for x in made), rng.integers(0, vocab, rows)


@pytest.mark.clause("OB-12", "OB-16")
@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_statistics_of_rows_are_the_oracles(xp, temperature, softcap):
    hidden, head, target_hidden, labels = rows()
    arrays = place((hidden, head, target_hidden, labels), xp)
    found = overlap_statistics(*arrays, temperature=temperature, softcap=softcap, eta=2.0, xp=xp)
    for row in range(len(labels)):
        ours, theirs = (
            [x if softcap is None else softcap * np.tanh(x / softcap) for x in head @ states[row]]
            for states in (hidden, target_hidden)
        )
        said = law_oracle.row(ours, [x / temperature for x in theirs])
        np.testing.assert_allclose(to_numpy(found.overlap)[row], said.overlap, **close(xp))
        np.testing.assert_allclose(to_numpy(found.divergence)[row], said.divergence, **close(xp))
        block, its_law = ([[0.0]], [[1]], [[1]]), ([[said.overlap]], [[said.divergence]], None)
        mixed = oracle.objective_value([("lk", {"eta": 2.0})], *block, law=its_law)
        np.testing.assert_allclose(to_numpy(found.mixed)[row], mixed, **close(xp))


@pytest.mark.clause("OB-12", "OB-16")
def test_the_derivatives_of_a_row_are_those_of_the_clause(room):
    hidden, head, target_hidden, labels = rows()
    xp = room.xp
    arrays = place((hidden, head, target_hidden, labels), xp)
    options = {"eta": 2.0, "xp": xp, "stop_gradient": room.stop_gradient}
    for name in ("overlap", "divergence", "mixed"):

        def total(h, name=name):
            return xp.sum(getattr(overlap_statistics(h, *arrays[1:], **options), name))

        slope = room.gradient(total, arrays[0])
        for row in range(len(labels)):
            said = law_oracle.row(list(head @ hidden[row]), list(head @ target_hidden[row]))
            near, far = np.exp(-2 * said.overlap), np.exp(-2 * said.overlap) - 1
            near, far = {"overlap": (0, 1), "divergence": (1, 0), "mixed": (near, far)}[name]
            by_logit = near * np.array(said.divergence_slope) + far * np.array(said.overlap_slope)
            expected = by_logit @ head
            np.testing.assert_allclose(slope[row], expected, **gradient_close(xp))


@pytest.mark.clause("OB-12")
def test_statistics_refuse_what_does_not_fit():
    hidden, head, target_hidden, labels = rows()
    with pytest.raises(ShapeError, match="one shape"):
        overlap_statistics(hidden[:4], head, target_hidden, labels[:4], xp=np)
    with pytest.raises(ConfigError, match="temperature"):
        overlap_statistics(hidden, head, target_hidden, labels, temperature=0.0, xp=np)


@pytest.mark.clause("OB-12")
def test_law_arrays_must_have_the_blocks_shape():
    batch, law = example(), law_example(n=5)
    with pytest.raises(ShapeError, match="overlap"):
        sums(Objective.parse("tv"), *batch, law=Law(*law), xp=np)

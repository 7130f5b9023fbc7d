"""What tests of objectives share: texts with the oracle terms they stand for, and batches of blocks.

The terms are written out, not parsed, so that a wrong parser is found.
"""

from math import inf

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

CASES = {
    "uniform": [("decay", {"gamma": inf, "weight": 1.0})],
    "dflash": [("decay", {"gamma": 7.0, "weight": 1.0})],
    "ltr": [
        ("decay", {"gamma": 10.0, "weight": 1.0}),
        ("first_error", {"gamma": 10.0, "weight": 0.3}),
        ("chain", {"weight": 40.0}),
    ],
    "dpace": [("dpace", {"alpha": 0.5, "weight": 1.0})],
    "decay(2, weight=3)": [("decay", {"gamma": 2.0, "weight": 3.0})],
    "first_error(2)": [("first_error", {"gamma": inf, "weight": 2.0})],
    "first_error(0.3, gamma=1.5)": [("first_error", {"gamma": 1.5, "weight": 0.3})],
    "chain(2)": [("chain", {"weight": 2.0})],
    "dpace(0)": [("dpace", {"alpha": 0.0, "weight": 1.0})],
    "dpace(1, weight=2)": [("dpace", {"alpha": 1.0, "weight": 2.0})],
    "decay(4)+dpace(0.3)+chain(5)": [
        ("decay", {"gamma": 4.0, "weight": 1.0}),
        ("dpace", {"alpha": 0.3, "weight": 1.0}),
        ("chain", {"weight": 5.0}),
    ],
    "auf": [("auf", {"weight": 1.0})],
    "dpace_cumulative(0.3, weight=2)": [("dpace_cumulative", {"alpha": 0.3, "weight": 2.0})],
    "dpace_continuation(0)": [("dpace_continuation", {"alpha": 0.0, "weight": 1.0})],
    "dpace_continuation": [("dpace_continuation", {"alpha": 0.5, "weight": 1.0})],
    "revive(0.4)+auf(2)": [("revive", {"alpha": 0.4, "weight": 1.0}), ("auf", {"weight": 2.0})],
}
# The same for terms that read the target's law; every argument off its default somewhere.
LAW_CASES = {
    "cat(2)": [("cat", {"weight": 2.0})],
    "kl(3)": [("kl", {"gamma": 3.0, "weight": 1.0})],
    "tv(weight=2)": [("tv", {"gamma": inf, "weight": 2.0})],
    "lk(2, 5)": [("lk", {"eta": 2.0, "gamma": 5.0, "weight": 1.0})],
    "lk": [("lk", {"eta": 3.0, "gamma": inf, "weight": 1.0})],
    "lk(2, 5)+tv(4)+kl(weight=3)+lk(2)": [
        ("lk", {"eta": 2.0, "gamma": 5.0, "weight": 1.0}),
        ("tv", {"gamma": 4.0, "weight": 1.0}),
        ("kl", {"gamma": inf, "weight": 3.0}),
        ("lk", {"eta": 2.0, "gamma": inf, "weight": 1.0}),
    ],
    "log_overlap(4)": [("log_overlap", {"gamma": 4.0, "weight": 1.0})],
    "overlap_chain": [("overlap_chain", {"weight": 40.0})],
    "reach(0.2, weight=3)": [("reach", {"alpha": 0.2, "weight": 3.0})],
    "reach": [("reach", {"alpha": 0.5, "weight": 1.0})],
    "reach(0.3, follow=0.7)": [("reach", {"alpha": 0.3, "weight": 1.0, "follow": 0.7})],
    "decay(10)+overlap_chain(8)+lk": [
        ("decay", {"gamma": 10.0, "weight": 1.0}),
        ("overlap_chain", {"weight": 8.0}),
        ("lk", {"eta": 3.0, "gamma": inf, "weight": 1.0}),
    ],
}


@st.composite
def batches(draw):
    """Return (log_prob, hit, mask): 1-4 blocks of 1-6 slots, masked anywhere, also whole blocks."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 6)))
    log_prob = hnp.arrays(np.float64, shape, elements=st.floats(-12, 0) | st.sampled_from([0.0, -800.0]))
    flags = hnp.arrays(np.bool_, shape)
    return draw(log_prob), draw(flags), draw(flags)


def example(n=6, k=7, seed=0):
    """Return one batch with masks of every kind: ragged ends, holes, a whole block."""
    rng = np.random.default_rng(seed)
    mask = rng.random((n, k)) < 0.8
    mask[1] = False
    return np.log(rng.random((n, k))), rng.random((n, k)) < 0.6, mask

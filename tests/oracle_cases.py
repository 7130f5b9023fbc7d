"""Random blocks and the objectives that the tests of the witness run over."""

import numpy as np
import pytest

from dspec.oracle.objectives import REDUCTIONS

N, K = 5, 7
LTR = [("decay", {"gamma": 10.0}), ("first_error", {"weight": 0.3}), ("chain", {"weight": 40.0})]
OBJECTIVES = {
    "uniform": [("decay", {})],
    "decay": [("decay", {"gamma": 4.0, "weight": 2.5})],
    "first_error": [("first_error", {"weight": 0.7, "gamma": 3.0})],
    "chain": [("chain", {"weight": 40.0})],
    "dpace": [("dpace", {"alpha": 0.5, "weight": 1.5})],
    "dpace(0)": [("dpace", {"alpha": 0.0})],
    "ltr": LTR,
    "everything": [*LTR, ("dpace", {"alpha": 0.3})],
    "auf": [("auf", {"weight": 1.5})],
    "dpace_cumulative": [("dpace_cumulative", {"alpha": 0.4, "weight": 2.0})],
    "dpace_continuation": [("dpace_continuation", {"alpha": 0.0})],
    "revive": [("revive", {"alpha": 0.7, "weight": 1.5})],
    "cat": [("cat", {"weight": 2.0})],
    "kl": [("kl", {"gamma": 3.0, "weight": 0.5})],
    "tv": [("tv", {"gamma": 5.0})],
    "log_overlap": [("log_overlap", {"gamma": 2.0, "weight": 3.0})],
    "lk": [("lk", {"eta": 2.0, "gamma": 6.0, "weight": 1.5})],
    "overlap_chain": [("overlap_chain", {"weight": 8.0})],
    "reach": [("reach", {"alpha": 0.3, "weight": 2.0})],
    "reach(follow)": [("reach", {"alpha": 0.6, "follow": 0.7})],
    "everything of the law": [*LTR, ("overlap_chain", {}), ("lk", {}), ("reach", {}), ("cat", {})],
}
every_objective = pytest.mark.parametrize("terms", OBJECTIVES.values(), ids=OBJECTIVES)
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)
every_seed = pytest.mark.parametrize("seed", range(3))


def blocks(seed, n=N):
    """Random blocks: gaps in the masks, an all-correct block, and a block without supervised slots."""
    rng = np.random.default_rng(seed)
    log_prob = np.log(rng.uniform(0.05, 0.95, (n, K)))
    hit = rng.random((n, K)) < 0.6
    mask = rng.random((n, K)) < 0.8
    hit[1], mask[2], mask[3] = True, False, True
    return log_prob, hit, mask


def laws(seed, n=N):
    """Random overlaps, divergences and logs of confidences of the blocks of `blocks(seed)`."""
    rng = np.random.default_rng(100 + seed)
    overlap, confidence = rng.uniform(0.05, 0.95, (2, n, K))
    return overlap, rng.exponential(1.0, (n, K)), np.log(confidence)

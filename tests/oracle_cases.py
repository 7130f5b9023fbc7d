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

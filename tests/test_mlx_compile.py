"""Compiled = eager on MLX: the one test that compiles, in a process of its own (needs g++ on a CPU).

Tracing refuses to evaluate, so that what compiles also waits for nothing (DL-6).
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rooms import ROOMS

PROGRAM = """
import mlx.core as mx
import numpy as np
from dspec.backends.mlx.ops import namespace as xp
from dspec.core.objectives import Objective, sums, value
from dspec.core.policies import POLICIES, draft_tokens, judge
from dspec.core.types import Draft, Sampling, Uniforms

traced = 0

def compare(function, *arrays, rtol, evaluate=True):
    def counted(*args):
        global traced
        traced += isinstance(args[0], mx.array)
        return function(*args)
    eager, compiled = function(*arrays), mx.compile(counted)
    if not evaluate:  # each kernel takes g++ a second or two; a trace takes none
        return compiled(*arrays)
    for run in range(2):  # the second call must not trace again
        for one, other in zip(eager, compiled(*arrays), strict=True):
            np.testing.assert_allclose(np.array(other), np.array(one), rtol=rtol, atol=rtol)

rng = np.random.default_rng(0)
logits, drafted = (mx.array(2 * rng.standard_normal((64, n, 50), dtype=np.float32)) for n in (4, 3))
uniforms = [mx.array(rng.random(shape, dtype=np.float32)) for shape in ((64, 3), (64, 4, 2), (64, 3, 2))]
for name, policy in POLICIES.items():
    cuts = {} if name == "rejection" else {"top_k": 20, "top_p": 0.9}  # fewer kernels where g++ runs
    sampling = Sampling() if name == "greedy" else Sampling(temperature=0.8, **cuts)
    def decide(logits, drafted, accept, close, drawn, policy=policy, sampling=sampling):
        draft = draft_tokens(drafted, policy, sampling, drawn, xp=xp)
        verdict = judge(logits, draft, policy, sampling, Uniforms(accept, close), xp=xp)
        return draft.tokens, verdict.tokens, verdict.n_accepted
    compare(decide, logits, drafted, *uniforms, rtol=0, evaluate=name == "rejection")

log_prob = mx.array(np.log(rng.random((6, 7), dtype=np.float32)))
hit, mask = (mx.array(rng.random((6, 7)) < 0.6) for _ in range(2))
for text in ("ltr", "dpace"):
    objective = Objective.parse(text)
    def loss(x, hit, mask, objective=objective):
        parts = sums(objective, x, hit, mask, xp=xp, stop_gradient=mx.stop_gradient)
        return value(objective, parts, xp=xp)
    compare(mx.value_and_grad(loss), log_prob, hit, mask, rtol={tolerance}, evaluate=text == "ltr")
assert traced == len(POLICIES) + 2, traced

def waits(x):
    return x + x.sum().item()
try:
    mx.compile(waits)(log_prob)
except ValueError:
    print("compiled = eager")
"""


@pytest.mark.mlx
@pytest.mark.clause("DL-6", "RS-10")
def test_compiled_rules_and_objectives_are_the_eager_ones(tmp_path):
    if not ROOMS["mlx"].installed:
        pytest.skip("mlx is not installed")
    if not ROOMS["mlx"].ops.on_metal() and shutil.which("g++") is None:
        pytest.skip("MLX compiles for a CPU with g++, which is not here")
    from tests.tolerances import FLOAT32

    # MLX keeps what it compiled in the temporary folder, by name: other processes must not share it.
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    environment.pop("MLX_DISABLE_COMPILE", None)
    program = PROGRAM.replace("{tolerance}", str(FLOAT32))
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parent.parent,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "compiled = eager"

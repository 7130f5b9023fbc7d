"""How the overlap operation runs on MLX: the most memory it holds at once, and compiled."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dspec.core.overlap import overlap_statistics as core_overlap_statistics
from dspec.core.signals import SIGNALS
from tests.rooms import ROOMS
from tests.test_mlx_overlap import pair
from tests.tolerances import FLOAT32_LOG_PROB

MLX = ROOMS["mlx"]
pytestmark = [
    pytest.mark.mlx,
    pytest.mark.skipif(not MLX.installed, reason="mlx is not installed"),
]

CHUNK_BYTES = 4 * 64 * 4096


def peak(function, *arrays, in_stages=True, **options):
    """Most bytes above those held before, over those of one chunk of 64 rows by 4,096 logits."""
    import mlx.core as mx

    hidden, *rest = arrays
    mx.eval(*arrays)
    stages = [] if in_stages else None
    if function is not core_overlap_statistics:
        options |= {"chunk": 64, "stages": stages}
    mx.clear_cache()
    mx.reset_peak_memory()
    held = mx.get_active_memory()

    def value(hidden):
        rows = function(hidden, *rest, xp=MLX.xp, **options)
        return (rows.log_prob + rows.overlap - rows.divergence - rows.mixed).sum()

    made = mx.value_and_grad(value)(hidden)
    MLX.gold.run_stages(stages or [])
    mx.eval(*made)
    return (mx.get_peak_memory() - held) / CHUNK_BYTES


@pytest.mark.parametrize(("dtype", "softcap", "chunks"), [("float32", None, 3.25), ("bfloat16", 3.0, 4.75)])
@pytest.mark.parametrize("signals", [SIGNALS, ("mixed",), ()])
def test_memory_is_a_few_chunks_whatever_the_number_of_rows(signals, dtype, softcap, chunks):
    for rows in (128, 1024):
        arrays = pair(dtype, rows=rows, width=8, vocab=4096)
        ours = peak(MLX.overlap.overlap_statistics, *arrays, softcap=softcap, signals=signals)
        # Besides: hidden states, unit gradients and their like, R x D, a twentieth of a chunk a copy.
        assert ours < chunks + 0.05 + 7 * rows * 8 * 4 / CHUNK_BYTES
    assert peak(core_overlap_statistics, *arrays, softcap=softcap) > 60  # the instrument sees what core keeps


def test_memory_is_bounded_without_stages_too():
    arrays = pair(rows=2048, width=8, vocab=4096)
    assert peak(MLX.overlap.overlap_statistics, *arrays, in_stages=False) < 24  # of 32 chunks


PROGRAM = """
import mlx.core as mx
import numpy as np
from tests.test_mlx_overlap import pair, statistics

hidden, *rest = pair(rows=16)
traced = 0

def value(hidden, *rest):
    global traced
    traced += 1
    rows = statistics(hidden, *rest, temperature=0.7, softcap=3.0, eta=2.0, chunk=8)
    return (rows.log_prob + rows.overlap - rows.divergence - rows.mixed).sum()

function = mx.value_and_grad(value)
eager, compiled = function(hidden, *rest), mx.compile(function)
for run in range(2):  # the second call must not trace again
    for one, other in zip(eager, compiled(hidden, *rest), strict=True):
        np.testing.assert_allclose(np.array(other), np.array(one), rtol={tolerance}, atol={tolerance})
assert traced == 2, traced
print("compiled = eager")
"""


@pytest.mark.clause("OB-12")
def test_compiled_is_eager(tmp_path):
    """In a process of its own, as in tests/test_mlx_compile.py."""
    if not MLX.ops.on_metal() and shutil.which("g++") is None:
        pytest.skip("MLX compiles for a CPU with g++, which is not here")
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    environment.pop("MLX_DISABLE_COMPILE", None)
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{tolerance}", str(FLOAT32_LOG_PROB))],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parent.parent,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "compiled = eager"

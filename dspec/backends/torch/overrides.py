"""The table of core operations that torch replaces by a faster one: all of them, and nothing else.

An override changes how an operation runs, never its signature, law, dtype policy or errors. With the
table emptied core runs, and every test still passes, only slower and with more memory.
"""

from collections.abc import Callable
from typing import Any

from dspec.backends.override import Override, find
from dspec.backends.torch.cpu.judge import judge_lazily
from dspec.backends.torch.cpu.log_probs import log_probs_of_emitted
from dspec.backends.torch.cpu.warp import fused_warp
from dspec.backends.torch.cuda.gold import available, gold_log_probs_triton
from dspec.backends.torch.cuda.overlap import overlap_statistics_triton
from dspec.backends.torch.gold import gold_log_probs
from dspec.backends.torch.overlap import overlap_statistics

# Before those that run anywhere; without Triton they are not there, and CUDA runs the others.
ON_CUDA: tuple[Override, ...] = (
    Override(
        operation="gold_log_probs",
        function=gold_log_probs_triton,
        devices=("cuda",),
        clauses=("OB-1", "OB-10", "NU-2", "NU-5"),
        tolerance=2e-5,
        reason=(
            "forward and backward of 'ltr', 7,680 rows, D=1024, V=151,936, bfloat16 head, one H200: 9.4 ms "
            "where the two products alone take 7.0, eager unit gradients 23.1, torch.compile 11.4, "
            "checkpointed chunks 19.5 and unchunked logits 23.1; peak 0.63 GB against 16.3 GB unchunked "
            "(benchmarks/objective_cuda.py, benchmarks/results/objective_cuda.json)"
        ),
    ),
    Override(
        operation="overlap_statistics",
        function=overlap_statistics_triton,
        devices=("cuda",),
        clauses=("OB-1", "OB-10", "OB-12", "OB-16", "NU-2", "NU-5"),
        tolerance=2e-5,
        reason=(
            "forward and backward of a divergence, 7,680 rows, D=1024, V=151,936, bfloat16 head, one H200: "
            "16.0 ms where the three products alone take 9.6 and eager unit gradients 56.3; peak 1.3 GB "
            "against 2.2 GB (benchmarks/objective_cuda.py, benchmarks/results/objective_cuda.json)"
        ),
    ),
)
OVERRIDES: tuple[Override, ...] = (
    *(ON_CUDA if available("cuda") is None else ()),
    Override(
        operation="gold_log_probs",
        function=gold_log_probs,
        devices=("cpu", "cuda", "mps"),
        clauses=("OB-1", "OB-10", "NU-2", "NU-5"),
        tolerance=2e-5,
        reason=(
            "forward and backward of 'ltr', 480 rows, D=1024, V=151,936, float32, one CPU thread: 1.08 times "
            "the two matrix products alone, 0.55 times core checkpointed by chunks of 120; peak "
            "75 MB against 1,183 MB unchunked (benchmarks/results/objective.json). CUDA: 23.1 ms where the "
            "kernel above takes 9.4, so only without Triton. MPS: not measured; taken there for its memory."
        ),
    ),
    Override(
        operation="overlap_statistics",
        function=overlap_statistics,
        devices=("cpu", "cuda", "mps"),
        clauses=("OB-1", "OB-10", "OB-12", "OB-16", "NU-2", "NU-5"),
        tolerance=2e-5,
        reason=(
            "forward and backward of 'reach', 480 rows, D=1024, V=151,936, float32, one CPU thread: 1.09 "
            "times its three matrix products alone, 0.24 times core checkpointed by chunks of 120; peak "
            "221 MB, three chunks of logits (benchmarks/results/objective.json). "
            "CUDA: 56.3 ms for a divergence where the kernel above takes 16.0, so only without Triton. "
            "MPS: not measured; taken there for its memory."
        ),
    ),
    Override(
        operation="judge",
        function=judge_lazily,
        devices=("cpu",),
        clauses=("RS-1", "RS-11", "RS-16", "RS-18"),
        tolerance=0.0,
        reason=(
            "a verdict of 15 sampled drafts over V=151,936, one CPU thread: 0.14 of core's time for 1 row, "
            "0.08 for 8, 0.06 for 32; 0.18 of transformers' for 1 row (benchmarks/verify.py, "
            "benchmarks/results/verify.json)"
        ),
    ),
    Override(
        operation="log_probs",
        function=log_probs_of_emitted,
        devices=("cpu",),
        clauses=("RS-19", "NU-2", "NU-5"),
        tolerance=1e-5,
        reason=(
            "of a verdict of 15 drafts over V=151,936, two of which stand, one CPU thread: 0.13 of core's "
            "time for 1 row, 0.10 for 8, at a temperature 0.19 and 0.17, with top-k and top-p 0.14 and 0.11 "
            "(benchmarks/log_probs.py, benchmarks/results/log_probs.json)"
        ),
    ),
    Override(
        operation="warp",
        function=fused_warp,
        devices=("cpu",),
        clauses=("RS-13", "NU-2", "NU-5"),
        tolerance=1e-6,
        reason=(
            "laws of 15 slots over V=151,936, one CPU thread: 0.24 of core's time for 1 row, 0.32 for 8 and "
            "for 32 (benchmarks/verify.py, benchmarks/results/verify.json)"
        ),
    ),
)


def operation(name: str, *, enabled: bool = True, device: str = "cpu") -> Callable[..., Any]:
    """Return the function that runs a named core operation on a device.

    Args:
        name: a key of `dspec.backends.override.CORE`.
        enabled: False answers core's own function, as if the table were empty.
        device: torch device type, such as "cuda".

    Returns:
        The override whose entry lists the device, else core's function; both take `xp`.

    Raises:
        ConfigError: core has no overridable operation of that name.

    Example:
        >>> operation("gold_log_probs", enabled=False).__module__
        'dspec.core.gold'
    """
    return find(OVERRIDES if enabled else (), name, device)

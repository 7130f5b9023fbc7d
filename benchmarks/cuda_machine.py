"""Time and memory on one CUDA GPU, and the problem that its benchmarks share."""

import statistics
import time
import traceback

import torch
from objective_schemes import Problem


class Machine:
    """Where the benchmark runs, and how it counts there."""

    def __init__(self, tiny):
        self.tiny = tiny
        self.device = "cpu" if tiny and not torch.cuda.is_available() else "cuda"
        self.repetitions = 2 if tiny else 7

    def measure(self, run):
        """Return the median milliseconds of a run and its peak of memory over what was held before."""
        run()
        if self.device == "cpu":
            times = [self._on_host(run) for _ in range(self.repetitions)]
            return {"ms": statistics.median(times)}
        run()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        times = [self._on_cuda(run) for _ in range(self.repetitions)]
        peak = torch.cuda.max_memory_allocated() - held
        return {"ms": statistics.median(times), "peak_MB": round(peak / 1e6, 1)}

    def _on_cuda(self, run):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)

    def _on_host(self, run):
        began = time.perf_counter()
        run()
        return (time.perf_counter() - began) * 1e3


def attempt(function, *arguments):
    """Return what a function returns, or the text of its error."""
    try:
        return function(*arguments)
    except Exception as error:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        where = traceback.format_exc().strip().splitlines()[-8:]
        return {"error": f"{type(error).__name__}: {error}"[:600], "where": where}


def draw(machine, rows, width, vocab, chunk, dtype=torch.bfloat16):
    """A problem on the device: a head of 16 bits, hidden states in float32."""
    torch.manual_seed(0)
    head = (torch.randn(vocab, width, device=machine.device) / width**0.5).to(dtype)
    labels = torch.randint(0, vocab, (rows,), device=machine.device)
    known = (torch.rand(rows, 1, device=machine.device) < 0.5) * 12.0
    hidden = torch.randn(rows, width, device=machine.device) + known * head[labels].float()
    target = 0.6 * hidden + 0.8 * torch.randn_like(hidden)
    return Problem(hidden.requires_grad_(), head, target.to(dtype), labels, chunk)

"""What the training objective costs on one CUDA GPU: `python benchmarks/objective_cuda.py PATH`.

Candidates for the gold operation are first held against float64 on a small case, then timed at 512 anchors of
16 slots over Qwen3's vocabulary, beside the products alone and plain schemes; then the two forms of the
training mask, and whole optimizer steps. About a minute on an H100. Each section stands alone: an error is
written down in its place, and the rest goes on. `--tiny` runs the script's own code on any machine.
"""

import argparse
import json
import platform
import statistics
import sys
import time
import traceback
from functools import partial
from pathlib import Path

import numpy as np
import objective_schemes as schemes
import torch
from objective_schemes import SLOTS, Problem
from torch import nn

from dspec.backends.torch import attention_mask as attention_masks
from dspec.backends.torch import drafter_layers
from dspec.backends.torch.cuda import gold as cuda_gold
from dspec.backends.torch.gold import gold_log_probs
from dspec.backends.torch.overlap import overlap_statistics
from dspec.core.objectives import Objective

LTR, REACH = Objective.parse("ltr"), Objective.parse("reach")
CANDIDATES = {
    "eager": gold_log_probs,
    "compiled": cuda_gold.gold_log_probs_compiled,
    "triton": cuda_gold.gold_log_probs_triton,
}
# Largest error of log_prob in nats, and of the gradient as a share of its norm: tests/tolerances.py.
BOUNDS = {torch.float32: (8e-6, 1e-5), torch.bfloat16: (8e-6, 6e-3)}


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


def check(machine):
    """Hold each candidate against float64 on the logits of its own head, with and without a softcap."""
    return {name: attempt(check_one, machine, function) for name, function in CANDIDATES.items()}


def check_one(machine, function):
    found = {}
    for dtype, (value_bound, slope_bound) in BOUNDS.items():
        for softcap in (None, 5.0):
            problem = draw(machine, 45, 64, 5001, 45, dtype)
            hidden, head, labels = problem.hidden, problem.head, problem.labels
            logits = (hidden.detach().to(dtype) @ head.T).double().requires_grad_()
            labels[0] = logits[0].argmax()
            capped = logits if softcap is None else softcap * torch.tanh(logits / softcap)
            exact = torch.log_softmax(capped, dim=1).gather(1, labels[:, None])[:, 0]
            slope = torch.autograd.grad(exact.sum(), logits)[0] @ head.double()
            log_prob, hit = function(hidden, head, labels, softcap=softcap, chunk=45)
            (grad,) = torch.autograd.grad(log_prob.sum(), hidden)
            value = (log_prob - exact).abs().max().item()
            error = ((grad - slope).norm() / slope.norm()).item()
            found[f"{dtype} softcap {softcap}"] = {"log_prob": value, "gradient": error}
            assert value <= value_bound, f"{dtype}, softcap {softcap}: log_prob off by {value}"
            assert error <= slope_bound, f"{dtype}, softcap {softcap}: gradient off by {error}"
            assert hit[0] and torch.equal(hit, capped.argmax(dim=1) == labels), "wrong hits"
    ties = function(torch.ones(2, 3, device=machine.device), torch.ones(5, 3, device=machine.device),
                    torch.tensor([0, 4], device=machine.device))  # fmt: skip
    assert ties[1].tolist() == [True, False], "the first of equal logits is the argmax"
    return found


def fused(problem, function, chunk):
    problem.hidden.grad = None
    found = function(problem.hidden, problem.head, problem.labels, chunk=chunk)
    schemes.finish(problem, LTR, *found)


def law(problem, chunk):
    problem.hidden.grad = None
    states = (problem.hidden, problem.head, problem.target, problem.labels)
    found = overlap_statistics(*states, chunk=chunk, signals=REACH.signals)
    schemes.finish(problem, REACH, *found)


def plain(scheme, problem, chunk, **options):
    problem.hidden.grad = None
    problem.chunk = chunk
    scheme(problem, LTR, **options)


def objective(machine, width):
    """Time and peak of the floor, of plain schemes and of the candidates by chunk."""
    rows, vocab, chunks = (60, 301, (30, 60)) if machine.tiny else (7680, 151_936, (256, 1024, 2048, 7680))
    # Forget the small case: the vocabulary is to be a constant of what is compiled, the rows are not.
    torch._dynamo.reset()
    problem = draw(machine, rows, width, vocab, chunks[-1])
    runs = {f"floor {chunk}": partial(plain, schemes.floor, problem, chunk) for chunk in chunks}
    runs[f"floor of three products {chunks[-2]}"] = partial(
        plain, schemes.floor, problem, chunks[-2], products=3
    )
    runs["naive"] = partial(plain, schemes.naive, problem, rows)
    runs["checkpointed"] = partial(plain, schemes.checkpointed, problem, chunks[-2])
    for name, function in CANDIDATES.items():
        runs |= {f"{name} {chunk}": partial(fused, problem, function, chunk) for chunk in chunks}
    runs |= {f"overlap {chunk}": partial(law, problem, chunk) for chunk in chunks[:-1]}
    return {name: attempt(machine.measure, run) for name, run in runs.items()}


def kernel(machine):
    """Time of the Triton kernel alone by its two sizes, and what it moves at least a second."""
    from dspec.backends.torch.cuda.kernels import gold_rows

    logits = torch.randn(2048, 151_936, device="cuda", dtype=torch.bfloat16)
    labels, found = torch.randint(0, 151_936, (2048,), device="cuda"), {}
    for block in (1024, 2048, 4096, 8192):
        for warps in (4, 8, 16):
            run = partial(gold_rows, logits, labels, None, True, block=block, warps=warps)
            found[f"block {block}, {warps} warps"] = attempt(machine.measure, run)
    # Read once (again from L2 at best) and written once.
    least = min(x["ms"] for x in found.values() if "ms" in x)
    return {**found, "TB_per_s": 2 * logits.numel() * 2 / least / 1e9}


def masks(machine):
    """Forward and backward of the drafter's attention with either form of the training mask."""
    n, seq_len, heads, groups, width = (4, 32, 4, 2, 16) if machine.tiny else (512, 3072, 16, 8, 128)
    torch.manual_seed(0)
    anchors = torch.randint(0, seq_len - 1, (1, n), device=machine.device, dtype=torch.int32)
    keep = torch.ones(1, n, dtype=torch.bool, device=machine.device)
    dtype, slots, found, read = torch.bfloat16, n * 16, {}, {}
    sizes = ((heads, slots), (groups, seq_len + slots), (groups, seq_len + slots))
    tensors = [torch.randn(1, *s, width, device=machine.device, dtype=dtype) for s in sizes]
    queries, keys, values = (x.requires_grad_() for x in tensors)
    for name, flex in (("dense", False), ("flex", True)):
        make = partial(
            attention_masks.attention_mask, anchors, keep, seq_len=seq_len, block_size=16, flex=flex
        )
        found[f"{name} mask"] = attempt(machine.measure, make)
        mask = make()

        def run(mask=mask, name=name):
            read[name] = drafter_layers.attend(queries, keys, values, mask)
            grads = torch.autograd.grad(read[name].float().square().sum(), (queries, keys, values))
            read[f"{name} gradient"] = torch.cat([g.flatten() for g in grads])

        found[f"{name} attention"] = attempt(machine.measure, run)
    attention_masks.create_block_mask = torch.compile(attention_masks.create_block_mask)
    found["flex mask, compiled"] = attempt(machine.measure, make)
    for part in ("", " gradient"):
        if f"flex{part}" in read and f"dense{part}" in read:
            a, b = read[f"flex{part}"].detach().float(), read[f"dense{part}"].detach().float()
            found[f"difference{part}"] = ((a - b).norm() / b.norm()).item()
    return found


def steps(machine):
    """Whole optimizer steps of a drafter of five layers, by how the objective is made."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from dspec.backends.torch.drafter import Drafter
    from dspec.backends.torch.learner import Learner
    from dspec.backends.torch.micro_batch import MicroBatch
    from dspec.backends.torch.target import Target
    from dspec.config import DrafterConfig, TrainConfig
    from dspec.supervision import Supervision

    vocab, width, seq_len, anchors = (301, 64, 48, 4) if machine.tiny else (151_936, 1024, 3072, 512)
    shape = {"hidden_size": width, "intermediate_size": 3 * width, "head_dim": width // 8}
    shape |= {"num_hidden_layers": 8, "num_attention_heads": 16, "num_key_value_heads": 8}
    shape |= {"vocab_size": vocab, "max_position_embeddings": 4096, "tie_word_embeddings": True}
    with torch.device(machine.device):
        model = Qwen3ForCausalLM(Qwen3Config(**shape)).to(torch.bfloat16)
    target = Target(model)
    config = TrainConfig(layers=5, seq_len=seq_len, anchors=anchors, batch_size=1, steps=100)
    asked = {"block_size": config.block_size, "layers": config.layers, "mask_token_id": vocab - 1}
    drafter_config = DrafterConfig.for_target(target.facts, **asked)
    random = np.random.default_rng(0)
    tokens, learned = random.integers(0, vocab - 1, (1, seq_len)), np.ones((1, seq_len), dtype=bool)
    cut = {"anchors": anchors, "block_size": config.block_size, "mask_token_id": vocab - 1}
    blocks = Supervision.cut(tokens, learned, random.random((1, seq_len)), **cut)
    found, layer_ids = {}, drafter_config.target_layer_ids
    found["reading the target"] = attempt(machine.measure, lambda: MicroBatch.read(target, blocks, layer_ids))
    part = MicroBatch.read(target, blocks, layer_ids, law=True)
    found["supervised slots"] = len(part.labels)

    def measured(name, objective, function):
        torch.manual_seed(0)
        drafter = Drafter(drafter_config).to(machine.device)
        for weight in drafter.parameters():
            nn.init.normal_(weight, std=0.02) if weight.dim() > 1 else nn.init.ones_(weight)
        learner = Learner(drafter, target, config, objective=objective, overrides=name != "core")
        if function is not None:
            learner._observer._gold_log_probs = function
        seen = machine.measure(lambda: learner.train_step([part]))
        return {**seen, "tokens_per_s": seq_len / seen["ms"] * 1e3}

    by_name = {"core": None, "eager": None, "eager 2048": partial(gold_log_probs, chunk=2048)}
    by_name |= {k: CANDIDATES[k] for k in ("compiled", "triton")}
    for name, function in by_name.items():
        found[f"ltr, {name}"] = attempt(measured, name, LTR, function)
    for name in ("core", "eager"):
        found[f"reach, {name}"] = attempt(measured, name, REACH, None)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="the JSON file to write")
    parser.add_argument("--tiny", action="store_true", help="small sizes, on a CPU where there is no GPU")
    options = parser.parse_args()
    machine = Machine(options.tiny)
    card = torch.cuda.get_device_name() if machine.device == "cuda" else platform.machine()
    result = {"device": card, "torch": torch.__version__, "slots": SLOTS, "seconds": {}}
    widths = (32,) if options.tiny else (1024, 2560)
    sections = {"check": check, "kernel": kernel}
    sections |= {f"objective, D={width}": partial(objective, width=width) for width in widths}
    sections |= {"steps": steps, "masks": masks}
    for name, section in sections.items():
        began = time.perf_counter()
        result[name] = attempt(section, machine)
        result["seconds"][name] = round(time.perf_counter() - began, 1)
        options.path.write_text(json.dumps(result, indent=1) + "\n")
        print(name, json.dumps(result[name], indent=1), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

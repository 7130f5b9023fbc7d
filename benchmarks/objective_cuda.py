"""What the training objective costs on one CUDA GPU: `python benchmarks/objective_cuda.py PATH`.

Candidates for the gold operation are first held against float64 on a small case, then timed at 512 anchors of
16 slots over Qwen3's vocabulary, beside the products alone and plain schemes; so are the forms of the overlap
operation; then whole optimizer steps, and the two forms of the training mask. Each section stands alone: an
error is written down in its place, and the rest goes on. `--tiny` runs the script's own code on any machine.
"""

import argparse
import json
import platform
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import objective_schemes as schemes
import torch
from cuda_machine import Machine, attempt, draw
from objective_cuda_law import check_law, law_statistics, masks
from objective_schemes import SLOTS
from torch import nn

from dspec.backends.torch.cuda import gold as cuda_gold
from dspec.backends.torch.cuda.overlap import overlap_statistics_triton
from dspec.backends.torch.gold import gold_log_probs
from dspec.backends.torch.overlap import overlap_statistics
from dspec.core.objectives import Objective

LTR, REACH = Objective.parse("ltr"), Objective.parse("reach")
CANDIDATES = {
    "eager": gold_log_probs,
    "triton": cuda_gold.gold_log_probs_triton,
}
# Largest error of log_prob in nats, and of the gradient as a share of its norm: tests/tolerances.py.
BOUNDS = {torch.float32: (8e-6, 1e-5), torch.bfloat16: (8e-6, 6e-3)}


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
        if function is not None:  # by name: the table of overrides depends on the machine
            operation = "_overlap_statistics" if objective.needs_law else "_gold_log_probs"
            setattr(learner._observer, operation, function)
        seen = machine.measure(lambda: learner.train_step([part]))
        return {**seen, "tokens_per_s": seq_len / seen["ms"] * 1e3}

    by_name = {"core": None, "eager": gold_log_probs, "eager 2048": partial(gold_log_probs, chunk=2048)}
    by_name["triton"] = CANDIDATES["triton"]
    for name, function in by_name.items():
        found[f"ltr, {name}"] = attempt(measured, name, LTR, function)
    by_name = {"core": None, "eager": overlap_statistics, "triton": overlap_statistics_triton}
    for name, function in by_name.items():
        found[f"reach, {name}"] = attempt(measured, name, REACH, function)
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
    sections |= {
        "overlap check": check_law,
        "overlap, D=1024": law_statistics,
        "steps": steps,
        "masks": masks,
    }
    for name, section in sections.items():
        began = time.perf_counter()
        result[name] = attempt(section, machine)
        result["seconds"][name] = round(time.perf_counter() - began, 1)
        options.path.write_text(json.dumps(result, indent=1) + "\n")
        print(name, json.dumps(result[name], indent=1), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Sections of objective_cuda.py: statistics of the target's law, and the forms of the training mask."""

import itertools
import time
from functools import partial

import array_api_compat.torch as torch_namespace
import torch
from cuda_machine import attempt, draw
from objective_schemes import Problem, floor

from dspec.backends.torch import attention_mask as attention_masks
from dspec.backends.torch import drafter_layers
from dspec.backends.torch.cuda.overlap import overlap_statistics_triton
from dspec.backends.torch.overlap import overlap_statistics
from dspec.core.overlap import overlap_statistics as core_statistics
from dspec.core.signals import SIGNALS

SUBSETS = (("divergence",), ("mixed",), ("overlap", "divergence"), SIGNALS)
# Nats, and share of the gradient's norm: tests/tolerances.py, DIVERGENCE_F32 and OVERLAP_BF16.
VALUE_BOUND, SLOPE_BOUNDS = 2e-5, {torch.float32: 2e-5, torch.bfloat16: 1.2e-2}


def masks(machine):
    """Each form of the training mask and the drafter's attention under it, at two sizes."""
    sizes = {"small": (16, 32, 384, 6, 2, 32), "large": (1, 512, 3072, 16, 8, 128)}
    if machine.tiny:
        sizes = {"small": (2, 4, 32, 4, 2, 16)}
    asked = [(name, form) for name in sizes for form in ("dense", "flex")]
    return {
        f"{name} {form}": attempt(one_mask, machine, form == "flex", *sizes[name]) for name, form in asked
    }


def one_mask(machine, flex, rows, n, seq_len, heads, groups, width):
    """Seconds of the first call, which compiles; then the mask, and attention forward and backward."""
    torch.manual_seed(0)
    anchors = torch.randint(0, seq_len - 1, (rows, n), device=machine.device, dtype=torch.int32)
    keep, slots = torch.ones(rows, n, dtype=torch.bool, device=machine.device), n * 16
    shapes = ((heads, slots), (groups, seq_len + slots), (groups, seq_len + slots))
    options = {"device": machine.device, "dtype": torch.bfloat16, "requires_grad": True}
    tensors = [torch.randn(rows, *shape, width, **options) for shape in shapes]
    make = partial(attention_masks.attention_mask, anchors, keep, seq_len=seq_len, block_size=16, flex=flex)

    def run(mask):
        read = drafter_layers.attend(*tensors, mask)
        torch.autograd.grad(read.float().square().sum(), tensors)

    torch.compiler.reset()  # what another size compiled is not to count
    began = time.perf_counter()
    mask = make()
    run(mask)
    if machine.device == "cuda":
        torch.cuda.synchronize()
    found = {"first_s": time.perf_counter() - began}
    parts = {"mask": machine.measure(make), "attention": machine.measure(lambda: run(mask))}
    found |= {f"{name}_ms": part["ms"] for name, part in parts.items()}
    peaks = [part["peak_MB"] for part in parts.values() if "peak_MB" in part]
    return found | ({"peak_MB": max(peaks)} if peaks else {})


def law_statistics(machine):
    """The overlap operation, eager and by the Triton kernel, by signals and chunk, beside its products."""
    rows, width, vocab = (60, 32, 301) if machine.tiny else (7680, 1024, 151_936)
    chunks = (30, 60) if machine.tiny else (256, 1024, 2048, 7680)
    problem = draw(machine, rows, width, vocab, chunks[0] if machine.tiny else 2048)
    found = {"floor3": attempt(machine.measure, partial(floor, problem, None, products=3))}
    for name, function in (("eager", overlap_statistics), ("triton", overlap_statistics_triton)):
        for signals in SUBSETS:
            for chunk in chunks:
                run = partial(law_gradient, function, problem, signals, signals=signals, chunk=chunk)
                found[f"{name} {'+'.join(signals)} {chunk}"] = attempt(machine.measure, run)
    return found


def check_law(machine):
    """Hold the kernel against core in float64, in bfloat16 against the eager operation."""
    cases = itertools.product(SLOPE_BOUNDS, (None, 5.0), (*SUBSETS, ("overlap",)))
    return {" ".join(map(str, case)): attempt(check_law_once, machine, *case) for case in cases}


def check_law_once(machine, dtype, softcap, signals):
    problem = draw(machine, 45, 64, 5001, 45, dtype)
    options = {"temperature": 0.8, "softcap": softcap, "eta": 3.0}
    if dtype == torch.float32:
        wide = (x.detach().double() for x in (problem.hidden, problem.head, problem.target))
        exact = Problem(*wide, problem.labels, 45)
        options |= {"xp": torch_namespace, "stop_gradient": torch.Tensor.detach}
        theirs = law_gradient(core_statistics, exact, signals, **options)
    else:
        theirs = law_gradient(overlap_statistics, problem, signals, signals=signals, **options)
    ours = law_gradient(overlap_statistics_triton, problem, signals, signals=signals, chunk=20, **options)
    value = max((a.double() - b.double()).abs().max().item() for a, b in zip(ours[0], theirs[0]))
    error = ((ours[1] - theirs[1]).norm() / theirs[1].norm()).item()
    assert value <= VALUE_BOUND, f"statistics off by {value}"
    assert error <= SLOPE_BOUNDS[dtype], f"gradient off by {error}"
    return {"value": value, "gradient": error}


def law_gradient(function, problem, wanted, **options):
    """The statistics, and the gradient of the sum of the losses that are wanted."""
    hidden = problem.hidden.detach().requires_grad_()
    found = function(hidden, problem.head, problem.target, problem.labels, **options)
    losses = dict(zip(SIGNALS, (-found.log_prob, -found.overlap, found.divergence, found.mixed)))
    (slope,) = torch.autograd.grad(sum(losses[s].sum() for s in wanted), hidden)
    return [x.detach() for x in found], slope

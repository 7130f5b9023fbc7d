"""Sections of objective_cuda.py: statistics of the target's law, and the forms of the training mask."""

import time
from functools import partial

import array_api_compat.torch as torch_namespace
import torch
from cuda_machine import attempt, draw
from objective_schemes import Problem

from dspec.backends.torch import attention_mask as attention_masks
from dspec.backends.torch import drafter_layers
from dspec.backends.torch.cuda.overlap import overlap_statistics_triton
from dspec.backends.torch.overlap import overlap_statistics
from dspec.core.overlap import overlap_statistics as core_statistics
from dspec.core.signals import SIGNALS


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

    began = time.perf_counter()
    mask = make()
    run(mask)
    first = time.perf_counter() - began
    made, attended = machine.measure(make), machine.measure(lambda: run(mask))
    return {"first_s": first, "mask_ms": made["ms"], "attention_ms": attended["ms"], **attended}


def law_statistics(machine):
    """The overlap operation, eager and by the Triton kernel, by signals and chunk."""
    rows, width, vocab = (60, 32, 301) if machine.tiny else (7680, 1024, 151_936)
    found = {"check": attempt(check_law, machine)}
    for name, function in (("eager", overlap_statistics), ("triton", overlap_statistics_triton)):
        for signals in (("divergence",), ("overlap", "divergence"), SIGNALS):
            for chunk in (256, 1024, 2048, 7680):
                problem = draw(machine, rows, width, vocab, chunk)
                run = partial(law_gradient, function, problem, signals, signals=signals, chunk=chunk)
                found[f"{name} {'+'.join(signals)} {chunk}"] = attempt(machine.measure, run)
    return found


def check_law(machine):
    """Hold the kernel against core in float64, with softcap and temperature; relative gradient errors."""
    found = {}
    for softcap in (None, 5.0):
        problem = draw(machine, 45, 64, 5001, 45, torch.float32)
        options = {"temperature": 0.8, "softcap": softcap}
        states = problem.hidden, problem.head, problem.target
        exact = Problem(*(x.detach().double() for x in states), problem.labels, 45)
        theirs = law_gradient(core_statistics, exact, SIGNALS, xp=torch_namespace, **options)
        ours = law_gradient(overlap_statistics_triton, problem, SIGNALS, chunk=20, **options)
        found[f"softcap {softcap}"] = error = ((ours - theirs).norm() / theirs.norm()).item()
        assert error <= 2e-5, f"softcap {softcap}: gradient off by {error}"
    return found


def law_gradient(function, problem, wanted, **options):
    """The gradient of the sum of the losses that are wanted."""
    hidden = problem.hidden.detach().requires_grad_()
    found = function(hidden, problem.head, problem.target, problem.labels, **options)
    losses = dict(zip(SIGNALS, (-found.log_prob, -found.overlap, found.divergence)))
    return torch.autograd.grad(sum(losses[s].sum() for s in wanted), hidden)[0]

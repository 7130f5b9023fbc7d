"""Check the Triton kernels where there is no GPU: `python benchmarks/kernels_offline.py`.

Needs triton (Linux; `pip install triton`), no device. In Triton's interpreter both kernels run on the CPU and
are held against the eager operations, every signal and softcap, in float32 and bfloat16; then each is
compiled for Hopper (sm_90a) with the assembler that Triton brings, and its registers and spills are printed.
What it cannot show is time, and faults of a real device such as races. Exits 1 on a wrong number or a spill.
"""

import itertools
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from dspec.core.signals import SIGNALS

# Largest error of a value in nats, and of a gradient as a share of its norm: tests/tolerances.py.
BOUNDS = {torch.float32: (8e-6, 1e-5), torch.bfloat16: (8e-6, 1.2e-2)}
KINDS = {"labels": "*i64", "hit": "*i8", "softcap": "fp32", "temperature": "fp32", "eta": "fp32"}
STATISTICS = ("log_prob", "overlap", "divergence")
VOCAB, WIDTH, ROWS = 5001, 8, 5  # a row ends inside a third step of 2,048 columns


def interpret() -> list[str]:
    """Run the kernels on the CPU; return what is wrong."""
    from dspec.backends.torch import gold, overlap
    from dspec.backends.torch.cuda import gold as cuda_gold
    from dspec.backends.torch.cuda import overlap as cuda_overlap

    cuda_gold.available = cuda_overlap.available = lambda device: None
    torch.manual_seed(0)
    wrong = []
    for dtype, softcap in itertools.product(BOUNDS, (None, 3.0)):
        head = (torch.randn(VOCAB, WIDTH) / 2).to(dtype)
        hidden = 2 * torch.randn(ROWS, WIDTH).to(dtype).float()
        target = (0.6 * hidden + torch.randn(ROWS, WIDTH)).to(dtype)
        labels = torch.randint(0, VOCAB, (ROWS,))
        options = {"softcap": softcap}
        pairs = {"gold": (cuda_gold.gold_log_probs_triton, gold.gold_log_probs, (head, labels), options)}
        for signal in SIGNALS:
            settings = {**options, "temperature": 0.8, "eta": 2.0, "signals": (signal,)}
            functions = (cuda_overlap.overlap_statistics_triton, overlap.overlap_statistics)
            pairs[f"overlap: {signal}"] = (*functions, (head, target, labels), settings)
        for name, (kernel, eager, arrays, settings) in pairs.items():
            found = [gradient(f, hidden, arrays, settings) for f in (kernel, eager)]
            value = max(float((a.float() - b.float()).abs().max()) for a, b in zip(*(x[0] for x in found)))
            slope = float((found[0][1] - found[1][1]).norm() / found[1][1].norm())
            print(f"{name}, {dtype}, softcap {softcap}: value {value:.1e}, gradient {slope:.1e}", flush=True)
            if value > BOUNDS[dtype][0] or slope > BOUNDS[dtype][1]:
                wrong.append(f"{name}, {dtype}, softcap {softcap}")
    return wrong


def gradient(function, hidden, arrays, settings):
    """The statistics of rows, and the gradient of the sum of what the signal trains."""
    hidden = hidden.clone().requires_grad_()
    found = function(hidden, *arrays, **settings)
    by_signal = dict(zip(SIGNALS, (-found[0], *(() if len(found) == 2 else (-found[2], *found[3:])))))
    by_signal[settings.get("signals", ("gold",))[0]].sum().backward()
    return [x.detach() for x in found], hidden.grad


def compile_all() -> list[str]:
    """Compile every variant for Hopper; return those that spill registers."""
    from dspec.backends.torch.cuda.kernels import BLOCK, _gold_rows
    from dspec.backends.torch.cuda.overlap_kernel import _overlap_rows

    spilled = []
    for capped in (False, True):
        variants = [(_gold_rows, {"CAPPED": capped, "WRITE": True, "BLOCK": BLOCK})]
        for signals in [(s,) for s in SIGNALS] + [SIGNALS]:
            flags = {s.upper(): s in signals for s in SIGNALS}
            variants.append((_overlap_rows, {"CAPPED": capped, "BLOCK": BLOCK, **flags}))
        for kernel, constants in variants:
            said = assemble(kernel, constants)
            print(kernel.fn.__name__, constants, said, flush=True)
            if re.search(r"[1-9]\d* bytes spill", said):
                spilled.append(f"{kernel.fn.__name__} {constants} spills")
    return spilled


def assemble(kernel, constants) -> str:
    """Compile one kernel for 16-bit logits; return what the assembler says of registers and spills."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from dspec.backends.torch.cuda.kernels import WARPS

    def kind(name: str) -> str:
        if name in constants:
            return "constexpr"
        if name in KINDS:
            return KINDS[name]
        if name.endswith("stride") or name == "vocab":
            return "i32"
        return "*fp32" if name in STATISTICS else "*bf16"

    names = kernel.arg_names
    where = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature={name: kind(name) for name in names}, constexprs=where)
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": WARPS}).asm["ptx"]
    assembler = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [str(assembler), "-v", "-arch=sm_90a", "-o", "/dev/null", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return ", ".join(re.findall(r"Used \d+ registers|\d+ bytes spill \w+", said))


def main() -> int:
    part = sys.argv[1] if len(sys.argv) > 1 else ""
    if part:
        faults = {"interpret": interpret, "compile": compile_all}[part]()
        for fault in faults:
            print("wrong:", fault)
        return 1 if faults else 0
    codes = []
    for part in ("interpret", "compile"):  # a process reads TRITON_INTERPRET when it imports Triton
        surroundings = {**os.environ, "TRITON_INTERPRET": "1" if part == "interpret" else "0"}
        codes.append(subprocess.run([sys.executable, __file__, part], env=surroundings).returncode)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())

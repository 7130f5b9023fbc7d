"""Decoding on one CUDA GPU, in one run: `python benchmarks/decode_cuda.py PATH`.

A target of Qwen3-0.6B's shape with random weights in bfloat16, a drafter of five layers beside it, batch 1
and 8, greedy, end tokens ignored. The drafter runs in every pass and its drafts are then replaced by the
target's own continuation up to a scripted slot, so that tau is given. Efficiency = tokens a second / (tau /
(t_verify + t_draft)), the prefill left out, with bare calls timed in the same rounds; goal 0.95. Then
autoregressive decoding beside transformers' generate, one verdict at full vocabulary beside transformers' and
the textbook, and how much of a pass the host takes to queue it: what CUDA graphs could give back. Each
section stands alone: an error is written down in its place, and the rest goes on. `--tiny` runs the script's
own code on any machine.
"""

import argparse
import json
import platform
import sys
import time
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from statistics import median

import decode_others as others
import torch
import verify
from cuda_machine import Machine, attempt
from transformers import Qwen3Config, Qwen3ForCausalLM

import dspec
from dspec.backends.registry import open_room
from dspec.config import TrainConfig
from dspec.core.policies import BLOCK, GREEDY, ONE_HOT, REJECTION, judge
from dspec.core.types import Draft, Sampling
from dspec.evaluation.machine import describe_versions
from dspec.evaluation.pass_times import decode_rate, measure_passes
from dspec.evaluation.report import write_json
from dspec.evaluation.scripted import Scripted

EFFICIENCY = 0.95
TAUS = (1.0, 3.2, 4.9, 8.0)
# Qwen3-0.6B's shape: 0.60 B parameters, 0.44 B of them outside the embedding.
REAL = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "vocab_size": 151_936}
TINY = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 6, "vocab_size": 301}


class Bench:
    """The models and sizes of a run."""

    def __init__(self, tiny: bool) -> None:
        self.machine = Machine(tiny)
        self.tiny, self.device = tiny, self.machine.device
        self.n, self.context, self.repetitions = (24, 12, 2) if tiny else (512, 512, 5)
        self.layers, self.block = (1, 4) if tiny else (5, 16)

    @cached_property
    def model(self) -> Qwen3ForCausalLM:
        """The target's weights, as transformers runs them."""
        heads = {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 8 if self.tiny else 128}
        config = Qwen3Config(**(TINY if self.tiny else REAL), **heads, tie_word_embeddings=True)
        torch.manual_seed(0)
        with torch.device(self.device):
            model = Qwen3ForCausalLM(config).to(torch.float32 if self.tiny else torch.bfloat16).eval()
        model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
        return model

    @cached_property
    def engine(self) -> dspec.Engine:
        """The target with a fresh drafter."""
        room, _ = open_room(self.device)
        engine = dspec.load(self.model, backend=self.device)
        mask = self.model.config.vocab_size - 1
        config = TrainConfig(block_size=self.block, layers=self.layers, seq_len=64, mask_token_id=mask)
        drafter = room.new_learner(engine.target, config).drafter.eval()
        return replace(engine, drafter=drafter.to(engine.target.model.dtype))

    @cached_property
    def prompt(self) -> list[int]:
        """Ids of a prompt."""
        generator = torch.Generator().manual_seed(1)
        return torch.randint(
            0, self.model.config.vocab_size - 1, (self.context,), generator=generator
        ).tolist()


def rates(bench: Bench, rows: int = 1) -> dict[str, object]:
    """Speed and efficiency without drafts and at every tau, beside bare passes of the same rounds."""
    alone, drafter = replace(bench.engine, drafter=None), bench.engine.drafter
    slots, decode = bench.block - 1, partial(decode_rate, rows=rows)
    text = decode(alone, bench.prompt, max_new_tokens=bench.n + slots + 1)["tokens"]
    engines, known = {"autoregressive": alone}, [*bench.prompt, *text]
    for tau in (tau for tau in TAUS if tau <= bench.block):
        script = Scripted(drafter, known, tau=tau, n_slots=slots, ops=bench.engine.ops)
        engines[f"tau {tau}"] = replace(bench.engine, drafter=script)
    middle, sizes = [*bench.prompt, *text[: bench.n // 2]], [1, bench.block]
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in engines}
    for number in range(1 + bench.repetitions):
        times = measure_passes(bench.engine, middle, new_tokens=sizes, repetitions=9, rows=rows)
        for name, engine in engines.items():
            run = decode(engine, bench.prompt, max_new_tokens=bench.n)
            own = times.verify[1] if engine is alone else times.verify[bench.block] + times.draft
            run |= {
                "efficiency": run["rate"] / rows / (run["tau"] / own),
                "equal": run["tokens"] == text[: bench.n],
            }
            run |= {"verify": times.verify[1 if engine is alone else bench.block], "draft": times.draft}
            runs[name] += [run] if number else []  # the first one warms up
    kept = ("rate", "tau", "efficiency", "verify", "draft", "equal")
    return {name: {k: median(run[k] for run in found) for k in kept} for name, found in runs.items()}


def generate(bench: Bench) -> dict[str, float]:
    """dspec without drafts and transformers' generate, interleaved, prefill included."""
    alone, model = replace(bench.engine, drafter=None), bench.model

    def theirs() -> list[int]:
        ids = torch.tensor([bench.prompt], device=bench.device)
        seen = torch.ones_like(ids)
        out = model.generate(ids, attention_mask=seen, max_new_tokens=bench.n, do_sample=False)
        return out[0, len(bench.prompt) :].tolist()

    def ours() -> list[int]:
        return list(alone.generate(bench.prompt, max_new_tokens=bench.n, ignore_eos=True).tokens)

    seconds: dict[str, list[float]] = {"dspec": [], "transformers": []}
    for _ in range(1 + bench.repetitions):
        for name, decode in (("dspec", ours), ("transformers", theirs)):
            start = time.perf_counter()
            decode()
            seconds[name].append(time.perf_counter() - start)
    middle = {name: median(times[1:]) for name, times in seconds.items()}
    speeds = {f"{name} tokens_per_second": bench.n / s for name, s in middle.items()}
    with others.counted(model) as passes:
        theirs()
    return {**speeds, "dspec over transformers": middle["transformers"] / middle["dspec"],
            "passes of transformers": len(passes), "equal": ours() == theirs()}  # fmt: skip


def queueing(bench: Bench) -> dict[str, dict[str, float]]:
    """Milliseconds until a target pass is queued, and until it has ended."""
    session = bench.engine.target.session(layer_ids=(), capacity=bench.context + bench.block)
    session.prefill(bench.prompt)
    found = {}
    for n in (1, bench.block):
        drafts, times = torch.zeros((1, n - 1), dtype=torch.int32, device=bench.device), []
        for _ in range(5 + 20):
            start = time.perf_counter()
            logits = session.score(bench.prompt[0], drafts).logits
            queued = time.perf_counter()
            logits[0, 0, 0].item()
            times.append((queued - start, time.perf_counter() - start))
            session.rewind(bench.context)
        queued, ended = (median(1e3 * t[i] for t in times[5:]) for i in (0, 1))
        found[str(n)] = {"queued": queued, "ended": ended, "share": queued / ended}
    return found


def verdicts(bench: Bench, batch: int) -> dict[str, dict[str, float]]:
    """One verdict of each policy at the vocabulary, eager and compiled, beside others' and a bare reading."""
    case = verify.Case.draw(batch, vocab=bench.model.config.vocab_size)
    case = verify.Case(*(moved(part, bench.device) for part in vars(case).values()))
    xp = bench.engine.ops.xp
    runs = {"read": partial(verify.read, case), "textbook": partial(verify.textbook, case)}
    if batch == 1:
        runs["transformers"] = partial(verify.transformers, case)
    for policy, draft in ((REJECTION, case.draft), (BLOCK, case.draft), (ONE_HOT, case.hot)):
        arguments = (case.target, draft, policy, verify.HOT, case.uniforms)
        runs[policy.name] = partial(judge, *arguments, xp=xp)
        runs[f"{policy.name}, compiled"] = partial(torch.compile(judge), *arguments, xp=xp)
    greedy = (case.target, Draft(case.hot.tokens), GREEDY, Sampling(), None)
    runs["greedy"] = partial(judge, *greedy, xp=xp)
    return {name: attempt(bench.machine.measure, run) for name, run in runs.items()}


def moved(part, device):
    """A case's part on the device: a tensor, or a tuple of some."""
    if isinstance(part, torch.Tensor):
        return part.to(device)
    return type(part)(*(None if x is None else x.to(device) for x in vars(part).values()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="the JSON file to write")
    parser.add_argument("--tiny", action="store_true", help="small sizes, on a CPU where there is no GPU")
    parser.add_argument(
        "--check", action="store_true", help="exit 1 where efficiency at a tau misses its goal"
    )
    options = parser.parse_args()
    bench = Bench(options.tiny)
    card = torch.cuda.get_device_name() if bench.device == "cuda" else platform.machine()
    result = {"command": " ".join(["python", *sys.argv]), "device": card, "versions": describe_versions()}
    result |= {"goal": EFFICIENCY, "seconds": {}}
    sections = {
        "batch 1": rates,
        "batch 8": partial(rates, rows=8),
        "generate": generate,
        "queueing": queueing,
    }
    sections |= {f"verdict, batch {b}": partial(verdicts, batch=b) for b in (1, 8)}
    for name, section in sections.items():
        began = time.perf_counter()
        result[name] = attempt(section, bench)
        result["seconds"][name] = round(time.perf_counter() - began, 1)
        write_json(options.path, result)
        print(name, json.dumps(result[name], indent=1), flush=True)
    drafted = {name: run for name, run in result["batch 1"].items() if name.startswith("tau")}
    missed = [
        f"{name}: {run['efficiency']:.3f}" for name, run in drafted.items() if run["efficiency"] < EFFICIENCY
    ]
    print("efficiency below the goal at", missed or "no tau")
    return 1 if options.check and (missed or not drafted) else 0


if __name__ == "__main__":
    sys.exit(main())

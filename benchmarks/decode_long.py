"""Ten thousand tokens of one request: seconds a token against position, memory apart from the cache."""

import gc
import os
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers

from dspec.backends.registry import open_room
from dspec.backends.torch.ops import TorchOps
from dspec.backends.torch.pretrained import group_heads
from dspec.backends.torch.target import Target
from dspec.config import TrainConfig
from dspec.engine import Engine
from dspec.evaluation.pass_times import measure_passes
from dspec.evaluation.scripted import Scripted

PROMPT = [11, 24, 7, 30, 41, 5, 9, 18]
TOKENS, BLOCK, TAU = 10_000, 8, 4.0
MIB = 2**20
# Memory that may be gained from the second tenth to the last, MiB: a list of 10,000 chunks is 4 (measured).
FLAT = 8.0
# Ratio of last to first tenth over that of bare passes: what else grows with the position.
STEADY = 1.10


def open_engine() -> Engine:
    """A tiny random target that reads 10,500 positions, and a drafter of random weights."""
    torch.manual_seed(7)
    config = transformers.Qwen3Config(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=10_500,
        initializer_range=0.2,
    )
    model = transformers.Qwen3ForCausalLM(config)
    group_heads(model)  # as for every target that dspec loads
    target = Target(model)
    room, _ = open_room("cpu")
    settings = TrainConfig(block_size=BLOCK, layers=1, seq_len=64, mask_token_id=511)
    return Engine(target, room.new_learner(target, settings).drafter.eval(), TorchOps(torch.device("cpu")))


def resident() -> float | None:
    """MiB of the process (VmRSS), as Linux tells."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB if path.is_file() else None


def cache_mib(engine: Engine, length: int) -> float:
    """Keys and values of so many positions, in target and drafter; their pages join when they are written."""
    config = engine.target.model.config
    width = 2 * config.num_key_value_heads * config.head_dim * 4
    total = config.num_hidden_layers * width
    if engine.drafter is not None:
        own = engine.drafter.drafter.config if isinstance(engine.drafter, Scripted) else engine.drafter.config
        total += own.num_hidden_layers * 2 * own.num_key_value_heads * own.head_dim * 4
    return length * total / MIB


def decode(engine: Engine, n: int) -> tuple[list[int], list[dict[str, float]]]:
    """Decode, and read clock and memory ten times as it goes; the tokens are only counted by the caller."""
    tokens, tenths, passes = [], [], 0
    gc.collect()
    stream = engine.stream(PROMPT, max_new_tokens=n, ignore_eos=True)
    tokens.extend(next(stream).tokens)
    start, done = time.process_time(), len(tokens)
    for chunk in stream:
        tokens.extend(chunk.tokens)
        passes += 1
        if len(tokens) >= (len(tenths) + 1) * n // 10:
            now = time.process_time()
            memory = resident()
            tenths.append(
                {
                    "tokens": len(tokens),
                    "milliseconds_a_token": 1000 * (now - start) / (len(tokens) - done),
                    "milliseconds_a_pass": 1000 * (now - start) / passes,
                    "resident_apart_from_cache": memory - cache_mib(engine, len(PROMPT) + len(tokens)),
                    "resident": memory,
                }
            )
            start, done, passes = time.process_time(), len(tokens), 0
    return tokens, tenths


def bare_ratio(engine: Engine, n: int, text: list[int], block: int) -> dict[str, float]:
    """Seconds of bare passes, proposal and verdict in the middle of the first and the last tenth."""
    found = []
    for length in (n // 20, n - n // 20):
        times = measure_passes(
            engine, [*PROMPT, *text][:length], new_tokens=[block], repetitions=21, clock=time.process_time
        )
        found.append(times.verify[block] + times.draft + times.rest[block])
    return {"first": 1000 * found[0], "last": 1000 * found[1], "ratio": found[1] / found[0]}


def long_section(*, quick: bool) -> dict[str, Any]:
    """Decode with and without drafts; ratios of the last to the first tenth, growth of memory."""
    n = 1000 if quick else TOKENS
    torch.set_num_threads(1)
    engine = open_engine()
    alone = Engine(engine.target, None, engine.ops)
    text, tenths = decode(alone, n)
    known = [*PROMPT, *text]
    script = Scripted(engine.drafter, known, tau=TAU, n_slots=BLOCK - 1, ops=engine.ops)
    drafted, with_drafts = decode(Engine(engine.target, script, engine.ops), n)
    report: dict[str, Any] = {"n_tokens": n, "outputs equal": drafted == text, "tenths": {}}
    faults = [] if drafted == text else ["outputs differ"]
    for name, lines, own, block in (
        ("autoregressive", tenths, alone, 1),
        (f"speculative, blocks of {BLOCK}, tau {TAU}", with_drafts, engine, BLOCK),
    ):
        memory = [line["resident_apart_from_cache"] for line in lines]
        ratio = lines[-1]["milliseconds_a_pass"] / lines[0]["milliseconds_a_pass"]
        bare = bare_ratio(own, n, text, block)
        report[name] = {
            "milliseconds a token, first tenth": lines[0]["milliseconds_a_token"],
            "milliseconds a token, last tenth": lines[-1]["milliseconds_a_token"],
            "milliseconds a token, median tenth": median(line["milliseconds_a_token"] for line in lines),
            "last tenth over first": ratio,
            "bare passes": bare,
            "last over first, over that of bare passes": ratio / bare["ratio"],
            "memory gained, apart from cache, MiB": memory[-1] - memory[1],
        }
        report["tenths"][name] = lines
        if memory[-1] - memory[1] > FLAT:
            faults.append(f"{name}: {memory[-1] - memory[1]:.1f} MiB gained, more than {FLAT}")
        if ratio / bare["ratio"] > STEADY:
            faults.append(f"{name}: {ratio / bare['ratio']:.2f} x the slope of bare passes")
    return {**report, "faults": faults}

"""Train the tiny target that dspec ships: 2.75 M parameters, on two CPU cores in under an hour.

    python examples/train_tiny_target.py --data DATA --output RUN --compile

Builds a byte-level BPE tokenizer and a Qwen3 model from nothing but permissive text, and leaves
a Hugging Face folder in RUN. The checkpoint in RUN/checkpoint lets it go on after an interruption
(`--resume`); with a smaller `--steps` the learning rate starts to fall at once, which is how a run
is stopped early without wasting it.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import make_demo_data as demo
import numpy as np
import torch
from make_demo_data import Record
from rich.console import Console
from rich.progress import track
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_target_card import describe_run
from tiny_target_tokenizer import TURN_END, VOCABULARY, build_tokenizer, encode
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

# Share of the training tokens drawn from each source. GSM8K and function completion are what the
# target is evaluated on; MBPP's 374 short programs would be learned by heart beyond 2 %.
SHARES = {
    "gsm8k": 0.40,
    "functions": 0.24,
    "thealgorithms_python": 0.13,
    "python_stdlib": 0.18,
    "exercism_python": 0.03,
    "mbpp": 0.02,
}

console = Console()


def split_stdlib(data: Path) -> tuple[list[Record], list[Record]]:
    """The standard library's files: those to train on, and every 20th, held out."""
    rows = demo.files(data, "python_stdlib")
    return [r for i, r in enumerate(rows) if i % 20], rows[::20]


def training_records(data: Path) -> dict[str, list[Record]]:
    """Records of each source: {messages} for chats, {text} for plain files."""
    stdlib, _ = split_stdlib(data)
    algorithms = demo.files(data, "thealgorithms_python")
    return {
        "gsm8k": demo.gsm8k(data, "train"),
        "functions": demo.functions(algorithms + stdlib),
        "thealgorithms_python": algorithms,
        "python_stdlib": stdlib,
        "exercism_python": demo.exercism(data),
        "mbpp": demo.mbpp(data, 601, 974),
    }


def held_out_records(data: Path) -> dict[str, list[Record]]:
    """Records never trained on, by source."""
    return {
        "gsm8k_test": demo.gsm8k(data, "test"),
        "humaneval": demo.human_eval(data),
        "python_stdlib_held_out": split_stdlib(data)[1],
        "mbpp_511_600": demo.mbpp(data, 511, 600),
    }


def content(record: Record) -> str:
    """The text of a record, without any markup."""
    if "text" in record:
        return str(record["text"])
    return "\n".join(m["content"] for m in record["messages"])


def tokenizer_texts(records: dict[str, list[Record]]) -> Iterator[str]:
    """Text to learn the tokenizer from.

    Only a third of the files, which are 3/4 of all bytes, so that the merges serve prose too.
    """
    for source in records.values():
        is_files = "text" in source[0]
        yield from map(content, source[::3] if is_files else source)


def documents(ids: list[list[int]], draw: np.random.Generator) -> Iterator[np.ndarray]:
    """Documents of one source without end, each epoch in a new order.

    Long files come in pieces of 1024 tokens: whole ones (60k tokens and more) would fill
    several batches in a row with one subject.
    """
    pieces = [np.array(d[i : i + 1024], dtype=np.int64) for d in ids for i in range(0, len(d), 1024)]
    while True:
        for index in draw.permutation(len(pieces)):
            yield pieces[index]


def rows(ids: dict[str, list[list[int]]], length: int, seed: int) -> Iterator[np.ndarray]:
    """Packed rows of `length` tokens without end; a pure function of the seed.

    The next document comes from the source that lags its share most, so that the mixture holds
    at every point of the run. 2048 rows at a time are shuffled.
    """
    draw = np.random.default_rng(seed)
    sources = {name: documents(ids[name], draw) for name in SHARES}
    taken = dict.fromkeys(SHARES, 1)
    rest = np.empty(0, dtype=np.int64)
    while True:
        parts, size = [rest], len(rest)
        while size < 2048 * length:
            name = min(SHARES, key=lambda s: taken[s] / SHARES[s])
            document = next(sources[name])
            taken[name] += len(document)
            parts.append(document)
            size += len(document)
        stream = np.concatenate(parts)
        cut = len(stream) // length * length
        yield from draw.permutation(stream[:cut].reshape(-1, length))
        rest = stream[cut:]


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
    """A freshly initialised Qwen3 of 2.75 M parameters, head tied to the embedding."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=192,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=512,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config)
    stops = [tokenizer.convert_tokens_to_ids(TURN_END), tokenizer.eos_token_id]
    model.generation_config.eos_token_id = stops
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def build_optimizers(model: Qwen3ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for embedding and norms."""
    named = list(model.named_parameters())
    hidden = [p for n, p in named if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in named if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(hidden, lr=0.015, weight_decay=0.01),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def schedule(step: int, steps: int, decay_fraction: float) -> float:
    """Factor of the learning rates: 100 steps up, level, then straight down to zero."""
    return min((step + 1) / 100, (steps - step) / (steps * decay_fraction), 1.0)


def cross_entropy(model: Qwen3ForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Next-token loss of every position, nats, in float32: (B, T) ids give B * (T - 1) values."""
    # bfloat16 products: 7,800 tokens a second on two Zen 5 cores against 5,100 in float32.
    # torch.compile and glibc kept from returning memory (MALLOC_TRIM_THRESHOLD_,
    # MALLOC_MMAP_THRESHOLD_ large) take it to 9,700, forward and backward alone.
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    flat = logits.float().flatten(0, 1)
    return torch.nn.functional.cross_entropy(flat, ids[:, 1:].flatten(), reduction="none")


def save_checkpoint(
    folder: Path, model: Qwen3ForCausalLM, optimizers: list[torch.optim.Optimizer], state: Record
) -> None:
    """Weights, optimizer state and counters, as safetensors and JSON."""
    tensors = {f"model.{n}": p.detach() for n, p in model.named_parameters()}
    for i, optimizer in enumerate(optimizers):
        for j, values in optimizer.state_dict()["state"].items():
            tensors.update({f"optimizer.{i}.{j}.{k}": v for k, v in values.items()})
    folder.mkdir(parents=True, exist_ok=True)
    # Written aside and renamed: a run killed here still has its last checkpoint. The counters
    # ride in the same file so that they can never disagree with the weights.
    save_file(tensors, folder / "state.tmp", metadata={"state": json.dumps(state)})
    (folder / "state.tmp").replace(folder / "state.safetensors")


def load_checkpoint(folder: Path, model: Qwen3ForCausalLM, optimizers: list[torch.optim.Optimizer]) -> Record:
    """Restore what `save_checkpoint` wrote; returns the counters."""
    path = folder / "state.safetensors"
    tensors = load_file(path)
    for name, parameter in model.named_parameters():
        parameter.data.copy_(tensors[f"model.{name}"])
    for i, optimizer in enumerate(optimizers):
        values: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(f"optimizer.{i}."):
                j, key = name.split(".", 3)[2:]
                values.setdefault(int(j), {})[key] = tensor
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": values, "param_groups": groups})
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["state"])


def train(args: argparse.Namespace, ids: dict[str, list[list[int]]], tokenizer: Any) -> Record:
    """Train to args.steps; returns the counters."""
    model = build_model(tokenizer, args.seed)
    optimizers = build_optimizers(model)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    state: Record = {"step": 0, "seconds": 0.0, "train_loss": math.log(VOCABULARY)}
    checkpoint = args.output / "checkpoint"
    if args.resume and (checkpoint / "state.safetensors").exists():
        state = load_checkpoint(checkpoint, model, optimizers)
        console.print(f"resumed at step {state['step']}")
    stream = rows(ids, args.seq_len + 1, args.seed)
    for _ in range(state["step"] * args.batch_size):  # the stream is cheap: skip what was seen
        next(stream)
    model.save_pretrained(args.output)
    started = time.monotonic() - state["seconds"]
    model.train()
    if args.compile:
        model.compile()
    for step in track(range(state["step"], args.steps), "training", console=console):
        factor = schedule(step, args.steps, args.decay_fraction)
        batch = torch.from_numpy(np.stack([next(stream) for _ in range(args.batch_size)]))
        loss = cross_entropy(model, batch).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * factor
            optimizer.step()
            optimizer.zero_grad()
        state["step"] = step + 1
        state["train_loss"] += 0.02 * (loss.item() - state["train_loss"])  # mean of ~50 steps
        state["seconds"] = time.monotonic() - started
        if (step + 1) % 50 == 0:
            speed = (step + 1) * args.batch_size * args.seq_len / state["seconds"]
            loss_text = f"loss {state['train_loss']:.3f} at rate x{factor:.2f}"
            console.print(f"step {step + 1}: {loss_text}, {speed:,.0f} tokens/s")
        if (step + 1) % args.save_every == 0 or step + 1 == args.steps:
            save_checkpoint(checkpoint, model, optimizers, state)
            model.save_pretrained(args.output)
    return state


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of source texts")
    parser.add_argument("--output", type=Path, required=True, help="Hugging Face folder to write")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--decay-fraction", type=float, default=0.25, help="share of the steps")
    parser.add_argument("--batch-size", type=int, default=8, help="rows per step")
    parser.add_argument("--seq-len", type=int, default=512, help="predicted tokens per row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--compile", action="store_true", help="fuse with torch.compile: +10 %%")
    parser.add_argument("--resume", action="store_true", help="go on from OUTPUT/checkpoint")
    return parser.parse_args()


def main() -> None:
    """Tokenizer, text, training, report."""
    args = parse_arguments()
    disable_progress_bar()  # of each export; the training has its own
    args.output.mkdir(parents=True, exist_ok=True)
    records = training_records(args.data)
    if args.resume and (args.output / "tokenizer.json").exists():
        tokenizer = AutoTokenizer.from_pretrained(args.output)
    else:
        tokenizer = build_tokenizer(tokenizer_texts(records))
        tokenizer.save_pretrained(args.output)  # only here: one read back would add loader settings
    ids = {name: [encode(tokenizer, r) for r in source] for name, source in records.items()}
    for name, source in ids.items():
        count = sum(map(len, source))
        console.print(f"{name}: {len(source)} documents, {count:,} tokens")
    state = train(args, ids, tokenizer)
    held_out = {
        name: [(encode(tokenizer, r), len(content(r).encode())) for r in source]
        for name, source in held_out_records(args.data).items()
    }
    describe_run(args, tokenizer, state, held_out, SHARES)


if __name__ == "__main__":
    main()

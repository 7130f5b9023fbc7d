"""Train the study's larger target: some 24 M parameters in two minutes on one large GPU.

    python examples/train_study_target.py --data .study/data --output .study/target --seconds 110

A Qwen3 model with the shipped target's tokenizer, trained on train.jsonl.gz of make_study_data.py, chats
through the chat template, texts closed by the end token, in packed rows. The run lasts the seconds it is
given: the learning rate follows the share of them that is over, so that it has fallen when they are. So the
number of steps, and with it the weights, depend on the machine.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make_demo_data import Record, read_records
from tiny_target_tokenizer import END, TURN_END
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

TOKENIZER = Path(__file__).parent.parent / "dspec" / "demo" / "target"
HELD_OUT = 200  # every 200th record is for the held-out loss
HEAD = 64  # width of a head
TOKENS = 2048  # of the shipped tokenizer
WARMUP, DECAY = 0.03, 0.6  # shares of the time


def encode_all(tokenizer: PreTrainedTokenizerBase, records: list[Record]) -> list[np.ndarray]:
    """Token ids of each record, closed by the end token."""
    texts = [
        r["text"] if "text" in r else tokenizer.apply_chat_template(r["messages"], tokenize=False)
        for r in records
    ]
    # One call for all: the tokenizer spreads them over the cores.
    ids = tokenizer([text + END for text in texts], verbose=False)["input_ids"]
    return [np.array(row, dtype=np.int64) for row in ids]


def rows(documents: list[np.ndarray], length: int, seed: int) -> Iterator[np.ndarray]:
    """Packed rows of `length` tokens without end, the documents of each epoch in a new order."""
    draw = np.random.default_rng(seed)
    while True:
        stream = np.concatenate([documents[i] for i in draw.permutation(len(documents))])
        stream = stream[draw.integers(min(length, len(stream) - length + 1)) :]  # other cuts each epoch
        cut = len(stream) // length * length
        yield from draw.permutation(stream[:cut].reshape(-1, length))


def build_model(args: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> Qwen3ForCausalLM:
    """A freshly initialised Qwen3, head tied to the embedding."""
    torch.manual_seed(args.seed)
    heads = max(args.width // HEAD, 1)
    config = Qwen3Config(
        vocab_size=TOKENS,
        hidden_size=args.width,
        num_hidden_layers=args.layers,
        num_attention_heads=heads,
        num_key_value_heads=max(heads // 4, 1),
        head_dim=HEAD,
        intermediate_size=args.width * 11 // 4,
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


def build_optimizers(model: Qwen3ForCausalLM, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for embedding and norms."""
    named = list(model.named_parameters())
    hidden = [p for n, p in named if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in named if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(hidden, lr=lr, weight_decay=0.01),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def factor(progress: float) -> float:
    """Of the learning rates at a share of the time: up, level, then a cosine down to zero."""
    if progress < WARMUP:
        return max(progress / WARMUP, 0.02)
    left = min(max((1 - progress) / DECAY, 0.0), 1.0)
    return (1 - math.cos(math.pi * left)) / 2


def loss_of(model: Qwen3ForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Mean next-token loss in nats; products in bfloat16, the rest in float32."""
    with torch.autocast(ids.device.type, torch.bfloat16):
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())


def train(args: argparse.Namespace, model: Qwen3ForCausalLM, documents: list[np.ndarray]) -> Record:
    """Train for args.seconds; return the counters."""
    device = next(model.parameters()).device
    optimizers = build_optimizers(model, args.lr)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    stream = rows(documents, args.seq_len + 1, args.seed)
    model.train()
    started, step, shown = time.monotonic(), 0, 0.0
    mean = torch.tensor(math.log(TOKENS), device=device)
    while (progress := (time.monotonic() - started) / args.seconds) < 1:
        batch = torch.from_numpy(np.stack([next(stream) for _ in range(args.batch_size)])).to(device)
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * factor(progress)
            optimizer.step()
            optimizer.zero_grad()
        mean += 0.02 * (loss.detach() - mean)
        step += 1
        # The clock must not run ahead of a device that is behind: that is waited for now and then.
        if step % 10 == 0 and device.type == "cuda":
            torch.cuda.synchronize()
        if progress - shown > 0.1:
            shown = progress
            speed = step * args.batch_size * args.seq_len / (time.monotonic() - started)
            print(f"{progress:.0%}, step {step}: loss {float(mean):.3f}, {speed:,.0f} tokens/s", flush=True)
    seconds = time.monotonic() - started
    return {
        "steps": step,
        "seconds": seconds,
        "tokens": step * args.batch_size * args.seq_len,
        "loss": float(mean),
    }


@torch.no_grad()
def held_out_loss(model: Qwen3ForCausalLM, documents: list[np.ndarray], args: argparse.Namespace) -> float:
    """Mean loss of held-out rows, nats a token."""
    model.eval()
    length = args.seq_len + 1
    stream = np.concatenate(documents)
    held = stream[: len(stream) // length * length].reshape(-1, length)[: args.held_out_rows]
    device = next(model.parameters()).device
    parts = [held[i : i + args.batch_size] for i in range(0, len(held), args.batch_size)]
    losses = [float(loss_of(model, torch.from_numpy(part).to(device))) for part in parts]
    return float(np.average(losses, weights=[len(part) for part in parts]))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of make_study_data.py")
    parser.add_argument("--output", type=Path, required=True, help="Hugging Face folder to write")
    parser.add_argument("--seconds", type=float, default=110, help="of training")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=64, help="rows per step")
    parser.add_argument("--seq-len", type=int, default=512, help="predicted tokens per row")
    parser.add_argument("--lr", type=float, default=0.01, help="Muon's peak")
    parser.add_argument("--records", type=int, default=None, help="training records, at most")
    parser.add_argument("--held-out-rows", type=int, default=256, help="rows of the held-out loss, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def save(args: argparse.Namespace, model: Any, tokenizer: Any, state: Record) -> None:
    """A Hugging Face folder in bfloat16, and what the run was."""
    model.to(torch.bfloat16).save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    facts = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    (args.output / "training.json").write_text(json.dumps(facts | state, indent=1), encoding="utf-8")


def main() -> None:
    """Text, training, held-out loss, folder."""
    args = parse_arguments()
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    start = time.monotonic()
    records = read_records(args.data / "train.jsonl.gz")[: args.records]
    documents = encode_all(tokenizer, records)
    learned = [d for i, d in enumerate(documents) if i % HELD_OUT]
    count = sum(map(len, learned))
    print(f"{len(learned)} records, {count:,} tokens, read in {time.monotonic() - start:.0f} s", flush=True)
    model = build_model(args, tokenizer).to(args.device)
    size = sum(p.numel() for p in model.parameters())
    state = train(args, model, learned)
    state |= {"parameters": size, "held_out_loss": held_out_loss(model, documents[::HELD_OUT], args)}
    print(
        f"{size:,} parameters, {state['steps']} steps, "
        f"{state['tokens']:,} tokens in {state['seconds']:.0f} s: "
        f"held-out loss {state['held_out_loss']:.3f} nats a token",
        flush=True,
    )
    args.output.mkdir(parents=True, exist_ok=True)
    save(args, model, tokenizer, state)


if __name__ == "__main__":
    main()

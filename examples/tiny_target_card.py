"""The report of a tiny-target run: held-out loss, samples, training.json and the model card."""

import argparse
import json
import math
import os
import platform
import re
import subprocess
import textwrap
from typing import Any

import make_demo_data as demo
import numpy
import safetensors
import tokenizers
import torch
import transformers
from make_demo_data import Record
from transformers import AutoModelForCausalLM

Encoded = list[tuple[list[int], int]]  # token ids and size in bytes of each document

CARD = """\
---
license: other
license_name: mit-cc-by-4.0-psf-2.0
pipeline_tag: text-generation
---
# dspec tiny target

A Qwen3 model of {parameters:,} parameters, trained from random weights by
`examples/train_tiny_target.py`. It exists so that a speculative decoder can be shown, tested and
measured without a network: it writes text that looks like worked arithmetic and like Python, with the
entropy of a real model, and almost never with the right answer. It is of no other use.
Its greedy text often runs in circles, which every drafter predicts: measure with sampling too.

- {layers} layers of width {width}, {heads} query heads on {kv_heads} key/value heads of {head_dim},
  gated feed-forward of {intermediate}, rotary theta {theta:,.0f}, head tied to the embedding,
  float32.
- Byte-level BPE, {vocabulary:,} entries. `<|endoftext|>` (0) ends a document, `<|im_end|>` (2) ends a
  turn; both stop generation. `<|mask|>` (3) lies inside the embedding and never occurs in text: it is
  the mask token for drafters.
- ChatML template. A function is asked for as `Complete this Python function.`, an empty line, then
  signature and docstring; the answer is the body, so prompt and answer joined by a line end are the
  whole function.

## Training

{tokens:,} tokens in {steps:,} steps of {batch_size} rows of {seq_len}, {minutes:.0f} minutes of wall
time (whatever else ran included) on {threads} threads of {machine}.
Muon for the hidden matrices, AdamW for embedding and norms; linear decay over the last {decay:.0%} of
the steps. Final training loss {train_loss:.3f} nats a token.

```
{command}
```

Loss on text that was not trained on. Nats are per token, markup included; bits are per byte of the
text without markup, so they count a little against the model.

| text | documents | tokens | nats/token | bits/byte |
|---|---:|---:|---:|---:|
{losses}

## Text and licences

Only permissive text. No share-alike text, no benchmark's test split.

| source | part | licence | by |
|---|---|---|---|
| [GSM8K](https://github.com/openai/grade-school-math) | train split, calculator annotations removed, \
every 100th record held out | MIT | Copyright (c) 2021 OpenAI |
| [TheAlgorithms/Python](https://github.com/TheAlgorithms/Python) | all files, and their documented \
functions as chats | MIT | Copyright (c) 2016-2022 TheAlgorithms and contributors |
| [Exercism Python track](https://github.com/exercism/python) | instructions and example solutions | \
MIT | Copyright (c) 2021 Exercism |
| [MBPP](https://github.com/google-research/google-research/tree/master/mbpp) | tasks 601-974, white \
space normalised | CC BY 4.0 | Austin et al., *Program Synthesis with Large Language Models*, 2021 |
| [Python standard library](https://github.com/python/cpython), as vendored by \
[RustPython](https://github.com/RustPython/RustPython) | 19 of every 20 files, and their documented \
functions as chats | PSF-2.0 | Copyright (c) 2001 Python Software Foundation |

Share of the tokens: {shares}.

## Samples (greedy, cut at {sample_tokens} tokens)

{samples}
"""


def evaluate(model: Any, documents: Encoded, window: int) -> Record:
    """Mean loss of documents, each read alone and in windows of `window` tokens."""
    nats = tokens = size = 0.0
    with torch.inference_mode():
        for ids, n_bytes in documents:
            size += n_bytes
            for start in range(0, len(ids) - 1, window):
                part = torch.tensor([ids[start : start + window + 1]])
                logits = model(input_ids=part[:, :-1], use_cache=False).logits[0]
                nats += torch.nn.functional.cross_entropy(logits, part[0, 1:], reduction="sum").item()
                tokens += part.shape[1] - 1
    return {
        "documents": len(documents),
        "tokens": int(tokens),
        "bytes": int(size),
        "nats_per_token": round(nats / tokens, 4),
        "bits_per_byte": round(nats / math.log(2) / size, 4),
    }


def generate(model: Any, tokenizer: Any, record: Record, n_tokens: int) -> str:
    """Greedy answer to a record's question."""
    prompt = tokenizer.apply_chat_template(
        demo.ask(record)["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**prompt, max_new_tokens=n_tokens, do_sample=False)
    return str(tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))


def machine() -> str:
    """The processor, as lscpu names it."""
    try:
        text = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):  # not Linux
        return platform.processor() or platform.machine()
    fields = dict(re.findall(r"^\s*([^:\n]+):\s*(.+)$", text, re.MULTILINE))
    return (
        f"{fields.get('Model name', 'unknown')} (family {fields.get('CPU family')}, "
        f"model {fields.get('Model')}, {fields.get('CPU(s)')} CPUs, L3 {fields.get('L3 cache')})"
    )


def command(args: argparse.Namespace) -> str:
    """The command of this run, with DATA and OUTPUT for the folders of this machine.

    `--resume` is left out: an uninterrupted run with these settings sees the same text.
    """
    parts = ["python examples/train_tiny_target.py --data DATA --output OUTPUT"]
    for name, value in sorted(vars(args).items()):
        if name in ("data", "output", "resume") or value is False:
            continue
        flag = "--" + name.replace("_", "-")
        parts.append(flag if value is True else f"{flag} {value}")
    return " ".join(parts)


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    modules = [torch, transformers, tokenizers, safetensors, numpy]
    found = {module.__name__: str(module.__version__) for module in modules}
    return {"python": platform.python_version()} | found


def describe_run(
    args: argparse.Namespace,
    tokenizer: Any,
    state: Record,
    held_out: dict[str, Encoded],
    shares: dict[str, float],
    sample_tokens: int = 160,
) -> None:
    """Evaluate the exported model; write training.json and README.md beside it."""
    # Read back from the folder: what is described is what is shipped.
    model = AutoModelForCausalLM.from_pretrained(args.output).eval()
    losses = {name: evaluate(model, docs, args.seq_len) for name, docs in held_out.items()}
    report = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": state["step"],
        "tokens": state["step"] * args.batch_size * args.seq_len,
        "seconds": round(state["seconds"]),
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "versions": versions(),
        "train_loss": round(state["train_loss"], 4),
        "held_out": losses,
        "shares": shares,
        "command": command(args),
        "environment": {k: v for k, v in os.environ.items() if k.startswith(("OMP_", "MALLOC_"))},
    }
    (args.output / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    records = [*demo.gsm8k(args.data, "test")[:3], demo.human_eval(args.data)[13]]
    samples = [(r, generate(model, tokenizer, r, sample_tokens)) for r in records]
    card = fill_card(args, model.config, report, samples, sample_tokens)
    (args.output / "README.md").write_text(card)


def fill_card(
    args: argparse.Namespace,
    config: Any,
    report: Record,
    samples: list[tuple[Record, str]],
    sample_tokens: int,
) -> str:
    """The model card as Markdown."""
    rows = [
        f"| {name} | {r['documents']:,} | {r['tokens']:,} | {r['nats_per_token']:.3f} "
        f"| {r['bits_per_byte']:.3f} |"
        for name, r in report["held_out"].items()
    ]
    exchanges = []
    for record, answer in samples:
        question = record["messages"][0]["content"]
        text = f"[user]\n{question}\n\n[assistant]\n{answer}"
        exchanges.append(textwrap.indent(text, "    ", lambda line: bool(line.strip())))
    return CARD.format(
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        intermediate=config.intermediate_size,
        theta=config.rope_parameters["rope_theta"],
        vocabulary=config.vocab_size,
        batch_size=args.batch_size,
        seq_len=args.seq_len,
        minutes=report["seconds"] / 60,
        decay=args.decay_fraction,
        losses="\n".join(rows),
        shares=", ".join(f"{name} {share:.0%}" for name, share in report["shares"].items()),
        samples="\n\n---\n\n".join(exchanges),
        sample_tokens=sample_tokens,
        **{k: report[k] for k in ("parameters", "tokens", "steps", "threads", "machine")},
        **{k: report[k] for k in ("train_loss", "command")},
    )

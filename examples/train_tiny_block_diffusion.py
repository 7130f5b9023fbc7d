"""Train a tiny block-diffusion model that dspec ships: the tiny target, adapted on one core in half an hour.

    OMP_NUM_THREADS=1 python examples/train_tiny_block_diffusion.py --alignment aligned|shifted \\
        --data DATA --output RUN --minutes 30

`aligned` (SDAR, arXiv 2510.06303): the logit at a mask predicts that position; `shifted` (Fast-dLLM v2, arXiv
2509.26328): the row to the left does. `--resume` goes on from RUN/checkpoint. When 80 % of `--minutes` are
spent, a run fixes its number of steps; given as `--steps`, that number repeats the run.
"""

import argparse
import json
import shutil
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import train_tiny_target as tiny
from make_demo_data import Record
from safetensors.torch import load_file, save_file
from tiny_target_card import machine, versions
from tiny_target_tokenizer import VOCABULARY, encode
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

Array = np.ndarray
TARGET = Path(__file__).parents[1] / "dspec" / "demo" / "target"
MASK = VOCABULARY  # the one row that the vocabulary grows by
SIZES, SIZE_WEIGHTS = (1, 2, 4, 8, 16), np.array([2, 1, 2, 2, 2]) / 9
BATCH, LENGTH, RATE, DECAY = 8, 256, 2e-3, 0.2  # rows, tokens a row, learning rate, share it falls in
CONTEXT, PREFIX = 16, 128  # held-out tokens before the first that is scored; before a probed draft
SHIPPED = "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim \
hidden_act max_position_embeddings rms_norm_eps attention_bias tie_word_embeddings eos_token_id"
PUBLISHED = {
    "aligned": ("SDARForCausalLM", "sdar", "block_size"),
    "shifted": ("Fast_dLLM_QwenForCausalLM", "Fast_dLLM_Qwen", "bd_size"),
}
CARD = """\
---
license: other
license_name: mit-cc-by-4.0-psf-2.0
pipeline_tag: text-generation
---
# dspec tiny block-diffusion model, {alignment}

`dspec/demo/target` and its tokenizer, adapted by `examples/train_tiny_block_diffusion.py`: blocks of up to
16, mask token 2048, bfloat16. It exists to show, test and measure self-speculation without a network.

{tokens:,} tokens in {steps:,} steps and {seconds:,} seconds on {threads} thread of {machine}.

    {command}

32 rows of 256 tokens of each text, none trained on: nats a token of the autoregressive target, then of blocks
of 1 / 2 / 4 / 8 / 16 masks filled in one pass; accuracy of these; leading tokens of a greedy draft that the
model itself repeats at block size 1. Shifted: the pass knows the block's first token, chosen before it.

| text | target | nats a token | accuracy | leading tokens |
|---|---:|---|---|---|
{rows}
## {licences}
"""


def rescale(state: Record, ids: torch.Tensor) -> None:
    """Give q and k the mean square, per channel, that the norms and gains now missing gave them."""
    target = Qwen3ForCausalLM.from_pretrained(TARGET).model
    with torch.inference_mode():
        inputs = target(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
        for i, layer in enumerate(target.layers):
            for kind in "qk":
                project, norm = (getattr(layer.self_attn, f"{kind}_{part}") for part in ("proj", "norm"))
                before = project(layer.input_layernorm(inputs[i])).unflatten(-1, (-1, len(norm.weight)))
                was, now = (x.square().mean((0, 1)).reshape(-1, 1) for x in (before, norm(before)))
                state[f"model.layers.{i}.self_attn.{kind}_proj.weight"] *= (now / was).sqrt()


def build_model(alignment: str, ids: torch.Tensor) -> Any:
    """The target with a mask token: as Qwen3, or as Qwen2 with q and k rescaled on the text `ids`."""
    state = load_file(TARGET / "model.safetensors")
    table = state["model.embed_tokens.weight"]
    state["model.embed_tokens.weight"] = torch.cat([table, table.mean(0, keepdim=True)])
    fields = json.loads((TARGET / "config.json").read_text()) | {"vocab_size": MASK + 1}
    if alignment == "shifted":
        rescale(state, ids)
        del fields["attention_bias"], fields["head_dim"]  # Qwen3's only
        model: Any = Qwen2ForCausalLM(Qwen2Config(**fields))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**fields))
    model.load_state_dict(state, strict=False)  # new biases stay zero; the head is the embedding
    model.shift = int(alignment == "shifted")  # from a row to the position that it predicts
    return model


def grid(n: int, block: int, offset: int) -> tuple[Array, Array]:
    """Block of each position, and where each block starts; the first lacks its first `offset` positions."""
    group = (np.arange(n) + offset) // block
    return group, np.flatnonzero(np.diff(group, prepend=-1))


def draw_noise(rows: int, group: Array, starts: Array, draw: np.random.Generator) -> list[Array]:
    """Masked positions, their weights, and known positions whose rows are token-causal: (rows, n) each.

    Half of the blocks lose a random subset, half a suffix; half of the latter have causal known rows.
    A block's weights add up to its size, unless under a tenth of it is masked.
    """
    shape = rows, len(starts)
    sizes = np.diff(starts, append=len(group))
    place = np.arange(len(group)) - starts[group]
    suffix, partial = draw.random(shape) < 0.5, draw.random(shape) < 0.5
    known = np.floor(draw.random(shape) * sizes)[:, group]
    masked = draw.random((rows, len(group))) < draw.uniform(0.1, 1.0, shape)[:, group]
    none = ~np.logical_or.reduceat(masked, starts, axis=1)[:, group]
    masked = np.where(suffix[:, group], place >= known, masked | (none & (place == known)))
    share = np.add.reduceat(masked, starts, axis=1, dtype=float) / sizes
    return [masked, masked / np.maximum(share, 0.1)[:, group], (suffix & partial)[:, group] & ~masked]


def attention(group: Array, causal: bool, causal_rows: Array) -> Array:
    """Who sees whom in [noisy, clean]: (rows, 2n, 2n), True where seen."""
    n = len(group)
    earlier = np.tril(np.ones((n, n), bool))
    before, own = group[None, :] < group[:, None], group[None, :] == group[:, None]
    seen = np.zeros((len(causal_rows), 2 * n, 2 * n), bool)
    seen[:, :n, :n] = own & (earlier | ~causal_rows[:, :, None])
    seen[:, :n, n:] = before
    seen[:, n:, n:] = earlier if causal else before | own
    return seen


def forward(
    model: Any, ids: Array, block: int, offset: int, causal: bool, noise: list[Array], every: bool
) -> tuple[torch.Tensor, Array, Array, Array]:
    """Logits of the predicted tokens, with row, position and weight of each.

    Shifted: the clean row before a block predicts its first token. `every`: clean rows predict all tokens.
    """
    masked, weight, causal_rows = noise
    n, shift = ids.shape[1], model.shift
    group, starts = grid(n, block, offset)
    half = n if shift and block == 1 else 0  # then the clean half predicts everything
    weights, first = np.zeros((len(ids), 2 * n)), np.isin(np.arange(n), starts)
    if shift:
        weights[:, : n - 1] = (weight * ~first)[:, 1:]
        weights[:, n:-1] = 1.0 if every else first[1:]
    else:
        weights[:, :n] = weight
    row, column = weights[:, half:].nonzero()
    hidden = model.model(
        input_ids=torch.from_numpy(np.concatenate([np.where(masked, MASK, ids), ids], 1)[:, half:]),
        attention_mask=torch.from_numpy(attention(group, causal, causal_rows)[:, None, half:, half:]),
        position_ids=torch.from_numpy(np.tile(np.arange(n), 2)[None, half:]),
        use_cache=False,
    ).last_hidden_state
    return model.lm_head(hidden[row, column]), row, (column + shift) % n, weights[row, column + half]


def training_loss(model: Any, ids: Array, seed: int, step: int) -> torch.Tensor:
    """Weighted mean loss of a batch under a random block size, block grid, clean half and noise."""
    draw = np.random.default_rng((seed, step))
    block = int(draw.choice(SIZES, p=SIZE_WEIGHTS))
    offset, causal = int(draw.integers(block)), bool(draw.random() < 0.5)
    noise = draw_noise(len(ids), *grid(ids.shape[1], block, offset), draw)
    logits, row, position, weight = forward(model, ids, block, offset, causal, noise, every=causal)
    nats = torch.nn.functional.cross_entropy(logits, torch.from_numpy(ids[row, position]), reduction="none")
    return nats @ torch.from_numpy(weight / weight.sum()).float()


def train(args: argparse.Namespace, model: Any, ids: dict[str, list[list[int]]]) -> Record:
    """Train until the steps or the minutes are used up; returns the counters."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    state: Record = {"step": 0, "seconds": 0.0, "steps": None, "train_loss": 0.0}
    checkpoint = args.output / "checkpoint"
    if args.resume and (checkpoint / "state.safetensors").exists():
        state = tiny.load_checkpoint(checkpoint, model, [optimizer])
    state["steps"] = args.steps or state["steps"]
    stream = islice(tiny.rows(ids, LENGTH, args.seed), state["step"] * BATCH, None)
    started = time.monotonic() - state["seconds"]
    while state["steps"] is None or state["step"] < state["steps"]:
        step = state["step"]
        if state["steps"] is None and state["seconds"] >= (1 - DECAY) * args.minutes * 60:
            state["steps"] = max(round(step / (1 - DECAY)), step + 1)
        factor = tiny.schedule(step, state["steps"] or 1 << 40, DECAY)
        optimizer.param_groups[0]["lr"] = RATE * factor
        loss = training_loss(model, np.stack([*islice(stream, BATCH)]), args.seed, step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        state |= {"step": step + 1, "seconds": time.monotonic() - started}
        state["train_loss"] += max(0.02, 1 / (step + 1)) * (loss.item() - state["train_loss"])
        if (step + 1) % 50 == 0:
            report = step + 1, state["train_loss"], factor, state["seconds"] / 60
            tiny.console.print("step {}: loss {:.3f} at rate x{:.2f}, {:.1f} min".format(*report))
        if (step + 1) % 100 == 0 or step + 1 == state["steps"]:
            tiny.save_checkpoint(checkpoint, model, [optimizer], state)
            export(args, model)
    return state


def export(args: argparse.Namespace, model: Any) -> None:
    """Weights in bfloat16 under the published names, config, and the target's tokenizer."""
    architecture, kind, size = PUBLISHED[args.alignment]
    fields = {"architectures": [architecture], "model_type": kind, size: max(SIZES)}
    fields |= {name: v for name, v in model.config.to_dict().items() if name in SHIPPED.split()}
    fields |= {"vocab_size": MASK + 1, "mask_token_id": MASK, "rope_theta": 10000.0, "dtype": "bfloat16"}
    (args.output / "config.json").write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
    tensors = {name: p.detach().bfloat16() for name, p in model.named_parameters()}
    save_file(tensors, args.output / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(TARGET / name, args.output / name)


def predict(model: Any, ids: Array, block: int) -> tuple[Array, Array]:
    """Nats and greedy choice at each position, whole blocks in one pass after clean, token-causal text.

    Shifted: the pass over a block knows its first token, which the clean row before it predicted.
    """
    masked = np.broadcast_to(np.arange(ids.shape[1]) % block >= model.shift, ids.shape)
    with torch.inference_mode():
        noise = [masked, np.ones(ids.shape), np.zeros(ids.shape, bool)]
        logits, row, position, _ = forward(model, ids, block, 0, True, noise, every=False)
        law = logits.log_softmax(-1).numpy()
    nats, choice = np.zeros(ids.shape), np.zeros_like(ids)
    nats[row, position] = -law[np.arange(len(row)), ids[row, position]]
    choice[row, position] = law.argmax(-1)
    return nats, choice


def score(model: Any, ids: Array, block: int) -> Record:
    """Loss, accuracy, and how many leading tokens of a greedy draft block size 1 repeats."""
    nats, choice = (x[:, CONTEXT:] for x in predict(model, ids, block))
    draft = ids[:, : PREFIX + block].copy()
    for size in (1, block):  # the shifted draft needs its first token first
        draft[:, PREFIX : PREFIX + size] = predict(model, draft, size)[1][:, PREFIX : PREFIX + size]
    agreed = (predict(model, draft, 1)[1] == draft)[:, PREFIX:].cumprod(1).sum(1)
    means = {"nats_per_token": nats, "accuracy": choice == ids[:, CONTEXT:], "agreed": agreed}
    return {name: round(float(values.mean()), 4) for name, values in means.items()}


def measure(args: argparse.Namespace, model: Any, tokenizer: Any) -> Record:
    """Figures of the exported weights on text never trained on, beside the target's loss on it."""
    model.load_state_dict(load_file(args.output / "model.safetensors"), strict=False)
    target: Any = Qwen3ForCausalLM.from_pretrained(TARGET)
    target.shift = 1
    report: Record = {}
    for name, records in tiny.held_out_records(args.data).items():
        stream = np.concatenate([encode(tokenizer, r) for r in records])
        rows = stream[: len(stream) // LENGTH * LENGTH].reshape(-1, LENGTH)
        rows = rows[np.linspace(0, len(rows) - 1, 32).astype(int)]
        report[name] = {"target_nats_per_token": score(target, rows, 1)["nats_per_token"]}
        report[name]["block_size"] = {str(size): score(model, rows, size) for size in SIZES}
    return report


def describe(args: argparse.Namespace, state: Record, held_out: Record) -> None:
    """Write training.json and README.md beside the weights."""
    script = f"python examples/train_tiny_block_diffusion.py --alignment {args.alignment}"
    report = {"command": f"{script} --data DATA --output OUTPUT --steps {state['step']} --seed {args.seed}"}
    report |= {"steps": state["step"], "tokens": state["step"] * BATCH * LENGTH, "batch_size": BATCH}
    report |= {"seq_len": LENGTH, "learning_rate": RATE, "seconds": round(state["seconds"])}
    report |= {"threads": torch.get_num_threads(), "machine": machine(), "versions": versions()}
    report |= {"train_loss": round(state["train_loss"], 4), "shares": tiny.SHARES, "held_out": held_out}
    (args.output / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    rows = ""
    for name, found in held_out.items():
        sizes = found["block_size"].values()
        cells = [name, f"{found['target_nats_per_token']:.3f}"]
        cells += [" / ".join(f"{x[k]:.2f}" for x in sizes) for k in ("nats_per_token", "accuracy", "agreed")]
        rows += f"| {' | '.join(cells)} |\n"
    licences = (TARGET / "README.md").read_text().split("\n## ")[2].strip()
    card = CARD.format(alignment=args.alignment, rows=rows, licences=licences, **report)
    (args.output / "README.md").write_text(card)


def main() -> None:
    """Text, training, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--alignment", choices=["aligned", "shifted"], required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of source texts")
    parser.add_argument("--output", type=Path, required=True, help="Hugging Face folder to write")
    parser.add_argument("--minutes", type=float, default=30.0, help="wall time of the training")
    parser.add_argument("--steps", type=int, help="exact number of steps, whatever time they take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from OUTPUT/checkpoint")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(TARGET)
    ids = {k: [encode(tokenizer, r) for r in v] for k, v in tiny.training_records(args.data).items()}
    model = build_model(args.alignment, torch.from_numpy(next(tiny.rows(ids, 2048, args.seed)))[None])
    model.model.compile(dynamic=False)  # 20 % faster
    state = train(args, model, ids)
    export(args, model)
    with torch.compiler.set_stance("force_eager"):  # no new graphs for the shapes of the report
        describe(args, state, measure(args, model, tokenizer))


if __name__ == "__main__":
    main()

"""Other decoders of the same weights: transformers' loops, mlx-lm's, and passes without any loop."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from typing import Any

import torch
import transformers
from torch.nn import functional

from dspec.evaluation.pass_times import decode_rate, measure_passes
from dspec.evaluation.scripted import Scripted

Decode = Callable[[Sequence[int], int], list[int]]  # prompt, new tokens -> their ids
LOOKUP = 10  # tokens that prompt lookup proposes, transformers' own example
ASSISTANT_LAYERS = 2


def generate(model: Any, **settings: Any) -> Decode:
    """transformers' generate, greedy; the model's generation config must name no end token."""

    def decode(prompt: Sequence[int], n: int) -> list[int]:
        ids = torch.tensor([list(prompt)])
        seen = torch.ones_like(ids)
        out = model.generate(ids, attention_mask=seen, max_new_tokens=n, do_sample=False, **settings)
        return out[0, len(prompt) :].tolist()

    return decode


def transformers_decoders(model: Any, assistant: str | None) -> dict[str, Decode]:
    """Autoregressive, prompt lookup, and a small draft model: a folder's, or the model's first layers."""
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    if assistant is not None:
        small = transformers.AutoModelForCausalLM.from_pretrained(assistant, dtype=torch.float32)
        name = "a small model"
    else:
        small, name = first_layers(model, ASSISTANT_LAYERS), f"its first {ASSISTANT_LAYERS} layers"
    small.generation_config.eos_token_id = None
    return {
        "transformers generate": generate(model),
        "transformers prompt lookup": generate(model, prompt_lookup_num_tokens=LOOKUP),
        f"transformers assisted by {name}": generate(model, assistant_model=small.eval()),
    }


def first_layers(model: Any, n: int) -> Any:
    """A model of the first layers, with embeddings, norm and head: a draft model that is always at hand."""
    config = type(model.config)(**{**model.config.to_dict(), "num_hidden_layers": n, "layer_types": None})
    small = type(model)(config)
    small.load_state_dict(model.state_dict(), strict=False)
    return small


@contextmanager
def counted(model: Any) -> Iterator[list[int]]:
    """Note how many tokens every pass of a model reads."""
    passes: list[int] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        passes.append(int(kwargs["input_ids"].shape[1]))

    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield passes
    finally:
        hook.remove()


def bare_passes(model: Any, context: Sequence[int], sizes: Sequence[int], repetitions: int) -> dict[str, Any]:
    """CPU seconds of transformers' own pass over n new tokens, and of its matrix products alone."""
    cache = transformers.DynamicCache(config=model.config)
    weights = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear)]
    inputs = {(n, w.shape[1]): torch.randn(n, w.shape[1]) for n in sizes for w in weights}
    found: dict[str, dict[int, list[float]]] = {"model": {n: [] for n in sizes}, "products": {}}
    found["products"] = {n: [] for n in sizes}
    with torch.inference_mode():
        model(input_ids=torch.tensor([list(context)]), past_key_values=cache, logits_to_keep=1)
        for _ in range(2 + repetitions):
            for n in sizes:
                ids = torch.tensor([list(context)[:n]])
                start = time.process_time()
                model(input_ids=ids, past_key_values=cache)
                found["model"][n].append(time.process_time() - start)
                cache.crop(-n)
                start = time.process_time()
                for weight in weights:
                    functional.linear(inputs[n, weight.shape[1]], weight)
                found["products"][n].append(time.process_time() - start)
    return {part: {n: median(times[2:]) for n, times in by.items()} for part, by in found.items()}


def mlx_section(folder: str, prompts: Sequence[Sequence[int]], n: int, drafted: int) -> dict[str, Any]:
    """dspec and mlx-lm on MLX's CPU: one token a pass, and with drafts that are all right.

    mlx-lm drafts with the target itself, one pass a draft; dspec is handed the same drafts for nothing. So
    only the efficiencies compare: speed over tau / (t_verify + seconds of drafting), prefill left out.
    """
    import dspec

    engine = dspec.load(folder, backend="mlx")
    lines = [mlx_line(engine, prompt, n, drafted) for prompt in prompts for _ in range(4)]
    lines = [line for i, line in enumerate(lines) if i % 4]  # the first on a prompt warms up
    parts = ("efficiency", "tokens_per_second")
    middle = {p: {k: median(line[p][k] for line in lines) for k in lines[0][p]} for p in parts}
    return {**middle, "outputs equal": f"{sum(line['equal'] for line in lines)} of {len(lines)}"}


def mlx_line(engine: Any, prompt: Sequence[int], n: int, drafted: int) -> dict[str, Any]:
    """Each loop once on a prompt."""
    clock = time.process_time
    times = measure_passes(engine, prompt, new_tokens=[1 + drafted], repetitions=5, clock=clock)
    text = decode_rate(engine, prompt, max_new_tokens=n + drafted + 1)["tokens"]
    script = Scripted(None, [*prompt, *text], tau=1 + drafted, n_slots=drafted, ops=engine.ops)
    runs = {
        "dspec autoregressive": decode_rate(engine, prompt, max_new_tokens=n, clock=clock),
        "dspec speculative": decode_rate(
            replace(engine, drafter=script), prompt, max_new_tokens=n, clock=clock
        ),
        "mlx-lm": mlx_lm_run(engine.target.model, prompt, n, 0),
        "mlx-lm speculative": mlx_lm_run(engine.target.model, prompt, n, drafted),
    }
    verify, one = times.verify[1 + drafted], times.verify[1]
    bounds = {"dspec speculative": (1 + drafted) / verify}
    bounds["mlx-lm speculative"] = (1 + drafted) / (verify + drafted * one)
    return {
        "efficiency": {name: run["rate"] / bounds.get(name, 1 / one) for name, run in runs.items()},
        "tokens_per_second": {name: run["rate"] for name, run in runs.items()},
        "equal": all(run["tokens"][:n] == text[:n] for run in runs.values()),
    }


def mlx_lm_run(model: Any, prompt: Sequence[int], n: int, drafted: int) -> dict[str, Any]:
    """mlx-lm's loop, drafting with the model itself; the clock starts after its first pass."""
    import mlx.core as mx
    from mlx_lm.generate import generate_step, speculative_generate_step

    ids = mx.array(prompt)
    if drafted:
        steps = speculative_generate_step(ids, model, model, num_draft_tokens=drafted, max_tokens=n)
    else:
        steps = generate_step(ids, model, max_tokens=n)
    tokens = []
    for step in steps:
        tokens.append(int(step[0]))
        if not (drafted and step[2]):  # the token that closes a pass
            break
    before, start = len(tokens), time.process_time()
    tokens += [int(step[0]) for step in steps]
    return {"tokens": tokens, "rate": (len(tokens) - before) / (time.process_time() - start)}

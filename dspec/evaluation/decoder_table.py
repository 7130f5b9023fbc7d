"""Decoders of one block-diffusion model side by side: their figures, and a table of them."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from dspec.block_engine import BlockDiffusion
from dspec.decoders import Autoregressive, SelfSpeculative, Wino
from dspec.evaluation.bootstrap import bounds, interval, resampled_taus
from dspec.evaluation.machine import describe_device

Figures = Mapping[str, Mapping[str, Any]]  # by name of the decoder, as `figures_of` returns them
SHIPPED = [
    Path(__file__).parent.parent / "demo" / "block_diffusion" / name for name in ("aligned", "shifted")
]
KINDS = ("autoregressive", "exact", "hybrid", "diffusion", "wino")


@dataclass(frozen=True, kw_only=True)
class Output:
    """What one decoder did with one prompt.

    Args:
        n_tokens, passes: emitted tokens; forward passes, prefill included.
        seconds: its share of the seconds of its batch.
        n_accepted, n_verified: accepted drafts of all verify passes; number of these passes.
        log_likelihood: under the autoregressive mode, nats, of the whole output.
        n_best: tokens that are the argmax of their block-size-one law.
        n_matching: leading tokens that are those of the greedy autoregressive output.
        n_greedy: tokens of that output.
        equal: whether it is that output.
    """

    n_tokens: int
    passes: int
    seconds: float
    n_accepted: int
    n_verified: int
    log_likelihood: float
    n_best: int
    n_matching: int
    n_greedy: int
    equal: bool


def describe_model(source: str | Path, lm: BlockDiffusion, *, backend: str) -> dict[str, Any]:
    """Return what figures are of: a model's name, family, weights, training and device.

    Args:
        source: folder or hub id that the engine was loaded from.
        lm: the engine.
        backend: that opened it.

    Returns:
        Plain values; the digest of the weights and the training steps where a folder tells them.
    """
    folder = Path(source)
    weights, training = folder / "model.safetensors", folder / "training.json"
    facts = json.loads(training.read_text(encoding="utf-8")) if training.is_file() else {}
    return {
        "model": folder.name,
        "family": lm.model.config.family,
        "alignment": "shifted" if lm.model.shifted else "aligned",
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None,
        "training_steps": facts.get("steps"),
        "device": describe_device(lm.model, backend=backend),
    }


def kind_of(decoder: Any) -> str:
    """Return the kind of a decoder: one of `KINDS`.

    Example:
        >>> kind_of(SelfSpeculative(exact=True)), kind_of(Autoregressive())
        ('exact', 'autoregressive')
    """
    if isinstance(decoder, Autoregressive):
        return "autoregressive"
    if isinstance(decoder, SelfSpeculative):
        return "exact" if decoder.exact else "hybrid"
    return "wino" if isinstance(decoder, Wino) else "diffusion"


def text_of(decoder: Any) -> str:
    """Return a decoder as one writes it, what is left at its default left out.

    Example:
        >>> text_of(SelfSpeculative(exact=True, block_size=8))
        'SelfSpeculative(block_size=8, exact=True)'
    """
    pairs = ((f, getattr(decoder, f.name)) for f in fields(decoder))
    return f"{type(decoder).__name__}({', '.join(f'{f.name}={v!r}' for f, v in pairs if v != f.default)})"


def figures_of(outputs: Sequence[Output]) -> dict[str, Any]:
    """Return the pooled figures of one decoder, with 95 % bootstrap intervals over the prompts.

    Args:
        outputs: one a prompt.

    Returns:
        Plain numbers by name; per token means of all tokens of all prompts.

    Example:
        >>> one = {"n_tokens": 4, "passes": 2, "n_accepted": 3, "n_verified": 2, "log_likelihood": -6.0}
        >>> same = {"n_best": 4, "n_matching": 2, "n_greedy": 4, "equal": False}
        >>> found = figures_of([Output(**one, **same, seconds=1.0)])
        >>> found["forwards_per_token"]["value"], found["log_likelihood"]["value"], found["matching_share"]
        (0.5, -1.5, 0.5)
    """
    tokens = sum(o.n_tokens for o in outputs)
    verified, greedy = (sum(getattr(o, name) for o in outputs) for name in ("n_verified", "n_greedy"))
    seconds = sum(o.seconds for o in outputs)
    return {
        "n_prompts": len(outputs),
        "n_tokens": tokens,
        "forward_passes": sum(o.passes for o in outputs),
        "forwards_per_token": _ratio([(o.passes, o.n_tokens) for o in outputs]),
        "tokens_per_second": tokens / seconds if seconds else math.nan,
        "verify_passes": verified,
        "accepted_per_verify": sum(o.n_accepted for o in outputs) / verified if verified else math.nan,
        "log_likelihood": _ratio([(o.log_likelihood, o.n_tokens) for o in outputs]),
        "best_share": sum(o.n_best for o in outputs) / tokens,
        "exact_match": sum(o.equal for o in outputs) / len(outputs),
        "matching_prefix": sum(o.n_matching for o in outputs) / len(outputs),
        "matching_share": sum(o.n_matching for o in outputs) / greedy,
    }


def gap_of(outputs: Sequence[Output], baseline: Sequence[Output]) -> dict[str, Any]:
    """Return how far the log-likelihood per token lies above the baseline's, paired by prompt.

    Args:
        outputs, baseline: of the same prompts.

    Returns:
        The value and its 95 % bootstrap interval.
    """
    pairs = [np.array([(o.log_likelihood, o.n_tokens) for o in part]) for part in (outputs, baseline)]
    (ours, n), (theirs, m) = (pair.sum(axis=0) for pair in pairs)
    # The samples of prompts are the same ones, so that what both share cancels.
    samples = resampled_taus(pairs[0]) - resampled_taus(pairs[1])
    return {"value": float(ours / n - theirs / m), "interval": list(bounds(samples))}


def _ratio(pairs: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """The pooled ratio and its interval over prompts."""
    above, below = np.array(pairs, dtype=np.float64).sum(axis=0)
    return {"value": float(above / below), "interval": list(interval(np.array(pairs)))}


def decoder_table(figures: Figures, *, title: str, greedy: bool) -> Table:
    """Return the table of decoders, a section a kind.

    Args:
        figures: by decoder, each with its `kind`.
        title: what was decoded.
        greedy: whether the outputs are to be those of greedy decoding; else these columns are left out.
    """
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("decoder", style="bold", overflow="fold", min_width=12)
    heads = [
        "passes\n/ token",
        "tokens\n/ s",
        "accepted\n/ verify",
        "log-lik. / token\n(95 % interval)",
    ]
    for head in [*heads, *(["same\nas AR", "same\nstart"] if greedy else [])]:
        table.add_column(head, justify="right", no_wrap=True)
    last = None
    for name, found in figures.items():
        if found["kind"] != last and last is not None:
            table.add_section()
        last = found["kind"]
        low, high = found["log_likelihood"]["interval"]
        accepted = found["accepted_per_verify"]
        cells = [
            f"{found['forwards_per_token']['value']:.3f}",
            f"{found['tokens_per_second']:.0f}",
            "" if accepted is None or math.isnan(accepted) else f"{accepted:.2f}",
            f"{found['log_likelihood']['value']:.2f} ({low:.2f}…{high:.2f})",
        ]
        if greedy:
            cells += [f"{found['exact_match']:.0%}", f"{found['matching_share']:.0%}"]
        table.add_row(name, *cells)
    return table

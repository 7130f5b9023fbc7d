"""Checkpoints whose law is known: a Qwen3 or Llama folder that is a table, for any engine to serve.

The next-token law depends on the last token only. Every embedding is a multiple of one unit vector,
attention and MLP add nothing, the last norm scales by exactly 1, and the head holds the logarithms of
the table. What an engine emits is then checked against the table itself, without another model.

A law of the last token cannot show a stale cache: `check_rollback` and `check_exact_law` are for that.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dspec.errors import ConfigError, explain

WIDTH = 64  # of every vector and of the one attention head: engines' kernels have none narrower
# A unit vector times 8 has mean square 1 over 64 entries: the norm leaves it as it is, to the last bit.
SCALE = math.sqrt(WIDTH)
EPSILON = 1e-12  # lost beside 1 in float32
NEVER = -9984.0  # logit of probability 0; 8 bits of mantissa, within float16, and exp of it is 0
POSITIONS = 32_768
LETTERS = "abcdefghijklmnopqrstuvwxyz"
END = "</s>"
KINDS = {"qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}


@dataclass(frozen=True)
class TableModel:
    """A written table model: where it is and the law that its weights hold.

    Args:
        folder: of the checkpoint.
        table: (V, V) float64, row = law of the token after that token.
        eos: token that ends a text, or None.
    """

    folder: Path
    table: Any
    eos: int | None = None


def write_table_model(
    folder: str | Path, table: Any, *, kind: str = "qwen3", eos: int | None = None, narrow: bool = False
) -> TableModel:
    """Write a checkpoint whose next-token law is a table: config, safetensors, tokenizer.

    The softmax of its float32 logits is within `bound(table)` of the table in total variation. Token i
    is the i-th letter of the alphabet, a text is those letters without blanks.

    Args:
        folder: made if it is not there.
        table: (V, V) probabilities or weights >= 0, V in [2, 26]; row = last token.
        kind: "qwen3" or "llama".
        eos: token that ends a text; None: nothing does.
        narrow: round the logits so that bfloat16 and float16 hold them too: the law is then another
            than asked for, but the same in every dtype.

    Returns:
        The folder and the law that was written.

    Raises:
        ConfigError: the table is no table of laws, or kind or eos is not known.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model = write_table_model(folder, [[1, 3], [1, 1]])
        ...     names = sorted(path.name for path in model.folder.iterdir())
        >>> model.table.round(3).tolist(), names[0], names[1]
        ([[0.25, 0.75], [0.5, 0.5]], 'config.json', 'model.safetensors')
    """
    from safetensors.numpy import save_file

    laws = checked_table(table)
    if kind not in KINDS or (eos is not None and eos not in range(len(laws))):
        got = f"kind {kind!r}, eos {eos}"
        raise ConfigError(explain("table model", got, f"kind in {sorted(KINDS)}, eos a token or None"))
    logits = _logits(laws, narrow=narrow)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    save_file(_tensors(logits, kind), place / "model.safetensors", metadata={"format": "pt"})
    config = _config(len(laws), kind, eos)
    _write(place, "config.json", config)
    _write(place, "tokenizer.json", _tokenizer(len(laws), eos))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": POSITIONS}
    _write(place, "tokenizer_config.json", settings | ({} if eos is None else {"eos_token": END}))
    return TableModel(place, softmax(logits), eos)


def checked_table(table: Any) -> Any:
    """Return a table as (V, V) float64 laws.

    Raises:
        ConfigError: it is not square, too large, negative, not finite, or a row is all zero.
    """
    weights = np.asarray(table, dtype=np.float64)
    square = weights.ndim == 2 and len(weights) == weights.shape[-1] and 2 <= len(weights) <= len(LETTERS)
    if not square or not np.isfinite(weights).all() or (weights < 0).any() or not weights.any(axis=1).all():
        needed = f"(V, V) finite numbers >= 0, V in [2, {len(LETTERS)}], no row all zero"
        raise ConfigError(explain("table", f"shape {weights.shape}", needed))
    laws: Any = weights / weights.sum(axis=1, keepdims=True)
    return laws


def bound(table: Any) -> float:
    """Return how far, in total variation, float32 may move a row of the table.

    A logit of size s is stored to s * 2^-24, and its softmax adds about 4 roundings of 2^-24; a
    probability moves by twice their sum, relative, and the total variation by half of that.
    """
    laws = checked_table(table)
    largest = float(-np.log(laws[laws > 0]).min(initial=0))
    return 2**-24 * (largest + 4)


def chain_law(table: Any, start: int, length: int, *, eos: int | None = None) -> dict[tuple[int, ...], float]:
    """Return the law of the next `length` tokens after `start`, cut at `eos`.

    Example:
        >>> chain_law([[1, 1], [0, 1]], 0, 2)
        {(0, 0): 0.25, (0, 1): 0.25, (1, 1): 0.5}
    """
    laws = checked_table(table)
    done: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(length):
        grown: dict[tuple[int, ...], float] = {}
        for path, mass in done.items():
            if path and path[-1] == eos:
                grown[path] = mass
                continue
            row = laws[path[-1] if path else start]
            grown |= {(*path, token): mass * float(p) for token, p in enumerate(row) if p > 0}
        done = grown
    return done


def softmax(logits: Any) -> Any:
    """Return the law of each row of logits, in float64."""
    weights = np.exp(np.asarray(logits, dtype=np.float64) - np.max(logits, axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def encode(tokens: Sequence[int]) -> str:
    """Return the letters of tokens."""
    return "".join(LETTERS[token] for token in tokens)


def _logits(laws: Any, *, narrow: bool) -> Any:
    """Return the logarithms as the head will give them: float32, or with 8 bits of mantissa."""
    logs: Any = np.where(laws > 0, np.log(np.where(laws > 0, laws, 1)), NEVER).astype(np.float32)
    if narrow:
        # To the nearest with 8 bits; ties away from zero, which is as near.
        logs = ((logs.view(np.uint32) + 0x8000) & 0xFFFF0000).view(np.float32)
        # float16 holds 8 bits of all but the least, which it rounds to multiples of 2^-24.
        logs = (logs / np.float32(SCALE)).astype(np.float16).astype(np.float32) * np.float32(SCALE)
    return logs


def _tensors(logits: Any, kind: str) -> dict[str, Any]:
    """Return the weights: everything between the embedding and the head adds zero."""
    vocab, layer = len(logits), "model.layers.0."
    embedding, head = np.zeros((vocab, WIDTH), np.float32), np.zeros((vocab, WIDTH), np.float32)
    embedding[np.arange(vocab), np.arange(vocab)] = SCALE
    head[:, :vocab] = (logits / np.float32(SCALE)).T
    square, ones = np.zeros((WIDTH, WIDTH), np.float32), np.ones(WIDTH, np.float32)
    projections = [f"self_attn.{name}_proj" for name in "qkvo"] + [
        f"mlp.{n}_proj" for n in ("gate", "up", "down")
    ]
    norms = ["input_layernorm", "post_attention_layernorm"]
    if kind == "qwen3":
        norms += ["self_attn.q_norm", "self_attn.k_norm"]
    # Copies: safetensors refuses tensors that share memory.
    tensors = {f"{layer}{name}.weight": square.copy() for name in projections}
    tensors |= {f"{layer}{name}.weight": ones.copy() for name in norms}
    ends = {"model.embed_tokens.weight": embedding, "model.norm.weight": ones, "lm_head.weight": head}
    return tensors | ends


def _config(vocab: int, kind: str, eos: int | None) -> dict[str, Any]:
    config = {
        "architectures": [KINDS[kind]],
        "model_type": kind,
        "vocab_size": vocab,
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": WIDTH,
        "hidden_act": "silu",
        "rms_norm_eps": EPSILON,
        "rope_theta": 10_000.0,
        "max_position_embeddings": POSITIONS,
        "attention_bias": False,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "bos_token_id": None,
        "pad_token_id": None,
        "eos_token_id": eos,
    }
    return config


def _tokenizer(vocab: int, eos: int | None) -> dict[str, Any]:
    """Return a byte-level BPE without merges: the usual form, one letter a token."""
    names = [END if token == eos else LETTERS[token] for token in range(vocab)]
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [] if eos is None else [{"id": eos, "content": END, **special}],
        "pre_tokenizer": bytes_,
        "decoder": bytes_,
        "model": {"type": "BPE", "vocab": {name: i for i, name in enumerate(names)}, "merges": []},
    }


def _write(folder: Path, name: str, content: Mapping[str, Any]) -> None:
    (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

"""What a model's config says of it, read by transformers' own classes in every room.

A field that config.json leaves out has the same default everywhere only if one reader fills it in:
mlx-lm gives Qwen2 a rotary base of 1e6 where transformers gives 1e4.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from dspec.config import TargetFacts
from dspec.errors import CheckpointError, explain

# Of mlx-lm: how weights are packed. transformers' classes would take it for a setting of their own.
PACKING = ("quantization", "quantization_config")


def read_config(folder: Path) -> Any:
    """Return the config of a local folder as transformers reads it.

    Args:
        folder: holds config.json.

    Raises:
        CheckpointError: no config, or of a kind that transformers does not know by itself.
    """
    try:
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        needed = "a config.json of a causal language model that transformers knows"
        raise CheckpointError(explain(f"target {folder}", str(error), needed)) from error


def config_of(values: Mapping[str, Any]) -> Any:
    """Return the config that the values of a config.json describe.

    Args:
        values: `model_type` among them.

    Raises:
        CheckpointError: of a kind that transformers does not know by itself, or malformed.

    Example:
        >>> config_of({"model_type": "qwen2", "hidden_size": 64}).hidden_size
        64
    """
    fields = {name: value for name, value in values.items() if name not in ("model_type", *PACKING)}
    try:
        return AutoConfig.for_model(str(values.get("model_type")), **fields)
    except (ValueError, KeyError, TypeError) as error:
        needed = "values of the config.json of a causal language model that transformers knows"
        raise CheckpointError(explain("config", str(error), needed)) from error


def facts_of(
    config: Any,
    *,
    head_shape: tuple[int, ...],
    num_layers: int,
    eos_ids: frozenset[int],
    dtype: str,
    name: str,
) -> TargetFacts:
    """Return the facts of a target.

    Args:
        config: of transformers, of the language model alone.
        head_shape: (V, D) of the output weight.
        num_layers: decoder layers.
        eos_ids: tokens that end a text.
        dtype: of the weights, by name.
        name: for messages.
    """
    heads, rope = config.num_attention_heads, rope_of(config)
    return TargetFacts(
        hidden_size=int(head_shape[1]),
        vocab_size=int(head_shape[0]),
        num_layers=num_layers,
        intermediate_size=config.intermediate_size,
        num_attention_heads=heads,
        num_key_value_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or int(head_shape[1]) // heads,
        rms_norm_eps=getattr(config, "rms_norm_eps", 1e-6),
        rope_theta=rope.pop("rope_theta", 1e6),
        rope_scaling=rope or None,
        max_position_embeddings=config.max_position_embeddings,
        bos_token_id=config.bos_token_id,
        eos_token_ids=tuple(sorted(eos_ids)),
        pad_token_id=config.pad_token_id,
        tie_word_embeddings=bool(config.tie_word_embeddings),
        dtype=dtype,
        name=name,
    )


def eos_ids_of(*words: Any) -> frozenset[int]:
    """Return every token that ends a text, by the first that names any.

    Args:
        words: values of `eos_token_id` in the order of their authority: an id, several, or None.

    Example:
        >>> sorted(eos_ids_of(None, [2, 5], 7))
        [2, 5]
    """
    for ids in words:
        if ids is not None:
            return frozenset(ids if isinstance(ids, (list, tuple)) else [ids])
    return frozenset()


def rope_of(config: Any) -> dict[str, Any]:
    """Return rotary settings in one flat dict, rope_theta among them; without scaling nothing else.

    That a target turns a part of each head only, or takes positions of images, is not its drafter's affair.
    """
    rope = dict(getattr(config, "rope_parameters", None) or {})
    # Gemma 3 keeps one set for each kind of layer; the drafter's attention is full.
    rope = dict(rope.get("full_attention", rope))
    if rope.get("rope_type", "default") == "default":
        return {"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {}
    return rope

"""Reading a target's weights through mlx-lm and its tokenizer: safetensors only, no remote code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.utils import load_model

from dspec.backends.hub import fetch_model
from dspec.backends.mlx.model_kinds import arguments_of, inner, kind_of, language_of
from dspec.backends.mlx.ops import resolve_dtype
from dspec.backends.model_config import read_config
from dspec.backends.tokenizer import read_tokenizer
from dspec.errors import BackendUnavailable, CheckpointError, ConfigError, explain
from dspec.io.shards import check_shards
from dspec.io.strict_json import read_object

GENERATION = "generation_config.json"


def read_pretrained(source: str | Path, *, dtype: str | mx.Dtype) -> tuple[Any, Any, dict[str, Any]]:
    """Return model, tokenizer and config of a folder or hub id.

    Args:
        source: an existing folder, or a hub id such as "Qwen/Qwen3-4B".
        dtype: of the weights, see `ops.resolve_dtype`; quantised ones stay as they are.

    Returns:
        The model, its tokenizer or None if there is none, and the values of its config, in which
        `eos_token_id` is the generation config's word where there is one.

    Raises:
        CheckpointError: neither a folder nor a model of the hub, of a kind that transformers does not
            know by itself, without safetensors, or with weights missing.
        BackendUnavailable: a kind or a setting that mlx-lm does not build as transformers does.
        ConfigError: an unknown dtype, or one beside quantised weights.
    """
    folder = fetch_model(source, what="target")
    values = _read_values(folder)
    entries = check_shards(folder)
    config = language_of(read_config(folder))
    arguments = arguments_of(config)
    quantised = _check_packing(values, folder)
    if quantised and dtype != "auto":
        remedy = "Leave dtype out, or give the folder of the unquantised model."
        found = f"{dtype} for quantised weights"
        raise ConfigError(explain("dtype", found, '"auto": they stay as they are', remedy=remedy))
    wanted = None if quantised else resolve_dtype(dtype, stored=None)
    model = _build(folder, config, arguments)
    _refuse_untied(model, config, entries, folder)
    if wanted is not None:
        model.set_dtype(wanted)
    mx.eval(model.parameters())
    return model, read_tokenizer(folder), {**config.to_dict(), "eos_token_id": _eos(folder, config)}


def _read_values(folder: Path) -> dict[str, Any]:
    """config.json as it stands; one that asks for code of its own is refused."""
    where = folder / "config.json"
    values = read_object(where)
    if values.get("model_file") is not None:
        remedy = "dspec runs no code of a checkpoint."
        found = f"model_file {values['model_file']!r}: custom code"
        raise CheckpointError(explain(str(where), found, "a model of mlx-lm's own", remedy=remedy))
    return values


def _check_packing(values: Mapping[str, Any], folder: Path) -> bool:
    """Return whether the weights are quantised; only mlx-lm's own affine packing is read."""
    packing = values.get("quantization")
    other = "quantization_config" in values and packing is None
    other = other or (folder / "hf_quant_config.json").exists() or bool(values.get("quantize_activations"))
    mode = packing.get("mode", "affine") if isinstance(packing, dict) else "affine"
    if other or mode != "affine" or not isinstance(packing, (dict, type(None))):
        found = "weights quantised in another way than mlx_lm.convert's affine one"
        remedy = "Convert the unquantised model with mlx_lm.convert -q."
        raise BackendUnavailable(
            explain(f"target {folder}", found, "plain or affine weights", remedy=remedy, clause="DL-8")
        )
    return packing is not None


def _build(folder: Path, config: Any, arguments: dict[str, Any]) -> Any:
    """The model with its weights, lazily read."""
    kind = kind_of(config.model_type)
    classes = (kind.model, kind.module.ModelArgs)
    if kind.nested:
        arguments = {"text_config": arguments}
    try:
        model, _ = load_model(
            folder, lazy=True, strict=True, model_config=arguments, get_model_classes=lambda config: classes
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        remedy = "A DFlash drafter is no target; give it as the drafter."
        needed = "every tensor of the model, and no other"
        raise CheckpointError(explain(f"target {folder}", str(error), needed, remedy=remedy)) from error
    return model


def _refuse_untied(model: Any, config: Any, entries: Mapping[str, Any], folder: Path) -> None:
    """Gemma 3 of mlx-lm ties its head to the embeddings by what is stored; the config's word counts."""
    if config.tie_word_embeddings is ("lm_head" in inner(model)):
        stored = "a stored" if "lm_head.weight" in entries else "no stored"
        needed = f"as tie_word_embeddings {config.tie_word_embeddings} says"
        raise CheckpointError(explain(f"target {folder}", f"{stored} lm_head.weight", needed))


def _eos(folder: Path, config: Any) -> Any:
    """The generation config's end tokens, else the config's."""
    file = folder / GENERATION
    found = read_object(file).get("eos_token_id") if file.is_file() else None
    return config.eos_token_id if found is None else found

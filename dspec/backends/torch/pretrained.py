"""Reading a target's weights and tokenizer through transformers: safetensors only, no remote code."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from dspec.backends.tokenizer import read_tokenizer
from dspec.errors import CheckpointError, explain

GROUPED = "dspec_grouped"  # the name of `grouped_attention` in transformers


def read_pretrained(source: str | Path, *, dtype: torch.dtype | None) -> tuple[Any, Any]:
    """Return model (on the CPU) and tokenizer of a folder or hub id.

    Args:
        source: an existing folder, or a hub id such as "Qwen/Qwen3-4B".
        dtype: of the weights; None: as stored.

    Returns:
        The model, and its tokenizer or None if there is none.

    Raises:
        CheckpointError: neither a folder nor a model of the hub, of a kind that transformers does not
            know by itself, without safetensors, or with weights missing.
    """
    local = Path(source).is_dir()
    if not local and (isinstance(source, Path) or str(source).startswith((".", "/", "~"))):
        raise CheckpointError(explain("target", str(source), "an existing folder, or a hub id"))
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            str(source),
            dtype=dtype or "auto",
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
            local_files_only=local,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        needed = "a folder or hub id of a causal language model that transformers knows, in safetensors"
        raise CheckpointError(explain(f"target {source}", str(error), needed)) from error
    _refuse_missing(found, source)
    return model, read_tokenizer(source)


def group_heads(model: Any) -> None:
    """Let a model's attention under a mask read each key head once, if it is torch's fused one.

    Args:
        model: of transformers; others' models are left as they are.
    """
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(GROUPED)


def grouped_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Return what transformers' own fused attention does, to the bit, without copying keys and values.

    Under a mask that one repeats every key head for each of its query heads, because CUDA's kernels want
    it; the CPU's does not. A verify pass pays for it: 16 queries of 32 heads over 2,000 positions of 8 key
    heads, d = 128, float32, one thread, took 45 ms repeated and 7.7 ms grouped; 6 over 2 heads, d = 32, 0.64
    and 0.36. One query, or no mask, is grouped by transformers already.

    Args:
        module: the attention module.
        query: (B, heads, Q, d).
        key: (B, H, N, d); H divides the heads.
        value: (B, H, N, d).
        attention_mask: (B or 1, 1, Q, N) bool, or None.
        scaling: of the scores; None: 1 / sqrt(d).
        **others: what layers hand on.

    Returns:
        (B, Q, heads, d), and None: no weights.
    """
    repeated = attention_mask is not None and query.shape[2] > 1 and key.shape[1] < query.shape[1]
    unusual = any(others.get(name) is not None for name in ("position_bias", "cache", "softcap"))
    if not repeated or unusual or query.device.type != "cpu" or others.get("dropout"):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **others)
    read = scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, scale=scaling, enable_gqa=True
    )
    return read.transpose(1, 2).contiguous(), None


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, sdpa_mask)


def _refuse_missing(found: dict[str, Any], source: str | Path) -> None:
    """Refuse weights that transformers filled with random numbers."""
    wrong = sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]]))
    if wrong:
        some = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        remedy = "A DFlash drafter is no target; give it as the drafter."
        raise CheckpointError(
            explain(f"target {source}", f"no or misshapen {some}", "every tensor of the model", remedy=remedy)
        )

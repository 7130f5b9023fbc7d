"""Reading a target's weights and tokenizer through transformers: safetensors only, no remote code."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from dspec.backends.tokenizer import read_tokenizer
from dspec.errors import CheckpointError, explain


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


def _refuse_missing(found: dict[str, Any], source: str | Path) -> None:
    """Refuse weights that transformers filled with random numbers."""
    wrong = sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]]))
    if wrong:
        some = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        remedy = "A DFlash drafter is no target; give it as the drafter."
        raise CheckpointError(
            explain(f"target {source}", f"no or misshapen {some}", "every tensor of the model", remedy=remedy)
        )

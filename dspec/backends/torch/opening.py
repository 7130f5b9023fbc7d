"""From what a caller names or holds to an opened model."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from dspec.backends.block_checks import check_opened
from dspec.backends.foreign import refuse_foreign
from dspec.backends.hub import fetch_drafter
from dspec.backends.torch.block_diffusion import BlockDiffusionModel, load_block_model
from dspec.backends.torch.drafter import Drafter, load_drafter
from dspec.backends.torch.ops import check_placed
from dspec.backends.torch.target import Target
from dspec.errors import ConfigError, explain


def open_target(source: Any, *, device: str = "auto", dtype: str = "auto", tokenizer: Any = None) -> Target:
    """Return the target that a caller names or holds.

    Args:
        source: hub id, folder, transformers model, or `Target`.
        device: "auto", "cuda", "cpu" or "mps"; what is loaded already is not moved.
        dtype: "auto" or a name; what is loaded already is not converted.
        tokenizer: None: the one beside the weights.

    Raises:
        ConfigError: a setting contradicts what is loaded already, or the source is none of these.
    """
    if not isinstance(source, Target):
        refuse_foreign("target", source, room="torch")
        return Target.load(source, device=device, dtype=dtype, tokenizer=tokenizer)
    check_placed("target", source.head_weight, device=device, dtype=dtype)
    if tokenizer is not None:
        remedy = "Leave tokenizer out: an opened target has its own."
        raise ConfigError(explain("tokenizer", "one beside an opened target", "none", remedy=remedy))
    return source


def open_drafter(source: Any, target: Target, *, device: str = "auto", dtype: str = "auto") -> Drafter:
    """Return the drafter that a caller names or holds, on the target's device.

    Args:
        source: hub id, folder, or `Drafter`.
        target: it goes beside.
        device: of the target; a loaded drafter must not contradict it.
        dtype: "auto" or a name; a loaded drafter is not converted.

    Raises:
        CheckpointError: a file is missing or malformed.
        ConfigError: a setting contradicts a loaded drafter, or the source is none of these.
    """
    if isinstance(source, (str, Path)):
        return load_drafter(fetch_drafter(source), device=target.device, dtype=dtype)
    if not isinstance(source, Drafter):
        refuse_foreign("drafter", source, room="torch")
        needed = "a hub id, a folder, a drafter of dspec, or None"
        raise ConfigError(explain("drafter", f"a {type(source).__name__}", needed))
    check_placed("drafter", source.fc.weight, device=device, dtype=dtype)
    return source


def open_block(
    source: Any,
    *,
    family: str | None = None,
    mask_token_id: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    tokenizer: Any = None,
) -> BlockDiffusionModel:
    """Return the block-diffusion model that a caller names or holds.

    Spec: SS-23.

    Args:
        source: hub id, folder, or `BlockDiffusionModel`.
        family: None: as the config says.
        mask_token_id: None: as the config says.
        device: "auto", "cuda", "cpu" or "mps"; what is loaded already is not moved.
        dtype: "auto" or a name; what is loaded already is not converted.
        tokenizer: None: the one beside the weights.

    Raises:
        CheckpointError: a file is missing or malformed, or asks for what is not built.
        ConfigError: a setting contradicts what is loaded already, or the source is none of these.
    """
    if isinstance(source, (str, Path)):
        settings = {"device": device, "dtype": dtype, "tokenizer": tokenizer}
        return load_block_model(source, family, mask_token_id, **settings)
    if not isinstance(source, BlockDiffusionModel):
        refuse_foreign("model", source, room="torch")
        needed = "a hub id, a folder, or a block-diffusion model of dspec"
        raise ConfigError(explain("model", f"a {type(source).__name__}", needed))
    check_placed("model", source.embed_tokens.weight, device=device, dtype=dtype)
    check_opened(source, family=family, mask_token_id=mask_token_id, tokenizer=tokenizer)
    return source


@contextlib.contextmanager
def lent(model: Any) -> Iterator[None]:
    """Put a caller's model back as it was at the end: mode of its modules, gradients of its weights.

    Args:
        model: a torch module; anything else is left alone.
    """
    is_module = isinstance(model, torch.nn.Module)
    modes = [(module, module.training) for module in model.modules()] if is_module else []
    wants = [(weight, weight.requires_grad) for weight in model.parameters()] if is_module else []
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for weight, want in wants:
            weight.requires_grad_(want)

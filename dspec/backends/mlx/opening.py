"""From what a caller names or holds to an opened model."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx import nn

from dspec.backends.block_checks import check_opened
from dspec.backends.foreign import refuse_foreign
from dspec.backends.hub import fetch_drafter
from dspec.backends.mlx.block_diffusion import BlockDiffusionModel, load_block_model
from dspec.backends.mlx.drafter import Drafter, load_drafter
from dspec.backends.mlx.ops import check_placed
from dspec.backends.mlx.target import Target
from dspec.errors import ConfigError, explain


def open_target(source: Any, *, device: str = "auto", dtype: str = "auto", tokenizer: Any = None) -> Target:
    """Return the target that a caller names or holds.

    Args:
        source: hub id, folder, mlx-lm model, or `Target`.
        device: "auto" or "mlx".
        dtype: "auto" or a name; what is loaded already is not converted.
        tokenizer: None: the one beside the weights.

    Raises:
        ConfigError: a setting contradicts what is loaded already, or the source is none of these.
    """
    if not isinstance(source, Target):
        refuse_foreign("target", source, room="mlx")
        return Target.load(source, device=device, dtype=dtype, tokenizer=tokenizer)
    check_placed("target", source.dtype, device=device, dtype_asked=dtype)
    if tokenizer is not None:
        remedy = "Leave tokenizer out: an opened target has its own."
        raise ConfigError(explain("tokenizer", "one beside an opened target", "none", remedy=remedy))
    return source


def open_drafter(source: Any, target: Target, *, device: str = "auto", dtype: str = "auto") -> Drafter:
    """Return the drafter that a caller names or holds.

    Args:
        source: hub id, folder, or `Drafter`.
        target: it goes beside; MLX has one device for both.
        device: "auto" or "mlx".
        dtype: "auto" or a name; a loaded drafter is not converted.

    Raises:
        CheckpointError: a file is missing or malformed.
        ConfigError: a setting contradicts a loaded drafter, or the source is none of these.
    """
    if isinstance(source, (str, Path)):
        return load_drafter(fetch_drafter(source), device=device, dtype=dtype)
    if not isinstance(source, Drafter):
        refuse_foreign("drafter", source, room="mlx")
        needed = "a hub id, a folder, a drafter of dspec, or None"
        raise ConfigError(explain("drafter", f"a {type(source).__name__}", needed))
    check_placed("drafter", source.dtype, device=device, dtype_asked=dtype)
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
        device: "auto" or "mlx".
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
        refuse_foreign("model", source, room="mlx")
        needed = "a hub id, a folder, or a block-diffusion model of dspec"
        raise ConfigError(explain("model", f"a {type(source).__name__}", needed))
    check_placed("model", source.dtype, device=device, dtype_asked=dtype)
    check_opened(source, family=family, mask_token_id=mask_token_id, tokenizer=tokenizer)
    return source


@contextlib.contextmanager
def lent(model: Any) -> Iterator[None]:
    """Put a caller's model back as it was at the end: mode of its modules, which weights are trained.

    Args:
        model: a module of MLX; anything else is left alone.
    """
    modules = model.modules() if isinstance(model, nn.Module) else []
    before = [(module, module.training, list(module.trainable_parameters())) for module in modules]
    try:
        yield
    finally:
        # Parents come before their children, and what is set for a parent reaches the children.
        for module, mode, names in before:
            module.train(mode)
            module.freeze(recurse=False)
            module.unfreeze(recurse=False, keys=names)

"""What the front door calls on MLX: open models for decoding, train a drafter."""

from pathlib import Path
from typing import Any

from dspec.backends.examples import drafter_config, init_generator, read_examples
from dspec.backends.mlx.block_diffusion import BlockDiffusionModel
from dspec.backends.mlx.drafter import Drafter
from dspec.backends.mlx.learner import Learner
from dspec.backends.mlx.opening import lent, open_block, open_drafter, open_target
from dspec.backends.mlx.ops import MlxOps
from dspec.backends.mlx.target import Target
from dspec.backends.mlx.train import fit
from dspec.config import TrainConfig
from dspec.core.objectives import Objective
from dspec.io.checkpoints import check_fits, check_output
from dspec.results import TrainResult

__all__ = ["fit", "new_learner", "open_block_model", "open_models", "read_examples", "train"]


def open_models(
    target: Any, drafter: Any, *, device: str, dtype: str, tokenizer: Any = None
) -> tuple[Target, Drafter | None, MlxOps]:
    """Return target, drafter and operations, loaded and found to fit.

    Spec: BD-7, DL-8.

    Args:
        target: hub id, folder, mlx-lm model, or `Target`.
        drafter: hub id, folder, `Drafter`, or None.
        device: "auto" or "mlx".
        dtype: "auto" or a name.
        tokenizer: None: the one beside the target's weights.

    Returns:
        What an `Engine` is made of.

    Raises:
        CheckpointError: a file is malformed, or the drafter does not fit the target.
        ConfigError: a setting contradicts what is loaded already, or there is no target.
    """
    opened = open_target(target, device=device, dtype=dtype, tokenizer=tokenizer)
    if drafter is not None:
        drafter = open_drafter(drafter, opened, device=device, dtype=dtype)
        check_fits(drafter.config, opened.facts)
        drafter.eval()
    return opened, drafter, MlxOps()


def open_block_model(
    source: Any,
    *,
    family: str | None = None,
    mask_token_id: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    tokenizer: Any = None,
) -> tuple[BlockDiffusionModel, MlxOps]:
    """Return a block-diffusion model and operations.

    Spec: SS-1, SS-23.

    Args:
        source: hub id, folder, or `BlockDiffusionModel`.
        family: "sdar", "fast_dllm_v2" or "llada2"; None: as the config says.
        mask_token_id: None: the config's, else that of the family's published models.
        device: "auto" or "mlx".
        dtype: "auto" or a name.
        tokenizer: None: the one beside the weights.

    Returns:
        What a block-diffusion engine is made of.

    Raises:
        CheckpointError: a file is malformed, or asks for what is not built.
        ConfigError: a setting is unknown, or contradicts the config or what is loaded already.
    """
    model = open_block(
        source,
        family=family,
        mask_token_id=mask_token_id,
        device=device,
        dtype=dtype,
        tokenizer=tokenizer,
    )
    return model, MlxOps()


def train(
    target: Any,
    data: Any,
    output: str | Path | None,
    *,
    config: TrainConfig,
    validation: Any,
    device: str,
    quiet: bool,
    tokenizer: Any = None,
) -> TrainResult:
    """Train one drafter; see `dspec.api.train`.

    Args:
        target: hub id, folder, mlx-lm model, or `Target`.
        data: JSONL file.
        output: folder, or None.
        config: of the run.
        validation: JSONL file; None holds examples out of `data`.
        device: "auto" or "mlx".
        quiet: show no progress.
        tokenizer: None: the one beside the target's weights.

    Returns:
        The result.
    """
    # What is cheap to refuse comes before what takes long: settings, target, data, in this order.
    if output is not None:
        check_output(output)
    Objective.parse(config.objective, reduction=config.reduction)
    with lent(target):
        opened = open_target(target, device=device, tokenizer=tokenizer)
        learners = {"drafter": new_learner(opened, config)}
        examples, held = read_examples(opened, data, validation, config, quiet=quiet)
        return fit(opened, learners, examples, config, validation=held, output=output, quiet=quiet)["drafter"]


def new_learner(target: Target, config: TrainConfig) -> Learner:
    """Return a learner with a new drafter for the target, its weights drawn from the seed.

    Spec: RN-5.

    Args:
        target: what the drafter is for.
        config: shape, objective, seed.

    Returns:
        The learner.
    """
    # Masters in float32, whatever the target's dtype: bfloat16 rounds small AdamW steps to nothing.
    drafter = Drafter(drafter_config(target, config)).initialise(init_generator(config.seed))
    return Learner(drafter, target, config)

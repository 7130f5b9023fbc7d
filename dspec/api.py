"""The front door: choose a backend, check the arguments, call. No numerics here."""

from pathlib import Path
from typing import Any

from dspec.backends.registry import open_room
from dspec.block_engine import BlockDiffusion
from dspec.config import TrainConfig
from dspec.engine import Engine
from dspec.errors import ConfigError, explain
from dspec.io.block_family import published_family
from dspec.results import TrainResult


def load(
    target: Any, drafter: Any = None, *, backend: str = "auto", dtype: str = "auto", tokenizer: Any = None
) -> Engine:
    """Return an engine that decodes with a target and, if given, a drafter.

    Spec: BD-7, DL-8.

    Args:
        target: hub id, local folder, or a loaded model (of transformers on PyTorch, of mlx-lm on MLX),
            which is neither moved nor converted, but put into evaluation mode, its weights without
            gradients.
        drafter: hub id or local folder of a DFlash v1 checkpoint, or a loaded drafter; None decodes
            one token a pass.
        backend: "auto", "cuda", "cpu" or "mps" (PyTorch), or "mlx" (Metal on a Mac, the CPU elsewhere).
            "auto" follows a loaded model; else it is MLX on Apple silicon and PyTorch elsewhere.
        dtype: "auto" (the checkpoint's on an accelerator, float32 on a CPU), "float32", "bfloat16"
            or "float16". Quantised weights stay quantised.
        tokenizer: of transformers; None takes the one in the target's folder. A loaded model has none
            of its own: give it here to decode from text.

    Returns:
        The engine.

    Raises:
        CheckpointError: a file is missing or malformed, or the drafter does not fit the target.
        BackendUnavailable: the backend or device is not here, or the target's cache cannot rewind.
        ConfigError: target or drafter is none of these or of another framework than the backend, or
            a setting contradicts a loaded one.

    Example:
        >>> engine = load("Qwen/Qwen3-4B", "z-lab/Qwen3-4B-DFlash-b16")      # doctest: +SKIP
        >>> engine.generate("Q: 2 + 2?", max_new_tokens=16).text             # doctest: +SKIP
    """
    family = published_family(target)
    if family is not None:
        remedy = "Open it with dspec.load_block_diffusion(...): it drafts and verifies by itself."
        needed = "an autoregressive model"
        got = f"a block-diffusion model of the family {family}"
        raise ConfigError(explain(f"target {target}", got, needed, remedy=remedy, clause="SS-23"))
    room, device = open_room(backend, lent=(target, drafter))
    return Engine(*room.open_models(target, drafter, device=device, dtype=dtype, tokenizer=tokenizer))


def load_block_diffusion(
    source: str | Path,
    *,
    family: str | None = None,
    mask_token_id: int | None = None,
    backend: str = "auto",
    dtype: str = "auto",
    tokenizer: Any = None,
) -> BlockDiffusion:
    """Return an engine of a block-diffusion language model, which drafts and verifies by itself.

    Spec: SS-1, SS-23.

    Args:
        source: hub id or local folder: config.json and safetensors under the published names.
        family: "sdar", "fast_dllm_v2" or "llada2"; None: what the config says.
        mask_token_id: None: the config's, else that of the family's published models.
        backend: as for `load`.
        dtype: as for `load`.
        tokenizer: of transformers; None takes the one in the folder.

    Returns:
        The engine: `.generate`, `.stream`, `.logits`.

    Raises:
        CheckpointError: a file is missing or malformed, or asks for what is not built.
        ConfigError: an unknown family, or another one than the config's; no mask token.
        BackendUnavailable: the backend or device is not here.

    Example:
        >>> lm = load_block_diffusion("JetLM/SDAR-1.7B-Chat")                # doctest: +SKIP
        >>> lm.generate("Q: 2 + 2?", max_new_tokens=16).text                 # doctest: +SKIP
    """
    room, device = open_room(backend)
    options = {"mask_token_id": mask_token_id, "device": device, "dtype": dtype, "tokenizer": tokenizer}
    return BlockDiffusion(*room.open_block_model(source, family=family, **options))


def train(
    target: Any,
    data: Any,
    output: str | Path | None = None,
    *,
    config: TrainConfig | str | Path | None = None,
    validation: Any = None,
    quiet: bool = False,
    tokenizer: Any = None,
    **settings: Any,
) -> TrainResult:
    """Train a drafter for a target and save it as a DFlash v1 checkpoint.

    Spec: BD-1..BD-8, OB-1..OB-21, RN-5.

    Args:
        target: hub id, local folder, or a loaded model of transformers or mlx-lm. Its weights are not
            changed; it is in evaluation mode, without gradients, while this runs, and put back as it
            was after.
        data: JSONL file (or .jsonl.gz) of {"text"}, {"prompt", "response"}, {"messages"} or
            {"tokens"} records.
        output: folder for the drafter, its checkpoints and metrics.jsonl; None keeps it in memory.
        config: a `TrainConfig` or a TOML file; the settings beside it win.
        validation: a file like `data`; None holds records out of `data`.
        quiet: show no progress, and not what became of the records.
        tokenizer: of transformers; None takes the one in the target's folder. A loaded model has none
            of its own: give it here to train on text.
        **settings: any field of `TrainConfig`.

    Returns:
        The trained drafter, the history of the run and its last metrics.

    Raises:
        ConfigError: a setting is unknown, out of range, or does not fit the target.
        DataError: a record cannot be used; the message names file and line.
        CheckpointError: `output` holds a run of other settings, data or another target, or another
            model; it cannot be written; or the target cannot be read.

    Example:
        >>> train("Qwen/Qwen3-4B", "chat.jsonl", "drafter/", objective="ltr")    # doctest: +SKIP
    """
    config = _config(config).replace(**settings)
    room, device = open_room(config.backend, lent=(target,))
    options = {"validation": validation, "device": device, "quiet": quiet, "tokenizer": tokenizer}
    return room.train(target, data, output, config=config, **options)


def _config(config: TrainConfig | str | Path | None) -> TrainConfig:
    if config is None or isinstance(config, TrainConfig):
        return config or TrainConfig()
    return TrainConfig.from_toml(config)


def check_exactness(subject: Any, *, level: str = "smoke", seed: int = 0) -> Any:
    """Check that what is emitted has the target's law.

    For a backend's array operations: the accept rules on its arrays (exact on dyadic laws, at the
    boundaries, coupled with the float64 reference), its drafts, and whole requests on table models whose
    laws are known. For an engine: the rules of its backend, then its own sessions and outputs. For a
    verifier function or an adapter: what can be seen of it.

    Spec: RS-1..RS-18, RS-20.

    Args:
        subject: an `Engine`; a backend's `ArrayOps`; a function (target_probs, draft_tokens, draft_probs,
            accept_u, close_u) -> (tokens, n_accepted) on numpy arrays (`checks.lattice.Verify`);
            or an adapter made by `dspec.testing.adapters`.
        level: "smoke", "full" or "nightly".
        seed: of everything random; another one confirms a failure that may be chance.

    Returns:
        A `dspec.testing.report.Report`: `.passed`, `.parts`, `.to_json()`, and a text a person can read.

    Raises:
        ConfigError: the level is not known, or the subject is none of these.

    Example:
        >>> def first_tokens(target, drafts, laws, accept, close):
        ...     return drafts, 0 * drafts[:, 0]
        >>> check_exactness(first_tokens).passed
        False
    """
    # The kit stays out of the import path of plain decoding.
    from dspec.testing.run import check_subject

    return check_subject(subject, level=level, seed=seed)

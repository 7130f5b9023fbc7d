"""Drafter checkpoints in the published DFlash v1 format: config.json and model.safetensors."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from dspec.config import DrafterConfig, TargetFacts
from dspec.errors import CheckpointError, explain
from dspec.io.drafter_json import config_from_json, config_json
from dspec.io.folders import atomic_folder, disk_errors, recover
from dspec.io.steps import StepFolder, clear_steps, newest_valid, step_folders, write_step
from dspec.io.strict_json import read_object
from dspec.io.tensors import check_tensors, read_header, tensor_shapes, write_tensors

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "StepFolder",
    "atomic_folder",
    "check_fits",
    "check_output",
    "check_tensors",
    "clear_steps",
    "config_json",
    "disk_errors",
    "newest_valid",
    "read_config",
    "read_header",
    "step_folders",
    "tensor_shapes",
    "weights_file",
    "write_checkpoint",
    "write_step",
    "write_tensors",
]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
# A folder with such a file and no drafter's config is somebody's model.
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf")


def read_config(folder: str | Path) -> DrafterConfig:
    """Return the config of the drafter in a folder.

    Spec: BD-7.

    Args:
        folder: holds config.json.

    Raises:
        CheckpointError: no folder, no or malformed config.json, or one that is not DFlash v1.
    """
    folder = Path(folder)
    recover(folder)
    if not folder.is_dir():
        raise CheckpointError(explain(str(folder), "no folder", "a folder with a drafter's checkpoint"))
    path = folder / CONFIG
    return config_from_json(read_object(path), where=str(path))


def weights_file(folder: str | Path, config: DrafterConfig) -> Path:
    """Return the weights file of a drafter after checking its header against the config.

    Spec: BD-7.

    Raises:
        CheckpointError: no model.safetensors (another format is named, and refused), or a header that
            is malformed or does not fit the config.
    """
    folder = Path(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        found, remedy = f"no {WEIGHTS}", ""
        if (folder / f"{WEIGHTS}.index.json").exists():
            found = "a checkpoint in several files"
            remedy = f"Save it as one {WEIGHTS}; drafters are small."
        elif any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
            found = "weights in a pickle only"
            remedy = "dspec never unpickles: convert them to safetensors where you trust them."
        raise CheckpointError(explain(str(folder), found, WEIGHTS, remedy=remedy, clause="BD-7"))
    check_tensors(path, config)
    return path


def write_checkpoint(
    folder: str | Path, config: DrafterConfig, write_weights: Callable[[Path], None]
) -> None:
    """Write config.json and model.safetensors into a folder, both or none.

    Spec: BD-7.

    Args:
        folder: made if absent; other files in it stay.
        config: of the drafter.
        write_weights: writes the safetensors file at the path it is given.

    Raises:
        CheckpointError: the folder holds another model, what was written does not fit the config, or
            the disk refused; the folder is as it was.
    """
    check_output(folder)
    with atomic_folder(folder) as partial:
        text = json.dumps(config_json(config), indent=2, sort_keys=True)
        (partial / CONFIG).write_text(text + "\n", encoding="utf-8")
        write_weights(partial / WEIGHTS)
        check_tensors(partial / WEIGHTS, config)


def check_output(folder: str | Path) -> None:
    """Check that a drafter may be written into a folder: absent, without a model, or a drafter's.

    Args:
        folder: where a run is to leave its drafter; it need not exist.

    Raises:
        CheckpointError: a file stands there or above, it cannot be written, or it holds a model that
            is no DFlash v1 drafter, which a drafter must not replace.
    """
    place = Path(folder).resolve()
    with disk_errors(place):
        standing = next(path for path in (place, *place.parents) if path.exists())
        if not standing.is_dir():
            raise CheckpointError(explain("output", f"{folder}, and {standing} is a file", "a folder"))
        if not os.access(standing, os.W_OK | os.X_OK):
            raise CheckpointError(explain("output", f"{standing}, which may not be written", "a folder"))
        recover(place)
        found = _foreign(place) if place.is_dir() else ""
    if found:
        got = f"{folder}, a folder that holds another model ({found})"
        remedy = "Name another folder; nothing was changed."
        raise CheckpointError(explain("output", got, "an empty folder or a drafter's", remedy=remedy))


def _foreign(folder: Path) -> str:
    """Return why the model in a folder is not a drafter that dspec wrote or reads, or ""."""
    if (folder / CONFIG).exists():
        try:
            read_config(folder)
        except CheckpointError:
            return f"its {CONFIG} is not a DFlash v1 drafter's"
        return ""
    weights = sorted(path.name for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES)
    return f"{weights[0]} without a drafter's {CONFIG}" if weights else ""


def check_fits(config: DrafterConfig, facts: TargetFacts, *, where: str = "drafter") -> None:
    """Check that a drafter was made for a target; one error lists all that differs.

    Spec: BD-5, BD-7.

    Args:
        config: of the drafter.
        facts: of the target.
        where: the drafter's folder, for the error.

    Raises:
        CheckpointError: names field, found, needed.
    """
    layers = facts.num_layers
    checks = (
        ("hidden_size", config.hidden_size, facts.hidden_size, config.hidden_size == facts.hidden_size),
        ("vocab_size", config.vocab_size, facts.vocab_size, config.vocab_size == facts.vocab_size),
        ("num_target_layers", config.num_target_layers, layers, config.num_target_layers == layers),
        (
            "target_layer_ids",
            list(config.target_layer_ids),
            f"< {layers}",
            max(config.target_layer_ids) < layers,
        ),
        (
            "mask_token_id",
            config.mask_token_id,
            f"< {facts.vocab_size}",
            config.mask_token_id < facts.vocab_size,
        ),
    )
    wrong = [f"{name}: got {found}, needs {needed}" for name, found, needed, ok in checks if not ok]
    if wrong:
        needed = f"a drafter made for the target {facts.name}"
        raise CheckpointError(explain(where, "; ".join(wrong), needed, clause="BD-7"))

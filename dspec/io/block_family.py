"""Whether a folder holds a block-diffusion model, told from its config alone."""

from pathlib import Path
from typing import Any

from dspec.errors import CheckpointError
from dspec.io.block_json import CONFIG, MODEL_TYPES
from dspec.io.strict_json import read_object


def published_family(source: Any) -> str | None:
    """Return the family whose own model type stands in a local folder's config.json.

    Spec: SS-23.

    Args:
        source: what a caller named as a model; a hub id or a loaded model tells nothing.

    Returns:
        The family, or None: another model, no folder, or no readable config.

    Example:
        >>> published_family("nowhere") is None
        True
    """
    if not isinstance(source, (str, Path)) or not (Path(source) / CONFIG).is_file():
        return None
    try:
        found = read_object(Path(source) / CONFIG).get("model_type")
    except CheckpointError:
        return None  # whoever opens it says what is wrong
    return next((family for family, types in MODEL_TYPES.items() if found == types[0]), None)

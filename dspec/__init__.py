"""dspec: train block-diffusion drafters to speculate left to right, and decode with them exactly.

`import dspec` loads neither torch nor mlx; a backend is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dspec import decoders

if TYPE_CHECKING:
    from dspec.api import check_exactness, load, load_block_diffusion, train
    from dspec.block_engine import BlockDiffusion
    from dspec.core.objectives import Objective
    from dspec.core.types import Sampling
    from dspec.engine import Engine

__version__ = "0.1.0"
__all__ = [
    "BlockDiffusion",
    "Engine",
    "Objective",
    "Sampling",
    "__version__",
    "check_exactness",
    "decoders",
    "load",
    "load_block_diffusion",
    "train",
]

_HOMES = {
    "check_exactness": "dspec.api",
    "load": "dspec.api",
    "load_block_diffusion": "dspec.api",
    "train": "dspec.api",
    "BlockDiffusion": "dspec.block_engine",
    "Engine": "dspec.engine",
    "Objective": "dspec.core.objectives",
    "Sampling": "dspec.core.types",
}


def __getattr__(name: str) -> Any:
    """Load a public name's home on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'dspec' has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""What a figure was measured on: machine and versions, for reports."""

import os
import platform
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dspec.backends.registry import open_room

PACKAGES = ("dspec", "torch", "mlx", "mlx-lm", "transformers", "tokenizers", "numpy", "safetensors")


def describe_machine() -> dict[str, Any]:
    """Return processor, usable cores and system; nothing that identifies a person or a host."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def describe_device(target: Any, *, backend: str) -> str:
    """Return the device that a target runs on, in words.

    Args:
        target: an opened target, as `Engine.target` is.
        backend: that opened it.

    Returns:
        Such as "cpu", "cuda: NVIDIA H100 80GB HBM3", "mlx on Metal: Apple M3 Max".
    """
    room, _ = open_room(backend)
    return str(import_module(f"{room.__package__}.hardware").describe_device(target))


def describe_versions() -> dict[str, str | None]:
    """Return the version of each package that figures depend on; None where it is not installed."""
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """Return the processor's name; Linux tells only in /proc/cpuinfo."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.lower().startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()

"""The examples in docstrings run: those of every module that needs neither torch nor mlx."""

import doctest
import importlib
import pkgutil

import pytest

import dspec

ROOMS = ("core", "oracle")
SINGLE = ("block_config", "errors", "rng", "config")
WITHOUT = {
    "dspec.core.decode": "needs a target and a drafter session",
    "dspec.core.cut_pass": "needs a target and a drafter session",
    "dspec.core.tree_decode": "needs a target and a drafter session",
    "dspec.core.denoising": "needs a session of a block-diffusion model",
    "dspec.core.self_speculation": "needs a session of a block-diffusion model",
}


def modules():
    """Names of the modules of the numeric rooms, and of the single files beside them."""
    found = [f"dspec.{m.name}" for m in pkgutil.iter_modules(dspec.__path__) if m.name in SINGLE]
    for room in ROOMS:
        package = importlib.import_module(f"dspec.{room}")
        found += [f"dspec.{room}.{m.name}" for m in pkgutil.iter_modules(package.__path__)]
    return found


@pytest.mark.parametrize("name", modules())
def test_examples_of_docstrings_hold(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0 or name in WITHOUT, f"{name}: no example"
    assert result.failed == 0, f"{name}: {result.failed} of {result.attempted} examples fail"

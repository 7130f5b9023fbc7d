"""The examples in the docstrings of the backends run: both rooms, and what they share."""

import doctest
import importlib
import pkgutil

import pytest

import dspec.backends
from tests.rooms import ROOMS


def modules():
    """Parameters: the modules that the rooms share, then those of each room, marked `mlx` where MLX runs."""
    yield from (f"dspec.backends.{m.name}" for m in pkgutil.iter_modules(dspec.backends.__path__))
    for room in ROOMS.values():
        names = pkgutil.iter_modules([f"{dspec.backends.__path__[0]}/{room.name}"])
        marks = [pytest.mark.mlx] if room.name == "mlx" else []
        marks += [] if room.installed else [pytest.mark.skip(f"{room.name} is not installed")]
        yield from (pytest.param(f"dspec.backends.{room.name}.{m.name}", marks=marks) for m in names)


@pytest.mark.parametrize("name", list(modules()))
def test_examples_of_docstrings_hold(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0, f"{name}: {result.failed} of {result.attempted} examples fail"

"""The examples in the docstrings of the torch room run."""

import doctest
import importlib
import pkgutil

import pytest

import dspec.backends.torch as room


@pytest.mark.parametrize("name", [m.name for m in pkgutil.iter_modules(room.__path__)])
def test_examples_of_docstrings_hold(name):
    result = doctest.testmod(importlib.import_module(f"{room.__name__}.{name}"))
    assert result.failed == 0, f"{name}: {result.failed} of {result.attempted} examples fail"

"""Fixtures that every test shares: the array namespaces that core must run on, and the rooms."""

import os

# Before MLX is imported: on a CPU it compiles kernels with g++ (1-2 s each), and workers would race for
# the files. tests/test_mlx_compile.py compiles, in a process of its own.
os.environ.setdefault("MLX_DISABLE_COMPILE", "1")

import array_api_compat.numpy
import array_api_strict
import pytest

from tests.rooms import ROOMS

NAMESPACES = {"numpy": array_api_compat.numpy, "strict": array_api_strict}
NAMESPACES |= {name: room.xp for name, room in ROOMS.items() if room.installed}
# The limits of MLX and of compiled code: no reads by mask, no shape that depends on values.
array_api_strict.set_array_api_strict_flags(boolean_indexing=False, data_dependent_shapes=False)


def pytest_addoption(parser):
    parser.addoption(
        "--forbid-skips", action="store_true", help="a skipped test is a failure: what is asked for must run"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.skipped and item.config.getoption("--forbid-skips") and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"skipped, which --forbid-skips forbids: {report.longrepr}"
    return report


def _of_rooms(names):
    """Parameters, marked `mlx` where MLX runs, so that `-m mlx` chooses them."""
    return [pytest.param(name, marks=[pytest.mark.mlx] if name == "mlx" else []) for name in names]


@pytest.fixture(params=_of_rooms(["numpy", "strict", *ROOMS]))
def xp(request):
    """One array namespace after another."""
    if request.param not in NAMESPACES:
        pytest.skip(f"{request.param} is not installed")
    return NAMESPACES[request.param]


@pytest.fixture(scope="session", params=_of_rooms(ROOMS))
def room(request):
    """One backend's room after another."""
    found = ROOMS[request.param]
    if not found.installed:
        pytest.skip(f"{request.param} is not installed")
    return found

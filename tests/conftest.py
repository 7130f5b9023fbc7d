"""Fixtures that every test shares: the array namespaces that core must run on, and the rooms."""

import os
import sys

# Before MLX is imported: on a CPU it compiles kernels with g++ (1-2 s each), and workers would race for
# the files. tests/test_mlx_compile.py compiles, in a process of its own. Metal compiles, as users' runs do.
if sys.platform != "darwin":
    os.environ.setdefault("MLX_DISABLE_COMPILE", "1")

import pytest

from tests.namespaces import NAMESPACES
from tests.rooms import ROOMS, of_rooms


def pytest_addoption(parser):
    parser.addoption(
        "--forbid-skips", action="store_true", help="a skipped test is a failure: what is asked for must run"
    )
    as_metal = "MLX takes the branches of Metal on the CPU: stored dtypes, bfloat16 training, no float64"
    parser.addoption("--as-on-metal", action="store_true", help=as_metal)


def pytest_configure(config):
    if config.getoption("--as-on-metal"):
        from dspec.backends.mlx import ops

        ops.on_metal = lambda: True  # before anything imports it by name


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.skipped and item.config.getoption("--forbid-skips") and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = (
            "failed",
            f"skipped, which --forbid-skips forbids: {report.longrepr}",
        )
    return report


@pytest.fixture(params=of_rooms(["numpy", "strict", *ROOMS]))
def xp(request):
    """One array namespace after another."""
    if request.param not in NAMESPACES:
        pytest.skip(f"{request.param} is not installed")
    return NAMESPACES[request.param]


@pytest.fixture(scope="session", params=of_rooms(ROOMS))
def room(request):
    """One backend's room after another."""
    found = ROOMS[request.param]
    if not found.installed:
        pytest.skip(f"{request.param} is not installed")
    return found

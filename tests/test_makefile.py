"""What `make test-metal` and `make test-isolated` would run, and that the former refuses other machines."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def make(*words):
    return subprocess.run(["make", "--no-print-directory", *words], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize("system", ["Linux x86_64", "Darwin x86_64"])
def test_without_metal_it_refuses_in_one_line_and_builds_nothing(system):
    done = make("test-metal", f"SYSTEM={system}", "PYTHON=false", "VENV=nowhere")
    assert done.returncode != 0
    assert done.stdout == f"make test-metal needs a Mac with Apple silicon and Metal; this is {system}.\n"


def test_on_a_mac_it_forbids_skips_and_compiles():
    planned = make("-n", "test-metal", "SYSTEM=Darwin arm64").stdout
    (tests,) = [line for line in planned.splitlines() if "pytest" in line]
    assert "-m mlx --forbid-skips" in tests and "MLX_ENABLE_TF32=0" in tests
    assert "MLX_DISABLE_COMPILE" not in planned
    assert "dspec demo --quick --backend mlx" in planned.splitlines()[-1]


@pytest.mark.parametrize(("backend", "extra"), [("cpu", "torch"), ("mlx", "mlx")])
def test_each_environment_gets_one_framework_and_the_installed_package(backend, extra):
    planned = make("-n", f"isolated-{backend}").stdout
    assert f"-c constraints.txt '.[{extra}]'\n" in planned, "not editable, and no other extra"
    # -P: no checkout on the module path, so that the installed files are what runs.
    assert f"{backend}/bin/python -P ../tests/isolation.py {backend}" in planned

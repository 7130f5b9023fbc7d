"""Dependencies point one way, nothing unpickles or evaluates, and `import dspec` loads no framework."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(p for p in (ROOT / "dspec").rglob("*.py"))
HOST = {"numpy", "array_api_compat", "rich", "dspec.core", "dspec.config"}
# What a training run needs whatever the framework: blocks on the host, figures, files, displays.
RUN = ("acceptance", "interrupt", "progress", "results", "schedule", "supervision")
# What the rooms share; the rooms themselves never import each other.
SHARED = ("examples", "extent", "foreign", "hub", "judge", "layer_ids", "learner", "model_config")
SHARED += (
    "batch_checks",
    "batch_groups",
    "batch_judge",
    "block_checks",
    "block_pass",
    "draft_arrays",
    "table_batch",
)
SHARED += ("draft_window",)
SHARED += (
    "override",
    "tree_judge",
    "protocol",
    "run_state",
    "sampled_judge",
    "session_checks",
    "target_digest",
    "tokenizer",
    "training",
    "tree_nodes",
)
SHARED += ("ledger", "whole_batch", "written")
BACKEND = {"numpy", "dspec.core", "dspec.io", "dspec.config", "dspec.rng", *(f"dspec.{name}" for name in RUN)}
BACKEND |= {"dspec.block_config"}
BACKEND |= {f"dspec.backends.{name}" for name in SHARED}
# room -> what it may import beside the standard library, itself and dspec.errors. The longest room counts.
ROOMS = {
    "dspec.errors": set(),
    "dspec.rules": set(),
    "dspec.block_config": {"dspec.rules"},
    "dspec.config": {"dspec.rules", "dspec.core.blocks"},
    "dspec.rng": {"numpy"},
    "dspec.oracle": {"numpy"},
    "dspec.core": {"dspec.config"},
    "dspec.io": {"numpy", "safetensors", "dspec.config", "dspec.rng", "dspec.core.types"}
    | {"dspec.block_config", "dspec.rules"},
    "dspec.backends": BACKEND,
    "dspec.backends.block_judge": {"array_api_compat", *BACKEND},
    "dspec.backends.model_config": {"transformers", *BACKEND},
    "dspec.backends.tokenizer": {"transformers", *BACKEND},
    "dspec.backends.hub": {"huggingface_hub", *BACKEND},
    "dspec.backends.run_state": {"safetensors", *BACKEND},
    "dspec.backends.training": {"array_api_compat", *BACKEND},
    "dspec.backends.written": {"array_api_compat", *BACKEND},
    "dspec.backends.numpy": {"array_api_compat", *BACKEND},
    "dspec.backends.torch": {"safetensors", "torch", "transformers", "huggingface_hub", "array_api_compat"}
    | BACKEND,
    "dspec.backends.torch.cuda": {"torch", "array_api_compat", "triton", "dspec.backends.torch.workspace"}
    | BACKEND,
    "dspec.backends.mlx": {"safetensors", "mlx", "mlx_lm", "huggingface_hub", *BACKEND},
    **{f"dspec.{name}": HOST for name in RUN},
}
# Only these may reach for the public kit, and only inside a function.
KIT_USERS = ("dspec.api", "dspec.cli", "dspec.cli_check", "dspec.demo", "dspec.evaluation", "dspec.testing")
FRAMEWORKS = {"torch", "mlx", "mlx_lm", "transformers"}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(name, room):
    return name == room or name.startswith(room + ".")


def imports(tree, module, is_package):
    """(imported module, line, whether at the top level) of every import statement."""
    top = {id(node) for node in _outside_functions(tree)}
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            known = {module_name(path) for path in FILES}
            names = [f"{base}.{a.name}" if f"{base}.{a.name}" in known else base for a in node.names]
        else:
            continue
        for name in names:
            yield name, node.lineno, id(node) in top


def _outside_functions(node):
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from _outside_functions(child)


def import_faults(source, module, *, is_package=False):
    """What a file of that name must not import, as texts."""
    room = max((r for r in ROOMS if within(module, r)), key=len, default=None)
    faults = []
    for name, line, top in imports(ast.parse(source), module, is_package):
        first = name.split(".")[0]
        outside_kit = within(name, "dspec.testing") and not within(module, "dspec.testing")
        if outside_kit and (top or not any(within(module, user) for user in KIT_USERS)):
            faults.append(f"{module}:{line} imports {name}")
        if room is None and first in FRAMEWORKS and (top or not within(module, "dspec.testing")):
            faults.append(f"{module}:{line} imports {name}")
        if room is None or first in sys.stdlib_module_names or within(name, "dspec.errors"):
            continue
        if not any(within(name, ok) for ok in [room, *ROOMS[room]]):
            faults.append(f"{module}:{line} imports {name}")
    return faults


def danger_faults(source, module):
    """Calls and imports that could run what a file of data says, as texts."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        found = None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found = node.func.id if node.func.id in ("eval", "exec", "compile", "__import__") else None
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            pair = (node.value.id, node.attr)
            found = found or (".".join(pair) if pair in (("torch", "load"), ("mx", "load_pickle")) else None)
        if isinstance(node, ast.ImportFrom) and node.module == "torch":
            found = found or ("torch.load" if any(a.name == "load" for a in node.names) else None)
        if isinstance(node, ast.keyword):
            unsafe = {"trust_remote_code": False, "allow_pickle": False, "weights_only": True}
            safe = unsafe.get(node.arg)
            wrong = not (isinstance(node.value, ast.Constant) and node.value.value is safe)
            found = node.arg if node.arg in unsafe and wrong else found
        if found:
            faults.append(f"{module}:{getattr(node, 'lineno', 0)} uses {found}")
    bad = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for name, line, _ in imports(ast.parse(source), module, False):
        if name.split(".")[0] in bad:
            faults.append(f"{module}:{line} imports {name}")
    return faults


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_dependencies_point_one_way(path):
    faults = import_faults(path.read_text(), module_name(path), is_package=path.name == "__init__.py")
    assert not faults, faults


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_nothing_unpickles_evaluates_or_runs_remote_code(path):
    assert not danger_faults(path.read_text(), module_name(path))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("dspec.core.x", "import numpy"),
        ("dspec.core.x", "from dspec.oracle import y"),
        ("dspec.core.x", "def f():\n    import torch"),
        ("dspec.oracle.x", "from dspec.core.types import Array"),
        ("dspec.oracle.x", "from ..core import types"),
        ("dspec.rng", "import torch"),
        ("dspec.io.x", "import torch"),
        ("dspec.io.x", "from dspec.core.warp import warp"),
        ("dspec.io.x", "from dspec.backends import protocol"),
        ("dspec.backends.torch.x", "import mlx.core"),
        ("dspec.backends.mlx.x", "import dspec.backends.torch.ops"),
        ("dspec.backends.torch.x", "from dspec.backends.mlx import ops"),
        ("dspec.backends.torch.x", "import triton"),
        ("dspec.backends.torch.cuda.x", "from dspec.backends.torch import learner"),
        ("dspec.backends.mlx.x", "import torch"),
        ("dspec.backends.mlx.x", "import transformers"),
        ("dspec.backends.torch.x", "import mlx.core"),
        ("dspec.backends.training", "import torch"),
        ("dspec.backends.training", "from dspec.backends.mlx.ops import MlxOps"),
        ("dspec.backends.whole_batch", "import mlx.core"),
        ("dspec.backends.numpy", "import torch"),
        ("dspec.supervision", "import torch"),
        ("dspec.supervision", "from dspec.io.data import Batch"),
        ("dspec.engine", "def f():\n    import torch"),
        ("dspec.api", "from dspec.testing import checks"),
        ("dspec.engine", "def f():\n    from dspec.testing import checks"),
    ],
)
def test_the_import_check_sees(module, source):
    assert import_faults(source, module)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "exec(x)",
        "torch.load(p)",
        "from torch import load",
        "f(trust_remote_code=True)",
        "f(trust_remote_code=user)",
        "np.load(p, allow_pickle=True)",
        "f(weights_only=False)",
    ],
)
def test_the_danger_check_sees(source):
    assert danger_faults(source, "dspec.x")
    assert not danger_faults("model.eval()\nf(trust_remote_code=False)\nre.compile('a')", "dspec.x")


@pytest.mark.parametrize(
    "module",
    [
        "dspec",
        "dspec.config",
        "dspec.io.checkpoints",
        "dspec.io.data",
        "dspec.cli",
        "dspec.backends.registry",
    ],
)
def test_importing_loads_no_framework(module):
    code = f"import sys, {module}; print(*sorted({FRAMEWORKS!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == ""


@pytest.mark.mlx
def test_array_operations_need_their_framework_only():
    """`dspec check --backend mlx` needs no model code, and no torch."""
    code = "import sys; from dspec.backends.registry import open_ops; open_ops('mlx')"
    code += f"; print(*sorted({FRAMEWORKS!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "mlx"

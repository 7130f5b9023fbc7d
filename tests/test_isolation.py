"""Each backend works where the other framework cannot be found: load, decode, train, decode again."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden" / "dflash_tiny"
HIDDEN = {"cpu": ("mlx", "mlx_lm"), "mlx": ("torch",)}

# Run in a process of its own: hides packages from the import system, then goes through the front door.
PATH = """
import importlib.machinery, importlib.util, json, sys
backend, golden, folder, *hidden = sys.argv[1:]
inner = importlib.machinery.PathFinder.find_spec

def find_spec(name, path=None, target=None):
    return None if name.split(".")[0] in hidden else inner(name, path, target)

importlib.machinery.PathFinder.find_spec = find_spec
assert all(importlib.util.find_spec(name) is None for name in hidden)

import dspec
engine = dspec.load(golden + "/target", golden + "/drafter", backend=backend)
prompt = [101, 101, 100, 105]
drafted = engine.generate(prompt, max_new_tokens=12)
alone = dspec.load(golden + "/target", backend="auto").generate(prompt, max_new_tokens=12)
assert drafted.tokens == alone.tokens, "drafts changed greedy output"
assert sum(drafted.stats.n_accepted) > 0, "no draft was accepted: nothing was tested"

data = folder + "/data.jsonl"
open(data, "w").write("\\n".join(json.dumps({"tokens": [i % 7 + 60 for i in range(24)]}) for _ in range(4)))
small = dict(steps=2, block_size=4, layers=1, batch_size=2, seq_len=24, anchors=2, mask_token_id=299)
where = dict(backend=backend, quiet=True)
trained = dspec.train(golden + "/target", data, folder + "/out", **where, **small)
again = dspec.load(golden + "/target", folder + "/out", backend=backend)
assert again.generate(prompt, max_new_tokens=12).tokens == alone.tokens

lm = dspec.load_block_diffusion(golden + "/../fastdllm2_tiny/model", mask_token_id=299, backend=backend)
plain = lm.generate(prompt, max_new_tokens=12, decoder=dspec.decoders.Autoregressive())
assert lm.generate(prompt, max_new_tokens=12).tokens == plain.tokens
print(json.dumps({"step": trained.metrics["step"], "loaded": sorted(set(hidden) & set(sys.modules))}))
"""


def run_without(backend, folder, code=PATH):
    words = [sys.executable, "-c", code, backend, str(GOLDEN), str(folder), *HIDDEN[backend]]
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize("backend", [pytest.param(b, marks=[pytest.mark.mlx] * (b == "mlx")) for b in HIDDEN])
def test_the_whole_path_needs_no_other_framework(backend, tmp_path):
    done = run_without(backend, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == '{"step": 2, "loaded": []}'
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize(("backend", "package"), [("mlx", "mlx_lm"), ("cpu", "torch")])
def test_a_framework_that_is_not_there_is_named_with_what_to_install(backend, package, tmp_path):
    other = "cpu" if backend == "mlx" else "mlx"
    code = PATH.split("import dspec\n")[0] + f"import dspec; dspec.load('x', backend={backend!r})"
    done = run_without(other, tmp_path, code)
    room = "mlx" if backend == "mlx" else "torch"
    last = done.stderr.strip().splitlines()[-1]
    assert f"BackendUnavailable: backend={backend!r}: got no package {package!r}" in last
    assert f"pip install 'dspec[{room}]'" in last

"""The whole path on one framework where the other is not installed: load, decode, train, check, demo.

    python tests/isolation.py mlx      # in an environment without torch
    python tests/isolation.py cpu      # in an environment without MLX

`make test-isolated` makes both environments and runs it in each. It imports nothing of the tests, so
that the installed package is what runs: call it by its path, and no checkout is on the module path.
"""

import importlib.util
import json
import sys
import tempfile
from pathlib import Path

OTHER = {"cpu": ("mlx", "mlx_lm"), "mlx": ("torch",)}
PROMPT = "Q: 12 * 7 = ?"


def refuse_other(backend):
    """Stop here if the other framework is installed: nothing would be shown."""
    there = [name for name in OTHER[backend] if importlib.util.find_spec(name) is not None]
    assert not there, f"{there} installed: this shows nothing"


def run(*words):
    """One call of the command line, which must succeed."""
    from dspec import cli

    print("$ dspec", *words, flush=True)
    status = cli.run([str(word) for word in words])
    assert status == 0, f"dspec {words[0]} returned {status}"


def train_and_decode(backend, folder):
    """Train two steps, save, load, decode: with the drafter the tokens are the target's own."""
    import dspec
    from dspec.demo.settings import TRAIN, shipped_target

    small = {"block_size": 4, "layers": 1, "seq_len": 64, "batch_size": 2, "anchors": 4}
    result = dspec.train(shipped_target(), TRAIN, folder, backend=backend, steps=2, quiet=True, **small)
    assert result.metrics["finished"] and result.metrics["loss"] > 0
    engine = dspec.load(shipped_target(), folder, backend=backend)
    ask = {"max_new_tokens": 12, "ignore_eos": True}
    out = engine.generate(PROMPT, **ask)
    alone = dspec.load(shipped_target(), backend=backend).generate(PROMPT, **ask)
    assert out.tokens == alone.tokens and len(out.tokens) == 12, "drafts changed greedy output"
    assert engine.generate(PROMPT, **ask, temperature=1.0, seed=1).text != out.text


def self_speculate(backend):
    """Decode with both shipped block-diffusion models: exact rounds write what block size one writes."""
    import dspec

    shipped = Path(dspec.__file__).parent / "demo" / "block_diffusion"
    for name in ("aligned", "shifted"):
        lm = dspec.load_block_diffusion(shipped / name, backend=backend)
        ask = {"max_new_tokens": 12, "ignore_eos": True}
        plain = lm.generate(PROMPT, decoder=dspec.decoders.Autoregressive(), **ask)
        ours = lm.generate(PROMPT, **ask)
        assert ours.tokens == plain.tokens and len(ours.tokens) == 12, "drafts changed greedy output"
        assert ours.stats.forward_passes < plain.stats.forward_passes
        assert lm.generate(PROMPT, decoder=dspec.decoders.Diffusion(), **ask).text


def main(backend):
    """Run everything; say what ran."""
    refuse_other(backend)
    with tempfile.TemporaryDirectory() as place:
        folder, report = Path(place, "drafter"), Path(place, "demo")
        train_and_decode(backend, folder)
        self_speculate(backend)
        from dspec.demo.run import run_demo
        from dspec.demo.settings import shipped_target

        target = str(shipped_target())
        run("generate", target, "--drafter", folder, "--prompt", PROMPT, "--max-new-tokens", 12)
        run("check", "--backend", f"numpy,{backend}")
        # `dspec demo --quick` with 6 steps in place of 30: MLX's CPU build multiplies slowly.
        run_demo(backend=backend, output=report, quick=True, steps=6)
        found = json.loads((report / "report.json").read_text(encoding="utf-8"))
        assert found["greedy"]["equal"] == found["greedy"]["comparisons"] > 0
        assert found["sampled"]["passed"]
    roots = {name.split(".")[0] for name in sys.modules}
    assert not roots & set(OTHER[backend]), "the other framework was loaded"
    parts = "load, generate, train, self-speculation, check and demo"
    print(f"\n{backend}: {parts} ran without {' and '.join(OTHER[backend])}.")


if __name__ == "__main__":
    main(*sys.argv[1:])

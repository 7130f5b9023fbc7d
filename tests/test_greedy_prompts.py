"""Greedy speculative output against transformers' own greedy, on the shipped target and real prompts."""

from dataclasses import replace
from importlib.resources import files

import pytest
import torch

import dspec
from dspec.evaluation.suites import load_suite

DEMO = files("dspec") / "demo"
PROMPTS = {"gsm8k": 17, "humaneval": 17, "mt_bench": 16}
NEW_TOKENS = 48


@pytest.fixture(scope="module")
def engine():
    """The shipped target with a drafter that had a few seconds of training: some drafts stand."""
    target = dspec.load(str(DEMO / "target"), backend="cpu")
    settings = {"block_size": 8, "layers": 2, "seq_len": 128, "batch_size": 4, "anchors": 24, "lr": 3e-3}
    data = str(DEMO / "data" / "train.jsonl.gz")
    result = dspec.train(
        target.target, data, backend="cpu", steps=60, validate_every=0, quiet=True, **settings
    )
    return replace(target, drafter=result.drafter)


def own_greedy(engine, ids):
    """What transformers' generate gives, without its caches or code paths being ours."""
    model = engine.target.model
    with torch.inference_mode():
        out = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=sorted(engine.target.eos_ids),
        )
    return out[0, len(ids) :].tolist()


@pytest.mark.slow
@pytest.mark.clause("DL-7")
@pytest.mark.clause("RS-11")
def test_greedy_output_is_the_targets_own_on_50_held_out_prompts(engine):
    prompts = [p for name, count in PROMPTS.items() for p in load_suite(name, limit=count).prompts]
    assert len(prompts) == 50
    outs = engine.generate(prompts, max_new_tokens=NEW_TOKENS)
    for prompt, out in zip(prompts, outs, strict=True):
        assert list(out.tokens) == own_greedy(engine, engine.encode(prompt))
    assert sum(sum(out.stats.n_accepted) for out in outs) > 100, (
        "the drafter was never accepted: nothing was tested"
    )

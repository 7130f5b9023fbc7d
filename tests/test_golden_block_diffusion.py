"""Equality with phymhan/S2D2: recorded runs of three families, position by position, pass by pass."""

import json
from collections import defaultdict
from pathlib import Path

import array_api_compat.numpy as npx
import numpy as np
import pytest
from safetensors.numpy import load_file

from dspec.block_engine import BlockDiffusion
from dspec.core.estimates import Estimator, acceptance, expected_accepted, score
from dspec.core.layouts import blocked, causal, together
from dspec.core.measures import measure
from dspec.core.plans import Plan, verifying
from dspec.decoders import Diffusion, Editing
from tests import block_models
from tests.block_models import MASK
from tests.tolerances import ROUTING

FOLDER = Path(__file__).parent / "golden"
SDAR_RUNS = json.loads((FOLDER / "sdar_tiny" / "baseline_runs.json").read_text())
FAST_RUNS = json.loads((FOLDER / "fastdllm2_tiny" / "runs.json").read_text())
LLADA_RUNS = json.loads((FOLDER / "llada2_tiny" / "runs.json").read_text())
ROUTING_CASES = json.loads((FOLDER / "sdar_tiny" / "routing.json").read_text())
BLOCKS = load_file(FOLDER / "sdar_tiny" / "blocks.safetensors")
# Their names of the estimators, with the numbers that the README of the recordings gives.
ESTIMATORS = {
    "hard_margin_threshold": "margin(0.05)",
    "hard_entropy_threshold": "entropy(0.1)",
    "soft_confidence_power": "confidence(0.8)",
    "soft_clipped_linear_margin": "clipped_margin(1)",
    "soft_entropy_negexp": "entropy_exp(1)",
    "soft_renyi_2_entropy": "renyi",
}


def engine(room, family):
    return BlockDiffusion(block_models.model(room, family), room.operations)


def by_step(trace):
    """The decisions of each pass that made any, in order."""
    steps = defaultdict(list)
    for commit in trace:
        steps[commit.step].append(commit)
    return [steps[step] for step in sorted(steps)]


def replay(room, family, run, new_tokens, decoder):
    """A run's output with the prompt, its steps, its passes."""
    out = engine(room, family).generate(
        run["prompt"], max_new_tokens=new_tokens, decoder=decoder, ignore_eos=True
    )
    return run["prompt"] + list(out.tokens), by_step(out.trace), out.stats.forward_passes


@pytest.mark.clause("SS-8", "SS-9", "SS-24", "SS-26")
@pytest.mark.parametrize("run", SDAR_RUNS, ids=range(len(SDAR_RUNS)))
def test_a_run_of_sdar(room, run):
    decoder = Diffusion(
        block_size=run["block_length"],
        steps=run["denoising_steps"],
        select=run["selection"].removeprefix("low_confidence_"),
        threshold=run["threshold"],
        cache_mask=run["cache_mask"],
        draft_mask=run["draft_mask"],
        commit="always",
    )
    new = len(run["output_ids"]) - len(run["prompt"])
    tokens, steps, passes = replay(room, "sdar", run, new, decoder)
    assert tokens == run["output_ids"]
    assert [[commit.position for commit in step] for step in steps] == run["committed_positions"]
    assert passes == run["forward_passes"]


@pytest.mark.clause("SS-1", "SS-8", "SS-24", "SS-26")
@pytest.mark.parametrize("run", FAST_RUNS, ids=range(len(FAST_RUNS)))
def test_a_run_of_fast_dllm_v2(room, run):
    decoder = Diffusion(
        block_size=run["block_size"],
        sub_block=run["sub_block_size"],
        threshold=run["threshold"],
        commit="separate",
    )
    new = len(run["output_ids"]) - len(run["prompt"])
    tokens, steps, passes = replay(room, "fast_dllm_v2", run, new, decoder)
    assert tokens == run["output_ids"]
    assert [_as_recorded(step) for step in steps] == [_in_order(step) for step in run["steps"]]
    assert passes == run["forward_passes"]


def _as_recorded(step):
    if step[0].kind == "boundary":
        return {"boundary": step[0].position}
    return {"unmask": sorted(commit.position for commit in step)}


def _in_order(step):
    return {key: sorted(value) if isinstance(value, list) else value for key, value in step.items()}


@pytest.fixture
def soft_prefill(room, monkeypatch):
    """The prefill of the recorded program: its 0/1 mask is added to the scores and hides nothing.

    transformers' `_prepare_4d_causal_attention_mask_for_sdpa` hands a mask of four axes on as it is, so
    the blocks of a prompt see each other, those before and their own with 1 more. With a true
    block-causal prefill 7 of the 12 runs are the same, and 5 differ from one block on.
    """
    session = room.block_session.BlockSession
    masked = session._mask

    def added(self, plan, *args):
        mask = masked(self, plan, *args)
        return room.xp.astype(mask, room.xp.float32) if plan.start == 0 else mask

    monkeypatch.setattr(session, "_mask", added)


def llada_replay(room, run):
    size, prompt = run["block_length"], len(run["prompt"])
    whole = -(-(prompt + run["max_new_tokens"]) // size) * size - prompt
    editing = Editing(threshold=run["edit_threshold"], max_passes=run["max_post_steps"])
    decoder = Diffusion(block_size=size, threshold=run["mask_threshold"], commit="separate", edit=editing)
    tokens, steps, passes = replay(room, "llada2", run, whole, decoder)
    found = [
        {
            "unmask": sorted(c.position for c in step if c.kind == "selected"),
            "edit": [(c.position, c.token) for c in step if c.kind == "edited"],
        }
        for step in steps
    ]
    return tokens[: len(run["output_ids"])], found, passes


def llada_recorded(run):
    """The recorded steps that decided something; what an edit replaced is in the steps before."""
    steps = [
        {"unmask": sorted(step["unmask"]), "edit": [(at, new) for at, _, new in step["edit"]]}
        for step in run["steps"]
    ]
    return [step for step in steps if step["unmask"] or step["edit"]]


@pytest.mark.clause("SS-21", "SS-24", "SS-26")
@pytest.mark.parametrize("run", LLADA_RUNS, ids=range(len(LLADA_RUNS)))
def test_a_run_of_llada2(room, run, soft_prefill):
    tokens, steps, passes = llada_replay(room, run)
    assert tokens == run["output_ids"]
    assert steps == llada_recorded(run)
    assert passes == run["forward_passes"]


@pytest.mark.clause("SS-5")
def test_seven_runs_of_llada2_do_not_need_the_fault(room):
    same = [llada_replay(room, run)[0] == run["output_ids"] for run in LLADA_RUNS]
    assert sum(same) == 7


@pytest.mark.clause("SS-4", "SS-6")
@pytest.mark.parametrize("case", ROUTING_CASES, ids=range(len(ROUTING_CASES)))
def test_draft_and_verify_logits_of_a_block(room, case):
    """The prefix is kept block-bidirectionally; the doubled block judges every position of the block."""
    prefix, block = tuple(case["prefix"]), case["block"]
    size, number = len(block), case["case"]
    session = block_models.model(room, "sdar").session(rows=1, capacity=len(prefix) + 2 * size)
    session.read([blocked(prefix, start=0, block_size=size)])
    session.commit([len(prefix)])
    hidden = session.read([together(tuple(block), start=len(prefix))])
    logits = session.logits(hidden, [list(range(size))])[0]
    block_models.assert_near(room, logits, BLOCKS[f"{number}.draft_logits"])
    filled = [draft if token == MASK else token for token, draft in zip(block, case["draft"], strict=True)]
    plan = Plan(mask_id=MASK, shifted=False, block_size=size, bonus=False)
    layout = verifying([], len(prefix), size, plan)
    hidden = session.read([layout], room.array(np.array([filled])))
    judged = session.logits(hidden, [list(range(size, 2 * size))])[0]
    block_models.assert_near(room, judged, BLOCKS[f"{number}.verify_logits"])


@pytest.mark.clause("SS-10", "SS-11", "SS-12")
@pytest.mark.parametrize("case", ROUTING_CASES, ids=range(len(ROUTING_CASES)))
def test_estimates_and_scores_of_a_block(case):
    span, logits = case["span"], BLOCKS[f"{case['case']}.draft_logits"].astype(np.float64)
    found = measure(logits[None], np.array([case["draft"]]), 0.0, xp=npx)
    np.testing.assert_allclose(found.confidence[0], case["confidence"], atol=ROUTING, rtol=0)
    in_run = np.array([[i in span for i in range(len(case["block"]))]])
    first = in_run.argmax()
    for theirs, ours in ESTIMATORS.items():
        chance = acceptance(Estimator.parse(ours), found, logits.shape[-1], xp=npx)
        expected = expected_accepted(chance[:, first:], in_run[:, first:], xp=npx)[0]
        recorded = case["estimates"][theirs]
        np.testing.assert_allclose(chance[0, span], recorded["alpha"], atol=ROUTING, rtol=0)
        assert abs(expected - recorded["expected_accepted"]) <= ROUTING
        for entry in (entry for entry in case["scores"] if entry["estimator"] == theirs):
            masked = np.array(case["block"]) == MASK
            above = int((found.confidence[0][masked] > entry["threshold"]).sum())
            dynamic = entry["type"] == "difference_dynamic"
            ours_score = score(float(expected), above, cost=entry["c"], dynamic=dynamic)
            assert abs(ours_score - entry["score"]) <= ROUTING


@pytest.mark.clause("SS-1", "SS-3")
@pytest.mark.parametrize("family", ["fast_dllm_v2", "llada2"])
def test_logits_of_the_engine_are_the_recorded_ones(room, family):
    folder = {"fast_dllm_v2": "fastdllm2_tiny", "llada2": "llada2_tiny"}[family]
    recorded = load_file(FOLDER / folder / "io.safetensors")
    ids = recorded["0.input_ids"]
    lm = engine(room, family)
    for size, name in ((8, "block8"), (1, "causal")):
        block_models.assert_near(room, lm.logits(ids, block_size=size), recorded[f"0.logits_{name}"])
    hidden = lm.model.session(rows=1, capacity=len(ids)).read([causal(tuple(ids.tolist()), start=0)])
    assert hidden.shape[1] == len(ids)

"""`dspec.check_exactness` of a block-diffusion model: right ones pass, wrong ones do not."""

from dataclasses import replace

import pytest

import dspec
from dspec.backends.block_judge import BlockJudge
from dspec.block_engine import BlockDiffusion
from dspec.core import plans
from dspec.core import self_speculation as loop
from dspec.errors import ConfigError
from dspec.testing.checks.block_engines import FORMS, check_greedy_blocks, draw_blocks, law_of_blocks
from dspec.testing.checks.laws import check_distribution
from dspec.testing.levels import SMOKE
from dspec.testing.plan import BLOCK_FORMS, block_parts
from dspec.testing.run import bench_of, run_part
from tests import block_models

FEW = replace(SMOKE, worlds=2, draws=150)


@pytest.fixture(params=["sdar", "fast_dllm_v2"])
def lm(room, request):
    return BlockDiffusion(block_models.model(room, request.param), room.operations)


@pytest.mark.clause("SS-14", "SS-15", "SS-16", "SS-17", "SS-18", "RS-20")
def test_a_model_passes_its_own_checks(lm):
    """Sampling by every policy and greedy, with and without fusion; the loop's enumeration is apart."""
    assert tuple(FORMS) == BLOCK_FORMS
    bench, tried = bench_of(lm), []
    for part in block_parts(FEW, "block diffusion", seed=1):
        if part.backend == "loop":
            continue
        given = {**part.arguments, "alpha": 1e-9} if part.check == "distribution" else part.arguments
        report = run_part(replace(part, arguments=given), bench)
        assert report.status == "passed", report
        tried.append(part.check)
    assert tried.count("greedy_blocks") == 4 and tried.count("distribution") == 16


def accepts_all(judged):
    """Every draft stands; only the closing token is the target's."""

    def verdicts(self, logits, draft, anchors):
        found = judged(self, logits, draft, anchors)
        if draft is None:
            return found
        drafts = self.ops.to_host(draft.tokens)
        return [
            (len(own), [*own, tokens[-1] if n == len(own) else own[-1]])
            for own, (n, tokens) in zip(drafts, found)
        ]

    return verdicts


@pytest.mark.clause("SS-14", "SS-15")
def test_a_judge_that_lets_everything_stand_is_found(lm, monkeypatch):
    monkeypatch.setattr(BlockJudge, "verdicts", accepts_all(BlockJudge.verdicts))
    assert not check_greedy_blocks(lm, "sliding").passed
    drawn = draw_blocks(lm, "rejection", "sliding")
    assert not check_distribution(drawn, law_of_blocks(lm), n=400, seed=0, alpha=1e-9).passed


@pytest.mark.clause("SS-5", "SS-6")
def test_masks_that_the_verifier_sees_are_found(lm, monkeypatch):
    """The laws of the verify pass then read the whole block: near the right ones, and wrong."""

    def seeing(*args):
        layout = plans.verifying(*args)
        return replace(layout, reads=tuple(max(layout.reads) for _ in layout.reads))

    monkeypatch.setattr(loop, "verifying", seeing)
    assert not check_greedy_blocks(lm, "sliding").passed


def test_what_is_no_subject_is_refused():
    with pytest.raises(ConfigError, match="an Engine, a BlockDiffusion, array operations"):
        dspec.check_exactness(3)

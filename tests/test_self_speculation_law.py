"""Self-speculation keeps the block-size-one law, in fractions; loops that are wrong in one place do not."""

from dataclasses import replace

import pytest

from dspec.core import self_speculation as loop
from dspec.core.types import Draft
from dspec.testing.checks.self_speculation import check_self_speculation
from dspec.testing.models.block_worlds import (
    FORMS,
    BlockWorld,
    ExactBlockJudge,
    make_block_worlds,
    speculate_once,
)
from tests.wrong_self_speculation import HARMLESS, MUTANTS

ALIGNMENTS = pytest.mark.parametrize("shifted", [False, True], ids=["aligned", "shifted"])
COUNTS = {"rejection": 12, "one_hot": 24, "sample_match": 24, "greedy": 72}


# ---- the law


@pytest.mark.clause("SS-2", "SS-3", "SS-5", "SS-6", "SS-7", "SS-14", "SS-15", "SS-16", "SS-17", "SS-18")
@pytest.mark.parametrize("policy", COUNTS)
def test_the_law_is_that_of_block_size_one(policy):
    report = check_self_speculation(make_block_worlds(COUNTS[policy], seed=0, policy=policy))
    assert report.passed, report


@pytest.mark.clause("SS-2", "SS-5", "SS-6", "SS-14", "SS-16", "SS-17", "SS-18")
@ALIGNMENTS
@pytest.mark.parametrize("form", range(len(FORMS)))
def test_the_law_of_other_block_sizes_and_longer_outputs(form, shifted):
    """Sizes that `make_block_worlds` does not give a form; blocks of one; outputs over several blocks."""
    sizes = [(2, 4), (3, 6)] if FORMS[form][0] == "fused" else [(2 + (form + 1) % 2, 4), (1, 3)]
    worlds = [
        BlockWorld(40 + form, shifted, "one_hot", form, block_size=size, max_new_tokens=limit, prompt=prompt)
        for size, limit in sizes
        for prompt in ((0,), (0, 1, 1))
    ]
    report = check_self_speculation(worlds)
    assert report.passed, report


@pytest.mark.clause("SS-2", "SS-5")
def test_a_prompt_read_in_parts_is_the_prompt(monkeypatch):
    monkeypatch.setattr(loop, "PREFILL", 2)
    worlds = [
        replace(world, prompt=(0, 1, 1, 0, 1)) for world in make_block_worlds(12, seed=3, policy="one_hot")
    ]
    assert check_self_speculation(worlds).passed


# ---- wrong loops, each a small replacement


def verdict_on(mutant, monkeypatch):
    mutant.patch(monkeypatch)
    worlds = [world for world in make_block_worlds(12, seed=0, policy=mutant.policy) if mutant.shows(world)]
    # A fused round drafts on a branch only where more is to come.
    worlds += [replace(world, max_new_tokens=6) for world in worlds if FORMS[world.form][0] == "fused"]
    return check_self_speculation(worlds)


@pytest.mark.clause(
    "SS-2", "SS-3", "SS-5", "SS-6", "SS-7", "SS-14", "SS-15", "SS-16", "SS-17", "SS-18", "RN-2"
)
@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_loops_are_found(name, monkeypatch):
    report = verdict_on(MUTANTS[name], monkeypatch)
    assert not report.passed
    assert report.counterexample["tv"] > 0


@pytest.mark.clause("SS-14", "SS-18")
@pytest.mark.parametrize("name", HARMLESS)
def test_what_drafts_saw_does_not_change_the_law(name, monkeypatch):
    seen = []
    plain = ExactBlockJudge.propose

    def watched(self, *args):
        seen.append(plain(self, *args).tokens)
        return Draft(seen[-1])

    monkeypatch.setattr(ExactBlockJudge, "propose", watched)
    worlds = [replace(world, max_new_tokens=9) for world in make_block_worlds(24, seed=0, policy="greedy")]
    before = [speculate_once(world, lambda *key: 0.5) for world in worlds], list(seen)
    assert verdict_on(HARMLESS[name], monkeypatch).passed
    seen.clear()
    after = [speculate_once(world, lambda *key: 0.5) for world in worlds], seen
    assert after[0] == before[0]
    assert after[1] != before[1], "the replacement must do something"

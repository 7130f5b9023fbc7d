"""Block-diffusion models against recorded runs and a reference: logits, masks, rows, cache."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from dspec.backends.block_pass import FIELDS, PADDING, make_pass
from dspec.block_config import FAMILIES, ExpertConfig
from dspec.core.layouts import behind, blocked, causal, masks
from tests.block_models import (
    GOLDEN_FOLDER,
    MASK,
    assert_near,
    by_reference,
    every,
    model,
    reference,
    scattered,
    tokens_of,
    written,
)
from tests.reference_block import ReferenceModel, best_experts, sight_of
from tests.tolerances import FORWARD_F32

RECORDED = [("fast_dllm_v2", "fastdllm2_tiny"), ("llada2", "llada2_tiny")]
CASES = json.loads((GOLDEN_FOLDER / "sdar_tiny" / "routing.json").read_text())
BLOCKS = load_file(GOLDEN_FOLDER / "sdar_tiny" / "blocks.safetensors")


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def opened(room, family):
    """A session's maker: opened(rows=..., capacity=...)."""
    return model(room, family).session


def close(room, ours, theirs):
    """The same network by other shapes."""
    np.testing.assert_allclose(room.numpy(ours), room.numpy(theirs), atol=FORWARD_F32, rtol=0)


# Recorded runs.
@pytest.mark.clause("SS-1", "SS-3")
@pytest.mark.parametrize(("mask", "block_size"), [("block8", 8), ("causal", 1)])
@pytest.mark.parametrize(("family", "folder"), RECORDED)
def test_logits_of_whole_texts(room, family, folder, mask, block_size):
    recorded = load_file(GOLDEN_FOLDER / folder / "io.safetensors")
    texts = [name.removesuffix(".input_ids") for name in recorded if name.endswith("input_ids")]
    assert len(texts) >= 2
    for text in texts:
        ids = tuple(recorded[f"{text}.input_ids"].tolist())
        session = model(room, family).session(rows=1, capacity=len(ids))
        ours = every(session, [blocked(ids, start=0, block_size=block_size)])
        assert_near(room, ours[0], recorded[f"{text}.logits_{mask}"])


@pytest.mark.clause("SS-1", "SS-3", "SS-5")
@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["case"]))
def test_logits_of_a_block_behind_a_cached_prefix(room, case):
    prefix, block = tuple(case["prefix"]), tuple(case["block"])
    size, start = len(block), len(prefix)
    session = model(room, "sdar").session(rows=1, capacity=start + 2 * size)
    session.read([blocked(prefix, start=0, block_size=size)])
    session.commit([start])
    recorded = {name: BLOCKS[f"{case['case']}.{name}_logits"] for name in ("draft", "verify")}
    ours = every(session, [blocked(block, start=start, block_size=size)])
    assert_near(room, ours[0], recorded["draft"])
    # The doubled block: known and drafted tokens by their ranks, then a lone mask for each position.
    places, filled = tuple(range(start, start + size)), [*block]
    for place, token in zip(case["span"], case["draft"]):
        filled[place] = token
    twice = masks(MASK, positions=places, reads=tuple(range(-1, size - 1)))
    ours = every(session, [behind(causal(tuple(filled), start=start), twice)])
    assert_near(room, ours[0, size:], recorded["verify"])


# Masks.
@pytest.mark.clause("SS-3", "SS-5")
@pytest.mark.parametrize("seed", range(4))
def test_every_part_of_a_layout_counts(room, opened, family, seed):
    committed = [blocked(tokens_of(seed, 6), start=0, block_size=4), causal(tokens_of(seed + 9, 3), start=6)]
    session = opened(rows=1, capacity=40)
    for layout in committed:
        session.read([layout])
        session.commit([layout.size])
    layout = scattered(seed, 9, start=9, length=9)
    assert_near(room, every(session, [layout])[0], by_reference(family, committed, layout))


@pytest.mark.clause("SS-3")
@pytest.mark.parametrize(
    ("part", "value"),
    [("reach", 3), ("groups", (0, 1, 0, 0)), ("skips", (-1, -1, -1, 1)), ("reads", (0, 1, 2, 2))],
)
def test_each_part_changes_the_logits(room, opened, part, value):
    session = opened(rows=1, capacity=12)
    session.read([causal(tokens_of(1, 5), start=0)])
    session.commit([5])
    plain = causal(tokens_of(2, 4), start=5)
    before = room.numpy(every(session, [plain]))
    after = room.numpy(every(session, [replace(plain, **{part: value})]))
    assert np.abs(before - after)[0, -1].max() > 1e-3


def test_what_is_seen_by_all_needs_no_mask():
    lengths = [4, 4]
    together = blocked(tokens_of(1, 3), start=4, block_size=8)
    assert make_pass([together, together], lengths, capacity=9).everything
    for other in (
        None,
        blocked(tokens_of(1, 2), start=4, block_size=8),
        replace(together, reach=3),
        replace(together, skips=(-1, 0, -1)),
        replace(together, groups=(0, 0, 1)),
        causal(tokens_of(1, 3), start=4),
    ):
        assert not make_pass([together, other], lengths, capacity=9).everything
    assert not make_pass([together, replace(together, reach=4)], [4, 5], capacity=9).everything


@pytest.mark.clause("SS-3")
def test_with_and_without_a_mask_are_the_same_pass(room, opened, monkeypatch):
    session = opened(rows=2, capacity=12)
    layouts = [blocked(tokens_of(seed, 5), start=0, block_size=8) for seed in (1, 2)]
    assert make_pass(layouts, [0, 0], capacity=12).everything
    without = every(session, layouts)
    real = room.block_session.make_pass
    monkeypatch.setattr(
        room.block_session, "make_pass", lambda *a, **k: replace(real(*a, **k), everything=False)
    )
    close(room, every(session, layouts), without)


# Rows.
@pytest.mark.clause("SS-22")
@pytest.mark.parametrize("lengths", [(3, 8, 0, 5), (4, 4, 4, 4)], ids=["uneven", "even"])
def test_a_row_does_not_depend_on_its_company(room, opened, lengths):
    capacity, together = 16, opened(rows=4, capacity=16)
    prompts = [causal(tokens_of(10 + row, n), start=0) if n else None for row, n in enumerate(lengths)]
    together.read(prompts)
    together.commit(lengths)
    # The second row ends at the capacity, the fourth takes no part: their padding would run past the end.
    layouts = [
        scattered(20 + row, size, start=n, length=n) for row, (n, size) in enumerate(zip(lengths, (6, 8, 2)))
    ]
    layouts = [*layouts, None]
    rows = room.numpy(every(together, layouts))
    assert np.isfinite(rows).all()
    counts = [4, 8, 1, 0]
    together.commit(counts)
    after = [causal((5, 6), start=n + c) if c < 8 else None for n, c in zip(lengths, counts)]
    later = every(together, after)
    for row, (prompt, layout) in enumerate(zip(prompts, layouts)):
        alone = opened(rows=1, capacity=capacity)
        if prompt is not None:
            alone.read([prompt])
            alone.commit([lengths[row]])
        if layout is not None:
            close(room, room.array(rows[row, : layout.size]), every(alone, [layout])[0])
            alone.commit([counts[row]])
        if after[row] is not None:
            close(room, later[row], every(alone, [after[row]])[0])


@pytest.mark.clause("SS-22")
def test_uneven_rows_are_what_the_reference_makes_of_each(room, opened, family):
    lengths = (7, 2, 4)
    session = opened(rows=3, capacity=13)
    prompts = [blocked(tokens_of(row, n), start=0, block_size=4) for row, n in enumerate(lengths)]
    session.read(prompts)
    session.commit(lengths)
    layouts = [scattered(30 + row, 4 + row, start=n, length=n) for row, n in enumerate(lengths)]
    ours = every(session, layouts)
    for row, layout in enumerate(layouts):
        assert_near(room, ours[row, : layout.size], by_reference(family, [prompts[row]], layout))


@pytest.mark.clause("SS-22")
@pytest.mark.parametrize("lengths", [(0, 0), (2, 0), (0, 2)])
def test_a_row_that_takes_no_part_is_never_nan(room, opened, lengths):
    session = opened(rows=2, capacity=4)
    session.read([causal((7, 8)[:n], start=0) if n else causal((9,), start=0) for n in lengths])
    session.commit(lengths)
    hidden = session.read([causal((1,), start=lengths[0]), None])
    assert np.isfinite(room.numpy(hidden)).all(), "a masked NaN in the cache would still reach a sum"


def test_padding_writes_behind_the_capacity_and_is_seen_by_nobody():
    plan = make_pass([causal((1, 2, 3), start=0), causal((4,), start=4), None], [0, 4, 6], capacity=6)
    assert plan.sizes == (3, 1, 0) and plan.end == 5, "a row that takes no part makes no pass longer"
    by = dict(zip(FIELDS, plan.integers.transpose(1, 0, 2).tolist()))
    assert by["places"] == [[0, 1, 2], [4, 5, 6], [6, 6, 6]]
    assert by["groups"] == [[0, 0, 0], [0, PADDING, PADDING], [PADDING] * 3]
    assert by["seen"] == [[0, 0, 0], [4, 1, 1], [1, 1, 1]]
    assert by["skips"] == [[-1] * 3] * 3


# Experts.
@pytest.mark.clause("SS-23")
@pytest.mark.parametrize(
    ("n_group", "topk_group", "chosen"), [(4, 2, 2), (4, 2, 4), (2, 2, 3), (1, 1, 2), (4, 1, 1)]
)
def test_experts_are_chosen_in_the_best_groups(room, n_group, topk_group, chosen):
    experts = ExpertConfig(
        num_experts=8,
        num_experts_per_tok=chosen,
        n_group=n_group,
        topk_group=topk_group,
        moe_intermediate_size=8,
    )
    scores = np.random.default_rng(n_group + chosen).random((50, 8))
    ids = room.numpy(room.block_experts.choose(room.array(scores, "float32"), experts))
    assert [sorted(row) for row in ids.tolist()] == [sorted(best_experts(row, experts)) for row in scores]


@pytest.mark.clause("SS-23")
@pytest.mark.parametrize("chosen", [1, 2, 4])
def test_the_bias_of_an_expert_counts_for_the_choice_alone(room, chosen, tmp_path):
    # The recorded model has no bias; these are large enough to change what is chosen.
    draws = np.random.default_rng(chosen)
    biases = {f"model.layers.{i}.mlp.gate.expert_bias": draws.random(8, np.float32) for i in (1, 2)}
    place = written("llada2", tmp_path / "new", tensors=biases, num_experts_per_tok=chosen)
    found = room.block_diffusion.load_block_model(place, mask_token_id=MASK, device=room.device)
    theirs, x = ReferenceModel(place, found.config), draws.standard_normal((30, 64))
    ids, weights = (room.numpy(part) for part in found.layers[1].mlp.gate(room.array(x, "float32")))
    changed = 0
    for token in range(30):
        expected = dict(theirs.route(x[token], "model.layers.1.mlp"))
        assert set(ids[token].tolist()) == set(expected)
        np.testing.assert_allclose(weights[token], [expected[e] for e in ids[token]], rtol=1e-5)
        changed += set(expected) != set(dict(reference("llada2").route(x[token], "model.layers.1.mlp")))
    assert changed > 5 or chosen != 2, "a bias that changes nothing tests nothing"
    layout = causal(tokens_of(chosen, 12), start=0)
    ours = every(found.session(rows=1, capacity=12), [layout])
    assert_near(room, ours[0], theirs.read(None, layout.tokens, layout.positions, sight_of(layout, 0))[0])

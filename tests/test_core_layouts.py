"""Which slot sees which: every layout of core equal to a matrix that the oracle writes out by definition."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dspec.core.layouts import (
    SHARED,
    behind,
    blocked,
    causal,
    drafted,
    join,
    leave_one_out,
    masks,
    together,
    visible,
)
from dspec.core.plans import Plan, branch_slots, branching, drafting, verifying
from dspec.oracle import hashed, slots
from dspec.testing.models.block_worlds import HashedSession
from tests.layouts import sees
from tests.namespaces import NAMESPACES, to_numpy
from tests.rooms import of_rooms

everywhere = pytest.mark.parametrize("namespace", of_rooms(NAMESPACES))
quickly = settings(max_examples=60, deadline=None)
MASK = 99
ALIGNMENTS = st.booleans()


def tokens_of(size, first=10):
    return tuple(range(first, first + size))


# ---- the formula and its pieces


@pytest.mark.clause("SS-3")
@everywhere
@quickly
@given(
    parts=hnp.arrays(
        np.int32, st.tuples(st.just(4), st.integers(1, 3), st.integers(1, 6)), elements=st.integers(-1, 4)
    )
)
def test_visible_is_the_clause(namespace, parts):
    xp = NAMESPACES[namespace]
    parts[2] = np.maximum(parts[2], 0)  # groups
    found = to_numpy(visible(*(xp.asarray(part) for part in parts), xp=xp))
    for row, i, j in np.ndindex(found.shape):
        rank, reads, group, skips = parts[:, row]
        shared = group[j] == SHARED and rank[j] <= reads[i]
        own = group[i] == group[j] != SHARED
        assert found[row, i, j] == (j != skips[i] and (shared or own))


@pytest.mark.clause("SS-3", "SS-5")
@everywhere
@quickly
@given(size=st.integers(1, 9), start=st.integers(0, 9), block_size=st.integers(1, 5))
def test_known_tokens_are_causal_or_block_causal(namespace, size, start, block_size):
    tokens = tokens_of(size)
    blocks = blocked(tokens, start=start, block_size=block_size, reach=3)
    assert np.array_equal(sees(blocks, namespace), slots.block_causal(size, block_size, start=start))
    line = causal(tokens, start=start)
    assert np.array_equal(sees(line, namespace), slots.causal(size))
    whole = together(tokens, start=start, reach=0)
    assert np.array_equal(sees(whole, namespace), slots.draft([True] * size))
    for layout in (blocks, line, whole):
        assert layout.tokens == tokens and layout.positions == tuple(range(start, start + size))
        assert layout.size == size
    assert (blocks.reach, line.reach, whole.reach) == (3, None, 0)


@pytest.mark.clause("SS-3", "SS-4")
@everywhere
@quickly
@given(
    before=st.integers(0, 6),
    n_known=st.integers(0, 3),
    n_masks=st.integers(0, 4),
    block_size=st.integers(1, 4),
)
def test_joined_layouts_are_draft_masks(namespace, before, n_known, n_masks, block_size):
    """Clean slots of blocks, known slots of the block one by one, and the rest together."""
    # The current block starts at a multiple of B, as the oracle counts the blocks before it.
    start = 3 * 4 * block_size
    for clean, size in (("causal", 1), ("block", block_size)):
        first = blocked(tokens_of(before), start=start - before, block_size=size, reach=2)
        middle = causal(tokens_of(n_known, 50), start=start)
        rest = together((MASK,) * n_masks, start=start + n_known)
        found = join(join(first, middle), rest)
        masked = [False] * n_known + [True] * n_masks
        settings_ = dict(n_clean=before, clean=clean, block_size=block_size)
        needed = slots.draft(masked, rule="partially_causal", **settings_)
        assert np.array_equal(sees(found, namespace), needed)
        assert found.tokens == tokens_of(before) + tokens_of(n_known, 50) + (MASK,) * n_masks
        assert found.positions == tuple(range(start - before, start + n_known + n_masks))
        assert found.reach == 2
        both = join(first, together((*middle.tokens, *rest.tokens), start=start))
        assert np.array_equal(sees(both, namespace), slots.draft(masked, rule="block", **settings_))


@pytest.mark.clause("SS-3", "SS-6", "SS-18")
@everywhere
@quickly
@given(n_known=st.integers(0, 4), n_drafts=st.integers(0, 4), width=st.integers(1, 3))
def test_masks_behind_known_slots_are_private(namespace, n_known, n_drafts, width):
    clean = causal(tokens_of(n_known + n_drafts), start=3)
    reads = tuple(n_known - 1 + k for k in range(n_drafts + 1))
    laws = masks(MASK, positions=tokens_of(n_drafts + 1, 3 + n_known), reads=reads)
    found = behind(clean, laws)
    assert np.array_equal(sees(found, namespace), slots.doubled(n_drafts, n_known=n_known, bonus=True))
    groups = [
        masks(MASK, positions=(0,) * (width + 1), reads=(read,) * (width + 1), group=1) for read in reads
    ]
    found = behind(clean, laws, *groups)
    needed = slots.fused(n_known, n_drafts, width, aligned=True)
    assert np.array_equal(sees(found, namespace), needed)
    assert found.tokens == clean.tokens + (MASK,) * (found.size - clean.size)


@pytest.mark.clause("SS-3", "SS-25")
@everywhere
@quickly
@given(before=st.integers(0, 4), size=st.integers(1, 6), data=st.data())
def test_copies_do_not_see_the_slot_they_review(namespace, before, size, data):
    reviewed = sorted(data.draw(st.sets(st.integers(0, size - 1))))
    block = together(tokens_of(size), start=before)
    copies = leave_one_out(MASK, tuple(before + k for k in reviewed), tuple(reviewed))
    found = behind(block, copies)
    assert np.array_equal(sees(found, namespace), slots.leave_one_out(size, reviewed))
    assert found.positions == block.positions + tuple(before + k for k in reviewed)
    # With known slots before the block each copy sees these too, and skips the slot counted from them.
    known = causal(tokens_of(before), start=0)
    copies = leave_one_out(MASK, tuple(before + k for k in reviewed), tuple(before + k for k in reviewed))
    whole = sees(behind(join(known, block), copies), namespace)
    assert np.array_equal(whole[before:, before:], slots.leave_one_out(size, reviewed))
    assert whole[before:, :before].all() and not whole[:before, before:].any()


# ---- passes of exact rounds


@st.composite
def rounds(draw):
    """Return (known tokens, how many are cached, drafts, plan)."""
    shifted, block_size = draw(ALIGNMENTS), draw(st.integers(1, 5))
    plan = Plan(
        mask_id=MASK,
        shifted=shifted,
        block_size=block_size,
        draft_mask=draw(st.sampled_from(["partially_causal", "block"])),
        window=draw(st.sampled_from(["sliding", "aligned"])),
        bonus=draw(st.booleans()),
    )
    known = tokens_of(draw(st.integers(1, 11)))
    # Shifted, the last known token is always read again.
    cached = draw(st.integers(0, len(known) - shifted))
    span = block_size - len(known) % block_size if plan.window == "aligned" else block_size
    return known, cached, draw(st.integers(1, span)), plan


def draft_pass(known, cached, count, plan):
    """(tokens, start, matrix) of a draft pass, from SS-4 alone."""
    opened = len(known) // plan.block_size * plan.block_size
    hidden = count - plan.shifted
    if plan.draft_mask == "block" and plan.window == "aligned":
        # The known slots of the block see its masks, so they are read whether they are cached or not.
        first = min(cached, opened)
        masked = [False] * (len(known) - opened) + [True] * hidden
        rule, n_clean = "block", opened - first
    else:
        # The window starts at the first mask: what is before it sees up to itself.
        first, masked, rule, n_clean = cached, [True] * hidden, "block", len(known) - cached
    matrix = slots.draft(masked, n_clean=n_clean, rule=rule, clean="causal", block_size=plan.block_size)
    return known[first:] + (MASK,) * hidden, first, matrix


@pytest.mark.clause("SS-4", "SS-5")
@everywhere
@quickly
@given(world=rounds())
def test_draft_passes_are_written_out(namespace, world):
    tokens, first, matrix = draft_pass(*world)
    found = drafting(*world)
    assert found.tokens == tokens
    assert found.positions == tuple(range(first, first + len(tokens)))
    assert found.reach == first, "what is read again is not seen in the cache too"
    assert np.array_equal(sees(found, namespace), matrix)
    if world[3].draft_mask == "partially_causal":
        # The same by the other wording: known slots of the block before its first mask are causal.
        known, cached, count, plan = world
        inside = min(len(known) % plan.block_size, len(known) - cached)
        masked = [False] * inside + [True] * (count - plan.shifted)
        rule = dict(rule="partially_causal", n_clean=len(known) - cached - inside)
        assert np.array_equal(matrix, slots.draft(masked, **rule, block_size=plan.block_size))


@pytest.mark.clause("SS-1", "SS-3", "SS-4")
@settings(max_examples=150, deadline=None)
@given(world=rounds(), seed=st.integers(0, 99))
def test_draft_laws_are_those_of_a_pass_written_out(world, seed):
    """By the laws of a model that tell who saw what: cached entries and `reach` included."""
    known, cached, count, plan = world
    known = tuple(token % 3 for token in known)
    model = hashed.HashedModel(4, seed, plan.shifted)
    plan = replace(plan, mask_id=model.mask)
    cache = model.known(known)[0]
    session = HashedSession(model)
    session.caches[0] = [cache[i] for i in range(cached)]
    layout = drafting(known, cached, count, plan)
    last = list(range(layout.size - count, layout.size))
    (found,) = session.logits(session.read([layout]), [last])
    tokens, first, matrix = draft_pass(known, cached, count, plan)
    tokens = [model.mask if token == MASK else token for token in tokens]
    positions = range(first, first + len(tokens))
    reading = model.read(hashed.slots_of(tokens, positions, matrix, range(first)), cache)
    # SS-1: token n + k is told by the slot at its position, or shifted by the slot before it.
    needed = [len(known) + k - plan.shifted - first for k in range(count)]
    assert found == [reading.law(slot) for slot in needed]


def drafts_of(count):
    return tuple(drafted(k) for k in range(count))


@pytest.mark.clause("SS-6", "SS-17")
@everywhere
@quickly
@given(world=rounds(), n_drafts=st.integers(0, 5))
def test_verify_passes_are_written_out(namespace, world, n_drafts):
    known, cached, _, plan = world
    held, n = known[cached:], len(known)
    found = verifying(held, n, n_drafts, plan)
    clean = held + drafts_of(n_drafts)
    assert found.reach is None
    if plan.shifted:
        assert found.tokens == clean
        assert found.positions == tuple(range(cached, n + n_drafts))
        assert np.array_equal(sees(found, namespace), slots.causal(len(clean)))
        return
    # A position left alone is judged without a draft: one mask slot (SS-17).
    bonus = plan.bonus or n_drafts == 0
    assert found.tokens == clean + (MASK,) * (n_drafts + bonus)
    needed = dict(n_known=len(held), bonus=bonus)
    assert list(found.positions) == slots.doubled_positions(n, n_drafts, **needed)
    assert np.array_equal(sees(found, namespace), slots.doubled(n_drafts, **needed))


@pytest.mark.clause("SS-18")
@everywhere
@quickly
@given(
    n=st.integers(1, 9),
    held=st.integers(0, 4),
    n_drafts=st.integers(0, 4),
    width=st.integers(1, 4),
    shifted=ALIGNMENTS,
)
def test_fused_passes_are_written_out(namespace, n, held, n_drafts, width, shifted):
    plan = Plan(mask_id=MASK, shifted=shifted, block_size=width + 1, layout="fused")
    held = max(min(held, n), shifted)
    known = tokens_of(n)[n - held :]
    found = branching(known, n, n_drafts, width, plan)
    names = slots.fused_slots(held, n_drafts, width, aligned=not shifted)
    assert found.tokens == known + drafts_of(n_drafts) + (MASK,) * (found.size - held - n_drafts)
    positions = slots.fused_positions(n, held, n_drafts, width, aligned=not shifted)
    assert list(found.positions) == positions and found.reach is None
    assert np.array_equal(sees(found, namespace), slots.fused(held, n_drafts, width, aligned=not shifted))
    for a in range(n_drafts + 1):
        own = [i for i, (kind, of, _) in enumerate(names) if kind == "branch" and of == a]
        chosen = branch_slots(held, n_drafts, a, width, plan)
        assert chosen == own[not shifted :], "aligned, the first slot is the closing token's"
        # SS-1: they tell of the positions after the closing token's, which is n + a.
        told = [positions[slot] + shifted for slot in chosen]
        assert told == list(range(n + a + 1, n + a + 1 + width))

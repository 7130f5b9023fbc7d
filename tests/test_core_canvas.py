"""Passes of a denoising canvas: which slots they hold, who sees whom, and what is looked at."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspec.core.canvas import Canvas, Filling, WideNarrow
from dspec.core.decode import Limits
from dspec.core.looks import see
from dspec.core.selection import Selection
from dspec.oracle import hashed, slots
from dspec.testing.models.block_worlds import HashedSession
from tests.layouts import sees
from tests.namespaces import NAMESPACES
from tests.rooms import of_rooms

everywhere = pytest.mark.parametrize("namespace", of_rooms(NAMESPACES))
quickly = settings(max_examples=60, deadline=None)
MASK = 99


@st.composite
def canvases(draw):
    """Return (canvas, cached): a block in the middle of being filled, some blocks before it not kept yet."""
    block_size = draw(st.integers(1, 5))
    sub_block = draw(st.sampled_from([size for size in range(1, block_size + 1) if block_size % size == 0]))
    plan = Filling(
        mask_id=MASK,
        vocab_size=100,
        shifted=draw(st.booleans()),
        block_size=block_size,
        steps=block_size,
        selection=Selection("static"),
        sub_block=sub_block,
        cache_mask=draw(st.sampled_from(["block", "causal"])),
        draft_mask=draw(st.sampled_from(["block", "partially_causal"])),
    )
    prompt = list(range(10, 10 + draw(st.integers(1, 9))))
    prompt[draw(st.integers(0, len(prompt) - 1))] = draw(
        st.sampled_from([7, MASK])
    )  # a mask token is a token
    row = Canvas(0, prompt, Limits(99, frozenset()), plan)
    for _ in range(draw(st.integers(0, 2))):
        row.fill_up()
        row.tokens = [8 if row.is_masked(i) else token for i, token in enumerate(row.tokens)]
        row.next_block()
    row.fill_up()
    for position in range(row.start, row.end):
        if row.is_masked(position) and draw(st.booleans()):
            row.tokens[position] = 9
    cached = draw(st.integers(0, row.start // block_size)) * block_size
    return row, cached


@pytest.mark.clause("SS-4", "SS-5")
@everywhere
@quickly
@given(world=canvases())
def test_denoising_passes_are_written_out(namespace, world):
    """Both draft masks, both cache masks, whole blocks pending, prompts that hold a mask token."""
    row, cached = world
    found, plan = row.drafting(cached), row.plan
    masked = [i >= row.prompt and row.tokens[i] == MASK for i in range(row.start, row.end)]
    needed = slots.draft(
        masked,
        n_clean=row.start - cached,
        rule=plan.draft_mask,
        clean=plan.cache_mask,
        block_size=plan.block_size,
    )
    assert np.array_equal(sees(found, namespace), needed)
    assert found.tokens == tuple(row.tokens[cached : row.end])
    assert found.positions == tuple(range(cached, row.end))
    assert found.reach == cached


@pytest.mark.clause("SS-5")
@everywhere
@quickly
@given(world=canvases())
def test_passes_that_keep_blocks_are_written_out(namespace, world):
    row, cached = world
    found = row.plan.known(row.tokens[cached : row.end], cached)
    size = row.plan.block_size if row.plan.cache_mask == "block" else 1
    needed = slots.block_causal(row.end - cached, size, start=cached)
    assert np.array_equal(sees(found, namespace), needed)
    assert found.positions == tuple(range(cached, row.end)) and found.reach == cached


class Watcher(HashedSession):
    """Remembers the layouts of its passes."""

    def read(self, layouts, drafts=None):
        self.layouts = list(layouts)
        return super().read(layouts, drafts)


class Listener:
    """A judge that takes in what it is given."""

    def measure(self, logits, given, places, passes):
        self.laws, self.given, self.places = logits, given, places
        return None, None, None


@pytest.mark.clause("SS-1", "SS-25")
@everywhere
@quickly
@given(world=canvases(), keep=st.booleans())
def test_what_a_denoising_pass_looks_at(namespace, world, keep):
    """Masked positions by SS-1; WINO's copies stand behind the block and skip their own slot."""
    row, cached = world
    wino = WideNarrow() if keep else None
    row.plan = replace(row.plan, wino=wino, shifted=False, draft_mask="block", mask_id=MASK)
    model = hashed.HashedModel(MASK + 1, 0, False)
    session, judge = Watcher(model), Listener()
    session.caches[0] = [hashed.Entry((i, 0), "") for i in range(cached)]
    seen = see(session, judge, [row], row.plan)
    (layout,), (look,) = session.layouts, seen.looks
    before, size = row.start - cached, row.plan.block_size
    told = [layout.positions[slot] for slot in look.slots]
    assert told == look.masked + look.settled == [row.start + place for place in judge.places[0]]
    assert [layout.tokens[slot] for slot in look.slots] == [MASK] * len(look.slots)
    matrix = sees(layout, namespace)[before:, before:]
    reviewed = [i - row.start for i in range(row.start, row.end) if i >= row.prompt and row.tokens[i] != MASK]
    assert np.array_equal(matrix, slots.leave_one_out(size, reviewed if keep else []))
    assert [i - row.start for i in look.settled] == (reviewed if keep else [])
    assert session.lengths == [row.start], "blocks before are kept by this pass"

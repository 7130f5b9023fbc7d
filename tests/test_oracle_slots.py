"""The masks of one pass by hand, and on a model whose laws tell who saw what: one pass for many."""

import random
from fractions import Fraction

import numpy as np
import pytest

from dspec.errors import ConfigError, ShapeError
from dspec.oracle.decode import generate, sequence_law
from dspec.oracle.enumerate import enumerate_law
from dspec.oracle.hashed import HashedModel, slots_of
from dspec.oracle.policies import POLICIES
from dspec.oracle.rejection import argmax, draw, verify_tokens
from dspec.oracle.self_speculation import without_mask
from dspec.oracle.slots import (
    block_causal,
    causal,
    doubled,
    doubled_positions,
    draft,
    fused,
    fused_positions,
    fused_slots,
    leave_one_out,
    picture,
)

ALIGNMENTS = pytest.mark.parametrize("shifted", [False, True], ids=["aligned", "shifted"])


def drawn(text):
    """A picture without its indentation; spaces inside a line only group."""
    return "\n".join(line.replace(" ", "") for line in text.strip().splitlines())


def model_of(shifted, seed=0, vocab_size=4):
    return HashedModel(vocab_size=vocab_size, seed=seed, shifted=shifted)


def worlds(n_worlds=25):
    """(context, drafts, pending) at random: pending known tokens are not cached yet."""
    rng = random.Random(7)
    for _ in range(n_worlds):
        context = tuple(rng.randrange(3) for _ in range(rng.randint(1, 6)))
        drafts = tuple(rng.randrange(3) for _ in range(rng.randint(1, 4)))
        yield context, drafts, rng.randint(0, len(context) - 1)


def causal_cache(model, tokens):
    return model.known(tokens)[0]


def sequential_row(model, tokens):
    """The weights, MASK included, of the next token, by one pass a token."""
    cache, reading = model.known(tokens)
    if not model.shifted:
        reading = model.read([(model.mask, len(tokens), tuple(cache), (0,))], cache)
    return reading.weights[0]


# ---- masks by hand


@pytest.mark.clause("SS-4", "SS-5")
def test_causal_and_block_causal_by_hand():
    assert picture(causal(4)) == drawn("1...\n 11..\n 111.\n 1111")
    assert picture(block_causal(5, 2)) == drawn("11...\n 11...\n 1111.\n 1111.\n 11111")
    # From position 3 on, blocks of 2: {3}, {4, 5}, {6}.
    assert picture(block_causal(4, 2, start=3)) == drawn("1...\n 111.\n 111.\n 1111")
    assert np.array_equal(block_causal(4, 1), causal(4))


@pytest.mark.clause("SS-4")
def test_draft_masks_by_hand():
    masked = [False, False, True, False]
    assert picture(draft(masked)) == drawn("1111\n 1111\n 1111\n 1111")
    assert picture(draft(masked, rule="partially_causal")) == drawn("1...\n 11..\n 1111\n 1111")
    for none_known in ([True, False], [True, True]):
        assert draft(none_known, rule="partially_causal").all()
    # Three clean slots of blocks of two: {1}, {2, 3}; then the block at 4.
    clean = dict(n_clean=3, block_size=2)
    assert picture(draft([False, True], clean="causal", **clean)) == drawn(
        """
        1.. ..
        11. ..
        111 ..
        111 11
        111 11
        """
    )
    assert picture(draft([False, True], clean="block", rule="partially_causal", **clean)) == drawn(
        """
        1.. ..
        111 ..
        111 ..
        111 1.
        111 11
        """
    )
    for wrong in (dict(rule="causal"), dict(clean="partially_causal")):
        with pytest.raises(ConfigError, match="SS-4"):
            draft(masked, **wrong)


@pytest.mark.clause("SS-6", "SS-17")
def test_the_doubled_block_by_hand():
    # One pending token, drafts a b c, mask slots at their positions and one after.
    assert picture(doubled(3, n_known=1, bonus=True)) == drawn(
        """
        1 ... ....
        1 1.. ....
        1 11. ....
        1 111 ....
        1 ... 1...
        1 1.. .1..
        1 11. ..1.
        1 111 ...1
        """
    )
    assert doubled_positions(5, 3, n_known=1, bonus=True) == [4, 5, 6, 7, 5, 6, 7, 8]
    assert picture(doubled(2)) == drawn("1...\n 11..\n ..1.\n 1..1")
    assert doubled_positions(5, 2) == [5, 6, 5, 6]


@pytest.mark.clause("SS-25")
def test_leave_one_out_by_hand():
    assert picture(leave_one_out(3, [0, 2])) == drawn(
        """
        111 ..
        111 ..
        111 ..
        .11 1.
        11. .1
        """
    )


@pytest.mark.clause("SS-18")
def test_the_fused_layout_by_hand():
    # Pending, draft, verify slots for a = 0 and 1, branches of W + 1 = 3 for a = 0 and 1.
    assert picture(fused(1, 1, 2, aligned=True)) == drawn(
        """
        1 . .. ... ...
        1 1 .. ... ...
        1 . 1. ... ...
        1 1 .1 ... ...
        1 . .. 111 ...
        1 . .. 111 ...
        1 . .. 111 ...
        1 1 .. ... 111
        1 1 .. ... 111
        1 1 .. ... 111
        """
    )
    assert fused_positions(6, 1, 1, 2, aligned=True) == [5, 6, 6, 7, 6, 7, 8, 7, 8, 9]
    assert picture(fused(1, 2, 1, aligned=False)) == drawn(
        """
        1 .. . . .
        1 1. . . .
        1 11 . . .
        1 .. 1 . .
        1 1. . 1 .
        1 11 . . 1
        """
    )
    assert fused_positions(6, 1, 2, 1, aligned=False) == [5, 6, 7, 6, 7, 8]
    # The first pass has no drafts to verify, and may carry the whole prompt.
    assert picture(fused(2, 0, 1, aligned=True)) == drawn("1....\n 11...\n 111..\n 11.11\n 11.11")


# ---- SS-3: one formula gives them all


def by_formula(n_slots, params):
    """SS-3, word for word; `params` gives (shared, rank, reads, skips, group) of a slot."""
    slots = [params(i) for i in range(n_slots)]

    def sees(i, j):
        _, _, reads, skips, group = slots[i]
        shared, rank, _, _, other = slots[j]
        return j != skips and ((shared and rank <= reads) or (group is not None and group == other))

    return [[bool(sees(i, j)) for j in range(n_slots)] for i in range(n_slots)]


@pytest.mark.clause("SS-3")
def test_the_formula_gives_causal_and_draft_masks():
    assert by_formula(5, lambda i: (True, i, i, None, None)) == causal(5).tolist()
    assert by_formula(5, lambda i: (True, (3 + i) // 4, (3 + i) // 4, None, None)) == (
        block_causal(5, 4, start=3).tolist()
    )
    masked = [False, False, True, False]
    for rule, causal_until in (("block", 2), ("partially_causal", 4)):
        rank = [min(i, causal_until) for i in range(6)]
        expected = draft(masked, n_clean=2, rule=rule)
        assert by_formula(6, lambda i, rank=rank: (True, rank[i], rank[i], None, None)) == expected.tolist()


@pytest.mark.clause("SS-3")
@pytest.mark.parametrize("n_known, n_drafts", [(0, 1), (1, 2), (2, 0), (2, 3)])
def test_the_formula_gives_verify_and_fused_masks(n_known, n_drafts):
    clean = n_known + n_drafts

    def in_doubled(i):
        return (True, i, i, None, None) if i < clean else (False, 0, n_known + i - clean - 1, None, i)

    assert by_formula(clean + n_drafts + 1, in_doubled) == (
        doubled(n_drafts, n_known=n_known, bonus=True).tolist()
    )
    for aligned in (True, False):
        slots = fused_slots(n_known, n_drafts, 2, aligned=aligned)

        def in_fused(i, slots=slots):
            kind, a, _ = slots[i]
            return (True, i, i, None, None) if i < clean else (False, 0, n_known + a - 1, None, (kind, a))

        assert by_formula(len(slots), in_fused) == fused(n_known, n_drafts, 2, aligned=aligned).tolist()


@pytest.mark.clause("SS-3")
def test_the_formula_gives_leave_one_out():
    reviewed = [3, 1]

    def params(i):
        return (True, 0, 0, None, None) if i < 4 else (False, 0, 0, reviewed[i - 4], i)

    assert by_formula(6, params) == leave_one_out(4, reviewed).tolist()


# ---- the hashed model tells what a slot saw


@pytest.mark.clause("SS-3")
@ALIGNMENTS
def test_every_flip_of_a_mask_changes_the_laws_of_its_slot(shifted):
    model = model_of(shifted, vocab_size=6)
    cache = causal_cache(model, (1, 0))
    tokens, positions = (2, 1, model.mask, model.mask), doubled_positions(2, 2)
    sees = doubled(2)
    right = model.read(slots_of(tokens, positions, sees, cache), cache).weights
    for i in range(4):
        for j in range(4):
            wrong = sees.copy()
            wrong[i, j] = not wrong[i, j]
            found = model.read(slots_of(tokens, positions, wrong, cache), cache).weights
            assert found[i] != right[i], (i, j)
        for hidden in range(2):
            slots = slots_of(tokens, positions, sees, cache)
            slots[i] = slots[i]._replace(cached=(1 - hidden,))
            assert model.read(slots, cache).weights[i] != right[i], (i, hidden)


@pytest.mark.clause("SS-5")
@ALIGNMENTS
def test_entries_of_another_pass_give_other_laws(shifted):
    model = model_of(shifted, vocab_size=6)
    right = causal_cache(model, (1, 0))
    saw_more = model.read(slots_of((1, 0), (0, 1), block_causal(2, 2)), {}).entries
    assert saw_more[1] == right[1]  # the last one of the block saw the same
    assert saw_more[0] != right[0]
    slot = [(model.mask, 2, (0, 1), (0,))]
    laws = [model.read(slot, cache).weights for cache in (right, dict(enumerate(saw_more)))]
    assert laws[0] != laws[1]


@pytest.mark.clause("SS-1", "SS-2", "SS-7")
@ALIGNMENTS
def test_the_law_of_the_hashed_model(shifted):
    model = model_of(shifted)
    rows = {tokens: model.law(tokens) for tokens in ((0,), (1,), (0, 1), (1, 0), (0, 0, 1))}
    assert len({tuple(row) for row in rows.values()}) == len(rows)
    for tokens, row in rows.items():
        assert sum(row) == 1 and row[model.mask] == 0 and all(isinstance(mass, Fraction) for mass in row)
        assert row == without_mask(sequential_row(model, tokens), model.mask)
        assert sequential_row(model, tokens)[model.mask] > 0
        assert row == model_of(shifted).law(tokens) != model_of(shifted, seed=1).law(tokens)
    assert model.law((0, 1)) != model_of(not shifted).law((0, 1))
    if shifted:
        with pytest.raises(ShapeError, match="SS-1"):
            model.law(())
    else:
        assert sum(model.law(())) == 1
    with pytest.raises(ConfigError, match="SS-7"):
        HashedModel(vocab_size=4, seed=0, shifted=shifted, eos=(3,))


def test_the_hashed_model_is_the_same_in_every_process():
    assert model_of(False).read([(1, 0, (), (0,))], {}).weights == [[31, 23, 32, 2]]


# ---- one pass for many


@pytest.mark.clause("SS-6", "SS-16", "SS-17")
def test_the_doubled_block_equals_passes_of_block_size_one():
    model = model_of(shifted=False)
    for context, drafts, n_known in worlds():
        n, cached = len(context), len(context) - n_known
        cache = causal_cache(model, context[:cached])
        tokens = (*context[cached:], *drafts, *[model.mask] * (len(drafts) + 1))
        mask = doubled(len(drafts), n_known=n_known, bonus=True)
        positions = doubled_positions(n, len(drafts), n_known=n_known, bonus=True)
        found = model.read(slots_of(tokens, positions, mask, cache), cache)
        first = n_known + len(drafts)
        for k in range(len(drafts) + 1):
            assert found.weights[first + k] == sequential_row(model, context + drafts[:k])
        # What the pass leaves of known tokens and drafts is what a causal pass leaves (SS-16).
        kept = causal_cache(model, context + drafts)
        assert found.entries[:first] == [kept[i] for i in range(cached, n + len(drafts))]


@pytest.mark.clause("SS-6", "SS-16", "SS-17")
def test_a_causal_pass_of_a_shifted_model_equals_passes_of_block_size_one():
    model = model_of(shifted=True)
    for context, drafts, n_known in worlds():
        n, cached = len(context), len(context) - n_known - 1  # the slot at n - 1 gives the first law
        cache = causal_cache(model, context[:cached])
        tokens = (*context[cached:], *drafts)
        found = model.read(
            slots_of(tokens, range(cached, n + len(drafts)), causal(len(tokens)), cache), cache
        )
        for k in range(len(drafts) + 1):
            assert found.weights[n_known + k] == sequential_row(model, context + drafts[:k])
        kept = causal_cache(model, context + drafts)
        assert found.entries == [kept[i] for i in range(cached, n + len(drafts))]


@pytest.mark.clause("SS-25")
def test_a_review_slot_reads_the_block_without_its_token_and_disturbs_nobody():
    model = model_of(shifted=False, vocab_size=6)
    cache = causal_cache(model, (1,))
    block, positions = [2, 0, model.mask, 4], [1, 2, 3, 4]

    def pass_over(tokens, reviewed):
        at = positions + [positions[j] for j in reviewed]
        slots = slots_of(
            tokens + [model.mask] * len(reviewed), at, leave_one_out(len(tokens), reviewed), cache
        )
        return model.read(slots, cache).weights

    together = pass_over(block, [0, 3])
    assert together[:4] == model.read(slots_of(block, positions, draft([False] * 4), cache), cache).weights
    assert [together[4]] == pass_over(block, [0])[4:] and [together[5]] == pass_over(block, [3])[4:]
    # By hand: at position 1 a mask that sees the cache, slots 1..3 and itself.
    by_hand = [*slots_of(block, positions, draft([False] * 4), cache), (model.mask, 1, (0,), (1, 2, 3, 4))]
    assert model.read(by_hand, cache).weights[4] == together[4]


@pytest.mark.clause("SS-18")
@ALIGNMENTS
def test_the_fused_layout_verifies_and_drafts_as_passes_of_their_own_do(shifted):
    model, width = model_of(shifted), 2
    for context, drafts, n_known in worlds():
        n, cached = len(context), len(context) - n_known - 1
        cache = causal_cache(model, context[:cached])
        layout = (n_known + 1, len(drafts), width)
        kinds = fused_slots(*layout, aligned=not shifted)
        clean = (*context[cached:], *drafts)
        tokens = [*clean, *[model.mask] * (len(kinds) - len(clean))]
        mask, at = fused(*layout, aligned=not shifted), fused_positions(n, *layout, aligned=not shifted)
        found = model.read(slots_of(tokens, at, mask, cache), cache)
        for a in range(len(drafts) + 1):
            taken = context + drafts[:a]
            row = n_known + a if shifted else kinds.index(("verify", a, 0))
            assert found.weights[row] == sequential_row(model, taken)
            size = width if shifted else width + 1
            known = causal_cache(model, taken)
            where = range(len(taken), len(taken) + size)
            block = slots_of([model.mask] * size, where, draft([True] * size), known)
            branch = kinds.index(("branch", a, 0))
            assert found.weights[branch : branch + size] == model.read(block, known).weights
            assert at[branch] == len(taken)
        kept = causal_cache(model, context + drafts)
        assert found.entries[: len(clean)] == [kept[i] for i in range(cached, n + len(drafts))]


# ---- whole generations


def draft_rows(model, context, n_drafts):
    """The draft laws of the positions after a context, from one pass under the draft mask block."""
    n = len(context)
    if model.shifted:  # the last known token is a slot of the pass, its row the law of the first draft
        known = causal_cache(model, context[:-1])
        tokens, first = [context[-1], *[model.mask] * (n_drafts - 1)], n - 1
        sees = draft([True] * (n_drafts - 1), n_clean=1)
    else:
        known = causal_cache(model, context)
        tokens, first = [model.mask] * n_drafts, n
        sees = draft([True] * n_drafts)
    reading = model.read(slots_of(tokens, range(first, first + n_drafts), sees, known), known)
    return [without_mask(row, model.mask) for row in reading.weights]


@pytest.mark.clause("SS-14")
@ALIGNMENTS
def test_rounds_of_drafts_of_one_pass_keep_the_law_of_block_size_one(shifted):
    model = model_of(shifted, vocab_size=3)
    drafter = lambda context, drafts: draft_rows(model, context, 2)[len(drafts)]  # noqa: E731
    settings = dict(prompt=(0, 1), max_new_tokens=3, eos=())
    expected = sequence_law(model.law, **settings)
    settings["num_drafts"] = 2
    law = enumerate_law(lambda u: generate(model.law, drafter, POLICIES["rejection"], u, **settings).tokens)
    assert law == expected
    assert drafter((0, 1), ()) != model.law((0, 1)) or drafter((0, 1), (0,)) != model.law((0, 1, 0))


@pytest.mark.clause("SS-15")
@ALIGNMENTS
def test_greedy_rounds_give_the_tokens_of_block_size_one(shifted):
    for seed in range(10):
        model = model_of(shifted, seed=seed)
        drafter = lambda context, drafts, model=model: draft_rows(model, context, 3)[len(drafts)]  # noqa: E731
        found = generate(
            model.law, drafter, POLICIES["greedy"], lambda *_: 0, prompt=(0,), num_drafts=3, max_new_tokens=6
        )
        tokens = (0, 0)  # the loop's first token is drawn, here by the uniform 0, which gives token 0
        for _ in range(5):
            tokens += (argmax(model.law(tokens)),)
        assert found.tokens == tokens[1:]


def fused_round(model, cache, pending, drafts, width):
    """(reading, kinds) of one pass of the fused layout after the cached tokens."""
    layout = (len(pending), len(drafts), width)
    kinds = fused_slots(*layout, aligned=not model.shifted)
    clean = [*pending, *drafts]
    tokens = clean + [model.mask] * (len(kinds) - len(clean))
    at = fused_positions(len(cache) + len(pending), *layout, aligned=not model.shifted)
    mask = fused(*layout, aligned=not model.shifted)
    return model.read(slots_of(tokens, at, mask, cache), cache), kinds


def fused_generate(model, uniforms, prompt, width, max_new_tokens):
    """One generation by fused passes, with a real cache: what the closing token sees is never redone."""
    emitted, cache, pending, drafts, rows = [], {}, list(prompt), [], []
    passes = 0
    while len(emitted) < max_new_tokens:
        passes += 1
        reading, kinds = fused_round(model, cache, pending, drafts, width)
        first = len(pending) - 1 if model.shifted else kinds.index(("verify", 0, 0))
        laws = [without_mask(reading.weights[first + a], model.mask) for a in range(len(drafts) + 1)]
        accept = [uniforms("accept", passes, k) for k in range(len(drafts))]
        block = verify_tokens(laws, drafts, rows, accept, [uniforms("close", passes)])
        a = len(block) - 1
        for entry in reading.entries[: len(pending) + a]:
            cache[entry.level1[0]] = entry
        branch = kinds.index(("branch", a, 0)) + (not model.shifted)
        rows = [without_mask(row, model.mask) for row in reading.weights[branch : branch + width]]
        drafts = [draw(row, uniforms("draft", passes, k)) for k, row in enumerate(rows)]
        emitted, pending = emitted + block, block[-1:]
    return tuple(emitted[:max_new_tokens])


@pytest.mark.clause("SS-14", "SS-16", "SS-18")
@ALIGNMENTS
@pytest.mark.parametrize("width, vocab_size, n_new", [(1, 4, 3), (2, 3, 3)])
def test_fused_passes_keep_the_law_of_block_size_one(shifted, width, vocab_size, n_new):
    model = model_of(shifted, vocab_size=vocab_size)
    law = enumerate_law(lambda u: fused_generate(model, u, (0, 1), width, n_new))
    assert law == sequence_law(model.law, prompt=(0, 1), max_new_tokens=n_new)

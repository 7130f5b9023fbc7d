"""The geometry of blocks: equal to the scalar oracle, and the rules that training stands on."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dspec.core import blocks
from dspec.errors import ConfigError, ShapeError
from dspec.oracle import blocks as oracle
from tests.namespaces import NAMESPACES
from tests.rooms import of_rooms

everywhere = pytest.mark.parametrize("namespace", of_rooms(NAMESPACES))
SIZES = st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 5), st.integers(2, 5))


@st.composite
def worlds(draw):
    """Return (tokens, loss_mask, uniforms, n_anchors, block_size); sometimes uniforms with ties."""
    rows, length, n_anchors, block_size = draw(SIZES)
    shape = (rows, length)
    tokens = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 99)))
    uniforms = draw(hnp.arrays(np.float32, shape, elements=st.integers(0, 2**24 - 1))) / np.float32(2**24)
    return tokens, draw(hnp.arrays(np.bool_, shape)), uniforms, n_anchors, block_size


def to_numpy(pair):
    return [np.asarray(x) for x in pair]


@pytest.mark.clause("BD-3")
@pytest.mark.clause("RN-5")
@everywhere
@settings(max_examples=150, deadline=None)
@given(world=worlds())
def test_anchors_are_the_oracles(namespace, world):
    xp = NAMESPACES[namespace]
    _, loss_mask, uniforms, n_anchors, _ = world
    found = blocks.sample_anchors(xp.asarray(loss_mask), xp.asarray(uniforms), n_anchors, xp=xp)
    assert found[0].dtype == xp.int32
    anchors, keep = to_numpy(found)
    assert anchors.shape == keep.shape == (len(loss_mask), n_anchors)
    for row in range(len(loss_mask)):
        expected = oracle.sample_anchors(loss_mask[row], uniforms[row].tolist(), n_anchors)
        assert (anchors[row].tolist(), keep[row].tolist()) == expected
        kept = anchors[row][keep[row]].tolist()
        assert kept == sorted(set(kept))
        assert set(kept) <= set(oracle.valid_anchors(loss_mask[row]))
        assert len(kept) == min(n_anchors, len(oracle.valid_anchors(loss_mask[row])))


@pytest.mark.clause("BD-3")
def test_every_subset_of_the_valid_positions_is_equally_likely(xp):
    """All orders of the five uniforms, of which each is equally likely, counted."""
    orders = np.array(list(permutations(range(5))), dtype=np.float32) / 8
    loss_mask = np.broadcast_to(np.array([True, True, True, True, True]), orders.shape)
    anchors, keep = blocks.sample_anchors(xp.asarray(loss_mask.copy()), xp.asarray(orders), 2, xp=xp)
    assert np.asarray(keep).all()
    counts = Counter(map(tuple, np.asarray(anchors).tolist()))
    assert counts == {(a, b): 120 // 6 for a in range(4) for b in range(a + 1, 4)}


@pytest.mark.clause("BD-1")
@pytest.mark.clause("BD-4")
@everywhere
@settings(max_examples=100, deadline=None)
@given(world=worlds(), data=st.data())
def test_positions_labels_and_mask_are_the_oracles(namespace, world, data):
    xp = NAMESPACES[namespace]
    tokens, loss_mask, _, n_anchors, block_size = world
    shape = (len(tokens), n_anchors)
    anchors = data.draw(hnp.arrays(np.int32, shape, elements=st.integers(0, tokens.shape[1] - 1)))
    keep = data.draw(hnp.arrays(np.bool_, shape))
    positions = np.asarray(blocks.block_positions(xp.asarray(anchors), block_size, xp=xp))
    arrays = [xp.asarray(x) for x in (tokens, loss_mask, anchors, keep)]
    labels, mask = to_numpy(blocks.block_labels(*arrays, block_size, xp=xp))
    for b, a in np.ndindex(shape):
        anchor = int(anchors[b, a])
        assert positions[b, a].tolist() == oracle.block_positions(anchor, block_size)
        row = tokens[b].tolist(), loss_mask[b].tolist()
        expected = oracle.block_labels(*row, anchor, block_size, keep=bool(keep[b, a]))
        assert (labels[b, a].tolist(), mask[b, a].tolist()) == expected


@pytest.mark.clause("BD-2")
@everywhere
@settings(max_examples=100, deadline=None)
@given(sizes=SIZES, data=st.data())
def test_attention_mask_is_the_oracles(namespace, sizes, data):
    xp = NAMESPACES[namespace]
    rows, seq_len, n_anchors, block_size = sizes
    shape = (rows, n_anchors)
    anchors = data.draw(hnp.arrays(np.int32, shape, elements=st.integers(0, seq_len - 1)))
    keep = data.draw(hnp.arrays(np.bool_, shape))
    arrays = xp.asarray(anchors), xp.asarray(keep)
    found = np.asarray(blocks.attention_mask(*arrays, seq_len, block_size, xp=xp))
    assert found.any(axis=-1).all(), "a row that sees nothing"
    for b in range(rows):
        expected = oracle.attention_mask(anchors[b].tolist(), keep[b].tolist(), seq_len, block_size)
        np.testing.assert_array_equal(found[b], expected)


@pytest.mark.clause("BD-2")
def test_context_ends_strictly_before_the_anchor_and_blocks_are_closed(xp):
    anchors = xp.asarray(np.array([[0, 2, 5]]))
    keep = xp.asarray(np.array([[True, True, False]]))
    mask = np.asarray(blocks.attention_mask(anchors, keep, 6, 4, xp=xp))[0]
    context, draft = mask[:, :6].reshape(3, 4, 6), mask[:, 6:].reshape(3, 4, 3, 4)
    assert not context[0].any()
    assert (context[1] == [True, True, False, False, False, False]).all()
    assert not context[2].any(), "a dropped block sees context"
    for query in range(3):
        for key in range(3):
            assert (draft[query, :, key] == (query == key)).all()


@pytest.mark.clause("BD-2")
def test_may_attend_is_elementwise(xp):
    """Scalars, as a mask function is called, give the entries of the whole mask."""
    anchors = np.array([[1, 3]])
    whole = blocks.attention_mask(xp.asarray(anchors), xp.asarray(anchors > 0), 4, 3, xp=xp)
    for slot, kv in np.ndindex(6, 10):
        scalars = [xp.asarray(x) for x in (anchors[0, slot // 3], slot // 3, kv)]
        found = blocks.may_attend(*scalars, seq_len=4, block_size=3)
        assert found.shape == ()
        assert bool(found) == bool(whole[0, slot, kv])
        plain = blocks.may_attend(int(anchors[0, slot // 3]), slot // 3, kv, seq_len=4, block_size=3)
        assert plain is bool(found)


@pytest.mark.clause("BD-3")
@pytest.mark.clause("BD-4")
@pytest.mark.parametrize("n_anchors", [3, 20])
def test_no_value_is_read_and_no_array_is_made_elsewhere(n_anchors):
    """torch's meta device holds shapes only: reading a value, or mixing with the host's arrays, raises."""
    xp = NAMESPACES["torch"]
    tokens = torch.zeros((2, 9), dtype=torch.int64, device="meta")
    uniforms, loss_mask = tokens.to(torch.float32), tokens > 0
    anchors, keep = blocks.sample_anchors(loss_mask, uniforms, n_anchors, xp=xp)
    labels, mask = blocks.block_labels(tokens, loss_mask, anchors, keep, 4, xp=xp)
    whole = blocks.attention_mask(anchors, keep, 9, 4, xp=xp)
    assert [x.device.type for x in (anchors, keep, labels, mask, whole)] == ["meta"] * 5
    assert whole.shape == (2, 4 * n_anchors, 9 + 4 * n_anchors)


@pytest.mark.clause("BD-5")
def test_default_layers_are_those_of_the_published_checkpoints():
    published = {
        28: (1, 7, 13, 19, 25),
        32: (1, 8, 15, 22, 29),
        36: (1, 9, 17, 25, 33),
        40: (1, 10, 19, 28, 37),
        48: (1, 12, 23, 34, 45),
        64: (1, 16, 31, 46, 61),
    }
    assert {n: blocks.default_target_layers(n, 5) for n in published} == published
    assert blocks.default_target_layers(36, 1) == (18,)


@pytest.mark.clause("BD-5")
@given(st.integers(-1, 80), st.integers(-1, 12))
def test_default_layers_are_the_oracles_or_refused_by_both(n_target, n_draft):
    try:
        expected = oracle.default_target_layers(n_target, n_draft)
    except ConfigError:
        with pytest.raises(ConfigError, match="layers"):
            blocks.default_target_layers(n_target, n_draft)
    else:
        assert blocks.default_target_layers(n_target, n_draft) == expected
        assert all(0 <= layer < n_target for layer in expected)


@pytest.mark.clause("BD-3")
def test_arguments_that_do_not_fit_are_refused():
    xp = NAMESPACES["numpy"]
    flags, numbers = np.ones((2, 5), dtype=bool), np.zeros((2, 4))
    with pytest.raises(ShapeError, match=r"loss_mask, uniforms: got \(2, 5\) and \(2, 4\)"):
        blocks.sample_anchors(flags, numbers, 2, xp=xp)
    with pytest.raises(ConfigError, match="n_anchors: got 0"):
        blocks.sample_anchors(flags, np.zeros((2, 5)), 0, xp=xp)
    with pytest.raises(ShapeError, match="tokens, loss_mask"):
        blocks.block_labels(numbers, flags, numbers, numbers > 0, 4, xp=xp)
    with pytest.raises(ShapeError, match="anchors, keep"):
        blocks.attention_mask(numbers, flags, 5, 4, xp=xp)
    with pytest.raises(ConfigError, match="block_size: got 1"):
        blocks.block_positions(numbers, 1, xp=xp)

"""The witness of blocks against examples worked out by hand, and the notation clauses it rests on."""

import numpy as np
import pytest

from dspec.errors import ConfigError, ShapeError
from dspec.oracle.blocks import (
    attention_mask,
    block_labels,
    block_positions,
    block_tokens,
    default_target_layers,
    sample_anchors,
    valid_anchors,
)
from dspec.oracle.rejection import is_law


@pytest.mark.clause("BD-1", "NT-1")
def test_a_block_is_its_anchor_and_masks_at_consecutive_positions():
    assert block_tokens(5, 3, 300) == [5, 300, 300]
    assert block_positions(0, 3) == [0, 1, 2]
    assert block_positions(41, 1) == [41]


@pytest.mark.clause("BD-2")
def test_attention_of_two_blocks_and_a_dropped_one():
    # Context 0..3, then slots a0 a1 of the block at 3, b0 b1 of the one at 0, c0 c1 dropped.
    picture = """
        1110 11 00 00
        1110 11 00 00
        0000 00 11 00
        0000 00 11 00
        0000 00 00 11
        0000 00 00 11
    """
    expected = [[c == "1" for c in line.replace(" ", "")] for line in picture.split("\n") if line.strip()]
    mask = attention_mask([3, 0, 2], [True, True, False], seq_len=4, block_size=2)
    assert mask.dtype == bool
    assert mask.tolist() == expected


@pytest.mark.clause("BD-2")
def test_every_slot_sees_something_and_never_its_anchor_in_the_context():
    anchors, keep = [0, 2, 5], [True, False, True]
    mask = attention_mask(anchors, keep, seq_len=6, block_size=4)
    assert mask.any(axis=1).all()
    for block, anchor in enumerate(anchors):
        rows = mask[block * 4 : block * 4 + 4, :6]
        assert not rows[:, anchor:].any()
        assert rows[:, :anchor].all() == (keep[block] or anchor == 0)


@pytest.mark.clause("BD-3")
def test_valid_anchors_need_themselves_and_the_next_position():
    assert valid_anchors([1, 1, 1]) == [0, 1]  # the last position has no next one
    assert valid_anchors([1, 0, 1, 0, 1]) == []
    assert valid_anchors([0, 0, 1, 1]) == [2]
    assert valid_anchors([1]) == []
    assert valid_anchors([]) == []


@pytest.mark.clause("BD-3")
def test_anchors_are_the_smallest_uniforms_in_ascending_order():
    uniforms = [0.9, 0.1, 0.5, 0.3, 0.0]  # position 4 is last, hence not valid
    assert sample_anchors([1] * 5, uniforms, 1) == ([1], [True])
    assert sample_anchors([1] * 5, uniforms, 2) == ([1, 3], [True, True])
    assert sample_anchors([1] * 5, uniforms, 3) == ([1, 2, 3], [True] * 3)
    assert sample_anchors([1] * 5, uniforms, 6)[1] == [True] * 4 + [False] * 2
    assert sample_anchors([0] * 5, uniforms, 2)[1] == [False, False]
    assert sample_anchors([1] * 4, [0.5] * 4, 2)[0] == [0, 1]  # equal uniforms: the earlier ones
    with pytest.raises(ShapeError, match="BD-3"):
        sample_anchors([1] * 5, uniforms[:3], 2)


@pytest.mark.clause("BD-3", "BD-4")
def test_every_kept_anchor_supervises_slot_1():
    rng = np.random.default_rng(0)
    loss_mask = (rng.random(60) < 0.7).tolist()
    anchors, keep = sample_anchors(loss_mask, rng.random(60).tolist(), 60)
    assert sum(keep) == len(valid_anchors(loss_mask)) > 10
    assert len(set(anchors[: sum(keep)])) == sum(keep)
    for anchor, kept in zip(anchors, keep, strict=True):
        assert block_labels(list(range(60)), loss_mask, anchor, 5, keep=kept)[1][0] is kept


@pytest.mark.clause("BD-4")
def test_labels_stand_at_their_own_position():
    tokens = [20, 21, 22, 23, 24]
    assert block_labels(tokens, [1] * 5, 0, 4) == ([21, 22, 23], [True] * 3)
    assert block_labels(tokens, [1] * 5, 3, 4) == ([24, 0, 0], [True, False, False])
    assert block_labels(tokens, [0, 0, 1, 0, 1], 1, 4) == ([22, 23, 24], [True, False, True])
    assert block_labels(tokens, [1] * 5, 0, 4, keep=False)[1] == [False] * 3
    with pytest.raises(ShapeError, match="NT-4"):
        block_labels(tokens, [1] * 4, 0, 4)


@pytest.mark.clause("BD-5")
def test_default_taps_by_hand():
    assert default_target_layers(36, 1) == (18,)
    assert default_target_layers(36, 2) == (1, 33)
    assert default_target_layers(36, 3) == (1, 17, 33)
    assert default_target_layers(6, 2) == (1, 3)
    # Steps of 5/2 from 1 give 3.5 -> 4; of 3/2, 2.5 -> 2, where half-up would say 3.
    assert default_target_layers(9, 3) == (1, 4, 6)
    assert default_target_layers(7, 3) == (1, 2, 4)


@pytest.mark.clause("BD-5")
@pytest.mark.parametrize("layers, drafted", [(6, 5), (2, 2), (3, 2), (4, 2), (36, 0), (0, 1)])
def test_taps_that_repeat_or_leave_the_target_raise(layers, drafted):
    with pytest.raises(ConfigError, match="BD-5"):
        default_target_layers(layers, drafted)


@pytest.mark.clause("NT-2")
def test_a_law_sums_to_1_within_a_thousandth():
    assert is_law([0.5, 0.5009])
    assert is_law([0.0, 1.0])
    for row in (
        [0.5, 0.502],
        [0.5, 0.498],
        [-1e-9, 1.0],
        [float("inf"), 0.0],
        [float("nan"), 1.0],
        [0.0, 0.0],
    ):
        assert not is_law(row)


@pytest.mark.clause("NT-3")
def test_ids_outside_of_the_vocabulary_raise():
    from dspec.backends.judge import check_ids

    check_ids([0, 9], 10, "prompt")
    for bad in (-1, 10):
        with pytest.raises(ShapeError, match=r"\[1\].*NT-3"):
            check_ids([0, bad], 10, "prompt")

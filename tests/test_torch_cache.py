"""The caches: written in place, forgotten by a change of length, refused where that cannot be."""

import gc
import weakref

import pytest
import torch

from dspec.backends.torch.cache import ContextCache, KeyValueCache, refuse_unless_rewindable
from dspec.errors import BackendUnavailable, ConfigError, ShapeError
from tests import tiny_models


def rows(*numbers):
    """Keys (1, 2, n, 3) whose entries are the numbers of their positions."""
    return torch.tensor(numbers, dtype=torch.float32)[None, None, :, None].expand(1, 2, -1, 3)


def positions(keys):
    return keys[0, 0, :, 0].tolist()


@pytest.mark.clause("DL-4")
def test_what_was_rewound_is_overwritten_and_the_rest_stays():
    cache = KeyValueCache(2, capacity=6)
    for layer in range(2):
        cache.update(rows(0, 1, 2, 3), rows(0, 1, 2, 3), layer)
    cache.advance(4)
    cache.rewind(2)
    keys, values = cache.update(rows(7, 8), rows(-7, -8), 1)
    assert positions(keys) == [0, 1, 7, 8]
    assert positions(values) == [0, 1, -7, -8]
    assert cache.length == 2, "a pass commits nothing by itself"


def test_steps_and_rewinds_copy_nothing():
    cache = KeyValueCache(1, capacity=8)
    places = set()
    for length in (3, 1, 2):
        keys, values = cache.update(rows(0, 1), rows(0, 1), 0)
        places.add((keys.data_ptr(), values.data_ptr(), keys.untyped_storage().nbytes()))
        cache.advance(2)
        cache.rewind(length)
    assert len(places) == 1, "every step reads the one buffer"
    assert places.pop()[2] == 2 * 8 * 3 * 4, "and the buffer holds the capacity"


@pytest.mark.clause("DL-8")
def test_overflow_is_named_and_leaves_the_cache_as_it_was():
    cache = KeyValueCache(1, capacity=3)
    cache.update(rows(0, 1), rows(0, 1), 0)
    cache.advance(2)
    with pytest.raises(ConfigError, match=r"capacity: got 4; needs at most 3"):
        cache.update(rows(7, 8), rows(7, 8), 0)
    assert cache.length == 2
    assert positions(cache.update(rows(5), rows(5), 0)[0]) == [0, 1, 5]


def test_masks_are_sized_for_every_written_position():
    cache = KeyValueCache(1, capacity=10)
    cache.update(rows(0, 1, 2), rows(0, 1, 2), 0)
    cache.advance(3)
    assert cache.get_mask_sizes(4, 0) == (7, 0)
    assert cache.get_seq_length() == cache.get_query_offset() == 3
    assert cache.get_max_length() == 10
    cache.reset()
    assert cache.get_seq_length() == 0


def test_a_rewind_never_lengthens_and_is_never_negative():
    cache = KeyValueCache(1, capacity=4)
    cache.rewind(3)
    assert cache.length == 0
    with pytest.raises(ShapeError, match="length: got -1"):
        cache.rewind(-1)


@pytest.mark.parametrize("build", [lambda n: KeyValueCache(1, capacity=n), lambda n: context(n)])
def test_a_cache_needs_room(build):
    with pytest.raises(ConfigError, match="capacity: got 0"):
        build(0)


def test_a_finished_request_frees_its_buffers_at_once():
    cache = KeyValueCache(1, capacity=4)
    cache.update(rows(0), rows(0), 0)
    buffer = weakref.ref(cache.layers[0].keys)
    gc.disable()
    try:
        del cache
        assert buffer() is None, "a reference cycle would hold gigabytes until the collector runs"
    finally:
        gc.enable()


def context(capacity):
    return ContextCache(
        n_layers=2, n_heads=2, head_dim=3, capacity=capacity, dtype=torch.float32, device=torch.device("cpu")
    )


def test_context_rows_lie_at_their_positions_in_their_layer():
    cache = context(6)
    cache.write(0, 0, rows(0, 1, 2), rows(0, 1, 2))
    cache.write(1, 0, rows(9, 9, 9), rows(9, 9, 9))
    keys, values = cache.write(0, 1, rows(5, 6), rows(-5, -6))
    assert positions(keys) == [0, 5, 6]
    assert positions(values) == [0, -5, -6]


@pytest.mark.clause("DL-8")
@pytest.mark.parametrize("kind", ["t5", "mamba", "rwkv", "lfm2"])
def test_a_state_that_cannot_forget_is_refused_by_name(kind):
    with pytest.raises(BackendUnavailable, match=tiny_models.REFUSED[kind][1]):
        refuse_unless_rewindable(tiny_models.make(kind))


@pytest.mark.clause("DL-8")
@pytest.mark.parametrize("kind", tiny_models.DRIVEN)
def test_attention_is_accepted(kind):
    refuse_unless_rewindable(tiny_models.make(kind))

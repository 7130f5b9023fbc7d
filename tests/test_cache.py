"""The caches: written in place, forgotten by a change of length, refused where that cannot be."""

import gc
import weakref
from functools import partial

import numpy as np
import pytest
import torch

from dspec.backends.torch.cache import KeyValueCache, refuse_unless_rewindable
from dspec.errors import BackendUnavailable, ConfigError, ShapeError
from tests import tiny_models
from tests.rooms import ROOMS

MLX = ROOMS["mlx"]


def rows(room, *numbers, width=3):
    """Keys (1, 2, n, width) whose entries are the numbers of their positions."""
    values = np.array(numbers, dtype=np.float32)[None, None, :, None]
    return room.array(np.broadcast_to(values, (1, 2, len(numbers), width)).copy())


def positions(room, keys):
    return room.numpy(keys)[0, 0, :, 0].tolist()


def update(room, cache, keys, values, layer):
    """Write as the framework's attention does."""
    if room.name == "torch":
        return cache.update(keys, values, layer)
    return cache.layers[layer].update_and_fetch(keys, values)


@pytest.mark.clause("DL-4")
def test_what_was_rewound_is_overwritten_and_the_rest_stays(room):
    cache = room.cache.KeyValueCache(2, capacity=6)
    for layer in range(2):
        update(room, cache, rows(room, 0, 1, 2, 3), rows(room, 0, 1, 2, 3), layer)
    cache.advance(4)
    cache.rewind(2)
    keys, values = update(room, cache, rows(room, 7, 8), rows(room, -7, -8), 1)
    assert positions(room, keys) == [0, 1, 7, 8]
    assert positions(room, values) == [0, 1, -7, -8]
    assert cache.length == 2, "a pass commits nothing by itself"


@pytest.mark.clause("DL-8")
def test_overflow_is_named_and_leaves_the_cache_as_it_was(room):
    cache = room.cache.KeyValueCache(1, capacity=3)
    update(room, cache, rows(room, 0, 1), rows(room, 0, 1), 0)
    cache.advance(2)
    with pytest.raises(ConfigError, match=r"capacity: got 4; needs at most 3"):
        update(room, cache, rows(room, 7, 8), rows(room, 7, 8), 0)
    assert cache.length == 2
    assert positions(room, update(room, cache, rows(room, 5), rows(room, 5), 0)[0]) == [0, 1, 5]


def test_a_rewind_never_lengthens_and_is_never_negative(room):
    cache = room.cache.KeyValueCache(1, capacity=4)
    cache.rewind(3)
    assert cache.length == 0
    with pytest.raises(ShapeError, match="length: got -1"):
        cache.rewind(-1)
    cache.advance(2)
    cache.reset()
    assert cache.length == 0


def context(room, capacity, width=3):
    """The drafter's cache; on torch it is told its device."""
    place = {"device": torch.device("cpu")} if room.name == "torch" else {}
    shape = {"n_layers": 2, "n_heads": 2, "head_dim": width, "capacity": capacity}
    return room.cache.ContextCache(**shape, dtype=room.xp.float32, **place)


@pytest.mark.parametrize("build", [lambda room, n: room.cache.KeyValueCache(1, capacity=n), context])
def test_a_cache_needs_room(room, build):
    with pytest.raises(ConfigError, match="capacity: got 0"):
        build(room, 0)


def test_a_finished_request_frees_its_buffers_at_once(room):
    cache = room.cache.KeyValueCache(1, capacity=4)
    update(room, cache, rows(room, 0), rows(room, 0), 0)
    layer = cache.layers[0]
    # An MLX array knows no weak references; its layer holds it.
    buffer = weakref.ref(layer.keys if room.name == "torch" else layer)
    del layer
    gc.disable()
    try:
        del cache
        assert buffer() is None, "a reference cycle would hold gigabytes until the collector runs"
    finally:
        gc.enable()


def test_context_rows_lie_at_their_positions_in_their_layer(room):
    cache = context(room, 6)
    cache.write(0, 0, rows(room, 0, 1, 2), rows(room, 0, 1, 2))
    cache.write(1, 0, rows(room, 9, 9, 9), rows(room, 9, 9, 9))
    keys, values = cache.write(0, 1, rows(room, 5, 6), rows(room, -5, -6))
    assert positions(room, keys) == [0, 5, 6]
    assert positions(room, values) == [0, -5, -6]


# torch: where a view's memory lies tells whether anything was copied.
def test_steps_and_rewinds_copy_nothing():
    room, cache = ROOMS["torch"], KeyValueCache(1, capacity=8)
    places = set()
    for length in (3, 1, 2):
        keys, values = cache.update(rows(room, 0, 1), rows(room, 0, 1), 0)
        places.add((keys.data_ptr(), values.data_ptr(), keys.untyped_storage().nbytes()))
        cache.advance(2)
        cache.rewind(length)
    assert len(places) == 1, "every step reads the one buffer"
    assert places.pop()[2] == 2 * 8 * 3 * 4, "and the buffer holds the capacity"


def test_masks_are_sized_for_every_written_position():
    room, cache = ROOMS["torch"], KeyValueCache(1, capacity=10)
    cache.update(rows(room, 0, 1, 2), rows(room, 0, 1, 2), 0)
    cache.advance(3)
    assert cache.get_mask_sizes(4, 0) == (7, 0)
    assert cache.get_seq_length() == cache.get_query_offset() == 3
    assert cache.get_max_length() == 10
    cache.reset()
    assert cache.get_seq_length() == 0


@pytest.mark.clause("DL-8")
@pytest.mark.parametrize("kind", ["t5", "mamba", "rwkv", "lfm2"])
def test_a_state_that_cannot_forget_is_refused_by_name(kind):
    with pytest.raises(BackendUnavailable, match=tiny_models.REFUSED[kind][1]):
        refuse_unless_rewindable(tiny_models.make(kind))


@pytest.mark.clause("DL-8")
@pytest.mark.parametrize("kind", tiny_models.DRIVEN)
def test_attention_is_accepted(kind):
    refuse_unless_rewindable(tiny_models.make(kind))


# MLX: memory tells whether anything was copied; its masks are dspec's own.
BUFFERS = 2 * 2 * 40_000 * 64 * 4  # bytes of one layer's keys and values: 41 MB


def extra_memory(step):
    """Bytes that MLX takes at most, beside what it holds, while `step` is made and evaluated."""
    import mlx.core as mx

    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(step())
    return mx.get_peak_memory() - before


@pytest.mark.mlx
@pytest.mark.parametrize("kind", ["target", "context"])
def test_steps_and_rewinds_copy_nothing_on_mlx(kind):
    cache = MLX.cache.KeyValueCache(1, capacity=40_000) if kind == "target" else context(MLX, 40_000, 64)

    def step(start):
        keys = rows(MLX, 0, 1, 2, width=64)
        if kind == "target":
            found = cache.layers[0].update_and_fetch(keys, keys)
            cache.advance(3)
            cache.rewind(start + 1)
        else:
            cache.write(0, start, keys, keys)
            found = cache.write(0, start + 1, keys, keys)
        return [part.sum() for part in found]

    assert extra_memory(partial(step, 0)) >= BUFFERS, "the first step allocates"
    for start in (1, 2, 3):
        assert extra_memory(partial(step, start)) < BUFFERS / 100, "every step writes into the one buffer"


@pytest.mark.mlx
@pytest.mark.clause("DL-4")
@pytest.mark.parametrize("window", [None, 1, 2, 5, 6, 7])
@pytest.mark.parametrize("start", [0, 1, 4])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_masks_show_each_position_what_lies_before_it_within_the_window(start, count, window):
    cache = MLX.cache.KeyValueCache(1, capacity=10)
    cache.advance(start)
    seen = cache.layers[0].make_mask(count, return_array=True, window_size=window)
    short = cache.layers[0].make_mask(count, window_size=window)
    end = start + count
    expected = [
        [key <= query and (window is None or query - key < window) for key in range(end)]
        for query in range(start, end)
    ]
    assert (np.ones((count, end), bool) if seen is None else np.array(seen)).tolist() == expected
    assert seen is not None or count == 1
    if isinstance(short, str):
        assert short == "causal" and expected == np.tri(count, end, start, dtype=bool).tolist()
    else:
        assert (short is None) == (seen is None)

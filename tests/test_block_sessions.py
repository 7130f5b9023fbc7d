"""Sessions of block-diffusion models: what stays, what is forgotten, what a pass costs, what is refused."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest

from dspec.block_config import FAMILIES
from dspec.core.layouts import blocked, causal, drafted
from dspec.errors import ConfigError, ShapeError
from tests.block_models import every, model, tokens_of
from tests.no_waiting import NoWaiting
from tests.tolerances import FORWARD_F32


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


# Cache.
@pytest.mark.clause("SS-5")
@pytest.mark.parametrize("block_size", [1, 4])
def test_a_text_in_parts_is_the_text_in_one_pass(room, opened, block_size):
    ids = tokens_of(3, 16)
    whole = every(opened(rows=1, capacity=16), [blocked(ids, start=0, block_size=block_size)])
    session, parts = opened(rows=1, capacity=16), []
    for start, end in ((0, 4), (4, 12), (12, 16)):
        parts.append(
            room.numpy(every(session, [blocked(ids[start:end], start=start, block_size=block_size)]))
        )
        session.commit([end - start])
    np.testing.assert_allclose(np.concatenate(parts, axis=1), room.numpy(whole), atol=FORWARD_F32, rtol=0)
    assert session.lengths == [16]


@pytest.mark.clause("SS-5")
def test_only_what_is_committed_stays(room, opened):
    ids = tokens_of(4, 9)
    session, other = opened(rows=1, capacity=16), opened(rows=1, capacity=16)
    session.read([causal(tokens_of(5, 7), start=0)])  # leaves no trace
    session.read([causal(ids[:6], start=0)])
    session.commit([4])
    session.read([causal(tokens_of(6, 5), start=4)])
    assert session.lengths == [4]
    other.read([causal(ids[:4], start=0)])
    other.commit([4])
    tail = [causal(ids[4:], start=4)]
    close(room, every(session, tail), every(other, tail))
    session.commit([5])
    session.rewind([2])
    assert session.lengths == [2]
    close(room, every(session, [causal(ids[2:], start=2)])[:, 2:], every(other, tail))
    session.rewind([7])
    assert session.lengths == [2], "a rewind forgets; it does not bring back"


def test_a_pass_that_fails_changes_no_length(room, opened, family, monkeypatch):
    session = opened(rows=1, capacity=16)
    session.read([causal((1, 2, 3), start=0)])
    session.commit([3])
    before = every(session, [causal((4, 5), start=3)])
    real = room.block_cache.BlockCache.write

    def broken(self, layer, *rest):
        if layer == 2:
            raise MemoryError("here")
        return real(self, layer, *rest)

    monkeypatch.setattr(room.block_cache.BlockCache, "write", broken)
    with pytest.raises(MemoryError):
        session.read([causal((7, 8), start=3)])
    monkeypatch.undo()
    assert session.lengths == [3]
    with pytest.raises(ValueError, match="needs 0 to 0"):
        session.commit([1])
    close(room, every(session, [causal((4, 5), start=3)]), before)


# Drafts on the device, and what a pass costs.
@pytest.mark.clause("SS-3")
def test_drafts_are_read_from_the_device_without_waiting(room, opened):
    session = opened(rows=2, capacity=16)
    session.read([causal((1, 2), start=0), causal((3,), start=0)])
    session.commit([2, 1])
    plain = [causal((9, 41, 42), start=2), causal((52, 7), start=1)]
    expected = room.numpy(every(session, plain))
    drafts = room.array([[41, 42], [51, 52]], "int32")
    layouts = [
        replace(plain[0], tokens=(9, drafted(0), drafted(1))),
        replace(plain[1], tokens=(drafted(1), 7)),
    ]
    # On MLX a pass is begun before the call ends, so nothing can be told from what is evaluated.
    with NoWaiting() if room.name == "torch" else nullcontext():
        ours = every(session, layouts, drafts)
        session.commit([1, 0])
    np.testing.assert_allclose(room.numpy(ours), expected, atol=FORWARD_F32, rtol=0)


def memory_of(room, session, layouts):
    """Bytes beyond what is held already that a pass takes at most; on torch of its views of the cache."""
    if room.name == "mlx":
        import mlx.core as mx

        mx.synchronize()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(session.read(layouts))
        return mx.get_peak_memory() - before
    buffers, seen = {session._cache._keys.data_ptr(), session._cache._values.data_ptr()}, []
    real = session._cache.write
    session._cache.write = lambda *parts: seen.append(real(*parts)) or seen[-1]
    session.read(layouts)
    copies = [view for pair in seen for view in pair if view.untyped_storage().data_ptr() not in buffers]
    return sum(view.nbytes for view in copies)


@pytest.mark.clause("SS-5")
@pytest.mark.parametrize("lengths", [(3, 3), (3, 2)], ids=["even", "uneven"])
def test_a_pass_copies_no_cache(room, lengths):
    capacity = 20_000  # 5 MB a buffer
    session = model(room, "sdar").session(rows=2, capacity=capacity)
    layouts = [causal((1, 2, 3)[:n], start=0) for n in lengths]
    for _ in range(2):
        session.read(layouts)
    session.commit(lengths)
    assert memory_of(room, session, [causal((4,), start=n) for n in lengths]) < 4 * capacity * 16


def test_a_pass_uploads_once(room, opened, monkeypatch):
    session, uploads = opened(rows=2, capacity=16), []
    real = type(session._ops).from_host
    monkeypatch.setattr(
        type(session._ops), "from_host", lambda self, array: uploads.append(array) or real(self, array)
    )
    session.read([causal((1, 2), start=0), causal((3,), start=0)])
    assert len(uploads) == 1


@pytest.mark.clause("SS-3")
def test_the_head_runs_on_the_slots_asked_for(room, opened):
    session = opened(rows=2, capacity=8)
    hidden = session.read([causal((1, 2, 3, 4), start=0), causal((5, 6, 7), start=0)])
    whole = room.numpy(session.logits(hidden, [[0, 1, 2, 3]] * 2))
    for slots in ([[1, 2], [1, 2]], [[3, 0], [2, 2]], [[2], [0]]):
        picked = room.numpy(session.logits(hidden, slots))
        expected = np.stack([whole[row, listed] for row, listed in enumerate(slots)])
        np.testing.assert_allclose(picked, expected, atol=FORWARD_F32, rtol=0)
    assert session.logits(hidden, [[], []]).shape == (2, 0, 300)


# Refusals.
def spoilt(**parts):
    return replace(causal((1, 2), start=3), **parts)


@pytest.mark.clause("SS-23")
@pytest.mark.parametrize(
    ("layouts", "drafts", "kind", "words"),
    [
        ([causal((1,), start=3)], None, ShapeError, "layouts: got 1 rows; needs 2"),
        ([None, None], None, ShapeError, "no slot in any row"),
        ([None, causal((), start=0)], None, ShapeError, "no slot in any row"),
        ([spoilt(tokens=(1, 300)), None], None, ShapeError, r"layouts\[0\].tokens\[1\]: got 300"),
        ([spoilt(tokens=(-1, 2)), None], None, ShapeError, "there being no drafts"),
        ([spoilt(tokens=(-3, 2)), None], [[1, 2]] * 2, ShapeError, "got -3; needs .* or one of 2 drafts"),
        ([spoilt(), None], [[1, 2]], ShapeError, r"drafts: got \(1, 2\)"),
        ([spoilt(positions=(3, 9)), None], None, ShapeError, r"positions\[1\]: got 9"),
        ([spoilt(positions=(-1, 3)), None], None, ShapeError, r"positions\[0\]: got -1"),
        ([spoilt(ranks=(0,)), None], None, ShapeError, r"layouts\[0\].ranks: got 1 entries; needs 2"),
        ([causal(tokens_of(1, 7), start=3), None], None, ConfigError, "capacity: got 10; needs at most 9"),
        ([spoilt(reads=(0, -1), reach=0), None], None, ShapeError, "slot 1: got none; needs at least one"),
        ([spoilt(skips=(0, -1), reach=0), None], None, ShapeError, "slot 0: got none"),
        (
            [spoilt(groups=(1, 0), skips=(0, -1), reads=(-1, 1), reach=0), None],
            None,
            ShapeError,
            "slot 0: got none",
        ),
    ],
)
def test_a_pass_that_cannot_be_is_refused(room, layouts, drafts, kind, words):
    session = model(room, "sdar").session(rows=2, capacity=9)
    session.read([causal((1, 2, 3), start=0), causal((1, 2, 3), start=0)])
    session.commit([3, 3])
    with pytest.raises(kind, match=words):
        session.read(layouts, None if drafts is None else room.array(drafts, "int32"))
    assert session.lengths == [3, 3]


def test_what_sees_something_is_let_pass(room):
    session = model(room, "sdar").session(rows=1, capacity=9)
    for parts in (
        {"groups": (1, 1), "reads": (-1, -1), "skips": (0, 1)},
        {"groups": (0, 1), "reads": (0, -1)},
    ):
        logits = every(session, [replace(causal((1, 2), start=0), **parts)])
        assert np.isfinite(room.numpy(logits)).all()


@pytest.mark.clause("SS-5", "SS-23")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda session, hidden: session.commit([4, 0]), r"counts\[0\]: got 4; needs 0 to 3"),
        (lambda session, hidden: session.commit([1, 2]), r"counts\[1\]: got 2; needs 0 to 1"),
        (lambda session, hidden: session.commit([-1, 0]), r"counts\[0\]: got -1"),
        (lambda session, hidden: session.commit([1]), "counts: got 1 rows; needs 2"),
        (lambda session, hidden: (session.commit([1, 1]), session.commit([1, 0])), "needs 0 to 0"),
        (lambda session, hidden: session.rewind([0]), "lengths: got 1 rows"),
        (lambda session, hidden: session.rewind([0, -1]), r"lengths\[1\]: got -1"),
        (lambda session, hidden: session.logits(hidden, [[0]]), "slots: got 1 rows"),
        (lambda session, hidden: session.logits(hidden, [[0], [0, 1]]), "as many slots in every row"),
        (lambda session, hidden: session.logits(hidden, [[3], [0]]), r"slots\[0\]: got 3"),
    ],
)
def test_a_call_that_cannot_be_is_refused(room, call, words):
    session = model(room, "fast_dllm_v2").session(rows=2, capacity=9)
    hidden = session.read([causal((1, 2, 3), start=0), causal((4,), start=0)])
    with pytest.raises(ShapeError, match=words):
        call(session, hidden)


@pytest.mark.clause("SS-5")
def test_what_lies_behind_a_forgotten_position_cannot_be_kept(room):
    session = model(room, "sdar").session(rows=2, capacity=9)
    session.read([causal((1, 2, 3), start=0)] * 2)
    session.commit([3, 3])
    session.read([causal((4, 5), start=3)] * 2)
    session.rewind([2, 3])
    with pytest.raises(ShapeError, match=r"counts\[0\]: got 1; needs 0 to 0"):
        session.commit([1, 2])
    session.commit([0, 2])
    assert session.lengths == [2, 5]


@pytest.mark.clause("SS-23")
@pytest.mark.parametrize(("rows", "capacity"), [(0, 4), (1, 0)])
def test_a_session_needs_room(room, rows, capacity):
    with pytest.raises(ConfigError, match="needs at least 1"):
        model(room, "sdar").session(rows=rows, capacity=capacity)

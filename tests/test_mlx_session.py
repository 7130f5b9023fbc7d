"""What only MLX's sessions do: they give freed buffers back now and then, and wait for nothing."""

import pytest

from tests.rooms import ROOMS
from tests.tiny_training import make_target

mx = pytest.importorskip("mlx.core", reason="MLX is not installed")
pytestmark = pytest.mark.mlx


@pytest.mark.clause("DL-6")
def test_freed_buffers_are_given_back_every_so_many_positions(monkeypatch):
    cleared, inner = [], mx.clear_cache
    target = make_target(ROOMS["mlx"])
    monkeypatch.setattr("dspec.backends.mlx.target_session.TIDY", 16)
    monkeypatch.setattr(mx, "clear_cache", lambda: (cleared.append(session.length), inner())[1])
    session = target.session(capacity=100)
    session.prefill([1, 2, 3])
    for _ in range(20):
        length = session.length
        mx.eval(session.score(4, mx.array([[5, 6, 7]])).logits)
        session.rewind(length + 2)
    assert cleared == [17, 33]
    session.rewind(0)
    session.prefill([1] * 20)
    session.rewind(17)
    assert cleared == [17, 33, 17], "a session that went back begins to count anew"

"""A drafter of several rows proposes what a session of each row does, whichever rows take part."""

import random

import numpy as np
import pytest

from dspec.core.types import Draft
from tests import tiny_models
from tests.tiny_drafters import BLOCK, config_for, fresh
from tests.tolerances import FORWARD_F32

ROWS, CAPACITY = 4, 48


class Mirror:
    """A row's request: its own session, and the features that both are fed; they wait while nobody drafts."""

    def __init__(self, drafter, target, count):
        self.session = drafter.session(target, capacity=CAPACITY)
        self.position, self.features, self.waiting, self.known = count, None, [], 0

    def unseen(self):
        """Features of all positions up to the anchor that its session has not taken in."""
        self.waiting.append(self.features[:, : self.position - self.known])
        self.known = self.position
        return np.concatenate(self.waiting, axis=1)


@pytest.mark.clause("DL-12", "DL-13", "DL-5", "RS-9", "RS-3")
@pytest.mark.parametrize("window", [None, 1, 5])
@pytest.mark.parametrize("seed", range(3))
def test_rows_taken_and_left_propose_as_sessions_of_their_own(room, seed, window):
    """Passes run over the rows from the first taken to the last, with drafts or none; features come later."""
    dice, rng = random.Random(seed), np.random.default_rng(seed)
    target = tiny_models.opened("qwen3", room)
    plain = fresh(room, config_for(target))
    drafter = plain if window is None else plain.windowed(window)
    width, batch = plain.config.feature_size, drafter.batch(target, rows=ROWS, capacity=CAPACITY)
    rows, features, compared = [None] * ROWS, None, 0

    def made(*shape):
        return rng.normal(size=(*shape, width)).astype(np.float32)

    for _ in range(18):
        for row in range(ROWS):
            if rows[row] is None and dice.random() < 0.5:
                rows[row] = Mirror(drafter, target, dice.randint(1, 12))
                rows[row].features = made(1, rows[row].position)
                batch.prefill(row, room.array(rows[row].features))
        taken = [row for row in range(ROWS) if rows[row] is not None]
        if not taken:
            continue
        first, end = taken[0], taken[-1] + 1
        anchors = [dice.randrange(3, 59) for _ in range(first, end)]
        positions = [0 if one is None else one.position for one in rows[first:end]]
        fed = None if features is None else room.array(features)
        seen, n_slots = [], dice.choice([0, 2, None])
        rule = lambda logits, seen=seen: kept(room, seen, logits)  # noqa: E731
        batch.propose(anchors, positions, fed, rule, first=first, n_slots=n_slots)
        for row in taken:
            one, own = rows[row], []
            unseen = one.unseen()
            if n_slots == 0:
                assert not seen
                continue
            one.waiting = []
            rule = lambda logits, own=own: kept(room, own, logits)  # noqa: E731
            one.session.propose(anchors[row - first], one.position, room.array(unseen), rule, n_slots)
            assert np.abs(seen[0][row - first] - own[0][0]).max() <= FORWARD_F32
            compared += 1
        features = made(end - first, BLOCK)
        for row in taken:
            rows[row].features = features[row - first][None]
            rows[row].position += dice.randint(1, BLOCK)
            if dice.random() < 0.25 or rows[row].position + BLOCK > CAPACITY - 14:
                rows[row] = None
        batch.rewind([0 if one is None else one.position for one in rows])
        assert all(length == 0 for length, one in zip(batch.lengths, rows, strict=True) if one is None)
    assert compared > 15


def kept(room, log, logits):
    log.append(room.numpy(logits))
    return Draft(room.xp.argmax(logits, axis=-1))

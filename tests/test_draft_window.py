"""A drafter that reads the end of its context only: what it sees, and what stays the same."""

import numpy as np
import pytest

from dspec.backends.numpy import NumpyOps, TableDrafter, TableTarget
from dspec.core.types import Draft
from dspec.decoders import Autoregressive, Costs, Speculative
from dspec.engine import Engine
from dspec.errors import ConfigError
from tests import tiny_models
from tests.tiny_drafters import config_for, fresh

pytestmark = pytest.mark.clause("RS-3", "DL-5")
PROMPT = [5, 9, 2, 30, 12, 7, 41, 8, 3, 3]


def parts(room):
    target = tiny_models.opened("qwen3", room)
    drafter = fresh(room, config_for(target))
    return target, drafter, Engine(target, drafter, room.operations)


def drafted(room, target, drafter, features):
    """Logits of one proposal after a context with these features."""
    seen, xp = [], room.xp

    def rule(logits, first_slot=0):
        seen.append(room.numpy(logits))
        return Draft(xp.astype(xp.argmax(logits, axis=-1), xp.int32))

    session = drafter.session(target, capacity=40)
    session.propose(4, features.shape[1], features, rule)
    return seen[0]


def test_a_block_sees_the_last_positions_and_no_others(room):
    target, drafter, _ = parts(room)
    features = target.session(layer_ids=drafter.layer_ids, capacity=40).prefill(PROMPT).features
    values = room.numpy(features)
    for window, count in ((3, 3), (1, 1), (10, 10), (64, 10)):
        cut = drafter.windowed(window)
        before = drafted(room, target, cut, features)
        outside, inside = values.copy(), values.copy()
        outside[:, : len(PROMPT) - count] = -3.0
        inside[:, len(PROMPT) - count] = -3.0
        np.testing.assert_array_equal(drafted(room, target, cut, room.array(outside)), before)
        assert np.abs(drafted(room, target, cut, room.array(inside)) - before).max() > 1e-4
    whole = drafted(room, target, drafter, features)
    np.testing.assert_array_equal(before, whole)  # a window longer than the context
    assert np.abs(drafted(room, target, drafter.windowed(3), features) - whole).max() > 1e-4


@pytest.mark.clause("DL-7", "DL-12")
def test_greedy_output_is_that_of_plain_decoding(room):
    _, _, engine = parts(room)
    settings = {"max_new_tokens": 30, "ignore_eos": True}
    plain = engine.generate(PROMPT, decoder=Autoregressive(), **settings)
    slots = engine.drafter.block_size - 1
    costs = Costs(verify=(1.0,) * (slots + 1))
    for decoder in (
        Speculative(draft_window=2),
        Speculative(draft_window=2, block=2),
        Speculative(draft_window=2, block="auto", costs=costs),
    ):
        outs = engine.generate([PROMPT, PROMPT], decoder=decoder, **settings)
        assert [out.tokens for out in outs] == [plain.tokens] * 2
    own = [{"decoder": Speculative()}, {"decoder": Speculative(draft_window=2)}, {"decoder": Speculative()}]
    found = [[], [], []]
    for i, chunk in engine.stream_many([PROMPT] * 3, settings=own, **settings):
        found[i].extend(chunk.tokens)
    assert found == [list(plain.tokens)] * 3


def test_what_cannot_be_cut_is_refused():
    law = np.full((2, 3, 3), 1 / 3)
    engine = Engine(TableTarget(law), TableDrafter(law), NumpyOps())
    with pytest.raises(ConfigError, match=r"draft_window: got 4; needs None: TableDrafter cannot cut.*RS-3"):
        engine.stream([0], decoder=Speculative(draft_window=4))
    for window in (0, -1, 2.5, True, "4"):
        with pytest.raises(ConfigError, match="draft_window: got"):
            Speculative(draft_window=window)

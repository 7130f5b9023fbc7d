"""Cut passes of networks: what the drafter reads after passes that it sat out."""

import numpy as np
import pytest

from dspec.backends.draft_arrays import DraftArrays
from dspec.core.cut_pass import CutPass
from dspec.core.decode import Limits, decode
from dspec.core.types import Draft
from dspec.engine import Engine
from tests import tiny_models
from tests.tiny_drafters import config_for, fresh

pytestmark = pytest.mark.clause("DL-13")


@pytest.mark.clause("DL-5")
def test_features_that_waited_give_the_drafts_of_features_that_did_not(room):
    """A drafter that sat out passes proposes what one that drafted all along proposes there."""
    target = tiny_models.opened("qwen3", room)
    engine = Engine(target, fresh(room, config_for(target)), room.operations)
    ids, drafts = [7, 3, 3, 8, 1, 4], {}
    for waited in (False, True):
        target = engine.target.session(layer_ids=engine.drafter.layer_ids, capacity=64)
        drafter = engine.drafter.session(engine.target, capacity=64)
        passes = CutLog(engine.ops, [2, 0, 0, 1] if waited else [1, 1, 1, 1])
        drafts[waited] = passes.run(target, drafter, ids)
    # The same rows written in other pieces: the last block's logits are the same, but for rounding.
    np.testing.assert_allclose(drafts[True], drafts[False], atol=2e-4, rtol=2e-4)


class CutLog:
    """Runs `CutPass` along a known text, as a judge that accepts nothing; keeps the last logits."""

    def __init__(self, ops, lengths):
        self.ops, self.lengths, self.logits = ops, lengths, None

    def choose(self):
        return self.lengths.pop(0)

    def observe(self, n_drafted, n_accepted):
        assert n_accepted == 0

    def first(self, scores, position):
        return self.text[position + 1]

    def rule(self, position):
        def rule(logits, first_slot=0):
            self.logits = logits
            tokens = self.ops.xp.argmax(logits, axis=-1)
            return Draft(self.ops.xp.astype(tokens, self.ops.xp.int32))

        return rule

    def verdict(self, scores, draft, position):
        return 0, [self.text[position + 1], *[-1] * draft.tokens.shape[1]]

    def run(self, target, drafter, text):
        self.text = [*text, 0, 0]
        one_pass = CutPass(self, DraftArrays(self.ops))
        # The prefill reads two tokens; four passes follow, each emits the text's next token.
        list(decode(target, drafter, self, text[:2], Limits(5), one_pass=one_pass))
        return np.array(self.ops.to_host(self.logits))

"""Same table models, same seed, same tokens: the whole engine on the arrays of every backend."""

import numpy as np
import pytest
import torch

from dspec.backends.judge import RequestJudge
from dspec.backends.numpy import NumpyOps, TableDrafter, TableTarget
from dspec.core.policies import POLICIES, judge
from dspec.core.types import Draft, Sampling, Scores, Uniforms
from dspec.engine import Engine
from dspec.rng import Stream
from tests.namespaces import place
from tests.no_waiting import NoWaiting
from tests.rooms import ROOMS

V, SLOTS = 11, 4
SETTINGS = ({}, {"temperature": 0.5}, {"top_p": 0.9}, {"top_k": 4, "min_p": 0.05})


class InRoom:
    """A session of a table model whose arrays are a room's; `inner` runs on numpy."""

    def __init__(self, inner, room):
        self.inner, self.room = inner, room

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def prefill(self, tokens):
        return self._scores(self.inner.prefill(tokens))

    def score(self, anchor, draft_tokens):
        return self._scores(self.inner.score(anchor, self.room.numpy(draft_tokens)))

    def propose(self, anchor, position, features, rule, **cut):
        def in_room(logits, first_slot=0):
            draft = rule(self._put(logits), first_slot)
            return Draft(*(None if x is None else self.room.numpy(x) for x in (draft.tokens, draft.probs)))

        draft = self.inner.propose(anchor, position, features, in_room, **cut)
        return Draft(*(None if x is None else self._put(x) for x in (draft.tokens, draft.probs)))

    def _put(self, array):
        return place([array], self.room.xp)[0]

    def _scores(self, scores):
        return Scores(self._put(scores.logits), scores.features)


class RoomModel:
    """A table model whose sessions are in a room."""

    def __init__(self, inner, room):
        self.inner, self.room = inner, room

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def session(self, *others, **settings):
        return InRoom(self.inner.session(*others, **settings), self.room)


@pytest.mark.clause("RS-10")
@pytest.mark.clause("RN-1")
@pytest.mark.parametrize("policy", ["greedy", "one_hot", "rejection", "sample_match"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_same_uniforms_give_the_same_tokens(room, policy, settings):
    rng = np.random.default_rng(7)
    law = rng.dirichlet(np.full(V, 0.6), (2, V))
    near = 0.6 * law[np.arange(SLOTS) % 2] + 0.4 * rng.dirichlet(np.ones(V), (SLOTS, V))
    models = TableTarget(law, frozenset([0])), TableDrafter(near, True)
    here = Engine(*models, NumpyOps())
    there = Engine(*(RoomModel(model, room) for model in models), room.operations)
    chosen = {"max_new_tokens": 40, "temperature": 1.0, "seed": 5, "policy": policy, **settings}
    if policy == "greedy":
        chosen["temperature"] = 0.0
    outs = [engine.generate([[i % V, 3] for i in range(30)], **chosen) for engine in (here, there)]
    assert [out.tokens for out in outs[0]] == [out.tokens for out in outs[1]]
    assert [out.n_emitted for out in outs[0]] == [out.n_emitted for out in outs[1]]
    assert any(n > 1 for out in outs[0] for n in out.n_emitted)


@pytest.mark.clause("DL-6")
@pytest.mark.parametrize("name", ["greedy", "one_hot", "rejection", "sample_match"])
def test_nothing_between_two_host_reads_waits_for_the_device(name):
    policy, sampling = POLICIES[name], Sampling(temperature=0.0 if name == "greedy" else 0.8, top_p=0.9)
    judge_of = RequestJudge(ROOMS["torch"].operations, policy, sampling, Stream(1), SLOTS)
    logits = torch.randn(1, SLOTS + 1, V)
    with NoWaiting():
        draft = judge_of.rule(9)(logits[:, :SLOTS])
    uniforms = Uniforms(torch.rand(1, SLOTS), torch.rand(1, SLOTS + 1, 2))
    with NoWaiting():
        judge(logits, draft, policy, sampling, uniforms, xp=ROOMS["torch"].xp)

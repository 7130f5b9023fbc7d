"""Same table models, same seed, same tokens: the whole engine on numpy arrays and on torch tensors."""

import numpy as np
import pytest
import torch

from dspec.backends.judge import RequestJudge
from dspec.backends.numpy import NumpyOps, TableDrafter, TableTarget
from dspec.backends.torch.ops import TorchOps
from dspec.core.policies import POLICIES, judge
from dspec.core.types import Draft, Sampling, Scores, Uniforms
from dspec.engine import Engine
from dspec.rng import Stream
from tests.no_waiting import NoWaiting

V, SLOTS = 11, 4
SETTINGS = ({}, {"temperature": 0.5}, {"top_p": 0.9}, {"top_k": 4, "min_p": 0.05})


class OnTorch:
    """A session of a table model whose arrays are torch tensors; `inner` runs on numpy."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def prefill(self, tokens):
        return self._move(self.inner.prefill(tokens))

    def score(self, anchor, draft_tokens):
        return self._move(self.inner.score(anchor, draft_tokens.numpy()))

    def propose(self, anchor, position, features, rule):
        def on_torch(logits, first_slot=0):
            draft = rule(torch.tensor(logits), first_slot)
            return Draft(draft.tokens.numpy(), None if draft.probs is None else draft.probs.numpy())

        draft = self.inner.propose(anchor, position, features, on_torch)
        return Draft(torch.tensor(draft.tokens), None if draft.probs is None else torch.tensor(draft.probs))

    def _move(self, scores):
        return Scores(torch.tensor(scores.logits), scores.features)


class TorchTarget(TableTarget):
    def session(self, **settings):
        return OnTorch(super().session(**settings))


class TorchDrafter(TableDrafter):
    def session(self, target, **settings):
        return OnTorch(super().session(target, **settings))


@pytest.mark.clause("RS-10")
@pytest.mark.clause("RN-1")
@pytest.mark.parametrize("policy", ["one_hot", "rejection", "sample_match"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_same_uniforms_give_the_same_tokens(policy, settings):
    rng = np.random.default_rng(7)
    law = rng.dirichlet(np.full(V, 0.6), (2, V))
    near = 0.6 * law[np.arange(SLOTS) % 2] + 0.4 * rng.dirichlet(np.ones(V), (SLOTS, V))
    here = Engine(TableTarget(law, frozenset([0])), TableDrafter(near, True), NumpyOps())
    there = Engine(TorchTarget(law, frozenset([0])), TorchDrafter(near, True), TorchOps(torch.device("cpu")))
    chosen = {"max_new_tokens": 40, "temperature": 1.0, "seed": 5, "policy": policy, **settings}
    outs = [engine.generate([[i % V, 3] for i in range(30)], **chosen) for engine in (here, there)]
    assert [out.tokens for out in outs[0]] == [out.tokens for out in outs[1]]
    assert [out.n_emitted for out in outs[0]] == [out.n_emitted for out in outs[1]]
    assert any(n > 1 for out in outs[0] for n in out.n_emitted)


@pytest.mark.clause("DL-6")
@pytest.mark.parametrize("name", ["greedy", "one_hot", "rejection", "sample_match"])
def test_nothing_between_two_host_reads_waits_for_the_device(name):
    policy, sampling = POLICIES[name], Sampling(temperature=0.0 if name == "greedy" else 0.8, top_p=0.9)
    judge_of = RequestJudge(TorchOps(torch.device("cpu")), policy, sampling, Stream(1), SLOTS)
    logits = torch.randn(1, SLOTS + 1, V)
    with NoWaiting():
        draft = judge_of.rule(9)(logits[:, :SLOTS])
    uniforms = Uniforms(torch.rand(1, SLOTS), torch.rand(1, SLOTS + 1, 2))
    with NoWaiting():
        judge(logits, draft, policy, sampling, uniforms, xp=TorchOps.xp)
